"""How fresh a cached tag is: pure functions of the entry, the policy and the time.

Owns the arithmetic of config-language.md 4. Does not own asking upstream, nor writing down what it
said (`cached.py`). Freshness is computed from when the entry was last validated and what upstream
said then, never stored as an expiry, so a changed policy counts at once. Times are UTC seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from routerd.content.links import TagEntry
from routerd.oci.reference import Tag
from routerd.routing.policy import CachePolicy

DEFAULT_TTL = 300.0  # seconds; upstream says nothing (config-language.md 4, `ttl`)
UPSTREAM_TTL_LIMIT = 86400.0  # seconds; upstream's max-age counts up to this
_DELTA_SECONDS_DIGITS = 10  # RFC 9111 1.2.2: larger values are treated as "very long"


class Verdict(StrEnum):
    """What to do for a tag whose manifest is stored."""

    FRESH = "fresh"  # serve it
    BEHIND = "behind"  # serve it, and ask upstream behind it
    ASK = "ask"  # ask upstream first
    STALE = "stale"  # upstream failed a moment ago: serve it, marked, without asking
    FAILED = "failed"  # upstream failed a moment ago, and it is too old to be served
    GONE = "gone"  # upstream said a moment ago that there is no such tag: serve it, marked


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a cached tag may be used for now.

    `left`: seconds for which it needs no question upstream; 0 or less: none.
    `usable_on_error`, `usable_when_gone`: whether it may be served when upstream answers with 429,
    5xx or nothing, or when it says that it has no such tag.
    """

    verdict: Verdict
    left: float
    usable_on_error: bool
    usable_when_gone: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of the endpoint whose tag it is.

    `offline`: it is never asked, by policy. `since`: what was validated before was the word of
    another URL, and is to be confirmed by this one.
    """

    offline: bool = False
    since: float = -math.inf


def assess(
    entry: TagEntry, tag: Tag, policy: CachePolicy, now: float, standing: Standing = Standing()
) -> Freshness:
    """The freshness of a tag whose manifest is stored."""
    if policy.is_immutable(tag):
        return Freshness(Verdict.FRESH, math.inf, True, True)
    lifetime = lifetime_of(entry.cache_control, policy)
    age = now - entry.validated_at
    # An entry from the future was written before a clock was set back: of its age nothing is known.
    left = lifetime - age if age >= 0 else min(0.0, lifetime)
    if standing.offline:
        return _without_asking(entry, left)
    is_confirmed = not entry.validated_at < standing.since <= now
    since_gone = 0.0 if entry.gone_at is None else max(0.0, now - entry.gone_at)
    usable_on_error = age < lifetime + policy.stale_if_error.value
    usable_when_gone = since_gone < policy.stale_if_gone.value
    verdict = Verdict.ASK
    if _waits(entry, policy, now):
        if entry.gone_at is None:
            verdict = Verdict.STALE if usable_on_error else Verdict.FAILED
        elif usable_when_gone:
            verdict = Verdict.GONE
    elif entry.gone_at is None and is_confirmed and left > 0:
        verdict = Verdict.FRESH
    elif entry.gone_at is None and is_confirmed and left > -policy.stale_while_revalidate.value:
        verdict = Verdict.BEHIND
    return Freshness(
        verdict, left if is_confirmed else min(left, 0.0), usable_on_error, usable_when_gone
    )


def _without_asking(entry: TagEntry, left: float) -> Freshness:
    """Nobody will be asked, so it is served whatever its age, and marked once that has passed."""
    if entry.gone_at is not None:
        return Freshness(Verdict.GONE, left, True, True)
    return Freshness(Verdict.FRESH if left > 0 else Verdict.STALE, left, True, True)


def _waits(entry: TagEntry, policy: CachePolicy, now: float) -> bool:
    """Whether the last check did not confirm the tag, and the next one is not due yet."""
    return (
        entry.checked_at is not None
        and entry.checked_at >= entry.validated_at
        and 0 <= now - entry.checked_at < policy.recheck.value
    )


def lifetime_of(cache_control: str, policy: CachePolicy) -> float:
    """Seconds for which a tag is served without asking: what is written, else upstream's words."""
    written = policy.ttl.value
    return upstream_ttl(cache_control) if written is None else written


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
