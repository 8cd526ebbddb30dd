"""A content store whose bytes are in memory, to show that the contract is not the directory's.

Its index is an ordinary one in a file: the index is an interface of its own.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from routerd.content.database import Database
from routerd.content.index import Index
from routerd.content.links import LinkKind, Scope, TagEntry
from routerd.content.uploads import IngestUpload
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag


class MemoryStore:
    """A `ContentStore` of bytes in a dict."""

    def __init__(self, index: Path) -> None:
        self._database = Database(index)
        self._uploads: dict[str, IngestUpload] = {}
        self.content: dict[Digest, bytes] = {}
        self.index = Index(self._database)

    async def start(self) -> None:
        await self._database.start()

    async def aclose(self) -> None:
        await self._database.aclose()

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

    async def start_upload(self, scope: Scope) -> IngestUpload:
        session = secrets.token_hex(8)
        await self.index.add_upload(scope, session, session, "memory")
        self._uploads[session] = IngestUpload(session, scope, MemoryIngest(self), self.index)
        return self._uploads[session]

    async def upload(self, scope: Scope, session: str) -> IngestUpload | None:
        if await self.index.upload_scope(session) != scope:
            return None
        return self._uploads[session]


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
