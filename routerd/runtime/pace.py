"""Work at a limited rate.

Owns when the next piece may be done. Does not own what the work is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Sleep = Callable[[float], Awaitable[None]]


class Pace:
    """At most `rate` bytes a second, `inf` for no limit. Time that was not used is not caught up."""

    def __init__(
        self,
        rate: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._monotonic = monotonic
        self._sleep = sleep
        self._free_at = monotonic()

    async def spend(self, size: int) -> None:
        """So many bytes were worked on: wait for as long as they should have taken."""
        now = self._monotonic()
        self._free_at = max(self._free_at, now) + size / self._rate
        await self._sleep(max(0.0, self._free_at - now))
