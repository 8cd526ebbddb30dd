"""A content store whose bytes are in memory, to show that the contract is not the directory's.

Its index is an ordinary one in a file: the index is an interface of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from routerd.content.capacity import Capacity
from routerd.content.database import Database
from routerd.content.index import Index
from routerd.content.links import LinkKind, Scope, TagEntry
from routerd.content.room import NO_LIMITS
from routerd.content.store import Told
from routerd.content.sweep import Sweeper
from routerd.content.uploads import IngestUpload
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag


class MemoryStore:
    """A `ContentStore` of bytes in a dict."""

    def __init__(self, index: Path) -> None:
        self._database = Database(index)
        self._uploads: dict[str, IngestUpload] = {}
        self._downloads: dict[tuple[str, Digest], MemorySpoolFile] = {}
        self.content: dict[Digest, bytes] = {}
        self.index = Index(self._database, has_bytes=lambda digest: digest in self.content)
        sweeper = Sweeper(self._database, self.index.pulls, MemoryShelf(self.content))
        self.capacity = Capacity(index.parent, NO_LIMITS, self._database, sweeper)

    async def start(self) -> None:
        self.capacity.start()
        await self._database.start()

    async def aclose(self) -> None:
        await self._database.aclose()

    async def forget_downloads(self, endpoint: str) -> None:
        for key in [key for key in self._downloads if key[0] == endpoint]:
            del self._downloads[key]

    async def maintain(self) -> None:
        pass

    async def open(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> MemoryHandle | None:
        if await self.index.link(scope, digest, kind) is None:
            return None
        return MemoryHandle(digest, self.content[digest])

    async def stat(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> int | None:
        handle = await self.open(scope, digest, kind)
        return None if handle is None else handle.size

    async def manifest(self, scope: Scope, digest: Digest) -> Manifest | None:
        link = await self.index.link(scope, digest, LinkKind.MANIFEST)
        return None if link is None else Manifest.parse(self.content[digest], link.media_type)

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
        digest = manifest.descriptor.digest
        self.content[digest] = manifest.body
        entry = TagEntry(digest, validated_at, cache_control, etag)
        await self.index.put_manifest(scope, manifest, tag, entry, created_by, immutable=immutable)

    async def ingest(self) -> MemoryIngest:
        return MemoryIngest(self)

    @asynccontextmanager
    async def question(self, key: str) -> AsyncGenerator[bool]:
        yield False  # there is no other process

    def spool_file(self, endpoint: str, digest: Digest) -> MemorySpoolFile:
        key = (endpoint, digest)
        return self._downloads.setdefault(key, MemorySpoolFile(self))

    async def start_upload(self, scope: Scope) -> IngestUpload:
        session = secrets.token_hex(8)
        await self.index.add_upload(scope, session, session, "memory")
        self._uploads[session] = IngestUpload(
            session, scope, MemoryIngest(self), self.index, self.capacity.admit
        )
        return self._uploads[session]

    async def upload(self, scope: Scope, session: str) -> IngestUpload | None:
        if await self.index.upload_scope(session) != scope:
            return None
        return self._uploads[session]


class MemoryShelf:
    """A `Shelf`: what was taken is gone, and nothing is too young for it."""

    def __init__(self, content: dict[Digest, bytes]) -> None:
        self._content = content
        self._is_claimed = False
        self._swept_at: float | None = None

    def swept_at(self) -> float | None:
        return self._swept_at

    def note_swept(self, now: float) -> None:
        self._swept_at = now

    def claim(self) -> Callable[[], None] | None:
        if self._is_claimed:
            return None
        self._is_claimed = True
        return self._leave

    def _leave(self) -> None:
        self._is_claimed = False

    def take(self, digest: str, before: float) -> bool:
        self._content.pop(Digest.parse(digest), None)
        return True

    def tidy(self) -> None:
        pass

    def release_reserve(self) -> None:
        pass


class MemoryHandle:
    """A `BlobHandle`."""

    def __init__(self, digest: Digest, data: bytes) -> None:
        self.digest = digest
        self.size = len(data)
        self._data = data

    async def read(self, start: int, stop: int | None) -> AsyncIterator[bytes]:
        yield self._data[start:stop]

    async def aclose(self) -> None:
        pass


class MemoryIngest:
    """An `Ingest`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._data = bytearray()

    @property
    def offset(self) -> int:
        return len(self._data)

    def write(self, chunks: Sequence[bytes | bytearray]) -> None:
        for chunk in chunks:
            self._data += chunk

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        yield bytes(self._data[start:stop])

    def clear(self) -> None:
        self._data.clear()

    def claim(self) -> bool:
        return True

    def yield_up(self) -> None:
        pass

    def matches(self, digest: Digest) -> bool:
        return hashlib.new(digest.algorithm, self._data).hexdigest() == digest.encoded

    async def commit(self, digest: Digest, scopes: Iterable[Scope], created_by: str = "") -> None:
        if not self.matches(digest):
            raise RegistryError(Code.DIGEST_INVALID, f"this is not {digest}")
        self._store.content[digest] = bytes(self._data)
        await self._store.index.add_blob(digest, self.offset, scopes, created_by)

    async def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemorySpoolFile:
    """A `SpoolFile`, of a store that one process has."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._ingest: MemoryIngest | None = None
        self._is_taken = False
        self.told: Told | None = None

    async def elect(self) -> bool:
        is_won, self._is_taken = not self._is_taken, True
        if is_won and self.told is not None:
            self.told = Told(self.told.repository, self.told.size)
        return is_won

    async def ingest(self) -> MemoryIngest:
        if self._ingest is None or self.told is None or self.told.size is None:
            self._ingest = MemoryIngest(self._store)
        return self._ingest

    async def restart(self) -> None:
        assert self._ingest is not None
        self._ingest.clear()

    def tell(self, told: Told) -> asyncio.Future[None]:
        self.told = told
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def look(self) -> int:
        return 0 if self._ingest is None else self._ingest.offset

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        assert self._ingest is not None
        async for chunk in self._ingest.read(start, stop):
            yield chunk

    async def release(self, *, forget: bool) -> None:
        self._is_taken = False
        if forget:
            self._ingest, self.told = None, None

    def close(self) -> None:
        pass
