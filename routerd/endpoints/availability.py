"""Whether an upstream may be asked now: a circuit breaker, and the pause that a 429 asks for.

Owns counting failures and waiting (protocol.md 3). A breaker is of a URL, a pause of an account
there. Does not own asking, nor what is served meanwhile (`proxy/freshness.py`). Seconds are of a
clock that is never set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code
from routerd.routing.policy import Fallback

FAILURES = 3  # in a row, of the network, after which an upstream is left alone
FIRST_WAIT = 2.0  # seconds, doubled with each failure more
LONGEST_WAIT = 60.0  # seconds; an upstream that is back is found within a minute


class LeftAlone(EndpointError):
    """Nothing was asked: that the upstream would not answer is known already."""


class Availability:
    """What is known of one upstream. `name` is for who reads the refusal."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._failures = 0
        self._closed_until = 0.0
        self._closings = 0
        self._probing = False  # one request finds out whether it is back

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around one request. Raises EndpointError where the upstream is to be left alone.

        A failure inside that reached nobody counts against it, an answer of any kind for it.
        """
        self.check()
        begun_at = self._closings
        probes = self._failures >= FAILURES
        self._probing = self._probing or probes
        try:
            yield
        except EndpointError as error:
            if error.reached:
                self._failures = 0
            else:
                self._failed(begun_at)
            raise
        else:
            self._failures = 0
        finally:
            if probes:
                self._probing = False

    def check(self) -> None:
        """Raises LeftAlone where nothing is to be asked now."""
        now = self._clock()
        if self._failures >= FAILURES and (now < self._closed_until or self._probing):
            wait = _seconds(self._closed_until - now)
            raise LeftAlone(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"{self._name} did not answer {self._failures} times in a row and is left alone "
                f"for {wait} s",
                headers={"Retry-After": str(wait)},
            )

    def _failed(self, begun_at: int) -> None:
        if begun_at != self._closings:
            return  # one blip cuts all that is in flight: that is no news once it is left alone
        self._failures += 1
        beyond = self._failures - FAILURES
        if beyond >= 0:
            self._closings += 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(beyond, 16))
            self._closed_until = self._clock() + wait


class Pause:
    """How long an account asks for nothing, because it has had too many requests."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds until it may be asked with again; 0: now."""
        return max(0.0, self._until - self._clock())

    def begin(self, seconds: float) -> EndpointError:
        """The upstream says so: no request for so long. What to raise."""
        self._until = max(self._until, self._clock() + seconds)
        return EndpointError(*self._words(), headers=self._headers())

    def check(self) -> None:
        """Raises LeftAlone while it lasts."""
        if self.left > 0:
            raise LeftAlone(*self._words(), headers=self._headers())

    def _words(self) -> tuple[Fallback, Code, str]:
        message = f"{self._name} has had too many requests from here; ask again in "
        return (
            Fallback.UNAVAILABLE,
            Code.TOOMANYREQUESTS,
            f"{message}{_seconds(self.left)} s",
        )

    def _headers(self) -> dict[str, str]:
        return {"Retry-After": str(_seconds(self.left))}


def _seconds(left: float) -> int:
    return max(1, round(left))
