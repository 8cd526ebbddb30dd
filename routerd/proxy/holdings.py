"""What is stored, told to the operator: lists and sums over all stores of a policy, and their sweep.

Owns the rows. Does not own the questions (`content/inventory.py`), what goes (`content/sweep.py`) or
how they are printed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from routerd.content.directory import DirectoryStore
from routerd.content.inventory import EndpointTotals, Entry
from routerd.content.links import owner_of
from routerd.oci.errors import Code, RegistryError


@dataclass(frozen=True, slots=True)
class Listed:
    """One tag, or one manifest that nothing names. `repository`: as its endpoint calls it.

    `bytes`: what is stored of it and of all that it lists. Times are UTC seconds. `pushed_by`: None
    for what is cached; else who pushed it, empty where that is not known.
    """

    kind: ClassVar[str] = "entry"
    store: str
    endpoint: str
    repository: str
    reference: str
    digest: str
    bytes: int
    created_at: float
    pulled_at: float
    pushed_by: str | None
    pinned: bool
    damaged: bool


@dataclass(frozen=True, slots=True)
class Stat:
    """What one store has, and how it is doing. `unlinked`: blobs that nobody sees."""

    kind: ClassVar[str] = "store"
    store: str
    blobs: int
    bytes: int
    damaged: int
    unlinked: int
    quarantined: int
    free: int
    capacity: int
    backups: int
    backed_up_at: float | None
    checked_at: float | None
    endpoints: tuple[EndpointTotals, ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep of one store came to, as `content.sweep.SweepReport` has it. `skipped`: another
    one was at it, so nothing was done.
    """

    kind: ClassVar[str] = "swept"
    store: str
    manifests: int
    links: int
    blobs: int
    bytes: int
    pinned: int
    skipped: bool


async def ls(
    stores: Mapping[str, DirectoryStore],
    named: Container[str],
    endpoint: str | None,
    repository: str | None,
) -> AsyncGenerator[Listed, None]:
    """Every entry, by store, endpoint, repository and reference; `repository` is a glob.

    Raises 404 for an endpoint that neither is `named` by the policy nor has anything stored.
    """
    if endpoint is not None and not await _is_known(stores, named, endpoint):
        raise RegistryError(
            Code.NAME_UNKNOWN,
            f"the policy has no endpoint '{endpoint}', and nothing is stored of one",
        )
    for name, store in stores.items():
        place = ("", "", "")
        while page := await store.inventory.entries(place):
            for entry in page:
                if _is_wanted(entry, endpoint, repository):
                    yield _listed(name, entry)
            place = page[-1].place


async def _is_known(
    stores: Mapping[str, DirectoryStore], named: Container[str], endpoint: str
) -> bool:
    if owner_of(endpoint) in named:
        return True
    # What one left that the policy names no longer can be asked for.
    return any([await store.inventory.knows(endpoint) for store in stores.values()])


def _is_wanted(entry: Entry, endpoint: str | None, repository: str | None) -> bool:
    if endpoint is not None and entry.scope.endpoint != endpoint:
        return False
    return repository is None or fnmatchcase(entry.scope.repository, repository)


def _listed(store: str, entry: Entry) -> Listed:
    return Listed(
        store,
        entry.scope.endpoint,
        entry.scope.repository,
        entry.reference,
        str(entry.digest),
        entry.size,
        entry.created_at,
        entry.pulled_at,
        entry.created_by if entry.scope.endpoint == store else None,
        entry.pinned,
        entry.damaged,
    )


async def stat(stores: Mapping[str, DirectoryStore]) -> AsyncGenerator[Stat, None]:
    """The sums of every store."""
    for name, store in stores.items():
        totals, health = await store.inventory.totals(), await store.health()
        yield Stat(
            name,
            totals.blobs,
            totals.size,
            totals.damaged,
            totals.unlinked,
            health.quarantined,
            health.free,
            health.capacity,
            health.backups,
            health.backed_up_at,
            health.checking.ended_at,
            totals.endpoints,
        )


async def gc(stores: Mapping[str, DirectoryStore]) -> AsyncGenerator[Swept, None]:
    """Sweep every store now, as it would be when its time has come. Raises StoreFull."""
    for name, store in stores.items():
        await store.maintain()
        report = await store.capacity.sweep()
        yield Swept(
            name,
            report.manifests,
            report.links,
            report.blobs,
            report.size,
            report.pinned,
            report.skipped,
        )
