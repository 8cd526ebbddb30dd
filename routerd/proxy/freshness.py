"""How fresh a cached tag is: a pure function of the entry, the policy and the time.

Owns the arithmetic of config-language.md 4 for `ttl` and `stale_if_error`. Does not own asking
upstream. Freshness is computed from when the entry was last validated and what upstream said then,
never stored as an expiry, so a changed policy counts at once. Times are UTC seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from routerd.routing.policy import CachePolicy

DEFAULT_TTL = 300.0  # seconds; upstream says nothing (config-language.md 4, `ttl`)
UPSTREAM_TTL_LIMIT = 86400.0  # seconds; upstream's max-age counts up to this
_DELTA_SECONDS_DIGITS = 10  # RFC 9111 1.2.2: larger values are treated as "very long"


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a cached tag may be used for now.

    `left`: seconds for which it needs no question upstream; 0 or less: ask first.
    `usable_on_error`: whether it may be served when that fails with 429, 5xx or no answer.
    """

    left: float
    usable_on_error: bool

    @property
    def fresh(self) -> bool:
        """Serve without asking."""
        return self.left > 0


def directives(cache_control: str) -> dict[str, str]:
    """Cache-Control (RFC 9111 5.2) as a mapping; names in lower case, values unquoted."""
    found: dict[str, str] = {}
    for part in cache_control.split(","):
        name, _, value = part.strip().partition("=")
        if name:
            found.setdefault(name.lower(), value.strip().strip('"'))
    return found


def upstream_ttl(cache_control: str) -> float:
    """Seconds that upstream grants a tag: s-maxage before max-age, at most a day; 0: ask."""
    said = directives(cache_control)
    if "no-store" in said or "no-cache" in said:
        return 0.0
    for name in ("s-maxage", "max-age"):
        if name not in said:
            continue
        digits = said[name]
        if not (digits.isascii() and digits.isdigit()):
            return 0.0  # RFC 9111 4.2.1: invalid freshness information is stale
        if len(digits) > _DELTA_SECONDS_DIGITS:
            return UPSTREAM_TTL_LIMIT
        return min(float(digits), UPSTREAM_TTL_LIMIT)
    return DEFAULT_TTL


def assess(validated_at: float, cache_control: str, policy: CachePolicy, now: float) -> Freshness:
    """The freshness of a tag that upstream validated, with these words, at `validated_at`."""
    written = policy.ttl.value
    lifetime = upstream_ttl(cache_control) if written is None else written
    # A clock that was set back must not make an entry young for longer than its lifetime.
    age = max(0.0, now - validated_at)
    return Freshness(
        left=lifetime - age,
        usable_on_error=age < lifetime + policy.stale_if_error.value,
    )
