"""The file that one download grows into, as every process on the store sees it.

Owns who fills it, and what the filler tells those who follow. Does not own the download
(`fetch.py`) or writing (`spool.py`, `ingest.py`). Two files, beside each other in the spool:

    <algorithm>-<hex>.<endpoint>        the bytes
    <algorithm>-<hex>.<endpoint>.lock   locked by the filler with flock(2); its content is what it tells

A lock dies with its holder, however that ends; so the next one goes on from the bytes on disk.
Nothing rests on the lock but that there is one download: content is what its digest says.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from routerd.content.errors import StoreFull
from routerd.content.ingest import FileIngest
from routerd.content.store import SpoolReplaced, Told
from routerd.runtime.blocking import finish_blocking, start_blocking
from routerd.runtime.files import FULL, FilePart

LOCK_SUFFIX = ".lock"
_TOLD_BYTES = 1024  # padded to, so that a reader never sees the end of something older


class DirectorySpoolFile:
    """A `SpoolFile` in a directory of the local file system."""

    def __init__(self, path: Path, make_ingest: Callable[[Path], FileIngest]) -> None:
        self._path = path
        self._make_ingest = make_ingest
        self._lock: _Lock | None = None
        self._ingest: FileIngest | None = None
        self._reading: int | None = None  # the bytes, of who follows
        self._told: Told | None = None
        self._heard: Told | None = None  # at the last look

    async def elect(self) -> bool:
        """Become the filler; False while another one is. Raises StoreFull."""
        return await finish_blocking(self._elect)

    def _elect(self) -> bool:
        try:
            self._lock = _Lock.take(_lock_path(self._path))
            if self._lock is None:
                return False
            told = self._lock.read()
            # What an earlier filler verified may have been lost with the power since.
            self._told = None if told is None else Told(told.repository, told.size)
            self._lock.write(self._told)
            if self._told is None and self._reading is None:
                self._open_ingest()  # it will be needed, and costs no further hop to a thread
        except OSError as error:
            if error.errno in FULL:
                raise StoreFull from error
            raise
        return True

    async def ingest(self) -> FileIngest:
        """The bytes that are there, for the filler to go on with. Raises StoreFull, and
        SpoolReplaced where they are not those that were followed before.
        """
        if self._ingest is not None:
            return self._ingest
        return await finish_blocking(self._open_ingest)

    def _open_ingest(self) -> FileIngest:
        if self._reading is not None:
            self._follow_name()
        # Where its end is nobody knows: it cannot be gone on with.
        is_endless = self._told is None or self._told.size is None
        if is_endless:
            self._refuse_if_followed()
        self._ingest = self._make_ingest(self._path)
        if is_endless:
            self._ingest.restart()
        return self._ingest

    async def restart(self) -> None:
        """Forget the bytes of the ingest, which goes on as a new one. Raises as `ingest` does, where
        the bytes were followed here; others who follow them find them replaced.
        """
        await finish_blocking(self._restart)

    def _restart(self) -> None:
        assert self._ingest is not None, "only the filler restarts"
        self._refuse_if_followed()
        self._ingest.restart()

    def _refuse_if_followed(self) -> None:
        """Readers may have bytes of it. Raises SpoolReplaced."""
        if self._reading is not None and os.fstat(self._reading).st_size:
            raise SpoolReplaced

    @property
    def told(self) -> Told | None:
        """What the filler tells; of the one elected here, what an earlier one told."""
        return self._told

    def tell(self, told: Told) -> asyncio.Future[None]:
        """The filler's word to those who follow, done once it can be read. Before `release`."""
        assert self._lock is not None, "only the filler tells"
        self._told = told
        return start_blocking(self._lock.write, told)

    def look(self) -> int:
        """What the filler has come to: `told` anew, and the bytes that can be read."""
        # Heard twice: a word that is left from an earlier filler is gone by the second time.
        heard = _read(_lock_path(self._path))
        if heard == self._heard:
            self._told = heard
        self._heard = heard
        self._follow_name()
        return 0 if self._reading is None else os.fstat(self._reading).st_size

    def _follow_name(self) -> None:
        """Have the file open that has the name. Raises SpoolReplaced where bytes of another were."""
        try:
            named = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Not begun, or complete and moved into the store; or another one was, and what was
            # followed has no name at all.
            if self._reading is not None and os.fstat(self._reading).st_nlink == 0:
                self._refuse_if_followed()
            return
        if self._reading is None:
            self._reading = named
            return
        former = os.fstat(self._reading)
        if os.path.samestat(former, os.fstat(named)):
            os.close(named)
        elif former.st_size:
            os.close(named)
            raise SpoolReplaced  # the former stays open: somebody may be reading from it
        else:
            os.close(self._reading)
            self._reading = named

    async def read(self, start: int, stop: int) -> AsyncIterator[FilePart]:
        """The bytes of [start, stop), written by whomever; until `close`."""
        fd = self._reading if self._ingest is None else self._ingest.fileno()
        assert fd is not None, "nothing was written that could be read"
        yield FilePart(fd, start, stop)

    async def release(self, *, forget: bool) -> None:
        """Be the filler no more. Unless forgotten, the next one goes on with the bytes."""
        await finish_blocking(self._release, forget)

    def _release(self, forget: bool) -> None:
        if self._lock is None:
            return
        if forget:
            self._path.unlink(missing_ok=True)
            self._lock.path.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    def close(self) -> None:
        """Nobody reads from it any more."""
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None
        if self._ingest is not None:
            self._ingest.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def forget_old(spool: Path, before: float, endpoint: str = "*") -> None:
    """Remove the downloads, from this endpoint or any, that nobody went on with since `before` (UTC
    seconds). Blocks.
    """
    for path in spool.glob(f"*.{endpoint}{LOCK_SUFFIX}"):
        data = path.with_name(path.name.removesuffix(LOCK_SUFFIX))
        newest = max((_changed_at(each) for each in (path, data)), default=0.0)
        if newest < before and (lock := _Lock.take(path)) is not None:
            data.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            lock.release()


@dataclass(frozen=True, slots=True)
class _Lock:
    """A lock file, locked."""

    path: Path
    fd: int

    @classmethod
    def take(cls, path: Path) -> _Lock | None:
        """The lock; None where somebody has it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have removed it between the two calls above.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return cls(path, fd)
        except (BlockingIOError, FileNotFoundError):
            pass  # taken, or taken and gone: to be tried again in both cases
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def read(self) -> Told | None:
        return _parse(os.pread(self.fd, _TOLD_BYTES, 0))

    def write(self, told: Told | None) -> None:
        text = "" if told is None else json.dumps(asdict(told))
        os.pwrite(self.fd, text.encode().ljust(_TOLD_BYTES), 0)

    def release(self) -> None:
        os.close(self.fd)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + LOCK_SUFFIX)


def _read(path: Path) -> Told | None:
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None


def _parse(content: bytes) -> Told | None:
    """What was told; None for nothing yet, or for something that nobody here has written."""
    try:
        found = json.loads(content)
        told = Told(found["repository"], found["size"], found["verified"])
    except (ValueError, KeyError, TypeError):
        return None
    is_sound = isinstance(told.repository, str) and isinstance(told.size, int | None)
    return told if is_sound and isinstance(told.verified, bool) else None


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
