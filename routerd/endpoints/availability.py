"""Whether an upstream may be asked now: a circuit breaker, and the pause that a 429 asks for.

Owns counting failures and waiting (protocol.md 3). Does not own asking, nor what is served
meanwhile (`proxy/freshness.py`). Seconds are of a clock that is never set back.
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


class Availability:
    """What is known of one upstream. `name` is for who reads the refusal."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._failures = 0
        self._closed_until = 0.0  # by the breaker
        self._paused_until = 0.0  # by the upstream itself
        self._probing = False  # one request finds out whether it is back

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around one request. Raises EndpointError where the upstream is to be left alone.

        A failure inside that reached nobody counts against it, an answer of any kind for it.
        """
        self._refuse()
        probes = self._failures >= FAILURES
        self._probing = self._probing or probes
        try:
            yield
        except EndpointError as error:
            if error.reached:
                self._failures = 0
            else:
                self._failed()
            raise
        else:
            self._failures = 0
        finally:
            if probes:
                self._probing = False

    def pause(self, seconds: float) -> EndpointError:
        """It says that it has had too many requests: none for so long. What to raise."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        return self._too_many(self._clock())

    def _failed(self) -> None:
        self._failures += 1
        beyond = self._failures - FAILURES
        if beyond >= 0:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(beyond, 16))
            self._closed_until = self._clock() + wait

    def _refuse(self) -> None:
        now = self._clock()
        if now < self._paused_until:
            raise self._too_many(now)
        if self._failures >= FAILURES and (now < self._closed_until or self._probing):
            wait = _seconds(self._closed_until - now)
            raise EndpointError(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"{self._name} did not answer {self._failures} times in a row and is left alone "
                f"for {wait} s",
                headers={"Retry-After": str(wait)},
            )

    def _too_many(self, now: float) -> EndpointError:
        wait = _seconds(self._paused_until - now)
        return EndpointError(
            Fallback.UNAVAILABLE,
            Code.TOOMANYREQUESTS,
            f"{self._name} has had too many requests from here; ask again in {wait} s",
            headers={"Retry-After": str(wait)},
        )


def _seconds(left: float) -> int:
    return max(1, round(left))
