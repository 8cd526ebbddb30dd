"""challenge: what a registry asks for (RFC 9110 11.6.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.endpoints.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Basic", [("basic", {})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s"',
            [("bearer", {"realm": "https://a/t", "service": "s"})],
        ),
        ('bearer  realm = "a" , scope="x:y,z"', [("bearer", {"realm": "a", "scope": "x:y,z"})]),
        (r'Bearer realm="a\"b\\c"', [("bearer", {"realm": 'a"b\\c'})]),
        ("Bearer realm=plain", [("bearer", {"realm": "plain"})]),
        (
            'Basic realm="x", Bearer realm="y"',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})],
        ),
        ('Bearer REALM="y",realm="z"', [("bearer", {"realm": "y"})]),
        ("", []),
        ("   ,,", []),
        ('"no scheme"', []),
    ],
)
def test_challenges_are_read(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [
        Challenge(scheme, parameters) for scheme, parameters in found
    ]


@given(st.text(max_size=200))
def test_any_header_is_challenges_or_none(header: str) -> None:
    parse_challenges(header)
