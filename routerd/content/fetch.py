"""One download, many readers: the growing file is the buffer.

Owns that every reader follows the one download at its own speed, and that nobody ever holds a
complete wrong blob. Does not own that there is only one (`fetchtable.py`), where the bytes come
from (an endpoint does) or how they are kept (the store does). The first miss starts a fill that
belongs to the application, not to a client: who leaves stops nothing, who is slow slows nobody, who
is late reads what is there and then follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from routerd.content.errors import StoreFull
from routerd.content.links import Scope
from routerd.content.spool import Spool
from routerd.content.store import ContentStore, Ingest
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.blocking import run_blocking
from routerd.runtime.files import Part, as_bytes

log = logging.getLogger("routerd.fetch")

RESUMES_LIMIT = 3  # times in a row that a broken download is resumed without any progress
HELD_BACK = 1  # bytes; what a reader lacks until the digest is right makes its blob incomplete


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


class Fetch:
    """One download into a store. Made and started by `FetchTable.join`, in `fetchtable.py`.

    `size` (bytes) is None until upstream has said it, or for ever where it does not.
    """

    def __init__(
        self, store: ContentStore, digest: Digest, scope: Scope, open_source: OpenSource
    ) -> None:
        self.digest = digest
        self.asked_in = scope  # upstream is asked for it in this scope
        self.ahead = 0  # ranges that are read upstream beside it, in this moment
        self.size: int | None = None
        self.scopes: set[Scope] = set()  # who gets a link when it is complete
        self._store = store
        self._open_source = open_source
        self._ingest: Ingest | None = None
        self._spool: Spool | None = None
        self._verified = False
        self._error: RegistryError | None = None
        self._changed = asyncio.Event()
        self._readers = 0  # who joined and did not leave yet
        self._ended = False

    @property
    def position(self) -> int:
        """Bytes received so far."""
        return 0 if self._spool is None else self._spool.received

    def enter(self, scope: Scope) -> None:
        """One more reads it; when it is complete, `scope` sees it."""
        self.scopes.add(scope)
        self._readers += 1

    async def started(self) -> None:
        """Wait for the first bytes. Raises what the download failed with before them."""
        while self._written == 0 and not self._verified:
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    async def read(self, start: int, stop: int | None) -> AsyncIterator[Part]:
        """The bytes of [start, stop), as they come in; `stop` None is the end.

        The last bytes come once the digest is right. Raises what the download failed with.
        """
        while True:
            end = self._ready if stop is None else min(self._ready, stop)
            if start < end:
                assert self._ingest is not None  # it has the bytes up to `_written`
                async for part in self._ingest.read(start, end):
                    start += len(part)
                    yield part
            elif self._verified or (stop is not None and start >= stop):
                return
            elif self._error is not None:
                raise self._error
            else:
                await self._changed.wait()

    @property
    def _ready(self) -> int:
        """Bytes that readers may have: with a known size, only the last ones are held back."""
        if self._verified:
            return self._written
        if self.size is None:
            return self._written - HELD_BACK
        return min(self._written, self.size - HELD_BACK)

    @property
    def _written(self) -> int:
        """Bytes that can be read."""
        return 0 if self._spool is None else self._spool.written

    async def leave(self) -> None:
        """One who joined has read what it wanted, or does not want it any more."""
        self._readers -= 1
        self._close_if_unused()

    @property
    def has_failed(self) -> bool:
        """Whether nobody will get more of it than there is."""
        return self._error is not None

    def give_up(self, error: RegistryError) -> None:
        """It never began. Every reader raises this."""
        self._fail(error)

    async def fill(self) -> None:
        """Download, verify, keep. The outcome is on the Fetch, for every reader alike."""
        try:
            self._ingest = await self._store.ingest()
            self._spool = Spool(self._ingest, self._announce)
            await self._download(self._spool, self._ingest)
            self._verified = True
            self._announce()
            # Readers have everything; what follows is only so that the next one finds it.
            await self._ingest.commit(self.digest, self.scopes)
        except RegistryError as error:
            self._fail(error)
        except Exception:
            self._fail(RegistryError(Code.UNKNOWN, f"the download of {self.digest} failed"))
            raise
        except asyncio.CancelledError:
            self._fail(RegistryError(Code.UNAVAILABLE, "routerd is being stopped"))
            raise
        finally:
            self._ended = True
            if self._spool is not None:
                await self._spool.settle()
            if self._ingest is not None:
                await self._ingest.abort()
            self._close_if_unused()

    async def _download(self, spool: Spool, ingest: Ingest) -> None:
        failures = 0
        while True:
            before = spool.received
            try:
                async with self._open_source(before) as source:
                    await self._receive(source, spool)
                    # While the source is open: so it hears that what it sent is wrong.
                    await spool.flush()
                    await self._verify(ingest)
                return
            except (WrongContent, StoreFull):
                raise  # no other source would mend it
            except RegistryError as error:
                failures = 1 if spool.received > before else failures + 1
                if spool.received == 0 or failures > RESUMES_LIMIT:
                    raise
                log.warning(
                    "resuming %s at byte %s: %s", self.digest, spool.received, error.message
                )

    async def _receive(self, source: Source, spool: Spool) -> None:
        """Pass on what comes, whole or not. Raises what the source raises, and WrongContent."""
        if self.size is None:
            self.size = source.size
        elif source.size not in (None, self.size):
            raise WrongContent(f"upstream says {source.size} bytes where it said {self.size}")
        skip = spool.received - source.start  # of an upstream that does not resume
        if skip < 0:
            raise WrongContent(f"upstream starts at {source.start}, not at {spool.received}")
        async for chunk in as_bytes(source.chunks()):
            if skip > 0:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            if self.size is not None and spool.received + len(chunk) > self.size:
                raise WrongContent(f"upstream sends more than the {self.size} bytes it said")
            if chunk:
                await spool.add(chunk)
        if self.size is not None and spool.received != self.size:
            raise WrongContent(f"upstream sent {spool.received} bytes where it said {self.size}")

    async def _verify(self, ingest: Ingest) -> None:
        if not await run_blocking(ingest.matches, self.digest):
            raise WrongContent(f"upstream sent content that is not {self.digest}")

    def _announce(self) -> None:
        """Wake the readers: there is more, or an end."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _fail(self, error: RegistryError) -> None:
        log.warning("download of %s failed: %s", self.digest, error.message)
        if not self._verified:
            self._error = error
        self._announce()

    def _close_if_unused(self) -> None:
        """Close the file once nobody writes to it and nobody reads from it."""
        if self._ended and self._readers == 0 and self._ingest is not None:
            self._ingest.close()
