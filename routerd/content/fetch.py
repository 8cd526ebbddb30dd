"""One download, many readers: the growing file is the buffer.

Owns that every reader follows the one download at its own speed, whichever process fills it, and
that nobody ever holds a complete wrong blob. Does not own that there is only one in this process
(`fetchtable.py`) and on this store (`spoolfile.py`), the receiving (`download.py`) or how the bytes
are kept (the store does). The first miss starts a fill that belongs to the application, not to a
client: who leaves stops nothing, who is slow slows nobody, who is late reads what is there and then
follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from routerd.content.download import Download, OpenSource, WrongContent
from routerd.content.errors import StoreFull
from routerd.content.links import Scope
from routerd.content.spool import Spool
from routerd.content.store import ContentStore, Ingest, SpoolReplaced, Told
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.blocking import run_blocking
from routerd.runtime.files import Part

log = logging.getLogger("routerd.fetch")

BROKEN = 502  # the status of what upstream said and should not have said
HELD_BACK = 1  # bytes; what a reader lacks until the digest is right makes its blob incomplete
# Between two looks at what another process fills: while it grows, and the longest when it does not.
LOOK_SECONDS = 0.003
QUIET_SECONDS = 0.02


class Superseded(RegistryError):
    """It came into the store while this download was about to begin: it is to be read from there."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "stored meanwhile")


class Fetch:
    """One download into a store. Made and started by `FetchTable.join`, in `fetchtable.py`.

    `size` (bytes) is None until upstream has said it, or for ever where it does not. `is_followed`
    where another process downloads it.
    """

    def __init__(
        self, store: ContentStore, digest: Digest, scope: Scope, open_source: OpenSource
    ) -> None:
        self.digest = digest
        self.asked_in = scope  # upstream is asked for it in this scope
        self.ahead = 0  # ranges that are read upstream beside it, in this moment
        self.size: int | None = None
        self.is_followed = False
        self._store = store
        self._open_source = open_source
        self._file = store.spool_file(scope.endpoint, digest)
        self._spool: Spool | None = None  # where it is filled here
        self._followed = 0  # bytes that another process has written
        self.has_begun = False  # upstream has answered, to whomever
        self._answered = False  # to this process
        self._verified = False
        self._error: RegistryError | None = None  # readers raise it
        self._failure: RegistryError | None = None  # also one after readers have everything
        self._changed = asyncio.Event()
        self._readers = 0  # who joined and did not leave yet
        self._ended = False
        self._admitted: set[Scope] = set()
        self._linked: set[Scope] = set()
        self._kept = False  # in the store
        self._telling: asyncio.Future[None] | None = None  # what it told last

    @property
    def position(self) -> int:
        """Bytes received so far."""
        return self._followed if self._spool is None else self._spool.received

    def enter(self) -> None:
        """One more reads it."""
        self._readers += 1

    def admits(self, scope: Scope) -> bool:
        """Whether it is proven that the scope may see it. Known once it has started."""
        return scope in self._admitted

    def is_for(self, scope: Scope) -> bool:
        """Whether its own outcome says whether the scope may see it."""
        return scope == self.asked_in or scope in self._admitted

    async def admit(self, scope: Scope) -> None:
        """It is proven for this scope too, which gets its link when the download is complete."""
        self._admitted.add(scope)
        if self._kept:
            await self._link()

    async def started(self) -> None:
        """Wait for upstream's answer and the first bytes. Raises what came instead of them."""
        while not (self.has_begun and self._written) and not self._verified:
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
                async for part in self._file.read(start, end):
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
        if not self.has_begun:
            return 0  # what an earlier download left may not be what upstream has
        if self.size is None:
            return self._written - HELD_BACK
        return min(self._written, self.size - HELD_BACK)

    @property
    def _written(self) -> int:
        """Bytes that can be read."""
        return self._followed if self._spool is None else self._spool.written

    async def ended(self) -> None:
        """Wait until it has let go of its file, however it went."""
        while not self._ended:
            await self._changed.wait()

    async def kept(self) -> None:
        """Wait until it is stored and linked, which is after the last bytes can be read. Raises what
        kept it from that.
        """
        await self.ended()
        if self._failure is not None:
            raise self._failure

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
        self._ended = True
        self._fail(error)

    async def fill(self) -> None:
        """Download or follow, verify, keep. The outcome is on the Fetch, for every reader alike."""
        forget = True  # what was received; else the next download goes on with it
        try:
            await self._complete()
        except SpoolReplaced:
            self._fail(WrongContent(f"the download of {self.digest} was begun anew: ask again"))
        except (WrongContent, StoreFull, Superseded) as error:
            self._fail(error)
        except RegistryError as error:
            forget = self.position == 0
            self._fail(error)
        except asyncio.CancelledError:
            forget = self.position == 0
            self._fail(RegistryError(Code.UNAVAILABLE, "routerd is being stopped"))
            raise
        except Exception:
            self._fail(RegistryError(Code.UNKNOWN, f"the download of {self.digest} failed"))
            raise
        finally:
            await self._end(forget=forget)

    async def _end(self, *, forget: bool) -> None:
        try:
            if self._telling is not None:  # a failure of it is not the first one, or was raised
                await asyncio.wait({self._telling})
            if self._spool is not None:
                await self._spool.settle(keep=not forget)
            await self._file.release(forget=forget)
        finally:
            self._ended = True
            self._announce()
            self._close_if_unused()

    async def _complete(self) -> None:
        pause = LOOK_SECONDS
        while not self._kept:
            if await self._file.elect():
                await self._fill_unless_stored()
                return
            while self._look():
                pause = LOOK_SECONDS
                await asyncio.sleep(pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, QUIET_SECONDS)
            if self._verified and await self._is_stored():
                await self._keep()

    def _look(self) -> bool:
        """See what the process that fills has come to. False where nothing is new."""
        self.is_followed = True
        before = (self._followed, self.has_begun, self._verified)
        self._followed = self._file.look()
        self._hear()
        is_new = before != (self._followed, self.has_begun, self._verified)
        if is_new:
            self._announce()
        return is_new

    def _hear(self) -> None:
        """Take what a filler, this one's predecessor or another process's, has told."""
        told = self._file.told
        if told is not None:
            self.size = told.size
            self.has_begun = True
            # Who comes when the file has been moved into the store already reads it there.
            self._verified = told.verified and self._followed == told.size
            if told.repository == self.asked_in.repository:
                self._admitted.add(self.asked_in)

    async def _fill_unless_stored(self) -> None:
        """What the elected one does. Raises Superseded where there is nothing left to do."""
        if await self._is_stored():
            if not self._followed:
                raise Superseded
            self._followed = self._file.look()  # who follows has what lacked to the end
            self._verified = True
            await self._keep()
        else:
            await self._fill(await self._file.ingest())

    async def _fill(self, ingest: Ingest) -> None:
        told = self._file.told
        self.is_followed = False
        self._spool = Spool(ingest, self._announce)
        size = None if told is None else told.size

        async def verify() -> None:
            assert self._spool is not None
            await self._spool.flush()
            if self._telling is not None:
                await asyncio.shield(self._telling)
            if not await run_blocking(ingest.matches, self.digest):
                raise WrongContent(f"upstream sent content that is not {self.digest}")

        if size is not None and ingest.offset == size:
            self._hear()  # nothing is missing but the verdict
            await verify()
        elif ingest.offset:
            await self._go_on(ingest, size, verify)
        else:
            await self._download(None, verify)
        self._verified = True
        self._announce()
        # Readers have everything; what follows is only so that the next one finds it.
        self._telling = self._file.tell(
            Told(self.asked_in.repository, ingest.offset, verified=True)
        )
        await asyncio.shield(self._telling)
        scopes = set(self._admitted)
        await ingest.commit(self.digest, scopes)
        self._linked |= scopes
        await self._keep()

    async def _go_on(
        self, ingest: Ingest, size: int | None, verify: Callable[[], Awaitable[None]]
    ) -> None:
        """Download what is missing of what an earlier download left, or all of it where upstream's
        answer does not fit to that.
        """
        log.info("going on with the download of %s at byte %s", self.digest, ingest.offset)
        try:
            await self._download(size, verify)
        except RegistryError as error:
            if self._answered or error.status != BROKEN:
                raise
            log.warning("the download of %s is begun anew: %s", self.digest, error.message)
            await self._file.restart()
            self.size = None
            self._spool = Spool(ingest, self._announce)
            await self._download(None, verify)

    async def _download(self, size: int | None, verify: Callable[[], Awaitable[None]]) -> None:
        assert self._spool is not None
        download = Download(self.digest, self._open_source, size, self._on_answer, verify)
        await download.into(self._spool)

    async def _on_answer(self, size: int | None) -> None:
        self._answered = True
        self.size = size
        self._admitted.add(self.asked_in)
        # Those who follow may hear of it a moment later; who waits here need not wait for that.
        self._telling = self._file.tell(Told(self.asked_in.repository, size))
        self.has_begun = True
        self._announce()

    async def _is_stored(self) -> bool:
        return await self._store.index.endpoint_has(self.asked_in.endpoint, self.digest)

    async def _keep(self) -> None:
        """It is in the store: whoever was admitted sees it there."""
        self._kept = True
        self._announce()
        await self._link()

    async def _link(self) -> None:
        while missing := self._admitted - self._linked:
            scope = missing.pop()
            await self._store.index.add_blob_link(scope, self.digest)
            self._linked.add(scope)

    def _announce(self) -> None:
        """Wake the readers: there is more, or an end."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _fail(self, error: RegistryError) -> None:
        if not isinstance(error, Superseded):
            log.warning("download of %s failed: %s", self.digest, error.message)
        self._failure = error
        if not self._verified:
            self._error = error
        self._announce()

    def _close_if_unused(self) -> None:
        """Close the file once nobody writes to it and nobody reads from it."""
        if self._ended and self._readers == 0:
            self._file.close()
