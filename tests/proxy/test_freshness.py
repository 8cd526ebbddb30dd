"""freshness.assess: every case of config-language.md 4 that this version builds."""

import math

import pytest

from routerd.proxy.freshness import (
    DEFAULT_TTL,
    UPSTREAM_TTL_LIMIT,
    assess,
    directives,
    upstream_ttl,
)
from routerd.routing.policy import CachePolicy, Setting

VALIDATED = 1_000_000.0


def policy(ttl: float | None = None, stale_if_error: float = 1000.0) -> CachePolicy:
    return CachePolicy(ttl=Setting(ttl), stale_if_error=Setting(stale_if_error))


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [
        ("", DEFAULT_TTL),
        ("public", DEFAULT_TTL),
        ("max-age=60", 60),
        ("MAX-AGE=60", 60),
        ('max-age="60"', 60),
        ("public, max-age=60, s-maxage=30", 30),
        ("s-maxage=30, max-age=60", 30),
        ("max-age=0", 0),
        ("max-age=31536000", UPSTREAM_TTL_LIMIT),
        ("max-age=" + "9" * 400, UPSTREAM_TTL_LIMIT),
        ("max-age=-5", 0),
        ("max-age=soon", 0),
        ("max-age=²", 0),
        ("max-age", 0),
        ("no-store", 0),
        ("no-cache, max-age=60", 0),
        ("max-age=60, max-age=90", 60),
        (",,=,;", DEFAULT_TTL),
    ],
)
def test_upstream_cache_control_gives_the_ttl_where_none_is_written(
    cache_control: str, seconds: float
) -> None:
    assert upstream_ttl(cache_control) == seconds


@pytest.mark.parametrize(
    ("ttl", "cache_control", "age", "left", "usable"),
    [
        (60, "", 0, 60, True),
        (60, "", 59, 1, True),
        (60, "", 60, 0, True),
        (60, "max-age=5", 10, 50, True),
        (60, "no-store", 10, 50, True),
        (None, "max-age=5", 10, -5, True),
        (None, "no-store", 0, 0, True),
        (None, "", 10, DEFAULT_TTL - 10, True),
        (0, "", 0, 0, True),
        (60, "", 1059, -999, True),
        (60, "", 1060, -1000, False),
        (math.inf, "", 10**9, math.inf, True),
        (60, "", -500, 60, True),
    ],
)
def test_an_entry_is_fresh_until_its_ttl_and_usable_on_error_after_it(
    ttl: float | None, cache_control: str, age: float, left: float, usable: bool
) -> None:
    found = assess(VALIDATED, cache_control, policy(ttl), VALIDATED + age)
    assert (found.left, found.usable_on_error) == (left, usable)
    assert found.fresh == (left > 0)


def test_without_stale_if_error_an_expired_entry_is_never_served() -> None:
    assert not assess(VALIDATED, "", policy(60, 0), VALIDATED + 60).usable_on_error


def test_directives_keep_the_first_of_two_that_disagree() -> None:
    assert directives('a=1, A=2, b="x"') == {"a": "1", "b": "x"}
