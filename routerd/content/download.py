"""One run of receiving: a digest's bytes from upstream into a spool, resumed where it breaks.

Owns that what comes is what was promised, byte for byte and no byte more. Does not own what the
bytes hash to or who reads them (`fetch.py`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from routerd.content.errors import StoreFull
from routerd.content.spool import Spool
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.files import Part, as_bytes

log = logging.getLogger("routerd.fetch")

RESUMES_LIMIT = 3  # times in a row that a broken download is resumed without much progress
# An upstream that cuts each answer after a few bytes is not asked thousands of times.
LEAST_PROGRESS = 64 * 1024  # bytes


class Source(Protocol):
    """A stream of a blob's bytes from upstream, from `start` on."""

    @property
    def size(self) -> int | None:
        """Of the whole blob, in bytes."""
        ...

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        ...

    def chunks(self) -> AsyncIterator[Part]:
        """The bytes in order. Raises RegistryError when they end early."""
        ...


OpenSource = Callable[[int], AbstractAsyncContextManager[Source]]


class WrongContent(RegistryError):
    """Upstream sent something else than was asked for. Asking again would not mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message, status=502)


class Download:
    """The bytes that the spool does not have yet. `size` (bytes) is of the whole, None until known.

    Awaits `on_answer(size)` when upstream has first answered, and `verify` when all is there.
    """

    def __init__(
        self,
        digest: Digest,
        open_source: OpenSource,
        size: int | None,
        on_answer: Callable[[int | None], Awaitable[None]],
        verify: Callable[[], Awaitable[None]],
    ) -> None:
        self._digest = digest
        self._open_source = open_source
        self._size = size
        self._on_answer = on_answer
        self._verify = verify
        self._answered = False

    async def into(self, spool: Spool) -> None:
        """Receive all that is missing. Raises what the source raises, StoreFull and WrongContent."""
        failures = 0
        while True:
            before = spool.received
            try:
                async with self._open_source(before) as source:
                    await self._receive(source, spool)
                    # While the source is open: so it hears that what it sent is wrong.
                    await self._verify()
                return
            except (WrongContent, StoreFull):
                raise  # no other source would mend it
            except RegistryError as error:
                progress = spool.received - before
                failures = 1 if progress >= LEAST_PROGRESS else failures + 1
                if not self._answered or spool.received == 0 or failures > RESUMES_LIMIT:
                    raise
                log.warning(
                    "resuming %s at byte %s: %s", self._digest, spool.received, error.message
                )

    async def _receive(self, source: Source, spool: Spool) -> None:
        if self._size is None:
            self._size = source.size
        elif source.size not in (None, self._size):
            raise WrongContent(f"upstream says {source.size} bytes where it said {self._size}")
        skip = spool.received - source.start  # of an upstream that does not resume
        if skip < 0:
            raise WrongContent(f"upstream starts at {source.start}, not at {spool.received}")
        if not self._answered:
            self._answered = True
            await self._on_answer(self._size)
        async for chunk in as_bytes(source.chunks()):
            if skip > 0:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if self._size is not None and spool.received + len(chunk) > self._size:
                raise WrongContent(f"upstream sends more than the {self._size} bytes it said")
            if chunk:
                await spool.add(chunk)
        if self._size is not None and spool.received != self._size:
            raise WrongContent(f"upstream sent {spool.received} bytes where it said {self._size}")
