"""Stored content, hashed again: is it still what its name says?

Owns the check of one blob, what is done with one that is wrong, and going over all of them at a
limited rate. Does not own when that is done (`patrol.py`, the command) or who is told of it.

What is wrong is marked, so that it is never served again and the next pull fetches it anew, and its
file goes into quarantine, in one transaction: whoever publishes the same digest meanwhile, in
whichever process, looks at its file in the transaction that makes it visible (`ingest.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from routerd.content.backup import DamagedIndex, check_database
from routerd.content.database import Database
from routerd.content.inventory import Holder, Inventory, Parent, holders_of, parents_of
from routerd.content.layout import INDEX, blob_path, foreign_files
from routerd.content.quarantine import Quarantine
from routerd.content.statements import set_state
from routerd.oci.reference import Digest
from routerd.runtime.blocking import finish_blocking, run_blocking
from routerd.runtime.pace import Pace

HASH_BYTES = 1024 * 1024  # hashed in one go on a thread
LOOK_BYTES = 64 * 1024  # that opening one file counts for, so that small ones are not a flood
VERIFY_RATE = 64 * 1024 * 1024.0  # bytes a second, where nobody says another


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is not what the index says, and whom it concerns.

    `is_served`: nothing was done, since its bytes could not be read. `quarantined`: the name of the
    file in quarantine, empty where there was none to keep.
    `held_by`: who sees the content, `listed_by`: the manifests that list it; the first few.
    """

    digest: Digest
    size: int
    why: str
    quarantined: str
    held_by: tuple[Holder, ...]
    listed_by: tuple[Parent, ...]
    is_served: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """One blob that was looked at. `size` in bytes."""

    digest: Digest
    size: int
    damage: Damage | None


class Verifier:
    """Checks the content of one store."""

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database
        self._inventory = Inventory(database)
        self._quarantine = Quarantine(root)

    async def run(self, pace: Pace, after: str = "") -> AsyncIterator[Checked]:
        """Every stored blob whose digest comes after `after`, in the order of the digests."""
        while page := await self._inventory.stored_after(after):
            for digest, size in page:
                yield Checked(digest, size, await self.check(digest, size, pace))
            after = str(page[-1][0])

    async def check(self, digest: Digest, size: int, pace: Pace) -> Damage | None:
        """Hash one blob again; put it out of use if it is wrong."""
        try:
            fd = await run_blocking(os.open, self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return await self.check_presence(digest, size)
        except OSError as error:
            return await self._unreadable(digest, size, error)
        try:
            why_not = await self._objection(fd, digest, size, pace)
            if why_not is None:
                return None
            return await self._condemn(digest, size, why_not, lambda path: _is_same(path, fd))
        except OSError as error:
            return await self._unreadable(digest, size, error)
        finally:
            os.close(fd)

    async def _unreadable(self, digest: Digest, size: int, error: OSError) -> Damage:
        """Nothing is known of its bytes, and the disk may come to itself: it is only told of."""
        why = f"its file cannot be read and is left as it is: {error.strerror}"
        found = await self._database.read(lambda c: _damage(c, digest, size, why, None))
        return replace(found, is_served=True)

    async def check_presence(self, digest: Digest, size: int) -> Damage | None:
        """Whether there is a file at all; if not, mark the blob, so that it is fetched anew."""
        if await run_blocking(self._path(digest).exists):
            return None
        return await self._condemn(digest, size, "its file is gone", lambda path: not path.exists())

    async def set_aside(self, digest: Digest, path: Path) -> Damage:
        """A file that is wrong, known or not, of a store that nobody else has open."""

        def condemn(connection: Connection) -> Damage:
            size = path.stat().st_size
            set_state(connection, digest, "damaged")
            taken = self._quarantine.take(path, digest.encoded)
            return _damage(connection, digest, size, "its bytes are something else", taken)

        return await self._database.write(condemn)

    async def index_problem(self) -> str | None:
        """What is wrong with the index itself, as far as SQLite can tell."""
        try:
            await run_blocking(check_database, self._root / INDEX)
        except DamagedIndex as error:
            return str(error)
        return None

    async def foreign(self, limit: int) -> list[str]:
        """The first files in the directory that are not routerd's, below it."""

        def look() -> list[str]:
            found = islice(foreign_files(self._root), limit)
            return [str(path.relative_to(self._root)) for path in found]

        return await run_blocking(look)

    async def _objection(self, fd: int, digest: Digest, size: int, pace: Pace) -> str | None:
        found = os.fstat(fd).st_size
        if found != size:
            return f"its file has {found} bytes where the index says {size}"
        # What is hot for clients must not give way to what is read once.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NOREUSE)
        hasher, position = new_hasher(digest), 0
        while position < size:
            read = await finish_blocking(hash_next, fd, hasher, position)
            if read == 0:
                return f"its file ends at byte {position}"
            position += read
            await pace.spend(read)
        await pace.spend(LOOK_BYTES)
        if hasher.hexdigest() == digest.encoded:
            return None
        return f"its bytes are {digest.algorithm}:{hasher.hexdigest()}"

    async def _condemn(
        self, digest: Digest, size: int, why: str, is_still: Callable[[Path], bool]
    ) -> Damage | None:
        """Put it out of use. None where the file is another one meanwhile, or the blob forgotten."""
        path = self._path(digest)

        def condemn(connection: Connection) -> Damage | None:
            # What is published while this runs becomes visible only after it.
            if not is_still(path) or not set_state(connection, digest, "damaged"):
                return None
            taken = None
            with suppress(FileNotFoundError):
                taken = self._quarantine.take(path, digest.encoded)
            return _damage(connection, digest, size, why, taken)

        return await self._database.write(condemn)

    def _path(self, digest: Digest) -> Path:
        return blob_path(self._root, digest)


def new_hasher(digest: Digest) -> hashlib._Hash:
    """What `hash_next` feeds."""
    return hashlib.new(digest.algorithm)


def hash_next(fd: int, hasher: hashlib._Hash, position: int) -> int:
    """Hash the next bytes of a file; how many. Blocks."""
    data = os.pread(fd, HASH_BYTES, position)
    hasher.update(data)
    return len(data)


def _damage(
    connection: Connection, digest: Digest, size: int, why: str, taken: Path | None
) -> Damage:
    name = "" if taken is None else taken.name
    held_by, listed_by = holders_of(connection, digest), parents_of(connection, digest)
    return Damage(digest, size, why, name, held_by, listed_by)


def _is_same(path: Path, fd: int) -> bool:
    """Whether what was looked at is what the name leads to now, or nothing is there any more."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return True
    seen = os.fstat(fd)
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)
