"""How often one may still ask: what a registry says in its headers.

Owns reading `ratelimit-limit`, `ratelimit-remaining` (Docker Hub, as in the IETF's draft) and
`Retry-After`. Does not own waiting (`availability.py`) or choosing an account (`accounts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol, runtime_checkable

RETRY_AFTER_LIMIT = 3600  # seconds; upstreams have asked for more by mistake
_RETRY_AFTER_DEFAULT = 10
_EPOCH = 1_000_000_000  # a Retry-After above is a time, not a duration: Hub's API has sent those
_QUOTA = re.compile(r"\s*([0-9]{1,12})\s*(?:;\s*w\s*=\s*([0-9]{1,9}))?")  # `100;w=21600`


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a registry last said of one account's requests.

    `remaining` of `limit` requests (None: not said) in `window` seconds (None: not said), as of
    `at` (UTC seconds).
    """

    url: str
    account: str
    remaining: int
    limit: int | None
    window: int | None
    at: float

    def counts(self, now: float) -> bool:
        """Whether it still says something: after a whole window all is given back."""
        return self.window is None or 0 <= now - self.at < self.window


@runtime_checkable
class RateLimited(Protocol):
    """An endpoint that knows how often it may still ask."""

    def rate_limits(self) -> Sequence[RateLimit]:
        """What the registry last said to this process, by URL and account; no more than counts."""
        ...


def read_rate_limit(
    headers: Mapping[str, str], url: str, account: str, now: float
) -> RateLimit | None:
    """What an answer's headers say of it; None: nothing that can be read."""
    remaining = _QUOTA.match(headers.get("ratelimit-remaining", ""))
    if remaining is None:
        return None
    limit = _QUOTA.match(headers.get("ratelimit-limit", ""))
    window = remaining[2] or (limit[2] if limit else None)
    return RateLimit(
        url,
        account,
        int(remaining[1]),
        int(limit[1]) if limit else None,
        int(window) if window else None,
        now,
    )


def retry_after(text: str, now: float) -> int:
    """Seconds to wait: Retry-After as seconds, as a date (RFC 9110 10.2.3), or as a unix time."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 12:
        seconds = float(text) - now if int(text) > _EPOCH else float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except ValueError:
            seconds = _RETRY_AFTER_DEFAULT
    return int(min(max(seconds, 1), RETRY_AFTER_LIMIT))
