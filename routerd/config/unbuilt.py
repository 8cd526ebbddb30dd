"""The keys and values of the language that this version does not have yet.

Owns that they are refused as `not-supported` and never ignored. A key leaves this table when the
schema takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# By place; `*` stands for any name.
_KEYS: Mapping[tuple[str, ...], frozenset[str]] = {
    (): frozenset({"access", "block", "private", "tests", "include"}),
    ("server",): frozenset({"public_url", "hosts", "tls", "limits"}),
    ("endpoints", "*"): frozenset(
        {
            "redirect_hosts",
            "proxy",
            "limits",
            "forward_client_address",
            "transport_encoding",
            "path",
        }
    ),
    ("endpoints", "*", "tls"): frozenset({"certificate", "key"}),
    ("endpoints", "*", "auth"): frozenset({"helper"}),
    ("routes", "*"): frozenset({"redirect_with_login"}),
}

_VALUES: Mapping[tuple[str, ...], frozenset[str]] = {
    ("routes", "*", "on_miss"): frozenset({"redirect", "not_found"}),
    ("endpoints", "*", "type"): frozenset({"layout"}),
    ("endpoints", "*", "auth", "type"): frozenset({"docker-config", "helper"}),
}


def is_unbuilt_key(path: Sequence[str | int]) -> bool:
    """Whether the key at the end of `path` belongs to the language but is not built."""
    return str(path[-1]) in _KEYS.get(_place(path[:-1]), frozenset())


def is_unbuilt_value(path: Sequence[str | int], value: object) -> bool:
    """Whether the value at `path` belongs to the language but is not built."""
    return isinstance(value, str) and value in _VALUES.get(_place(path), frozenset())


def _place(path: Sequence[str | int]) -> tuple[str, ...]:
    # One of several accounts or URLs is as the only one; a URL's own keys are as the endpoint's.
    named = tuple(part for part in path if isinstance(part, str))
    if len(named) > 3 and (named[0], named[2]) == ("endpoints", "url"):
        named = (*named[:2], *named[3:])
    if len(named) > 1 and named[0] in ("endpoints", "routes"):
        return (named[0], "*", *named[2:])
    return named
