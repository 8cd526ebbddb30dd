"""Stored content checked for damage: by command, and slowly in the background; and index backups.

Owns who is told of damage and how loudly. Does not own a check (`content/verify.py`), a copy
(`content/backup.py`) or fetching anew (`refetch.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import structlog

from routerd.content.backup import BACKUP_SECONDS
from routerd.content.directory import DirectoryStore
from routerd.content.errors import TROUBLE
from routerd.content.verify import Damage
from routerd.proxy.refetch import Refetch
from routerd.runtime.pace import Pace
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.integrity")

BACKUP_LOOK = (
    60.0  # seconds between two looks whether a copy is due; the first is that long after start
)
PROGRESS_BYTES = 64 * 1024 * 1024  # checked between two words of progress,
PROGRESS_BLOBS = 500  # or so many blobs
FOREIGN_SHOWN = 20  # strangers' files that are named


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is."""

    kind: ClassVar[str] = "progress"
    store: str
    blobs: int
    bytes: int
    of_blobs: int
    of_bytes: int


@dataclass(frozen=True, slots=True)
class Damaged:
    """Content that is wrong. `pushed`: no endpoint can bring it back. `served`: it could not be
    read, and is left as it is.
    """

    kind: ClassVar[str] = "damaged"
    store: str
    digest: str
    size: int
    why: str
    pushed: bool
    pushed_by: tuple[str, ...]
    repositories: tuple[str, ...]
    listed_by: tuple[str, ...]
    quarantined: str
    served: bool


@dataclass(frozen=True, slots=True)
class Refetched:
    """What came of fetching damaged cached content again. `error` empty: it is there and right.
    Else the next pull of it fetches it: damaged content is not seen.
    """

    kind: ClassVar[str] = "refetched"
    store: str
    digest: str
    error: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The end of a check of one store. `index`: what is wrong with the index itself, or nothing."""

    kind: ClassVar[str] = "verified"
    store: str
    blobs: int
    bytes: int
    damaged: int
    index: str
    foreign: tuple[str, ...]


async def verify(
    name: str, store: DirectoryStore, rate: float, refetch: Refetch
) -> AsyncGenerator[Progress | Damaged | Refetched | Verified, None]:
    """Check everything in one store, at most `rate` bytes a second, and fetch again what is damaged."""
    totals = await store.inventory.totals()
    blobs = size = damaged = 0
    told_blobs = told_size = 0
    async for one in store.verifier.run(Pace(rate)):
        blobs, size = blobs + 1, size + one.size
        if one.damage is not None:
            damaged += 1
            row = report(name, one.damage)
            yield row
            if not (row.pushed or row.served):
                yield await fetch_again(name, one.damage, refetch)
        if size - told_size >= PROGRESS_BYTES or blobs - told_blobs >= PROGRESS_BLOBS:
            told_blobs, told_size = blobs, size
            yield Progress(name, blobs, size, totals.blobs, totals.size)
    problem = await store.verifier.index_problem()
    if problem is not None:
        log.error("the index is damaged: run `routerd cache rebuild`", store=name, why=problem)
    foreign = tuple(await store.verifier.foreign(FOREIGN_SHOWN))
    yield Verified(name, blobs, size, damaged, problem or "", foreign)


async def fetch_again(store: str, damage: Damage, refetch: Refetch) -> Refetched:
    """Fetch it again, and write to the log what came of it."""
    error = await refetch.fetch(damage)
    if error:
        log.error("damaged content was not fetched again", digest=str(damage.digest), why=error)
    else:
        log.info("damaged content was fetched again", digest=str(damage.digest))
    return Refetched(store, str(damage.digest), error)


def report(store: str, damage: Damage) -> Damaged:
    """Write damage to the log, and say it in a row."""
    # What a remote caches is in the remote's scope; what is in the store's own was pushed.
    pushed = [holder for holder in damage.held_by if holder.scope.endpoint == store]
    row = Damaged(
        store,
        str(damage.digest),
        damage.size,
        damage.why,
        bool(pushed),
        tuple(sorted({holder.created_by or "unknown" for holder in pushed})),
        tuple(f"{h.scope.endpoint} {h.scope.repository}" for h in damage.held_by),
        tuple(
            _named(parent.scope.repository, parent.tag, str(parent.digest))
            for parent in damage.listed_by
        ),
        damage.quarantined,
        damage.is_served,
    )
    said = {
        "store": store,
        "digest": row.digest,
        "bytes": damage.size,
        "why": damage.why,
        "repositories": row.repositories,
        "listed_by": row.listed_by,
        "quarantined": damage.quarantined,
    }
    if damage.is_served:
        log.error("stored content cannot be read: look after the disk", pushed=bool(pushed), **said)
    elif pushed:
        log.error(
            "PUSHED content is damaged and cannot be fetched again: push it again, or restore it",
            pushed_by=row.pushed_by,
            **said,
        )
    else:
        log.error("cached content is damaged: it is fetched again", **said)
    return row


def _named(repository: str, tag: str | None, digest: str) -> str:
    return f"{repository}@{digest}" if tag is None else f"{repository}:{tag}"


def keep_watch(stores: Mapping[str, DirectoryStore], tasks: Tasks, refetch: Refetch) -> None:
    """Check and back up in the background, for as long as `tasks` lives."""
    for name, store in stores.items():
        tasks.spawn(f"check of {name}", _check(name, store, tasks, refetch))
        tasks.spawn(f"index backups of {name}", _back_up(name, store))


async def _check(name: str, store: DirectoryStore, tasks: Tasks, refetch: Refetch) -> None:
    def on_damage(damage: Damage) -> None:
        row = report(name, damage)
        if not (row.pushed or row.served):
            tasks.spawn(f"refetch {damage.digest}", fetch_again(name, damage, refetch))

    while True:
        try:
            await store.patrol.run(on_damage)
        except TROUBLE as error:
            log.error(
                "the check of a store broke off and goes on later", store=name, why=str(error)
            )
            await asyncio.sleep(BACKUP_LOOK)


async def _back_up(name: str, store: DirectoryStore) -> None:
    while True:
        await asyncio.sleep(BACKUP_LOOK)
        try:
            made = await store.back_up()
        except TROUBLE as error:
            log.error("the index of a store was not backed up", store=name, why=str(error))
            await asyncio.sleep(BACKUP_SECONDS)
            continue
        if made is not None:
            log.info("the index was backed up", store=name, file=str(made))
