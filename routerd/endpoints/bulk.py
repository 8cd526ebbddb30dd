"""Large bodies straight from the connection, past the HTTP library's parser.

Owns reading a known number of bytes from a connection whose head another protocol has read, and
giving it back. Does not own what the bytes are or who asked for them (`transport.py`).

A parser is handed copies of 256 KiB and makes copies of those. Here the system call writes into one
buffer, and each byte is copied once, which is less work for the event loop (docs/performance.md).
"""

from __future__ import annotations

import asyncio

BUFFER = 1024 * 1024  # bytes that one connection may have waiting
# Bytes asked for in one system call; a chunk has more, up to BUFFER, where its reader is late. Half
# the buffer: so it is hardly ever full, and reading need not be paused and resumed, which costs more
# system calls than it saves.
RECEIVE = 512 * 1024


class BulkReader(asyncio.BufferedProtocol):
    """The next `length` bytes of a connection, taken over from the protocol that it has.

    `remaining` is how many of them were not read yet. `stall` (seconds, None for ever) is how long
    nothing may come. That protocol never sees these bytes, and gets the connection back.
    """

    def __init__(self, transport: asyncio.Transport, length: int, stall: float | None) -> None:
        self.remaining = length
        self._transport = transport
        self._former = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._stall = stall
        self._waiting_since: float | None = None  # loop time; while a read waits for bytes
        # One alarm now and then, instead of a deadline for each of thousands of reads.
        self._alarm = None if stall is None else self._loop.call_later(stall, self._listen, stall)
        self._buffer = memoryview(bytearray(min(BUFFER, length)))
        self._filled = 0
        self._changed = asyncio.Event()
        self._closed = transport.is_closing()
        self._error: Exception | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    def give_back(self) -> None:
        """Let the former protocol have the connection again."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport.set_protocol(self._former)

    async def read(self) -> bytes:
        """What is there, at least one byte; none at the end, or where the other side closed early.

        Raises OSError when the connection breaks, TimeoutError when it falls silent.
        """
        if self.remaining and not self._filled and not self._closed:
            self._changed.clear()
            self._waiting_since = self._loop.time()
            await self._changed.wait()
            self._waiting_since = None
        if not self._filled and self._error is not None:
            raise self._error
        was_full = self._is_full
        chunk = bytes(self._buffer[: self._filled])
        self.remaining -= self._filled
        self._filled = 0
        if was_full and self.remaining and not self._closed:
            self._transport.resume_reading()
        return chunk

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go. Never empty: a full buffer pauses reading."""
        # Not a byte more than is the body's: what follows it is for the former protocol.
        return self._buffer[self._filled : min(self._filled + RECEIVE, self.remaining)]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came in."""
        self._filled += nbytes
        if self._is_full:
            self._transport.pause_reading()
        self._changed.set()

    def _listen(self, stall: float) -> None:
        """Find out whether a read has waited for too long; else look again when it would have."""
        waited = 0.0
        if self._waiting_since is not None and not self._filled:
            waited = self._loop.time() - self._waiting_since
        if waited >= stall:
            self._closed, self._error = True, TimeoutError()
            self._changed.set()
        else:
            self._alarm = self._loop.call_later(stall - waited, self._listen, stall)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, which the former protocol has to know as well."""
        self._closed = True
        self._error = exc
        self._changed.set()
        self._former.connection_lost(exc)

    @property
    def _is_full(self) -> bool:
        return self._filled == min(len(self._buffer), self.remaining)
