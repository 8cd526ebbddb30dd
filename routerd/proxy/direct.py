"""An endpoint without a cache: what it sends goes to the client that asked, and is kept nowhere.

Also a storage endpoint, which is its own store. Owns that a stream has begun before its answer does,
and holding back its last bytes until the digest is right. Does not own caching (`cached.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from routerd.content.links import Scope
from routerd.content.store import ContentStore
from routerd.endpoints.base import BlobStream, Endpoint, EndpointError, TagPage
from routerd.oci.errors import Code
from routerd.oci.ranges import ByteRange, parse_range
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import (
    BlobAnswer,
    BlobFacts,
    ManifestAnswer,
    Progress,
    Request,
    Result,
    Source,
)
from routerd.proxy.freshness import lifetime_of
from routerd.proxy.relay import Sources
from routerd.routing.decision import Step
from routerd.routing.policy import Fallback
from routerd.runtime.blocking import run_blocking
from routerd.runtime.files import Part, as_bytes


class DirectEndpoint:
    """A `Reader` that asks its endpoint for everything, each time."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: ContentStore | None,
    ) -> None:
        self._endpoint = endpoint
        self.store = store  # of a storage endpoint its own
        self._result = Result.BYPASS if store is None else Result.HIT

    def scope(self, repository: Repository) -> Scope:
        """The identity under which the repository's content is kept."""
        return Scope(self._endpoint.name, self._endpoint.scope(repository))

    async def manifest(self, step: Step, reference: Reference, request: Request) -> ManifestAnswer:
        """The manifest, as the endpoint has it now."""
        there = _at(step, reference)
        fetched = await self._endpoint.manifest(there, request.via)
        ttl = None
        if reference.tag is not None and self.store is None:
            ttl = lifetime_of(fetched.cache_control, step.cache)
        elif reference.tag is not None:
            ttl = 0.0  # a push to this storage counts with the next request
        return ManifestAnswer(fetched.manifest, self._source(step, ttl))

    async def blob_facts(self, step: Step, digest: Digest, request: Request) -> BlobFacts:
        """The size, by the endpoint's own HEAD."""
        size = await self._endpoint.blob_size(step.repository, digest, request.via)
        return BlobFacts(digest, size, self._source(step))

    async def keep(
        self, step: Step, digest: Digest, request: Request, others: Sources, progress: Progress
    ) -> BlobFacts:
        """What a storage has is kept; of another endpoint without a cache nothing can be."""
        if self.store is None:
            raise EndpointError(
                Fallback.NOT_FOUND,
                Code.UNSUPPORTED,
                f"{self._endpoint.name} has no 'cache', so nothing of it can be kept",
            )
        facts = await self.blob_facts(step, digest, request)
        progress(facts.size, facts.size)
        return facts

    def source(
        self, step: Step, digest: Digest, request: Request, start: int
    ) -> AbstractAsyncContextManager[BlobStream]:
        """As the endpoint has it."""
        return self._endpoint.blob(step.repository, digest, request.via, start)

    async def blob(
        self, step: Step, digest: Digest, request: Request, others: Sources
    ) -> BlobAnswer:
        """The blob, to be read once. A whole one is verified while it passes; a range cannot be.

        With a satisfiable range it is that range which `read` yields. Raises 416 for one past the
        end.
        """
        size, wanted = None, None
        if request.range is not None:
            size = await self._endpoint.blob_size(step.repository, digest, request.via)
            wanted = parse_range(request.range, size)
        start = 0 if wanted is None else wanted.start
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(
                self._endpoint.blob(step.repository, digest, request.via, start)
            )
            chunks: AsyncIterator[Part]
            if wanted is not None:
                chunks = part_of(stream, wanted)
            elif stream.verified:
                chunks = stream.chunks()
            else:
                chunks = verified(stream, digest, self._endpoint.name)
            begun = await begin(chunks)
            aclose = stack.pop_all().aclose
        size = stream.size if size is None else size
        source = self._source(step)
        return BlobAnswer(digest, size, source, lambda *_: begun, aclose)

    async def tags(self, step: Step, request: Request, last: str, n: int) -> TagPage:
        """The endpoint's own list."""
        return await self._endpoint.tags(step.repository, request.via, last, n)

    def _source(self, step: Step, ttl: float | None = None) -> Source:
        return Source(step, self._result, self._endpoint.private, ttl)


async def begin(chunks: AsyncIterator[Part]) -> AsyncIterator[Part]:
    """The same chunks, the first of them in hand: what fails before it fails here.

    containerd goes on to the next host after an error, and asks this one again after a short 200
    (protocol.md 2).
    """
    first = await anext(chunks, b"")

    async def begun() -> AsyncIterator[Part]:
        if first:
            yield first
        async for chunk in chunks:
            yield chunk

    return begun()


async def part_of(stream: BlobStream, wanted: ByteRange) -> AsyncIterator[Part]:
    """The wanted bytes of a stream that may begin before them."""
    position = stream.start
    async for chunk in stream.chunks():
        before, position = position, position + len(chunk)
        if position > wanted.start:
            yield chunk[max(0, wanted.start - before) : wanted.stop - before]
        if position >= wanted.stop:
            return


async def verified(stream: BlobStream, digest: Digest, name: str) -> AsyncIterator[bytes]:
    """The stream's chunks, each one late, so that the last goes out only if the digest is right.

    Raises EndpointError (502) for content that is not what was asked for.
    """
    hasher = hashlib.new(digest.algorithm)
    held = b""
    async for chunk in as_bytes(stream.chunks()):
        if held:
            yield held
        await run_blocking(hasher.update, chunk)
        held = chunk
    if hasher.hexdigest() != digest.encoded:
        raise EndpointError(
            Fallback.UNAVAILABLE,
            Code.UNAVAILABLE,
            f"{name} sent content that is not {digest}",
            status=502,
        )
    if held:
        yield held


def _at(step: Step, reference: Reference) -> Reference:
    return Reference(step.repository, reference.tag, reference.digest)
