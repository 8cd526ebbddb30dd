"""A growing file and its newest bytes: what a download writes and its readers follow.

Owns that receiving, hashing with writing, and reading go on at the same time, and how much of it
may wait in memory. Does not own the download or its outcome (`fetch.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from routerd.content.store import Ingest
from routerd.runtime.blocking import start_blocking

# Bytes that wait, at most, while earlier ones are hashed and written: two hops' worth.
BACKLOG = 2 * 1024 * 1024
# Newest bytes kept for the readers that follow closely, who then cost no read. What is not in the
# file yet is kept beyond that.
RECENT = 4 * 1024 * 1024
RECENT_CHUNKS = 256  # and no more than these, however small they came
TOGETHER = 512 * 1024  # bytes of small chunks that a close reader takes at once; each time costs
SMALL = 64 * 1024  # bytes; chunks are joined up to this, so that an upstream's crumbs cost nothing


class Spool:
    """Bytes on their way into an ingest. One writer, any number of readers."""

    def __init__(self, ingest: Ingest) -> None:
        self.received = 0  # bytes; all of them can be read
        self._ingest = ingest
        self._recent: deque[tuple[int, bytes | bytearray]] = deque()  # by offset, the newest last
        self._recent_size = 0
        self._waiting: list[bytes | bytearray] = []
        self._waiting_size = 0
        self._open: bytearray | None = None  # the newest chunk, while it may still grow
        self._writing: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Take the next bytes; waits while too many wait for the disk. Raises StoreFull."""
        self._take(chunk)
        if self._writing is not None and (self._writing.done() or self._waiting_size >= BACKLOG):
            await self._write_done()
        if self._writing is None:
            self._write()

    async def flush(self) -> None:
        """Everything received is in the file. Raises StoreFull."""
        await self._write_done()
        if self._waiting:
            self._write()
            await self._write_done()

    async def settle(self) -> None:
        """Nothing is being written any more, whatever came of it: the file may be closed."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
            self._writing.exception()  # the download's own failure is the one that counts

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes of [start, stop), all of them received."""
        while start < stop:
            part = self._from_memory(start, stop)
            if part:
                start += len(part)
                yield part
                continue
            # Read only up to what is in memory: by then the reader may have caught up.
            end = min(stop, self._recent[0][0] if self._recent else self._ingest.offset)
            async for part in self._ingest.read(start, end):
                start += len(part)
                yield part

    def _take(self, chunk: bytes) -> None:
        if self._open is not None and len(self._open) + len(chunk) <= SMALL:
            self._open += chunk
        else:
            kept: bytes | bytearray = chunk
            self._open = None
            if len(chunk) < SMALL:
                kept = self._open = bytearray(chunk)
            self._recent.append((self.received, kept))
            self._waiting.append(kept)
        self.received += len(chunk)
        self._recent_size += len(chunk)
        self._waiting_size += len(chunk)
        self._forget()

    def _forget(self) -> None:
        """Let go of the oldest chunks that are in the file, beyond RECENT."""
        while True:
            offset, oldest = self._recent[0]
            is_written = offset + len(oldest) <= self._ingest.offset
            is_wanted = (
                self._recent_size - len(oldest) < RECENT and len(self._recent) <= RECENT_CHUNKS
            )
            if is_wanted or not is_written:
                return
            self._recent_size -= len(oldest)
            self._recent.popleft()

    def _from_memory(self, start: int, stop: int) -> bytes:
        """The next bytes of [start, stop) if the newest bytes have `start`; else nothing.

        A large chunk goes out as it is, the same for all readers; small ones are joined.
        """
        if not self._recent or start < self._recent[0][0]:
            return b""
        parts: list[bytes | bytearray] = []
        for offset, chunk in reversed(self._recent):
            if offset < stop:
                parts.append(chunk[max(0, start - offset) : stop - offset])
            if offset <= start:
                break
        together = [parts.pop()]
        size = len(together[0])
        while parts and size + len(parts[-1]) <= TOGETHER:
            size += len(parts[-1])
            together.append(parts.pop())
        # Of a whole large chunk this is no copy.
        return bytes(together[0]) if len(together) == 1 else b"".join(together)

    def _write(self) -> None:
        # One hop to a thread for writing and hashing all that waits.
        self._writing = start_blocking(self._ingest.write, self._waiting)
        self._waiting = []
        self._waiting_size = 0
        self._open = None  # the thread has it

    async def _write_done(self) -> None:
        if self._writing is not None:
            if not self._writing.done():
                # A fill that is cancelled here stops no thread, and must not forget that it writes.
                await asyncio.shield(self._writing)
            self._writing.result()
            self._writing = None
