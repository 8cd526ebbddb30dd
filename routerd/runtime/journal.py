"""Lines on their way to a file, never in the way of the event loop.

Owns the bounded queue, its one writer, and that what could not be kept is counted, logged and marked
in the file itself. Does not own the files (`dayfiles.py`) or what the lines say.

Lines are handed to the kernel a tenth of a second after `add`, and not synced: `kill -9` of the
process loses those, a power cut what the kernel had not written yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import date

from routerd.runtime.blocking import run_blocking
from routerd.runtime.dayfiles import DayFiles, day_of
from routerd.runtime.tasks import Tasks

log = logging.getLogger("routerd.journal")

WAITING_LIMIT = 20_000  # lines; some 8 MB of memory, and ten seconds of a busy worker's pulls
BATCH_LIMIT = 2_000  # lines of one write
GATHER_SECONDS = 0.1  # for lines to come together: a hop to a thread costs more than many lines
RETRY_SECONDS = 5.0  # after a write that failed
SAY_SECONDS = 60.0  # between two log lines about the same trouble
CLOSE_SECONDS = 5.0  # for the last lines to be written


class Journal:
    """Started once, closed once. `add` may be called in between; it never waits and never raises.

    `gap(at, count)` makes the line that stands for `count` lines that were lost.
    """

    def __init__(
        self,
        files: DayFiles,
        gap: Callable[[float, int], bytes],
        clock: Callable[[], float] = time.time,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self.lost = 0  # lines, so far
        self._files = files
        self._gap = gap
        self._clock = clock  # UTC seconds
        self._retry = retry
        self._tasks = Tasks()
        self._waiting: deque[tuple[date, bytes]] = deque()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._unmarked = 0  # lost lines that no line in the file stands for yet
        self._swept: date | None = None
        self._failing = False
        self._said_at = 0.0

    async def start(self) -> None:
        """Begin to write. Raises OSError where that is not possible."""
        await run_blocking(self._files.prepare, self._clock())
        self._tasks.spawn("journal", self._run())

    def add(self, at: float, line: bytes) -> None:
        """Have a line, with its newline, written to the file of the day of `at` (UTC seconds)."""
        if len(self._waiting) >= WAITING_LIMIT:
            self._lose(1)
            return
        self._waiting.append((day_of(at), line))
        self._wake.set()

    async def aclose(self) -> None:
        """Write what waits, if that can be done in CLOSE_SECONDS; what cannot is lost, and said."""
        self._closing.set()
        self._wake.set()
        await self._tasks.aclose(grace=CLOSE_SECONDS)
        self._lose(len(self._waiting))
        self._waiting.clear()
        if self._unmarked:
            log.error("%s lines are missing at the end of %s", self._unmarked, self._files.path)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wake.wait()
            await self._pause(GATHER_SECONDS)
            self._wake.clear()
            await self._sweep()
            if not await self._write():
                self._wake.set()
                await self._pause(self._retry)
        await self._write()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _write(self) -> bool:
        """Write all that waits; False where something of it still does."""
        while self._waiting:
            day = self._waiting[0][0]
            batch = self._batch(day)
            appended = await run_blocking(self._files.append, day, batch)
            for _ in range(appended.count):
                self._waiting.popleft()
            if appended.problem is not None:
                self._say_failing(appended.problem)
                return False
        return await self._mark()

    def _batch(self, day: date) -> list[bytes]:
        batch: list[bytes] = []
        for its_day, line in self._waiting:
            if its_day != day or len(batch) == BATCH_LIMIT:
                break
            batch.append(line)
        return batch

    async def _mark(self) -> bool:
        """Write down how many lines are missing here, if any are."""
        if count := self._unmarked:
            now = self._clock()
            line = self._gap(now, count)
            appended = await run_blocking(self._files.append, day_of(now), [line])
            if appended.problem is not None:
                self._say_failing(appended.problem)
                return False
            self._unmarked -= count
            log.error("%s lines are missing in %s, which says where", count, self._files.path)
        if self._failing:
            self._failing = False
            log.warning("%s is written again", self._files.path)
        return True

    async def _sweep(self) -> None:
        today = day_of(self._clock())
        if today == self._swept:
            return
        self._swept = today
        try:
            for path in await run_blocking(self._files.sweep, self._clock()):
                log.info("%s is older than it is to be kept, and removed", path)
        except OSError as error:
            log.error("what is too old of %s stays: %s", self._files.path, error.strerror)

    def _lose(self, count: int) -> None:
        if count and not self._unmarked:
            log.error(
                "%s falls behind, so lines of it are lost from here on; they are counted",
                self._files.path,
            )
        self.lost += count
        self._unmarked += count

    def _say_failing(self, problem: OSError) -> None:
        now = self._clock()
        if not self._failing or not 0 <= now - self._said_at < SAY_SECONDS:
            log.error(
                "%s cannot be written: %s; %s lines wait, at most %s do, and then they are lost",
                self._files.path,
                problem.strerror or problem,
                len(self._waiting),
                WAITING_LIMIT,
            )
            self._said_at = now
        self._failing = True
