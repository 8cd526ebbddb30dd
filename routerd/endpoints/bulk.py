"""Large bodies straight from the connection, past the HTTP library's parser.

Owns reading a known number of bytes from a connection whose head another protocol has read, and
giving it back. Does not own what the bytes are or who asked for them (`transport.py`).

A parser is handed copies of 256 KiB and makes copies of those. Here each chunk is what one system
call received, into memory of its own, and goes to the disk as it is (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque

BUFFER = 1024 * 1024  # bytes that one connection may have waiting
RECEIVE = 512 * 1024  # bytes asked for in one system call: so the buffer is hardly ever full


class BulkReader(asyncio.Protocol):
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
        self._chunks: deque[bytes] = deque()
        self._waiting = 0  # bytes of those
        self._has_surplus = False  # something came after the body, which nobody asked for
        self._changed = asyncio.Event()
        self._closed = transport.is_closing()
        self._error: Exception | None = None
        self._is_back = False
        self._socket: socket.socket | None = None
        if transport.get_extra_info("ssl_object") is None:
            # The event loop lets nobody else wait for a descriptor that a transport has.
            self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        transport.set_protocol(self)
        self._resume()

    def give_back(self) -> None:
        """Let the former protocol have the connection again. Once is enough, and twice is no harm."""
        if self._is_back:
            return
        self._is_back = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport.set_protocol(self._former)
        if self._socket is not None:
            self._pause()
            self._socket.close()
        if self._has_surplus:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    async def read(self) -> bytes:
        """What is there, at least one byte; none at the end, or where the other side closed early.

        Raises OSError when the connection breaks, TimeoutError when it falls silent.
        """
        if self.remaining and not self._chunks and not self._closed:
            self._changed.clear()
            self._waiting_since = self._loop.time()
            await self._changed.wait()
            self._waiting_since = None
        if not self._chunks:
            if self._error is not None:
                raise self._error
            return b""
        had_no_room = self._room <= 0
        chunk = self._chunks.popleft()
        self._waiting -= len(chunk)
        self.remaining -= len(chunk)
        if had_no_room and self._room > 0 and not self._closed:
            self._resume()
        return chunk

    def data_received(self, data: bytes) -> None:
        """Take what came in: from the transport, where that decrypts, or from the socket."""
        missing = self.remaining - self._waiting
        self._has_surplus = self._has_surplus or len(data) > missing
        if missing:
            self._chunks.append(data[:missing])
            self._waiting += len(self._chunks[-1])
        if self._room <= 0:
            self._pause()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, which the former protocol has to know as well."""
        self._end(exc)
        self._former.connection_lost(exc)

    def _on_readable(self) -> None:
        assert self._socket is not None  # whoever is told that it is readable has one
        try:
            # Not a byte more than is the body's: what follows it is for the former protocol.
            data = self._socket.recv(min(RECEIVE, self._room), socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._pause()
            self._end(error)
            return
        if data:
            self.data_received(data)
        else:
            self._pause()
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._closed = True
        self._error = error
        self._changed.set()

    def _pause(self) -> None:
        if self._socket is None:
            self._transport.pause_reading()
        else:
            self._loop.remove_reader(self._socket.fileno())

    def _resume(self) -> None:
        if self._socket is None:
            self._transport.resume_reading()
        else:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def _listen(self, stall: float) -> None:
        """Find out whether a read has waited for too long; else look again when it would have."""
        waited = 0.0
        if self._waiting_since is not None and not self._chunks:
            waited = self._loop.time() - self._waiting_since
        if waited >= stall:
            self._end(TimeoutError())
        else:
            self._alarm = self._loop.call_later(stall - waited, self._listen, stall)

    @property
    def _room(self) -> int:
        """How many bytes more may come in before the reader has taken some."""
        return min(BUFFER, self.remaining) - self._waiting
