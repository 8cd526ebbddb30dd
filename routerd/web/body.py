"""Request bodies with back-pressure.

Owns the body class that Quart is given instead of its own, which holds a whole upload in memory
while the handler is busy (docs/design/stack.md), how long a client may fall silent within a body,
and the draining of a body nobody wants. Does not own what a body means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator

from routerd.oci.errors import Code, RegistryError

# As upstream's silence, `timeouts.stall`: a peer that is gone without a word must not hold its upload.
STALL_SECONDS = 60.0
QUEUE_LIMIT = 16  # chunks waiting; Hypercorn reads 64 KiB at a time, so about 1 MiB
# config-language.md 3: the rest of a refused write is drained, so that the client reads the answer.
DRAIN_BYTES = 4 * 1024 * 1024
DRAIN_SECONDS = 2.0
CLIENT_LEFT = "the client closed the connection before its answer was complete"
REQUEST_TIMEOUT = 408  # RFC 9110 15.5.9


class ClientDisconnected(Exception):
    """The client went away within its request's body or its answer's."""


class BoundedBody:
    """A request body as a bounded queue: the network waits while the handler is busy.

    One writer (the connection), one reader at a time. Iterating yields all that waits as one chunk.
    Raises ClientDisconnected when the client leaves, and 408 when nothing comes for
    `stall_seconds`, both after the bytes that came before.
    """

    stall_seconds = STALL_SECONDS

    def __init__(self, _expected: int | None = None, _limit: int | None = None) -> None:
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._failure: Exception | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._read_out = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self._ended

    def end(self) -> None:
        """Nothing more comes, and nothing did where this is the first that is heard."""
        self._ended = True
        self._readable.set()

    async def put(self, data: bytes, more: bool) -> None:
        """Take what came in; waits while the queue is full. `more` is False with the last bytes."""
        if data:
            await self._writable.wait()
            self._chunks.append(data)
            if len(self._chunks) >= QUEUE_LIMIT:
                self._writable.clear()
        if not more:
            self._ended = True
        self._readable.set()

    async def disconnect(self) -> None:
        """The client is gone. What came before is still for the handler, if it reads it soon."""
        if self._ended:
            return
        self._fail(ClientDisconnected("the client closed the connection within its request body"))
        self._readable.set()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._read_out.wait()
        except TimeoutError:
            return  # nobody reads it

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                self._writable.set()
                yield data
            elif self._ended:
                break
            else:
                await self._more()
        self._read_out.set()
        if self._failure is not None:
            raise self._failure

    async def _more(self) -> None:
        self._readable.clear()
        try:
            async with asyncio.timeout(self.stall_seconds):
                await self._readable.wait()
        except TimeoutError:
            message = f"the client sent nothing of its request body for {self.stall_seconds:g} s"
            self._fail(RegistryError(Code.SIZE_INVALID, message, status=REQUEST_TIMEOUT))

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._ended = True

    def __await__(self) -> Generator[object, None, bytes]:
        return self.read(DRAIN_BYTES).__await__()

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes. Raises 413 SIZE_INVALID for more."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                raise RegistryError(
                    Code.SIZE_INVALID, f"the request body is larger than {limit} bytes", status=413
                )
            parts.append(chunk)
        return b"".join(parts)

    def clear(self) -> None:
        """Part of Quart's interface of a body; there is nothing cached to clear."""

    async def drain(self) -> None:
        """Read and forget what the client still sends, within DRAIN_BYTES and DRAIN_SECONDS."""
        if self._ended and not self._chunks:
            return
        size = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                async for chunk in self:
                    size += len(chunk)
                    if size > DRAIN_BYTES:
                        return
        except (TimeoutError, ClientDisconnected, RegistryError):
            return  # the connection is closed after the answer, which is all there is left to do
