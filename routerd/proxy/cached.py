"""A remote endpoint seen through its cache: local first, then upstream, streamed while stored.

Owns when upstream is asked for a blob, and who gets to see it. Does not own manifests
(`manifests.py`), the download (`content/fetch.py`) or the bytes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import structlog
from cachetools import TTLCache

from routerd.content.fetch import Superseded
from routerd.content.fetchtable import FetchTable
from routerd.content.links import LinkKind, Scope
from routerd.content.store import BlobHandle, ContentStore
from routerd.endpoints.base import BlobStream, Endpoint, EndpointError, TagPage
from routerd.endpoints.storage import StoredBlob
from routerd.oci.errors import Code
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.ahead import reading
from routerd.proxy.answers import (
    BlobAnswer,
    BlobFacts,
    ManifestAnswer,
    Progress,
    Request,
    Result,
    Source,
)
from routerd.proxy.freshness import Standing
from routerd.proxy.manifests import MISSING_DIGEST_SECONDS, CachedManifests, Wanted
from routerd.proxy.relay import Relay, Sources
from routerd.routing.decision import Step
from routerd.routing.policy import Fallback
from routerd.runtime.flight import SingleFlight
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.cache")

SIZES_IN_MEMORY = 10_000  # blobs whose size a HEAD upstream told
SIZES_SECONDS = 300.0  # for how long such an answer is believed


class CachedEndpoint:
    """A `Reader` that keeps what it reads, and asks its endpoint only where it must."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: ContentStore,
        fetches: FetchTable,
        tasks: Tasks,
        standing: Standing,
        veiled: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`veiled`: see `content.identity.Claim`."""
        self.store = store
        self._endpoint = endpoint
        self._fetches = fetches
        self._manifests = CachedManifests(endpoint, store, tasks, clock, standing)
        self._provable = (endpoint.name, *(() if veiled is None else (veiled,)))
        self._sizes: TTLCache[tuple[Scope, Digest], int] = TTLCache(
            SIZES_IN_MEMORY, SIZES_SECONDS, timer=clock
        )
        self._missing: TTLCache[tuple[Scope, Digest], None] = TTLCache(
            SIZES_IN_MEMORY, MISSING_DIGEST_SECONDS, timer=clock
        )
        self._heads: SingleFlight[tuple[Scope, Digest], int] = SingleFlight(tasks)

    def scope(self, repository: Repository) -> Scope:
        """The identity under which the repository's content is kept."""
        return Scope(self._endpoint.name, self._endpoint.scope(repository))

    async def manifest(self, step: Step, reference: Reference, request: Request) -> ManifestAnswer:
        """The manifest: a tag while it is fresh, a digest for ever, without asking upstream."""
        there = Reference(step.repository, reference.tag, reference.digest)
        wanted = Wanted(self.scope(step.repository), there, step.cache, request)
        served = await self._manifests.get(wanted)
        digest = served.manifest.descriptor.digest
        self.store.index.pulls.note(wanted.scope, digest, LinkKind.MANIFEST)
        return ManifestAnswer(served.manifest, self._source(step, served.result, served.ttl))

    async def refresh(self, step: Step, reference: Reference, request: Request) -> ManifestAnswer:
        """The manifest as upstream has it now, whatever is stored (config-language.md 4)."""
        there = Reference(step.repository, reference.tag, reference.digest)
        wanted = Wanted(self.scope(step.repository), there, step.cache, request)
        served = await self._manifests.refresh(wanted)
        return ManifestAnswer(served.manifest, self._source(step, served.result, served.ttl))

    async def blob_facts(self, step: Step, digest: Digest, request: Request) -> BlobFacts:
        """The size, from what is stored or coming in, else by one HEAD upstream."""
        scope = self.scope(step.repository)
        stored = await self.store.stat(scope, digest)
        if stored is not None:
            return BlobFacts(digest, stored, self._source(step, Result.HIT))
        running = self._fetches.find(self.store, scope.endpoint, digest)
        if running is not None and running.admits(scope) and running.size is not None:
            return BlobFacts(digest, running.size, self._source(step, Result.COLLAPSED))
        size = await self._size(scope, step, digest, request)
        return BlobFacts(digest, size, self._source(step, Result.MISS))

    async def _size(self, scope: Scope, step: Step, digest: Digest, request: Request) -> int:
        """By a HEAD that answers all who ask now, and those who ask soon."""
        if (scope, digest) in self._missing:
            raise EndpointError(
                Fallback.NOT_FOUND,
                Code.BLOB_UNKNOWN,
                f"{self._endpoint.name} had no {step.repository}@{digest} a moment ago",
            )

        async def ask() -> int:
            try:
                size = await self._sight(step, digest, request)
            except EndpointError as error:
                if error.reason is Fallback.NOT_FOUND:
                    self._missing[scope, digest] = None
                raise
            self._sizes[scope, digest] = size
            return size

        size = self._sizes.get((scope, digest))
        return await self._heads.do((scope, digest), ask) if size is None else size

    async def _sight(self, step: Step, digest: Digest, request: Request) -> int:
        """Upstream's word, now, that the repository has it; its size. What a HEAD told before may be
        from before a purge, by whichever process, or before a right was taken away.
        """
        return await self._endpoint.blob_size(step.repository, digest, request.via)

    async def blob(
        self, step: Step, digest: Digest, request: Request, others: Sources
    ) -> BlobAnswer:
        """The blob: from the store, from the download that runs, or from a new one."""
        return await self._blob(step, digest, request, others, ahead=False)

    @asynccontextmanager
    async def source(
        self, step: Step, digest: Digest, request: Request, start: int
    ) -> AsyncGenerator[BlobStream]:
        """From the store, else as the endpoint has it, which is not kept for this one."""
        handle = await self.store.open(self.scope(step.repository), digest)
        if handle is None:
            async with self._endpoint.blob(step.repository, digest, request.via, start) as stream:
                yield stream
        else:
            async with aclosing(handle):
                yield StoredBlob(handle, start)

    async def keep(
        self, step: Step, digest: Digest, request: Request, others: Sources, progress: Progress
    ) -> BlobFacts:
        """Have the blob stored, behind the downloads that clients wait for."""
        answer = await self._blob(step, digest, request, others, ahead=True)
        done = 0
        try:
            async for part in answer.read(0, answer.size):  # of files, which nobody reads here
                done += len(part)
                progress(done, answer.size)
            if answer.kept is not None:
                await answer.kept()
        finally:
            await answer.aclose()
        return BlobFacts(digest, done, answer.source)

    async def _blob(
        self, step: Step, digest: Digest, request: Request, others: Sources, *, ahead: bool
    ) -> BlobAnswer:
        scope = self.scope(step.repository)
        while True:
            completed = self._fetches.completed
            handle = await self._stored(scope, step, digest, request)
            if handle is not None:
                self.store.index.pulls.note(scope, digest, LinkKind.BLOB)
                source = self._source(step, Result.HIT)
                return BlobAnswer(digest, handle.size, source, handle.read, handle.aclose)
            running = self._fetches.find(self.store, scope.endpoint, digest)
            if running is not None and not running.is_for(scope):
                await self._sight(step, digest, request)
                if self._fetches.find(self.store, scope.endpoint, digest) is not running:
                    continue
            if running is None and self._fetches.completed != completed:
                continue  # it may have come in since the store was asked
            answer = await self._joined(scope, step, digest, request, others, ahead=ahead)
            if answer is not None:
                return answer

    async def _stored(
        self, scope: Scope, step: Step, digest: Digest, request: Request
    ) -> BlobHandle | None:
        await self.store.index.at_hand(scope, digest, self._provable)
        handle = await self.store.open(scope, digest)
        if handle is None and await self._is_stored(digest):
            # Another repository of this endpoint has it, or another account saw it: here it is seen
            # once upstream says that it is there as well (config-language.md 3, "Content is shared,
            # sight is not").
            await self._sight(step, digest, request)
            await self.store.index.add_blob_link(scope, digest)
            handle = await self.store.open(scope, digest)
        return handle

    async def _is_stored(self, digest: Digest) -> bool:
        """Whether upstream's word is enough to show a blob, without another download."""
        for name in self._provable:
            if await self.store.index.endpoint_has(name, digest):
                return True
        return False

    async def _joined(
        self,
        scope: Scope,
        step: Step,
        digest: Digest,
        request: Request,
        others: Sources,
        *,
        ahead: bool,
    ) -> BlobAnswer | None:
        """The blob from the one download of it, begun here unless it runs.

        None where the store is to be asked again, since it came in meanwhile; or where it was asked
        for in another repository, which does not have it or may not: that says nothing of this one.
        """

        def open_upstream(start: int) -> AbstractAsyncContextManager[BlobStream]:
            return self._endpoint.blob(step.repository, digest, request.via, start)

        relay = Relay({step.endpoint: open_upstream, **others})
        fetch, is_new = self._fetches.join(
            self.store, digest, scope, relay.open, client=request.client, ahead=ahead
        )
        try:
            await fetch.started()
            if not fetch.admits(scope):
                await self._sight(step, digest, request)
                await fetch.admit(scope)
        except Superseded:
            await fetch.leave()
            return None
        except EndpointError as error:
            await fetch.leave()
            if fetch.asked_in == scope or error.reason is Fallback.UNAVAILABLE or fetch.has_begun:
                raise
            return None
        except BaseException:
            await fetch.leave()
            raise
        is_ours = is_new and not fetch.is_followed
        source = self._source(step, Result.MISS if is_ours else Result.COLLAPSED)
        read = reading(fetch, open_upstream)
        return BlobAnswer(digest, fetch.size, source, read, fetch.leave, fetch.kept)

    async def tags(self, step: Step, request: Request, last: str, n: int) -> TagPage:
        """Upstream's own list."""
        return await self._endpoint.tags(step.repository, request.via, last, n)

    def _source(self, step: Step, result: Result, ttl: float | None = None) -> Source:
        return Source(step, result, self._endpoint.private, ttl)
