"""What an operator does to the cached copies of one reference: purge, refresh, pin, unpin.

Owns which scopes a reference stands for: those of the endpoints with a cache that its routes lead
to, whoever may pull it; or what one of them hides, where that is asked for by name. Does not own the
changes (`content/`) or asking upstream (`cached.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from routerd.content.directory import DirectoryStore
from routerd.content.links import Scope, owner_of
from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest, Reference, Tag
from routerd.proxy.answers import Request
from routerd.proxy.cached import CachedEndpoint
from routerd.proxy.pull import Reader
from routerd.routing.decision import Step
from routerd.routing.table import RouteTable

CONFLICT = 409  # HTTP status of what cannot be done as things are


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was purged in one scope. `freed`: bytes that nobody sees any more."""

    kind: ClassVar[str] = "purged"
    endpoint: str
    repository: str
    reference: str
    tags: int
    manifests: int
    blobs: int
    freed: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What upstream said. `before` and `after` are digests; `before` None: nothing was stored.

    `error`: why upstream could not say it, and `after` is None; what is stored is as it was.
    """

    kind: ClassVar[str] = "refreshed"
    endpoint: str
    repository: str
    reference: str
    before: str | None
    after: str | None
    result: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin that was set or taken away. `stored`: whether there is anything to keep yet."""

    kind: ClassVar[str] = "pin"
    endpoint: str
    repository: str
    reference: str
    pinned: bool
    stored: bool


@dataclass(frozen=True, slots=True)
class _Copy:
    """Where a copy of the reference may be."""

    scope: Scope
    store: DirectoryStore
    reader: CachedEndpoint
    step: Step | None  # None: by `--endpoint`, whatever the routes say, or hidden


class Copies:
    """The use cases on the copies of one reference."""

    def __init__(
        self,
        table: RouteTable,
        readers: Mapping[str, Reader],
        stores: Mapping[str, DirectoryStore],
    ) -> None:
        self._table = table
        self._readers = readers
        self._stores = list(stores.values())

    async def purge(
        self, reference: Reference, endpoint: str | None
    ) -> AsyncGenerator[Forgotten, None]:
        """Forget the cached copies; the next pull asks upstream. Raises 404 where there is none."""
        copies = self._copies(reference, endpoint)
        for copy in copies:
            await self._refuse_pinned(copy, reference)
        found = False
        for copy in copies:
            went = await copy.store.purging.purge(copy.scope, _what(reference))
            if went.tags or went.manifests or went.blobs:
                found = True
                yield Forgotten(
                    copy.scope.endpoint,
                    copy.scope.repository,
                    reference.in_path,
                    went.tags,
                    went.manifests,
                    went.blobs,
                    went.freed,
                )
        if not found:
            raise _nothing(reference, copies)

    async def refresh(
        self, reference: Reference, endpoint: str | None
    ) -> AsyncGenerator[Refreshed, None]:
        """Ask upstream now: every endpoint that has a copy; where none has, in order until one
        answers.
        """
        copies = [copy for copy in self._copies(reference, endpoint) if copy.step is not None]
        if not copies:
            raise RegistryError(
                Code.NAME_UNKNOWN, f"no route leads {reference} to endpoint '{endpoint}'"
            )
        stored = [(copy, await _stored(copy, reference)) for copy in copies]
        known = [(copy, before) for copy, before in stored if before is not None]
        failed: list[Refreshed] = []
        for copy, before in known or stored:
            row = await _refresh(copy, reference, before)
            if row.error:
                failed.append(row)
                continue
            yield row
            if not known:
                return
        for row in failed:
            yield row

    async def pin(self, reference: Reference, endpoint: str | None) -> AsyncGenerator[Pinned, None]:
        """Keep the cached copies from being swept, those to come included."""
        for copy in self._copies(reference, endpoint):
            await copy.store.index.pins.add(copy.scope, _what(reference))
            yield await _pinned(copy, reference, True)

    async def unpin(
        self, reference: Reference, endpoint: str | None
    ) -> AsyncGenerator[Pinned, None]:
        """Take the pin away. Raises 404 where there is none."""
        copies = self._copies(reference, endpoint)
        found = False
        for copy in copies:
            if await copy.store.index.pins.remove(copy.scope, _what(reference)):
                found = True
                yield await _pinned(copy, reference, False)
        if not found:
            raise RegistryError(Code.MANIFEST_UNKNOWN, f"{reference} is not pinned")

    def _copies(self, reference: Reference, endpoint: str | None) -> Sequence[_Copy]:
        """Where copies may be. Raises RegistryError where there can be none."""
        if endpoint is not None and (owner := owner_of(endpoint)) != endpoint:
            # Hidden: kept as the endpoint's own is, and no step shows it.
            return [
                replace(copy, scope=Scope(endpoint, copy.scope.repository), step=None)
                for copy in self._copies(reference, owner)
            ]
        plan = self._table.plan(reference.repository, reference.tag)
        steps = [candidate.step for candidate in plan.candidates]
        if endpoint is not None:
            steps = [step for step in steps if step.endpoint == endpoint]
            if not steps:
                return [self._at(endpoint, reference)]
        elif plan.refusal is not None:
            raise RegistryError(
                plan.refusal.code,
                f"{plan.refusal.message}; say --endpoint for what is stored of it",
            )
        found = [copy for step in steps if (copy := self._by(step)) is not None]
        if not found:
            names = ", ".join(step.endpoint for step in steps)
            raise RegistryError(
                Code.UNSUPPORTED,
                f"{reference} goes to {names}, of which nothing is cached: what was pushed is "
                "removed with a DELETE of the registry API",
                status=CONFLICT,
            )
        return found

    def _by(self, step: Step) -> _Copy | None:
        reader = self._readers[step.endpoint]
        if not isinstance(reader, CachedEndpoint):
            return None
        return _Copy(reader.scope(step.repository), self._store_of(reader), reader, step)

    def _at(self, endpoint: str, reference: Reference) -> _Copy:
        """The endpoint's copy under the reference's own name, although no route leads there."""
        reader = self._readers.get(endpoint)
        if not isinstance(reader, CachedEndpoint):
            raise RegistryError(
                Code.NAME_UNKNOWN, f"the policy has no endpoint '{endpoint}' with a cache"
            )
        return _Copy(reader.scope(reference.repository), self._store_of(reader), reader, None)

    def _store_of(self, reader: CachedEndpoint) -> DirectoryStore:
        return next(store for store in self._stores if store is reader.store)

    async def _refuse_pinned(self, copy: _Copy, reference: Reference) -> None:
        names = {reference.in_path}
        if (digest := await _stored(copy, reference)) is not None:
            names.add(str(digest))
        for pin in await copy.store.index.pins.all():
            if pin.scope == copy.scope and pin.reference in names:
                raise RegistryError(
                    Code.DENIED,
                    f"{reference} is pinned at {pin.scope.endpoint} as {pin.reference}: unpin it first",
                    status=CONFLICT,
                )


def _what(reference: Reference) -> Tag | Digest:
    if reference.tag is not None:
        return reference.tag
    assert reference.digest is not None  # exactly one of both
    return reference.digest


async def _stored(copy: _Copy, reference: Reference) -> Digest | None:
    """What the reference is in the copy's scope; None where nothing is stored."""
    index = copy.store.index
    if reference.tag is not None:
        entry = await index.tag(copy.scope, reference.tag)
        return None if entry is None else entry.digest
    assert reference.digest is not None
    manifest = await copy.store.manifest(copy.scope, reference.digest)
    return None if manifest is None else manifest.descriptor.digest


async def _refresh(copy: _Copy, reference: Reference, before: Digest | None) -> Refreshed:
    assert copy.step is not None  # somebody has to say by which policy
    after, result, error = None, "failed", ""
    try:
        answer = await copy.reader.refresh(copy.step, reference, Request())
    except EndpointError as problem:
        error = problem.message
    else:
        after, result = str(answer.manifest.descriptor.digest), str(answer.source.result)
    return Refreshed(
        copy.scope.endpoint,
        copy.scope.repository,
        reference.in_path,
        None if before is None else str(before),
        after,
        result,
        error,
    )


async def _pinned(copy: _Copy, reference: Reference, pinned: bool) -> Pinned:
    stored = await _stored(copy, reference) is not None
    scope = copy.scope
    return Pinned(scope.endpoint, scope.repository, reference.in_path, pinned, stored)


def _nothing(reference: Reference, copies: Sequence[_Copy]) -> RegistryError:
    names = ", ".join(copy.scope.endpoint for copy in copies)
    return RegistryError(Code.MANIFEST_UNKNOWN, f"nothing of {reference} is cached at {names}")
