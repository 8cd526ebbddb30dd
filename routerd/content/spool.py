"""A growing file: what a download writes and its readers follow.

Owns that receiving goes on while earlier bytes are hashed and written, and how much of it may wait
in memory. Does not own the download or its outcome (`fetch.py`). Readers read the file: what is in
the page cache costs them no copy, however many they are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from routerd.content.store import Ingest
from routerd.runtime.blocking import start_blocking

# Bytes that wait, at most, while earlier ones are hashed and written.
BACKLOG = 2 * 1024 * 1024
# So many bytes are written at once, or fewer after so long: each hop to a thread, and each wake-up of
# each reader after it, has a fixed cost (docs/design/architecture.md, "One download, many readers").
BATCH = 512 * 1024  # bytes
BATCH_SECONDS = 0.002
# Batches of one hop, while more wait. Not to the end: with a slow disk that is the download's, and
# every thread of the pool would be a download's.
TURN = 4
SMALL = 64 * 1024  # bytes; chunks are joined up to this, so that an upstream's crumbs cost nothing


class Spool:
    """Bytes on their way into an ingest, which it is the only one to write to.

    `received` and `written` are offsets in bytes; up to `written` all of them can be read. Calls
    `on_written` on the event loop when that has moved.
    """

    def __init__(self, ingest: Ingest, on_written: Callable[[], None]) -> None:
        self.received = self.written = ingest.offset
        self._ingest = ingest
        self._on_written = on_written
        self._loop = asyncio.get_running_loop()
        # The loop appends and the thread takes from the other end.
        self._waiting: deque[bytes | bytearray] = deque()
        self._crumbs = bytearray()  # received, and too little yet to be among those
        self._writing: asyncio.Future[None] | None = None
        self._moved = asyncio.Event()  # since somebody last looked
        self._timer: asyncio.TimerHandle | None = None  # until less than a batch goes
        self._failure: BaseException | None = None

    async def add(self, chunk: bytes) -> None:
        """Take the next bytes; waits while too many wait for the disk. Raises StoreFull."""
        self._take(chunk)
        self._write_soon()
        while self.received - self.written >= BACKLOG and self._writing is not None:
            self._moved.clear()
            await self._moved.wait()
        self._raise()

    async def flush(self) -> None:
        """Everything received is in the file. Raises StoreFull."""
        while self.written < self.received and self._failure is None:
            self._write()
            assert self._writing is not None  # for what was received and not written yet
            await asyncio.wait({self._writing})
        self._raise()

    async def settle(self, *, keep: bool) -> None:
        """Write no more than, where it is kept, what was received. After it nothing is being written,
        so the file may be closed; who is cancelled here leaves no earlier.
        """
        if not keep:
            self._forget()
        self._write()
        cancelled: asyncio.CancelledError | None = None
        while self._writing is not None:
            try:
                await asyncio.wait({self._writing})
            except asyncio.CancelledError as error:
                cancelled = error
            self._write()
        if cancelled is not None:
            raise cancelled

    def _take(self, chunk: bytes) -> None:
        self.received += len(chunk)
        if len(chunk) < SMALL:
            self._crumbs += chunk
        if len(self._crumbs) >= SMALL or len(chunk) >= SMALL:
            self._take_crumbs()
        if len(chunk) >= SMALL:
            self._waiting.append(chunk)

    def _take_crumbs(self) -> None:
        if self._crumbs:
            self._waiting.append(self._crumbs)
            self._crumbs = bytearray()

    def _write_soon(self) -> None:
        """Have what waits written: at once when it is enough, or the first that readers wait for."""
        if self._writing is not None or not (self._waiting or self._crumbs):
            return
        if self.received - self.written >= BATCH or self.written == 0:
            self._write()
        elif self._timer is None:
            self._timer = self._loop.call_later(BATCH_SECONDS, self._write)

    def _write(self) -> None:
        """Have all that waits written and hashed on a thread, unless that is going on."""
        self._stop_timer()
        self._take_crumbs()
        if self._writing is None and self._waiting:
            self._writing = start_blocking(self._work)
            self._writing.add_done_callback(self._on_end)

    def _work(self) -> None:
        """On the thread: write batch after batch without asking the loop, to the end of its turn."""
        for _ in range(TURN):
            batch: list[bytes | bytearray] = []
            size = 0
            while self._waiting and size < BATCH:
                batch.append(self._waiting.popleft())
                size += len(batch[-1])
            if not batch:
                return
            self._ingest.write(batch)
            self._loop.call_soon_threadsafe(self._on_batch, self._ingest.offset)
            if self.received - self._ingest.offset < BATCH:
                return

    def _on_batch(self, written: int) -> None:
        self.written = written
        self._moved.set()
        self._on_written()

    def _on_end(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        self._failure = writing.exception()
        self._moved.set()
        if self._failure is not None:
            self._forget()
        else:
            self._write_soon()

    def _forget(self) -> None:
        self._waiting.clear()
        self._crumbs = bytearray()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
