"""What a content store is: bytes by digest, seen through links in a scope.

Owns the contract that no caller looks behind: nobody else knows a path. Does not own a form of it
(`directory.py`) or what is known about the bytes (`index.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from routerd.content.capacity import Capacity
from routerd.content.index import Index
from routerd.content.links import LinkKind, Scope
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.files import Part


class BlobHandle(Protocol):
    """Complete, verified content, open for reading. Until closed it stays readable, even if removed
    from the store meanwhile.
    """

    @property
    def digest(self) -> Digest:
        """What it is."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def read(self, start: int, stop: int | None) -> AsyncIterator[Part]:
        """The bytes of [start, stop), in parts; `stop` None is the end."""
        ...

    async def aclose(self) -> None:
        """Done with it."""
        ...


class Ingest(Protocol):
    """Content on its way in. Until commit it is not visible; abort forgets it."""

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        ...

    def write(self, chunks: Sequence[bytes | bytearray]) -> None:
        """Append and hash; blocks, so it is called on a thread. Raises StoreFull."""
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[Part]:
        """Bytes that were written, also after commit; until `close`."""
        ...

    def claim(self) -> bool:
        """Be the only one, of all processes, that writes; False while another is. Blocks, since what
        others have written meanwhile is hashed.
        """
        ...

    def yield_up(self) -> None:
        """Let others write again."""
        ...

    def matches(self, digest: Digest) -> bool:
        """Whether what was written is `digest`."""
        ...

    async def commit(self, digest: Digest, scopes: Iterable[Scope], created_by: str = "") -> None:
        """Make it durable and then visible as a blob in `scopes`. Raises 400 DIGEST_INVALID."""
        ...

    async def abort(self) -> None:
        """Forget what was written. After commit: nothing."""
        ...

    def close(self) -> None:
        """Nobody reads from it any more."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What the filler of a download tells those who follow it in other processes.

    `repository` is the one that upstream was asked for it in, and had it; `size` in bytes.
    """

    repository: str
    size: int | None
    verified: bool = False


class SpoolFile(Protocol):
    """One digest's download from one endpoint, as every process on the store sees it: one fills, the
    others follow. `release` and `close` after use.
    """

    async def elect(self) -> bool:
        """Become the filler; False while another one is. Raises StoreFull."""
        ...

    async def ingest(self) -> Ingest:
        """The bytes that are there, for the filler to go on with. Raises StoreFull, and
        SpoolReplaced where they are not those that were followed before.
        """
        ...

    async def restart(self) -> None:
        """Forget the bytes of the ingest, which goes on as a new one. Raises as `ingest` does, where
        the bytes were followed here; others who follow them find them replaced.
        """
        ...

    @property
    def told(self) -> Told | None:
        """What the filler tells; of the one elected here, what an earlier one told."""
        ...

    def tell(self, told: Told) -> asyncio.Future[None]:
        """The filler's word to those who follow, done once it can be read. Before `release`."""
        ...

    def look(self) -> int:
        """What the filler has come to: `told` anew, and the bytes that can be read."""
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[Part]:
        """The bytes of [start, stop), written by whomever; until `close`."""
        ...

    async def release(self, *, forget: bool) -> None:
        """Be the filler no more. Unless forgotten, the next one goes on with the bytes."""
        ...

    def close(self) -> None:
        """Nobody reads from it any more."""
        ...


class SpoolReplaced(Exception):
    """What was followed is gone, wrong or not to be gone on with; a new download has its name."""


class Upload(Protocol):
    """An ingest that outlives the request and the process that began it, known by its id."""

    @property
    def id(self) -> str:
        """Not to be guessed."""
        ...

    @property
    def offset(self) -> int:
        """Bytes received so far."""
        ...

    async def append(self, chunks: AsyncIterator[bytes], length: int | None = None) -> None:
        """Add bytes at `offset`. What arrived stays when the iterator raises or is cancelled.

        `length`: how many will come, if that is known. Raises StoreFull before reading any of them
        where they do not fit.
        """
        ...

    async def commit(self, digest: Digest, created_by: str) -> None:
        """Verify, make durable, link. Raises 400 DIGEST_INVALID and forgets the bytes."""
        ...

    async def cancel(self) -> None:
        """Forget the bytes."""
        ...


class ContentStore(Protocol):
    """Content by digest. `start` before and `aclose` after use; every call may run concurrently."""

    @property
    def index(self) -> Index:
        """What is known about the bytes."""
        ...

    @property
    def capacity(self) -> Capacity:
        """How much it may hold, and the sweep."""
        ...

    async def start(self) -> None:
        """Open it, and clear what a killed process left. Raises StoreError."""
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...

    async def forget_downloads(self, endpoint: str) -> None:
        """Forget what was received of its downloads, but of those that run."""
        ...

    async def maintain(self) -> None:
        """What has to be done from time to time. Raises StoreFull."""
        ...

    async def open(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> BlobHandle | None:
        """Content that the scope has a link to; None without a link or without the bytes."""
        ...

    async def stat(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> int | None:
        """The size in bytes of content that the scope has a link to; None as for `open`."""
        ...

    async def manifest(self, scope: Scope, digest: Digest) -> Manifest | None:
        """A manifest that the scope has a link to."""
        ...

    async def add_manifest(
        self,
        scope: Scope,
        manifest: Manifest,
        *,
        tag: Tag | None = None,
        validated_at: float,
        cache_control: str = "",
        etag: str = "",
        created_by: str = "",
        immutable: bool = False,
    ) -> None:
        """Store, link and tag it, in this order and durably. Raises StoreFull, and 403 DENIED where
        an immutable tag is another digest.
        """
        ...

    async def ingest(self) -> Ingest:
        """New content. Raises StoreFull."""
        ...

    def question(self, key: str) -> AbstractAsyncContextManager[bool]:
        """Within it no other process on this store asks upstream the same. True: one did until now,
        and wrote down what it was told.
        """
        ...

    def spool_file(self, endpoint: str, digest: Digest) -> SpoolFile:
        """The download of this digest from this endpoint, begun or not."""
        ...

    async def start_upload(self, scope: Scope) -> Upload:
        """A new upload. Raises StoreFull."""
        ...

    async def upload(self, scope: Scope, session: str) -> Upload | None:
        """An upload of this scope by its id."""
        ...
