"""A growing file: what a download writes and its readers follow.

Owns that receiving goes on while earlier bytes are hashed and written, and how much of it may wait
in memory. Does not own the download or its outcome (`fetch.py`). Readers read the file: what is in
the page cache costs them no copy, however many they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from routerd.content.store import Ingest
from routerd.runtime.blocking import start_writing

# Bytes that wait, at most, while earlier ones are hashed and written.
BACKLOG = 4 * 1024 * 1024
# So many bytes are written at once, or fewer after so long: each wake-up of each reader after it has
# a fixed cost (docs/design/architecture.md, "One download, many readers").
BATCH = 1024 * 1024  # bytes
BATCH_SECONDS = 0.002
# The thread that writes stays for so long where nothing comes: each hop to one has a fixed cost too.
LINGER_SECONDS = 0.01
# Batches until another download may have the thread, where all of them are taken.
TURN = 64
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
        # From the loop to the thread; None ends a batch and the thread's turn.
        self._waiting: SimpleQueue[bytes | bytearray | None] = SimpleQueue()
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
        if self.written < self.received:
            self._write()
            self._waiting.put(None)
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
        if self._writing is not None:
            self._waiting.put(None)
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
            self._waiting.put(chunk)

    def _take_crumbs(self) -> None:
        if self._crumbs:
            self._waiting.put(self._crumbs)
            self._crumbs = bytearray()

    def _write_soon(self) -> None:
        """Have what waits written: at once when it is enough, or the first that readers wait for."""
        if self._writing is not None and not self._crumbs:
            return  # it takes what comes
        if self.received == self.written:
            return
        if self._writing is None and (self.received - self.written >= BATCH or self.written == 0):
            self._write()
        elif self._timer is None:
            self._timer = self._loop.call_later(BATCH_SECONDS, self._write)

    def _write(self) -> None:
        """Have all that waits written and hashed on a thread, unless that is going on."""
        self._stop_timer()
        self._take_crumbs()
        if self._writing is None and not self._waiting.empty():
            self._writing = start_writing(self._work)
            self._writing.add_done_callback(self._on_end)

    def _work(self) -> None:
        """On the thread: write batch after batch without asking the loop, to the end of its turn."""
        for _ in range(TURN):
            batch, is_last = self._gather()
            if batch:
                self._ingest.write(batch)
                self._loop.call_soon_threadsafe(self._on_batch, self._ingest.offset)
            if is_last:
                return

    def _gather(self) -> tuple[list[bytes | bytearray], bool]:
        """Wait for the next batch. Also whether it is the turn's last."""
        batch: list[bytes | bytearray] = []
        size, seconds, until = 0, LINGER_SECONDS, None
        while size < BATCH:
            try:
                chunk = self._waiting.get(timeout=seconds)
            except Empty:
                return batch, not batch
            if chunk is None:
                return batch, True
            batch.append(chunk)
            size += len(chunk)
            if self._ingest.offset == 0:
                break  # somebody waits for the first bytes
            if until is None:
                until = monotonic() + BATCH_SECONDS
            seconds = max(0.0, until - monotonic())
        return batch, False

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
        while not self._waiting.empty():
            with suppress(Empty):
                self._waiting.get_nowait()
        self._crumbs = bytearray()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
