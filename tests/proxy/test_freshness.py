"""freshness.assess: every case of config-language.md 4 that this version builds."""

import math

import pytest

from routerd.content.links import TagEntry
from routerd.oci.reference import Digest, Tag
from routerd.proxy.freshness import (
    DEFAULT_TTL,
    UPSTREAM_TTL_LIMIT,
    Freshness,
    Standing,
    assess,
    directives,
    upstream_ttl,
)
from routerd.routing.pattern import TagGlobs
from routerd.routing.policy import CachePolicy, Setting


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


def assessed(
    age: float, checked: float | None = None, gone: float | None = None, **written: object
) -> Freshness:
    """Of a tag that was validated `age` seconds ago; the others are seconds ago as well."""
    now = 1_000_000.0
    entry = TagEntry(
        Digest.of(b""),
        now - age,
        str(written.pop("cache_control", "")),
        checked_at=None if checked is None else now - checked,
        gone_at=None if gone is None else now - gone,
    )
    policy = CachePolicy(**{key: Setting(value) for key, value in written.items()})  # type: ignore[arg-type]
    return assess(entry, Tag("v1.0"), policy, now)


# A ttl of 60 s, where nothing else is said; `recheck` is 30 s by default.
@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        # the ttl, written or upstream's
        ({"age": 0}, "fresh"),
        ({"age": 59}, "fresh"),
        ({"age": 60}, "ask"),
        ({"age": 10, "cache_control": "max-age=5"}, "fresh"),
        ({"age": 10, "cache_control": "no-store"}, "fresh"),
        ({"age": 0, "ttl": 0.0}, "ask"),
        ({"age": 10**9, "ttl": math.inf}, "fresh"),
        ({"age": 10, "ttl": None, "cache_control": "max-age=5"}, "ask"),
        ({"age": 0, "ttl": None, "cache_control": "no-store"}, "ask"),
        ({"age": DEFAULT_TTL - 1, "ttl": None}, "fresh"),
        ({"age": DEFAULT_TTL, "ttl": None}, "ask"),
        ({"age": UPSTREAM_TTL_LIMIT, "ttl": None, "cache_control": "max-age=99999999"}, "ask"),
        # stale_while_revalidate, counted from the end of the ttl
        ({"age": 60, "stale_while_revalidate": 10.0}, "behind"),
        ({"age": 69, "stale_while_revalidate": 10.0}, "behind"),
        ({"age": 70, "stale_while_revalidate": 10.0}, "ask"),
        # a check that failed is not repeated within `recheck`
        ({"age": 100, "checked": 0}, "stale"),
        ({"age": 100, "checked": 29}, "stale"),
        ({"age": 100, "checked": 30}, "ask"),
        ({"age": 100, "checked": 1, "recheck": 0.0}, "ask"),
        ({"age": 100, "checked": 101}, "ask"),  # it was validated since
        ({"age": 100, "checked": 1, "stale_while_revalidate": 90.0}, "stale"),
        ({"age": 100, "checked": 1, "stale_if_error": 40.0}, "failed"),
        ({"age": 99, "checked": 1, "stale_if_error": 40.0}, "stale"),
        ({"age": 100, "checked": 1, "stale_if_error": 0.0}, "failed"),
        # a tag that is gone upstream, for `stale_if_gone` from when that was found out
        ({"age": 100, "checked": 1, "gone": 1}, "gone"),
        ({"age": 100, "checked": 1, "gone": 86_399}, "gone"),
        ({"age": 10**6, "checked": 1, "gone": 86_400}, "ask"),
        ({"age": 100, "checked": 31, "gone": 31}, "ask"),
        ({"age": 10, "checked": 31, "gone": 31}, "ask"),
        ({"age": 60, "checked": 31, "gone": 31, "stale_while_revalidate": 99.0}, "ask"),
        # a clock that was set back: the entry's age is unknown, a wait is not for ever
        ({"age": -500}, "ask"),
        ({"age": -500, "checked": -500}, "ask"),
        ({"age": 100, "checked": -5}, "ask"),
        # immutable tags
        ({"age": 10**9, "immutable_tags": TagGlobs(("v*",))}, "fresh"),
        ({"age": 10**9, "immutable_tags": TagGlobs(("1.*",))}, "ask"),
    ],
)
def test_every_case_has_its_verdict(case: dict[str, object], verdict: str) -> None:
    assert assessed(**{"ttl": 60.0, **case}).verdict == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "on_error", "when_gone"),
    [
        ({"age": 60}, True, True),
        ({"age": 159, "stale_if_error": 100.0}, True, True),
        ({"age": 160, "stale_if_error": 100.0}, False, True),
        ({"age": 60, "stale_if_error": 0.0}, False, True),
        ({"age": -500, "stale_if_error": 100.0}, True, True),
        ({"age": 60, "stale_if_gone": 0.0}, True, False),
        ({"age": 60, "gone": 99, "stale_if_gone": 100.0}, True, True),
        ({"age": 60, "gone": 100, "stale_if_gone": 100.0}, True, False),
        ({"age": 60, "gone": -5, "stale_if_gone": 100.0}, True, True),
    ],
)
def test_what_an_expired_entry_is_still_good_for(
    case: dict[str, object], on_error: bool, when_gone: bool
) -> None:
    found = assessed(**{"ttl": 60.0, **case})  # type: ignore[arg-type]
    assert (found.usable_on_error, found.usable_when_gone) == (on_error, when_gone)


def test_a_tag_that_stands_for_a_digests_referrers_is_never_immutable() -> None:
    every = TagGlobs(("*",))
    assert every.match(Tag("v1"))
    assert not every.match(Tag("sha256-" + "0" * 64))


def test_directives_keep_the_first_of_two_that_disagree() -> None:
    assert directives('a=1, A=2, b="x"') == {"a": "1", "b": "x"}


def standing(entry: TagEntry, now: float, where: Standing, **written: Setting[float]) -> Freshness:
    return assess(entry, Tag("1"), CachePolicy(**written), now, where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "gone", "verdict"),
    [
        (0, None, "fresh"),
        (DEFAULT_TTL - 1, None, "fresh"),
        (DEFAULT_TTL, None, "stale"),
        (10**9, None, "stale"),
        (10, 10**9, "gone"),
    ],
)
def test_offline_everything_is_served_and_marked_once_it_is_old(
    age: float, gone: float | None, verdict: str
) -> None:
    now = 2e9
    gone_at = None if gone is None else now - gone
    entry = TagEntry(Digest.of(b""), now - age, checked_at=now - 1, gone_at=gone_at)
    found = standing(entry, now, Standing(offline=True))
    assert (found.verdict, found.usable_on_error) == (verdict, True)


@pytest.mark.parametrize(
    ("validated", "since", "verdict"),
    [
        (-10, -5, "ask"),  # by another URL
        (-5, -10, "fresh"),
        (-5, -5, "fresh"),
        (-10, 5, "fresh"),  # the clock was set back since: it must not be asked for each time
    ],
)
def test_what_another_url_said_is_confirmed_before_it_is_served(
    validated: float, since: float, verdict: str
) -> None:
    now = 2e9
    entry = TagEntry(Digest.of(b""), now + validated)
    late = Setting(math.inf)
    found = standing(entry, now, Standing(since=now + since), stale_while_revalidate=late)
    assert (found.verdict, found.usable_on_error) == (verdict, True)
    assert (found.left > 0) is (verdict == "fresh")
