"""A growing file: what a download writes and its readers follow.

Owns that receiving goes on while earlier bytes are hashed and written, and how much of it may wait
in memory. Does not own the download or its outcome (`fetch.py`). Readers read the file: what is in
the page cache costs them no copy, however many they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from routerd.content.store import Ingest
from routerd.runtime.blocking import start_blocking

# Bytes that wait, at most, while earlier ones are hashed and written.
BACKLOG = 2 * 1024 * 1024
# So many bytes are written at once, or fewer after so long: each hop to a thread, and each wake-up of
# each reader after it, has a fixed cost (docs/design/architecture.md, "One download, many readers").
BATCH = 512 * 1024  # bytes
BATCH_SECONDS = 0.002
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
        self._waiting: list[bytes | bytearray] = []
        self._waiting_size = 0
        self._open: bytearray | None = None  # the newest chunk, while it may still grow
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # until a batch goes that is not full
        self._failure: BaseException | None = None

    async def add(self, chunk: bytes) -> None:
        """Take the next bytes; waits while too many wait for the disk. Raises StoreFull."""
        self._take(chunk)
        if self._writing is None:
            self._write_soon()
        while self._waiting_size >= BACKLOG and self._writing is not None:
            await asyncio.wait({self._writing})
        self._raise()

    async def flush(self) -> None:
        """Everything received is in the file. Raises StoreFull."""
        while self._waiting or self._writing is not None:
            if self._writing is None:
                self._write()
            assert self._writing is not None
            await asyncio.wait({self._writing})
            self._raise()

    async def settle(self) -> None:
        """Write no more. After it nothing is being written, so the file may be closed."""
        self._waiting.clear()
        self._stop_timer()
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def _take(self, chunk: bytes) -> None:
        if self._open is not None and len(self._open) + len(chunk) <= SMALL:
            self._open += chunk
        else:
            self._open = bytearray(chunk) if len(chunk) < SMALL else None
            self._waiting.append(chunk if self._open is None else self._open)
        self.received += len(chunk)
        self._waiting_size += len(chunk)

    def _write_soon(self) -> None:
        """Write what waits: at once when it is enough, or the first that readers wait for."""
        if self._waiting_size >= BATCH or (self._waiting and self.written == 0):
            self._write()
        elif self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self._write)

    def _write(self) -> None:
        """Have all that waits written and hashed, in one hop to a thread."""
        self._stop_timer()
        if self._writing is not None:
            return
        self._writing = start_blocking(self._ingest.write, self._waiting)
        self._writing.add_done_callback(self._wrote)
        self._waiting = []
        self._waiting_size = 0
        self._open = None  # the thread has it

    def _wrote(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        self._failure = writing.exception()
        if self._failure is not None:
            self._waiting.clear()
            self._waiting_size = 0
            return
        self.written = self._ingest.offset
        self._write_soon()
        self._on_written()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
