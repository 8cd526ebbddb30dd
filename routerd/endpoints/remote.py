"""A registry over HTTP: the endpoint type `remote`.

Owns the order in which its URLs are asked: the first that answers, in the order of the policy
(config-language.md 5, `url`). Does not own what is asked of one (`upstream.py`), nor keeping
anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import structlog

from routerd.content.download import WrongContent
from routerd.endpoints.base import (
    Endpoint,
    EndpointContext,
    EndpointError,
    Fetched,
    Resolved,
    TagPage,
    Via,
)
from routerd.endpoints.client import RegistryClient
from routerd.endpoints.failover import Bodies, first_answer
from routerd.endpoints.offline import OfflineEndpoint
from routerd.endpoints.ratelimit import RateLimit
from routerd.endpoints.remoteblob import RemoteBlob
from routerd.endpoints.upstream import Upstream
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback

T = TypeVar("T")

log = structlog.get_logger("routerd.upstream")


class RemoteEndpoint:
    """An `Endpoint` over HTTP: one source of content at one or several URLs.

    Each question goes to the first URL that can be asked; "unavailable" there goes on to the next.
    A URL that is left alone or paused costs nothing, and is the first again when that is over.
    """

    def __init__(self, name: str, upstreams: Sequence[Upstream]) -> None:
        self.name = name
        self.private = any(upstream.has_login for upstream in upstreams)
        self._upstreams = upstreams
        self._bodies = Bodies()

    async def open(self) -> None:
        """Make ready, without a word on the network."""
        for upstream in self._upstreams:
            await upstream.open()

    async def aclose(self) -> None:
        """Close every connection."""
        for upstream in self._upstreams:
            await upstream.aclose()

    def scope(self, repository: Repository) -> str:
        """The repository's name upstream: the URLs' prefix and the name, without its namespace."""
        return f"{self._upstreams[0].prefix}{repository.name}"

    def rate_limits(self) -> Sequence[RateLimit]:
        """What the registry last said to this process, by URL and account; no more than counts."""
        return [limit for upstream in self._upstreams for limit in upstream.rate_limits()]

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        """HEAD, or GET where upstream's HEAD does not say the digest."""
        return await self._ask(lambda upstream: upstream.resolve(reference, via, etag))

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """GET, with the full Accept list; checked against every digest that was said."""
        return await self._ask(lambda upstream: upstream.manifest(reference, via))

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        """HEAD of a blob."""
        return await self._ask(lambda upstream: upstream.blob_size(repository, digest, via))

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """One page of upstream's list, sorted."""
        return await self._ask(lambda upstream: upstream.tags(repository, via, last, n))

    @asynccontextmanager
    async def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AsyncIterator[RemoteBlob]:
        """GET of a blob, from `start` on where upstream can do that, else from its beginning.

        WrongContent that is raised while it is open is the URL's that sent it.
        """
        async with AsyncExitStack() as stack:

            async def ask(position: int) -> tuple[int, RemoteBlob]:
                def broke(received: int) -> None:
                    self._bodies.broke(digest, position, received)

                upstream = self._upstreams[position]
                opened = upstream.open_blob(stack, repository, digest, via, start, broke)
                return position, await opened

            order = self._bodies.in_order(digest, len(self._upstreams))
            position, blob = await first_answer(order, ask, _is_elsewhere)
            try:
                yield blob
            except WrongContent:
                self._bodies.was_wrong(digest, position)
                raise

    async def _ask(self, question: Callable[[Upstream], Awaitable[T]]) -> T:
        return await first_answer(self._upstreams, question, _is_elsewhere)


def _is_elsewhere(_: object, error: EndpointError) -> bool:
    """Whether another URL may have it: "not there" and "not allowed" are answers for all of them."""
    return error.reason is Fallback.UNAVAILABLE


class RemoteType:
    """The endpoint type `remote`."""

    name = "remote"
    options_schema: Mapping[str, Any] = {}  # it stands in schemas/routerd.schema.json
    default_actions: Sequence[str] = ("pull",)
    needs_store = False

    def create(self, context: EndpointContext) -> Endpoint:
        """A remote endpoint, not opened yet."""
        upstreams = [Upstream(RegistryClient(context, each)) for each in context.options["url"]]
        endpoint = RemoteEndpoint(context.name, upstreams)
        return OfflineEndpoint(endpoint) if context.options["offline"] else endpoint


REMOTE = RemoteType()
