"""An index made anew from the bytes, and from the newest index that can be read.

Owns what can be known again: which content is whole, what manifests list; and, from a backup, who
may see it and under which tags. Does not own the lock, which the caller holds, nor the backups. The
index that was there is put aside, never removed; nor is any content, for a row that nobody sees is
what a sweep takes the bytes for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select

from routerd.content import schema
from routerd.content.backup import DamagedIndex, check_database, copy_database, newest_usable
from routerd.content.database import Database
from routerd.content.inventory import Inventory
from routerd.content.layout import (
    ASIDE,
    INDEX,
    INDEX_FILES,
    REBUILDING,
    blob_files,
    foreign_files,
)
from routerd.content.links import LinkKind
from routerd.content.statements import add_edges, know_blob
from routerd.content.verify import Checked, Verifier, hash_next, new_hasher
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest
from routerd.runtime.blocking import run_blocking
from routerd.runtime.files import make_directory, sync_directory
from routerd.runtime.pace import Pace

log = logging.getLogger("routerd.content")

BATCH = 200  # blobs written down in one transaction
SHOWN = 50  # digests and files that are told by name


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it. `source`: the index that links, tags and pushers came from; empty: none.

    `new`: whole content that the source did not know. `unseen`: whole content that no repository
    sees, since no link to it is known; `lost_manifests` are those of it that no other lists.
    `aside`: where the old index is now, empty where there was none.
    """

    source: str
    aside: str
    blobs: int
    size: int
    manifests: int
    new: int
    damaged: int
    unseen: int
    lost_manifests: tuple[str, ...]
    foreign: tuple[str, ...]


@dataclass(slots=True)
class _Counts:
    blobs: int = 0
    size: int = 0
    manifests: int = 0
    new: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    digest: Digest
    size: int
    manifest: Manifest | None


class Rebuild:
    """One rebuilding of the index of the store in `root`, whose lock the caller holds."""

    def __init__(self, root: Path, pace: Pace, clock: Callable[[], float]) -> None:
        self._root = root
        self._pace = pace
        self._clock = clock
        self._counts = _Counts()
        self._new: list[str] = []  # digests that the source did not know as they are
        self._database = Database(root / REBUILDING)

    async def run(self) -> AsyncGenerator[Checked | Rebuilt, None]:
        """Everything that is looked at, and in the end what came of it.

        Raises OSError, NewerIndex, sqlalchemy.exc.DatabaseError; then the old index is as it was.
        """
        source = await run_blocking(self._copy_source)
        try:
            await self._database.start()
            async for checked in self._read_blobs():
                yield checked
            async for checked in self._look_for_lost():
                yield checked
            unseen, lost = await self._database.read(_unseen)
            await self._leave_unseen(source)
        finally:
            await self._database.aclose()
        foreign = await run_blocking(self._foreign)
        aside = await run_blocking(self._exchange)
        counts = self._counts
        yield Rebuilt(
            source,
            aside,
            counts.blobs,
            counts.size,
            counts.manifests,
            counts.new,
            counts.damaged,
            unseen,
            lost,
            foreign,
        )

    def _copy_source(self) -> str:
        """Begin with the best index there is; its name."""
        for name in (REBUILDING, f"{REBUILDING}-wal", f"{REBUILDING}-shm"):
            (self._root / name).unlink(missing_ok=True)
        current = self._root / INDEX
        source: Path | None = current
        try:
            if not current.exists() or current.stat().st_size == 0:
                raise DamagedIndex("it is gone")
            check_database(current)
        except DamagedIndex as error:
            log.warning("the index %s cannot be used: %s", current, error)
            source = newest_usable(self._root)
        if source is None:
            return ""
        copy_database(source, self._root / REBUILDING)
        return str(source.relative_to(self._root))

    async def _read_blobs(self) -> AsyncIterator[Checked]:
        """Hash every file, know what is whole, put aside what is not."""
        verifier = Verifier(self._root, self._database)
        files = blob_files(self._root)
        batch: list[_Found] = []
        while (entry := await run_blocking(next, files, None)) is not None:
            path, digest = entry
            if digest is None:
                continue  # a stranger's
            found = await self._read(path, digest)
            if found is None:
                damage = await verifier.set_aside(digest, path)
                self._counts.damaged += 1
                yield Checked(digest, damage.size, damage)
                continue
            yield Checked(digest, found.size, None)
            batch.append(found)
            if len(batch) == BATCH:
                await self._write_down(batch)
                batch = []
        await self._write_down(batch)

    async def _read(self, path: Path, digest: Digest) -> _Found | None:
        """One file; None where it is not what its name says."""
        hasher, position, body = new_hasher(digest), 0, b""
        fd = await run_blocking(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            while read := await run_blocking(hash_next, fd, hasher, position):
                position += read
                await self._pace.spend(read)
            if hasher.hexdigest() != digest.encoded:
                return None
            if size <= MANIFEST_LIMIT:
                body = await run_blocking(os.pread, fd, MANIFEST_LIMIT, 0)
        finally:
            os.close(fd)
        return _Found(digest, size, _as_manifest(body, digest))

    async def _write_down(self, batch: list[_Found]) -> None:
        now, counts = self._clock(), self._counts

        def write(connection: Connection) -> list[str]:
            return [str(found.digest) for found in batch if _know(connection, found, now)]

        new = await self._database.write(write)
        self._new += new
        counts.new += len(new)
        counts.blobs += len(batch)
        counts.size += sum(found.size for found in batch)
        counts.manifests += sum(found.manifest is not None for found in batch)

    async def _look_for_lost(self) -> AsyncIterator[Checked]:
        """What the source says is stored, and is not."""
        verifier, after = Verifier(self._root, self._database), ""
        inventory = Inventory(self._database)
        while page := await inventory.stored_after(after):
            for digest, size in page:
                damage = await verifier.check_presence(digest, size)
                if damage is not None:
                    self._counts.damaged += 1
                    yield Checked(digest, size, damage)
            after = str(page[-1][0])

    async def _leave_unseen(self, source: str) -> None:
        """Know nothing of content that may have been pushed and has lost its links, so that no sweep
        takes it: a push finds a place for it, as for any other. What an index that is whole knows
        and shows to nobody has been given up, and stays the sweep's.
        """

        def leave(connection: Connection) -> None:
            if source != INDEX:
                _leave(connection, _UNREACHED)
                return
            for start in range(0, len(self._new), BATCH):
                some = self._new[start : start + BATCH]
                _leave(connection, schema.blobs.c.digest.in_(some) & _UNREACHED)

        await self._database.write(leave)

    def _foreign(self) -> tuple[str, ...]:
        found = islice(foreign_files(self._root), SHOWN)
        return tuple(str(path.relative_to(self._root)) for path in found)

    def _exchange(self) -> str:
        """Put the old index aside and the new one in its place, each in one step."""
        aside = self._root / ASIDE
        make_directory(aside)
        numbers = [int(path.name) for path in aside.iterdir() if path.name.isdecimal()]
        place = aside / f"{max(numbers, default=0) + 1:04}"
        kept = [self._root / name for name in INDEX_FILES if (self._root / name).exists()]
        if kept:
            make_directory(place)
        # The log files first: never must they meet another database than their own.
        for path in sorted(kept, reverse=True):
            path.rename(place / path.name)
        sync_directory(aside)
        (self._root / REBUILDING).replace(self._root / INDEX)
        sync_directory(self._root)
        return str(place.relative_to(self._root)) if kept else ""


def _as_manifest(body: bytes, digest: Digest) -> Manifest | None:
    """The manifest that these bytes are; None where they are something else."""
    # OCI's manifests may leave their mediaType out; what they list tells an index from an image.
    for media_type in ("", OCI_MANIFEST, OCI_INDEX):
        with suppress(RegistryError):
            return Manifest.parse(body, media_type, digest)
    return None


def _know(connection: Connection, found: _Found, now: float) -> bool:
    """Write one blob down; whether it was not known as it is."""
    b = schema.blobs.c
    query = select(b.size).where(b.digest == str(found.digest), b.state == "stored")
    is_new = connection.execute(query).scalar() != found.size
    if is_new:
        know_blob(connection, found.digest, found.size, now)
    if found.manifest is not None:
        add_edges(connection, found.manifest)
    return is_new


def _unseen(connection: Connection) -> tuple[int, tuple[str, ...]]:
    """How much stored content no link leads to, and the first manifests of it that none lists."""
    b, k, e = schema.blobs.c, schema.links.c, schema.edges.c
    unlinked = (b.state == "stored") & ~exists().where(k.digest == b.digest)
    count = connection.execute(
        select(func.count()).select_from(schema.blobs).where(unlinked)
    ).scalar_one()
    is_parent = exists().where(e.parent == b.digest)
    is_child = exists().where(e.child == b.digest)
    lost = select(b.digest).where(unlinked, is_parent, ~is_child).order_by(b.digest).limit(SHOWN)
    return count, tuple(connection.execute(lost).scalars())


_LISTING = schema.links.alias("listing")
_IS_LISTED = exists().where(
    schema.edges.c.child == schema.blobs.c.digest,
    _LISTING.c.digest == schema.edges.c.parent,
    _LISTING.c.kind == str(LinkKind.MANIFEST),
)
_IS_LINKED = exists().where(schema.links.c.digest == schema.blobs.c.digest)
_UNREACHED = ~_IS_LINKED & ~_IS_LISTED  # what `retention.py` calls unlinked


def _leave(connection: Connection, which: ColumnElement[bool]) -> None:
    """Forget rows of blobs, and what they list; the files are left alone."""
    gone = select(schema.blobs.c.digest).where(which)
    connection.execute(delete(schema.edges).where(schema.edges.c.parent.in_(gone)))
    connection.execute(delete(schema.blobs).where(which))
