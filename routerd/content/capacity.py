"""Room for new content: the limits of a store kept by sweeping, and pushes refused that do not fit.

Owns when the limits ask for a sweep and how much it has to free. Does not own the arithmetic
(`room.py`), what goes (`retention.py`) or the schedule (`proxy/upkeep.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from routerd.config.sizes import StorageLimits
from routerd.content.database import Database
from routerd.content.errors import StoreFull
from routerd.content.links import Scope
from routerd.content.retention import GRACE, RetainOf
from routerd.content.room import Disk, excess, shortage
from routerd.content.stock import used_bytes
from routerd.content.sweep import Sweeper, SweepReport
from routerd.runtime.blocking import run_blocking

log = logging.getLogger("routerd.sweep")

ROOM_TRIES = 50  # of a push to have room made, while another process sweeps
ROOM_POLL_SECONDS = 0.2  # between two of them
# After a sweep that could not free enough, until another one is tried for the same reason: what was
# too young for it is old enough by then.
VAIN_SECONDS = GRACE


def keep_all(_scope: Scope) -> float | None:
    """Nothing is ever swept."""
    return None


class Capacity:
    """How much one store may hold. `retain` is the policy's, and until it is set nothing cached is
    swept; `pressed` is set when a write has found the store full.
    """

    def __init__(
        self,
        path: Path,
        limits: StorageLimits,
        database: Database,
        sweeper: Sweeper,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.retain: RetainOf = keep_all
        self.pressed = asyncio.Event()
        self._path = path
        self._limits = limits
        self._database = database
        self._sweeper = sweeper
        self._clock = clock
        self._vain: float | None = None  # when a sweep last could not free enough
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """To be called on the event loop, before anything is written."""
        self._loop = asyncio.get_running_loop()

    def press(self) -> None:
        """A write has found the store full. May be called on any thread."""
        assert self._loop is not None, "the store is not started"
        self._loop.call_soon_threadsafe(self.pressed.set)

    async def sweep(self, need: int = 0) -> SweepReport:
        """Remove cached content that is over its time, and more until `need` bytes are free.

        Raises StoreFull where the disk has no room even for that.
        """
        return await self._sweeper.sweep(self.retain, need)

    async def swept_at(self) -> float | None:
        """When this store was last swept to the end, by any process; None: never."""
        return await self._sweeper.swept_at()

    async def relieve(self) -> SweepReport | None:
        """Sweep if a limit is passed or a write has found the store full; None where neither is so, or
        where a moment ago nothing more could be swept.
        """
        is_full = self.pressed.is_set()
        self.pressed.clear()
        disk, used = await self._measure()
        need = shortage(self._limits, disk, used, is_full=is_full)
        if need == 0 or self._is_in_vain():
            return None
        report = await self.sweep(need)
        if report.size < need and not report.skipped:
            self._vain = self._clock()
            log.warning(
                "%s: %s bytes should be free, but only %s could be swept: the rest was pushed, "
                "pinned or pulled a moment ago, or is not of this store",
                self._path.name,
                need,
                report.size,
            )
        return report

    async def admit(self, size: int) -> None:
        """Make room for `size` bytes that are pushed, as far as `max_size` goes. Raises StoreFull."""
        if self._limits.max_size is None or await self._fits(size):
            return
        if not self._is_in_vain():
            for _ in range(ROOM_TRIES):
                if not (await self._make_room(size)).skipped:
                    break
                await asyncio.sleep(ROOM_POLL_SECONDS)  # another process makes room
            if await self._fits(size):
                return
            self._vain = self._clock()
        raise StoreFull(
            f"{size} bytes more do not fit into {self._path.name}: its max_size is "
            f"{self._limits.max_size}, and what was pushed or pinned is never swept"
        )

    def _is_in_vain(self) -> bool:
        return self._vain is not None and 0 <= self._clock() - self._vain < VAIN_SECONDS

    async def _make_room(self, size: int) -> SweepReport:
        disk, used = await self._measure()
        return await self.sweep(shortage(self._limits, disk, used + size))

    async def _fits(self, size: int) -> bool:
        disk, used = await self._measure()
        return excess(self._limits, disk, used + size) <= 0

    async def _measure(self) -> tuple[Disk, int]:
        disk = await run_blocking(Disk.of, self._path)
        return disk, await self._database.read(used_bytes)
