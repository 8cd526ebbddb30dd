"""Files taken out of a store, and the space that taking them out needs.

Owns how a file goes: out of its place by a rename, which is quick, and for good later, when no
transaction waits for it. Does not own which (`sweep.py`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from routerd.content.room import Disk
from routerd.oci.reference import Digest
from routerd.runtime.files import FULL, make_directory

# Kept from being used, so that the index can write down on a full disk what the sweep removes: its
# log grows by some pages for each transaction.
RESERVE_BYTES = 1024 * 1024
_ID_BYTES = 8


class RemovedFiles:
    """A store's `removed` folder, and its files `reserve`, `swept` and `sweep.lock`. Blocks."""

    def __init__(self, path: Path, place: Callable[[Digest], Path]) -> None:
        self._path = path
        self._place = place

    def make(self) -> None:
        """Make the folder."""
        make_directory(self._path / "removed")

    def claim(self) -> Callable[[], None] | None:
        """Sweep alone, until what is returned is called; None while this process or another one
        sweeps the store.
        """
        lock = os.open(self._path / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return partial(os.close, lock)

    def swept_at(self) -> float | None:
        """When a sweep last came to its end, in UTC seconds; None: never."""
        try:
            return (self._path / "swept").stat().st_mtime
        except FileNotFoundError:
            return None

    def note_swept(self, now: float) -> None:
        """One has come to its end. On a disk without room for a name it is as if it had not."""
        path = self._path / "swept"
        try:
            path.touch(mode=0o600)
            os.utime(path, (now, now))
        except OSError as error:
            if error.errno not in FULL:
                raise

    def take(self, digest: str, before: float) -> bool:
        """Take the bytes out of their place, where there are any; False where they were put there
        after `before` (UTC seconds). Whoever has them open reads on.

        To be called in a transaction that writes, as `add_blob` looks in one whether they are there.
        """
        place = self._place(Digest.parse(digest))
        try:
            found = place.stat()
        except FileNotFoundError:
            return True
        if found.st_ctime >= before:
            return False
        taken = self._path / "removed" / secrets.token_hex(_ID_BYTES)
        place.replace(taken)
        if taken.stat().st_ino != found.st_ino:
            # The same content came in anew, between the look and the rename.
            taken.replace(place)
            return False
        return True

    def tidy(self) -> None:
        """Remove for good what was taken, by this process or one that was killed; hold the reserve."""
        for path in (self._path / "removed").iterdir():
            path.unlink(missing_ok=True)
        self.hold_reserve()

    def hold_reserve(self) -> None:
        """Keep the reserve from being used; nothing where the disk is full already."""
        path = self._path / "reserve"
        if path.exists() and path.stat().st_size == RESERVE_BYTES:
            return
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError as error:
            if error.errno not in FULL:
                raise
        finally:
            os.close(fd)

    def release_if_full(self) -> None:
        """Before the index is opened, which needs some space too. The other half is the sweep's."""
        path = self._path / "reserve"
        if path.exists() and Disk.of(self._path).free < RESERVE_BYTES:
            os.truncate(path, RESERVE_BYTES // 2)

    def release_reserve(self) -> None:
        """Let it be used."""
        (self._path / "reserve").unlink(missing_ok=True)
