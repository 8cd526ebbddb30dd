"""Pulling: decide, then ask the steps of the decision in order until one has it.

Owns the order of steps for a digest, when the next step may be asked, and which failure the client
hears. Does not own how one endpoint is asked: `cached.py` and `direct.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeVar

from routerd.content.download import OpenSource, Source
from routerd.content.links import LinkKind, Scope
from routerd.content.store import ContentStore
from routerd.endpoints.base import EndpointError, TagPage
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import acceptable
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import BlobAnswer, BlobFacts, ManifestAnswer, Progress, Request
from routerd.proxy.relay import Sources
from routerd.routing.decision import Decision, Step
from routerd.routing.policy import Action, Fallback
from routerd.routing.table import RouteTable

T = TypeVar("T")

# The client hears of the failure that tells most: "down" before "not allowed" before "not there".
_SEVERITY = {Fallback.NOT_FOUND: 0, Fallback.DENIED: 1, Fallback.UNAVAILABLE: 2}


class Reader(Protocol):
    """One endpoint as pulls see it. Methods raise EndpointError; 507 when the disk is full."""

    @property
    def store(self) -> ContentStore | None:
        """Where what it has is kept; None for nowhere."""
        ...

    def scope(self, repository: Repository) -> Scope:
        """The identity under which the repository's content is kept."""
        ...

    async def manifest(self, step: Step, reference: Reference, request: Request) -> ManifestAnswer:
        """The manifest that a tag or digest names."""
        ...

    async def blob(
        self, step: Step, digest: Digest, request: Request, others: Sources
    ) -> BlobAnswer:
        """A blob, its first bytes in hand. `others` have the rest where a download of it breaks."""
        ...

    async def keep(
        self, step: Step, digest: Digest, request: Request, others: Sources, progress: Progress
    ) -> BlobFacts:
        """Have a blob stored without reading it, behind what clients wait for."""
        ...

    def source(
        self, step: Step, digest: Digest, request: Request, start: int
    ) -> AbstractAsyncContextManager[Source]:
        """A blob's bytes from `start` on, for a download that broke at another endpoint."""
        ...

    async def blob_facts(self, step: Step, digest: Digest, request: Request) -> BlobFacts:
        """A blob's size, without downloading it."""
        ...

    async def tags(self, step: Step, request: Request, last: str, n: int) -> TagPage:
        """Up to `n` tags after `last`, sorted."""
        ...


class Pull:
    """The use case of every read of a manifest or a blob."""

    def __init__(self, table: RouteTable, readers: Mapping[str, Reader]) -> None:
        self._table = table
        self._readers = readers

    async def manifest(
        self, reference: Reference, accept: Sequence[str], request: Request
    ) -> ManifestAnswer:
        """The manifest, if the client's Accept allows its type. Raises RegistryError."""
        answer = await self._ask(
            reference,
            LinkKind.MANIFEST,
            request,
            lambda reader, step, _: reader.manifest(step, reference, request),
        )
        media_type = answer.manifest.descriptor.media_type
        if not acceptable(media_type, accept):
            # Nothing is converted here, so a type the client leaves out is one it cannot have.
            raise RegistryError(
                Code.MANIFEST_UNKNOWN,
                f"{reference} is a {media_type}, which this client does not accept",
            )
        return answer

    async def blob(self, reference: Reference, request: Request) -> BlobAnswer:
        """The blob a digest names. Raises RegistryError."""
        digest = _digest_of(reference)
        return await self._ask(
            reference,
            LinkKind.BLOB,
            request,
            lambda reader, step, others: reader.blob(step, digest, request, others),
        )

    async def keep(self, reference: Reference, request: Request, progress: Progress) -> BlobFacts:
        """Have the blob a digest names stored, where a pull of it would find it. Returns once it is;
        raises RegistryError.
        """
        digest = _digest_of(reference)
        return await self._ask(
            reference,
            LinkKind.BLOB,
            request,
            lambda reader, step, others: reader.keep(step, digest, request, others, progress),
        )

    async def blob_facts(self, reference: Reference, request: Request) -> BlobFacts:
        """What a HEAD of the blob says. Never downloads it. Raises RegistryError."""
        digest = _digest_of(reference)
        return await self._ask(
            reference,
            LinkKind.BLOB,
            request,
            lambda reader, step, _: reader.blob_facts(step, digest, request),
        )

    async def _ask(
        self,
        reference: Reference,
        kind: LinkKind,
        request: Request,
        attempt: Callable[[Reader, Step, Sources], Awaitable[T]],
    ) -> T:
        decision = self._table.decide(reference, Action.PULL, request.caller)
        steps = await self._in_order(decision, reference, kind)
        problem: EndpointError | None = None
        for position, step in enumerate(steps):
            try:
                others = self._others(steps[position:], reference, request)
                return await attempt(self._readers[step.endpoint], step, others)
            except EndpointError as error:
                if problem is None or _SEVERITY[error.reason] > _SEVERITY[problem.reason]:
                    problem = error
                following = steps[position + 1] if position + 1 < len(steps) else None
                if following is None or not may_ask(following, after=step, failed=error.reason):
                    break
        assert problem is not None  # a decision without a refusal has a step
        raise problem

    def _others(self, steps: Sequence[Step], reference: Reference, request: Request) -> Sources:
        """Who may go on with a download from the first of the steps, once that has broken."""
        others: dict[str, OpenSource] = {}
        if reference.digest is not None:
            for before, step in pairwise(steps):
                # By digest it is the same content, for whatever reason the next one may be asked.
                if not any(may_ask(step, after=before, failed=reason) for reason in Fallback):
                    break
                reader = self._readers[step.endpoint]
                others[step.endpoint] = partial(reader.source, step, reference.digest, request)
        return others

    async def _in_order(
        self, decision: Decision, reference: Reference, kind: LinkKind
    ) -> Sequence[Step]:
        if decision.refusal is not None:
            raise decision.refusal.error()
        if reference.digest is None or len(decision.steps) == 1:
            return decision.steps
        return await self._by_sight(decision.steps, reference.digest, kind)

    async def _by_sight(
        self, steps: Sequence[Step], digest: Digest, kind: LinkKind
    ) -> Sequence[Step]:
        """First who announced the digest, then who holds it, then the rest, each as it was.

        config-language.md 3, "Digests follow tags".
        """
        scopes = {step: self._readers[step.endpoint].scope(step.repository) for step in steps}
        by_store: dict[ContentStore, list[Scope]] = defaultdict(list)
        for step in steps:
            store = self._readers[step.endpoint].store
            if store is not None:
                by_store[store].append(scopes[step])
        announced: set[Scope] = set()
        holding: set[Scope] = set()
        for store, there in by_store.items():
            announced |= await store.index.announcers(digest, there)
            holding |= await store.index.holders(digest, there, kind)

        def rank(step: Step) -> int:
            scope = scopes[step]
            return 0 if scope in announced else 1 if scope in holding else 2

        return sorted(steps, key=rank)


def may_ask(following: Step, *, after: Step, failed: Fallback) -> bool:
    """Whether `following` may be asked when `after` failed so.

    Within a route its `fallback_on` says it. Between the routes of a repository (digests only) what
    is not found or not allowed in one is looked up in the next (config-language.md 3).
    """
    if following.route is after.route:
        destination = after.route.destination
        return destination is not None and failed in destination.fallback_on
    return failed is not Fallback.UNAVAILABLE


def _digest_of(reference: Reference) -> Digest:
    assert reference.digest is not None  # blobs are only ever named by digest
    return reference.digest
