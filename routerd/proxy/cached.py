"""A remote endpoint seen through its cache: local first, then upstream, streamed while stored.

Owns when upstream is asked, and that one question serves every client that waits for its answer.
Does not own how fresh an entry is (`freshness.py`), the download (`content/fetch.py`) or the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from cachetools import LRUCache, TTLCache

from routerd.content.fetch import FetchTable
from routerd.content.links import LinkKind, Scope, TagEntry
from routerd.content.store import ContentStore, StoreFull
from routerd.endpoints.base import Endpoint, EndpointError, Fetched, TagPage
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import (
    BlobAnswer,
    BlobFacts,
    ManifestAnswer,
    Request,
    Result,
    Source,
)
from routerd.proxy.freshness import Freshness, assess
from routerd.routing.decision import Step
from routerd.routing.policy import Fallback
from routerd.runtime.flight import SingleFlight
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.cache")

MANIFESTS_IN_MEMORY = 32 * 1024 * 1024  # bytes of manifest bodies kept parsed, an endpoint
SIZES_IN_MEMORY = 10_000  # blobs whose size a HEAD upstream told
SIZES_SECONDS = 300.0  # for how long such an answer is believed


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What upstream's answer about a manifest came to, for every client that waited for it."""

    manifest: Manifest
    result: Result
    cache_control: str


class CachedEndpoint:
    """A `Reader` that keeps what it reads, and asks its endpoint only where it must."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: ContentStore,
        fetches: FetchTable,
        tasks: Tasks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._endpoint = endpoint
        self._fetches = fetches
        self._clock = clock
        self._flights: SingleFlight[tuple[Scope, str], _Outcome] = SingleFlight(tasks)
        self._manifests: LRUCache[tuple[Digest, str], Manifest] = LRUCache(
            MANIFESTS_IN_MEMORY, getsizeof=lambda manifest: len(manifest.body)
        )
        self._sizes: TTLCache[tuple[Scope, Digest], int] = TTLCache(
            SIZES_IN_MEMORY, SIZES_SECONDS, timer=clock
        )

    def scope(self, repository: Repository) -> Scope:
        """The identity under which the repository's content is kept."""
        return Scope(self._endpoint.name, self._endpoint.scope(repository))

    async def manifest(self, step: Step, reference: Reference, request: Request) -> ManifestAnswer:
        """The manifest: a tag while it is fresh, a digest for ever, without asking upstream."""
        scope = self.scope(step.repository)
        there = Reference(step.repository, reference.tag, reference.digest)
        if there.digest is not None:
            manifest = await self._stored(scope, there.digest)
            if manifest is not None:
                return self._answer(step, manifest, Result.HIT)
            outcome = await self._ask_once(scope, there, None, request)
            return self._answer(step, outcome.manifest, outcome.result)
        return await self._tagged(step, scope, there, request)

    async def _tagged(
        self, step: Step, scope: Scope, reference: Reference, request: Request
    ) -> ManifestAnswer:
        assert reference.tag is not None
        entry = await self.store.index.tag(scope, reference.tag)
        stored = None if entry is None else await self._stored(scope, entry.digest)
        freshness = Freshness(left=0.0, usable_on_error=False)
        if entry is not None and stored is not None:
            freshness = assess(entry.validated_at, entry.cache_control, step.cache, self._clock())
            if freshness.fresh:
                return self._answer(step, stored, Result.HIT, freshness.left)
        try:
            known = entry if stored is not None else None
            outcome = await self._ask_once(scope, reference, known, request)
        except EndpointError as error:
            if (
                error.reason is Fallback.UNAVAILABLE
                and stored is not None
                and freshness.usable_on_error
            ):
                log.warning("serving a stale tag", reference=str(reference), why=error.message)
                return self._answer(step, stored, Result.STALE, freshness.left)
            raise
        now = self._clock()
        left = assess(now, outcome.cache_control, step.cache, now).left
        return self._answer(step, outcome.manifest, outcome.result, left)

    async def _ask_once(
        self, scope: Scope, reference: Reference, entry: TagEntry | None, request: Request
    ) -> _Outcome:
        """Ask upstream about a manifest, once for all who wait."""

        async def ask() -> _Outcome:
            if entry is not None and (
                kept := await self._revalidate(scope, reference, entry, request)
            ):
                return kept
            fetched = await self._endpoint.manifest(reference, request.via)
            result = await self._keep(scope, reference, fetched)
            return _Outcome(fetched.manifest, result, fetched.cache_control)

        return await self._flights.do((scope, reference.in_path), ask)

    async def _revalidate(
        self, scope: Scope, reference: Reference, entry: TagEntry, request: Request
    ) -> _Outcome | None:
        """HEAD, which Docker Hub does not count. None where the tag is another manifest now."""
        resolved = await self._endpoint.resolve(reference, request.via)
        if resolved.descriptor.digest != entry.digest:
            return None
        manifest = await self._stored(scope, entry.digest)
        if manifest is None:
            return None
        assert reference.tag is not None
        now = self._clock()
        renewed = TagEntry(entry.digest, now, resolved.cache_control, resolved.etag)
        await self.store.index.validated(scope, reference.tag, renewed)
        return _Outcome(manifest, Result.REVALIDATED, resolved.cache_control)

    async def _keep(self, scope: Scope, reference: Reference, fetched: Fetched) -> Result:
        """Store a manifest, then its tag: never a tag whose manifest is not there."""
        manifest = fetched.manifest
        try:
            await self.store.add_manifest(
                scope,
                manifest,
                tag=reference.tag,
                validated_at=self._clock(),
                cache_control=fetched.cache_control,
                etag=fetched.etag,
            )
        except StoreFull as error:
            log.error("manifest not kept", reference=str(reference), why=error.message)
            return Result.BYPASS
        return Result.MISS

    async def _stored(self, scope: Scope, digest: Digest) -> Manifest | None:
        link = await self.store.index.link(scope, digest, LinkKind.MANIFEST)
        if link is None:
            return None
        key = (digest, link.media_type)
        manifest = self._manifests.get(key)
        if manifest is None:
            manifest = await self.store.manifest(scope, digest)
            if manifest is not None:
                self._manifests[key] = manifest
        return manifest

    async def blob_facts(self, step: Step, digest: Digest, request: Request) -> BlobFacts:
        """The size, from what is stored or coming in, else by one HEAD upstream."""
        scope = self.scope(step.repository)
        link = await self.store.index.link(scope, digest, LinkKind.BLOB)
        if link is not None:
            return BlobFacts(digest, link.size, self._source(step, Result.HIT))
        size = await self._size(scope, step, digest, request)
        return BlobFacts(digest, size, self._source(step, Result.MISS))

    async def _size(self, scope: Scope, step: Step, digest: Digest, request: Request) -> int:
        size = self._sizes.get((scope, digest))
        if size is None:
            size = await self._endpoint.blob_size(step.repository, digest, request.via)
            self._sizes[scope, digest] = size
        return size

    async def blob(self, step: Step, digest: Digest, request: Request) -> BlobAnswer:
        """The blob: from the store, from the download that runs, or from a new one."""
        scope = self.scope(step.repository)
        handle = await self.store.open(scope, digest)
        if handle is None and await self.store.index.endpoint_has(scope.endpoint, digest):
            # Another repository of this endpoint has it: here it is seen once upstream says that it
            # is there as well (config-language.md 3, "Content is shared, sight is not").
            await self._size(scope, step, digest, request)
            await self.store.index.add_blob_link(scope, digest)
            handle = await self.store.open(scope, digest)
        if handle is None:
            return await self._fetched(scope, step, digest, request)
        source = self._source(step, Result.HIT)
        return BlobAnswer(digest, handle.size, source, handle.read, handle.aclose)

    async def _fetched(
        self, scope: Scope, step: Step, digest: Digest, request: Request
    ) -> BlobAnswer:
        """The blob from the one download of it, begun here unless it runs."""
        running = self._fetches.find(self.store, scope.endpoint, digest)
        if running is not None and scope not in running.scopes:
            await self._size(scope, step, digest, request)  # sight, as above
        fetch, is_new = self._fetches.join(
            self.store,
            digest,
            scope,
            lambda start: self._endpoint.blob(step.repository, digest, request.via, start),
        )
        try:
            await fetch.started()
        except BaseException:
            await fetch.leave()
            raise
        source = self._source(step, Result.MISS if is_new else Result.COLLAPSED)
        return BlobAnswer(digest, fetch.size, source, fetch.read, fetch.leave)

    async def tags(self, step: Step, request: Request, last: str, n: int) -> TagPage:
        """Upstream's own list."""
        return await self._endpoint.tags(step.repository, request.via, last, n)

    def _answer(
        self, step: Step, manifest: Manifest, result: Result, ttl: float | None = None
    ) -> ManifestAnswer:
        return ManifestAnswer(manifest, self._source(step, result, ttl))

    def _source(self, step: Step, result: Result, ttl: float | None = None) -> Source:
        return Source(step, result, self._endpoint.private, ttl)
