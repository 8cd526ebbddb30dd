"""The accounts that one URL is asked with, and whose turn it is.

Owns what is known of an account's rate limit (config-language.md 6). Does not own its tokens
(`login.py`) or asking (`upstream.py`). What is known is of this process: another one asks for
itself, which costs a request, not an answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from routerd.endpoints.availability import Pause
from routerd.endpoints.login import Login
from routerd.endpoints.ratelimit import RateLimit, read_rate_limit


class Account:
    """Who asks one URL: its login, its pause, and what its rate limit has left.

    `name` is for the operator: the user name, or what kind of account it is.
    """

    def __init__(
        self,
        name: str,
        url: str,
        login: Login,
        pause: Pause,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.login = login
        self.pause = pause
        self._url = url
        self._clock = clock
        self._said: RateLimit | None = None

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the registry last said; None: nothing, or nothing that still counts."""
        said = self._said
        return said if said is not None and said.counts(self._clock()) else None

    @property
    def left(self) -> float:
        """Requests that it may make; infinite where the registry has not said."""
        said = self.rate_limit
        return math.inf if said is None else said.remaining

    def note(self, headers: Mapping[str, str]) -> None:
        """An answer came: keep what it says of the rate limit."""
        said = read_rate_limit(headers, self._url, self.name, self._clock())
        self._said = said or self._said


def in_turn(accounts: Sequence[Account]) -> Sequence[Account]:
    """Who asks first: who is not paused, then who has most left, then as the policy lists them."""
    return sorted(accounts, key=lambda account: (account.pause.left > 0, -account.left))


def account_name(auth: Mapping[str, str], position: int, count: int) -> str:
    """What to call the account at `position` of `count`."""
    if auth["type"] == "basic":
        return auth["username"]
    name = "token" if auth["type"] == "bearer" else "anonymous"
    return name if count == 1 or name == "anonymous" else f"{name} {position + 1}"
