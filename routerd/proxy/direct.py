"""An endpoint without a cache: what it sends goes to the client that asked, and is kept nowhere.

Also a storage endpoint, which is its own store. Owns holding back the last bytes of a stream until
its digest is right. Does not own caching (`cached.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from routerd.content.links import Scope
from routerd.content.store import ContentStore
from routerd.endpoints.base import BlobStream, Endpoint, EndpointError, TagPage
from routerd.oci.errors import Code
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import (
    BlobAnswer,
    BlobFacts,
    ManifestAnswer,
    Request,
    Result,
    Source,
)
from routerd.proxy.freshness import lifetime_of
from routerd.routing.decision import Step
from routerd.routing.policy import Fallback
from routerd.runtime.blocking import run_blocking


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

    async def blob(self, step: Step, digest: Digest, request: Request) -> BlobAnswer:
        """The blob. A whole one is verified while it passes; a range cannot be."""
        if request.ranged:
            size: int | None = await self._endpoint.blob_size(step.repository, digest, request.via)
            return BlobAnswer(
                digest,
                size,
                self._source(step),
                read=lambda start, stop: self._part(step, digest, request, start, stop),
                aclose=_nothing_to_close,
            )
        stack = AsyncExitStack()
        stream = await stack.enter_async_context(
            self._endpoint.blob(step.repository, digest, request.via)
        )

        def read(_start: int, _stop: int | None) -> AsyncIterator[bytes]:
            if stream.verified:
                return stream.chunks()
            return verified(stream, digest, self._endpoint.name)

        return BlobAnswer(digest, stream.size, self._source(step), read, stack.aclose)

    async def tags(self, step: Step, request: Request, last: str, n: int) -> TagPage:
        """The endpoint's own list."""
        return await self._endpoint.tags(step.repository, request.via, last, n)

    async def _part(
        self, step: Step, digest: Digest, request: Request, start: int, stop: int | None
    ) -> AsyncIterator[bytes]:
        async with self._endpoint.blob(step.repository, digest, request.via, start) as stream:
            position = stream.start
            async for chunk in stream.chunks():
                begin, position = position, position + len(chunk)
                if position > start:
                    yield chunk[max(0, start - begin) : None if stop is None else stop - begin]
                if stop is not None and position >= stop:
                    return

    def _source(self, step: Step, ttl: float | None = None) -> Source:
        return Source(step, self._result, self._endpoint.private, ttl)


async def verified(stream: BlobStream, digest: Digest, name: str) -> AsyncIterator[bytes]:
    """The stream's chunks, each one late, so that the last goes out only if the digest is right.

    Raises EndpointError (502) for content that is not what was asked for.
    """
    hasher = hashlib.new(digest.algorithm)
    held = b""
    async for chunk in stream.chunks():
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


async def _nothing_to_close() -> None:
    return None
