"""A registry on the content store: the endpoint type `storage`.

Owns what a registry of its own allows: pushes by upload session, manifests whose children are
there, tags, deletion. Does not own the bytes (`content/`) or who may push (`routing/`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from routerd.content.links import LinkKind, Scope
from routerd.content.store import BlobHandle, ContentStore, Upload
from routerd.endpoints.base import (
    Endpoint,
    EndpointContext,
    EndpointError,
    Fetched,
    Resolved,
    TagPage,
    Via,
)
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback
from routerd.runtime.files import Part


class StorageEndpoint:
    """A `PushEndpoint` on one content store, which whoever made it opens and closes."""

    private = False

    def __init__(
        self, name: str, store: ContentStore, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self._store = store
        self._clock = clock

    async def open(self) -> None:
        """Nothing to do: the store is open."""

    async def aclose(self) -> None:
        """Nothing to do: the store is closed by its owner."""

    def scope(self, repository: Repository) -> str:
        """NAMESPACE/REPOSITORY (config-language.md 3)."""
        return str(repository)

    # Reading

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        """What a tag or digest is here. Raises not_found."""
        return Resolved((await self.manifest(reference, via)).manifest.descriptor)

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """A stored manifest. Raises not_found."""
        scope = self._scope(reference.repository)
        digest = reference.digest
        if reference.tag is not None:
            entry = await self._store.index.tag(scope, reference.tag)
            digest = None if entry is None else entry.digest
        manifest = None if digest is None else await self._store.manifest(scope, digest)
        if manifest is None:
            raise self._missing(Code.MANIFEST_UNKNOWN, str(reference))
        return Fetched(manifest)

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        """A stored blob's size in bytes. Raises not_found."""
        size = await self._store.stat(self._scope(repository), digest)
        if size is None:
            raise self._missing(Code.BLOB_UNKNOWN, f"{repository}@{digest}")
        return size

    @asynccontextmanager
    async def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AsyncIterator[StoredBlob]:
        """A stored blob, from `start` on. Raises not_found."""
        handle = await self._store.open(self._scope(repository), digest)
        if handle is None:
            raise self._missing(Code.BLOB_UNKNOWN, f"{repository}@{digest}")
        try:
            yield StoredBlob(handle, start)
        finally:
            await handle.aclose()

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """Up to `n` tags after `last`. Raises not_found for a repository without content."""
        scope = self._scope(repository)
        found = await self._store.index.tags(scope, last, n + 1)
        if not found and await self._store.index.is_empty(scope):
            raise self._missing(Code.NAME_UNKNOWN, str(repository))
        return TagPage(found[:n], more=len(found) > n)

    # Writing

    async def has_blob(self, repository: Repository, digest: Digest) -> bool:
        """Whether the repository has the blob."""
        return await self._store.stat(self._scope(repository), digest) is not None

    async def has_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Whether the repository has the manifest."""
        scope = self._scope(repository)
        return await self._store.stat(scope, digest, LinkKind.MANIFEST) is not None

    async def start_upload(self, repository: Repository) -> Upload:
        """A new, empty session."""
        return await self._store.start_upload(self._scope(repository))

    async def upload(self, repository: Repository, session: str) -> Upload:
        """A session by its id. Raises 404 BLOB_UPLOAD_UNKNOWN, also for another repository's."""
        upload = await self._store.upload(self._scope(repository), session)
        if upload is None:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
        return upload

    async def mount(self, repository: Repository, digest: Digest, source: Repository) -> bool:
        """Link a blob that `source` has here; False where it has none."""
        if not await self.has_blob(source, digest):
            return False
        if repository == source:
            return True
        return await self._store.index.add_blob_link(self._scope(repository), digest)

    async def put_manifest(
        self,
        reference: Reference,
        manifest: Manifest,
        created_by: str,
        *,
        immutable: bool = False,
    ) -> None:
        """Store, link and tag. Raises 404 MANIFEST_BLOB_UNKNOWN where what it lists is missing, and
        403 DENIED where the tag is `immutable` and another digest already.
        """
        repository = reference.repository
        for blob in manifest.required_blobs:
            if not await self.has_blob(repository, blob.digest):
                raise self._missing_child(reference, blob.digest)
        for child in manifest.children:
            if not await self.has_manifest(repository, child.digest):
                raise self._missing_child(reference, child.digest)
        await self._store.capacity.admit(manifest.descriptor.size)
        await self._store.add_manifest(
            self._scope(repository),
            manifest,
            tag=reference.tag,
            validated_at=self._clock(),
            created_by=created_by,
            immutable=immutable,
        )

    async def delete(self, reference: Reference) -> None:
        """Remove a tag, or a manifest with its tags. Raises 404 MANIFEST_UNKNOWN."""
        scope = self._scope(reference.repository)
        if reference.tag is not None:
            found = await self._store.index.delete_tag(scope, reference.tag)
        else:
            assert reference.digest is not None
            found = await self._store.index.delete_link(scope, reference.digest, LinkKind.MANIFEST)
        if not found:
            raise self._missing(Code.MANIFEST_UNKNOWN, str(reference))

    async def delete_blob(self, repository: Repository, digest: Digest) -> None:
        """Remove the blob from the repository. Raises 404 BLOB_UNKNOWN."""
        if not await self._store.index.delete_link(self._scope(repository), digest, LinkKind.BLOB):
            raise self._missing(Code.BLOB_UNKNOWN, f"{repository}@{digest}")

    def _scope(self, repository: Repository) -> Scope:
        return Scope(self.name, self.scope(repository))

    def _missing(self, code: Code, what: str) -> EndpointError:
        return EndpointError(Fallback.NOT_FOUND, code, f"{self.name} has no {what}")

    def _missing_child(self, reference: Reference, digest: Digest) -> RegistryError:
        return RegistryError(
            Code.MANIFEST_BLOB_UNKNOWN,
            f"{reference} lists {digest}, which {reference.repository} does not have",
            detail={"digest": str(digest)},
        )


class StoredBlob:
    """A `BlobStream` of a stored blob."""

    verified = True

    def __init__(self, handle: BlobHandle, start: int) -> None:
        self.size = handle.size
        self.start = start
        self._handle = handle

    def chunks(self) -> AsyncIterator[Part]:
        """The bytes from `start` on."""
        return self._handle.read(self.start, None)


class StorageType:
    """The endpoint type `storage`."""

    name = "storage"
    options_schema: Mapping[str, Any] = {}  # it stands in schemas/routerd.schema.json
    default_actions: Sequence[str] = ("pull", "push")
    needs_store = True

    def create(self, context: EndpointContext) -> Endpoint:
        """A storage endpoint on the store that the context brings."""
        assert context.store is not None  # `needs_store`
        return StorageEndpoint(context.name, context.store)


STORAGE = StorageType()
