"""Files made durable, and read or sent without stopping the event loop.

Owns the order of system calls that survives a power cut, and reading from the page cache. Does not
own what is in the files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from routerd.runtime.blocking import run_blocking

# The file system, or this user's share of it, is full.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

CHUNK = 256 * 1024  # bytes read at a time: a chunk's fixed cost vanishes, many readers stay cheap
_VECTORS = 512  # of one writev; Linux takes 1,024
_buffer = bytearray()  # shared: filled and copied from without an await in between
_probe = memoryview(bytearray(1))  # whose content nobody looks at


def write_all(fd: int, chunks: Sequence[bytes | bytearray]) -> None:
    """Append the chunks; raises OSError, after which some of them may be there."""
    views = [memoryview(chunk) for chunk in chunks if chunk]
    while views:
        written = os.writev(fd, views[:_VECTORS])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file, durably; its name is not yet (`publish`)."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each durably and for this user only."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def publish(temporary: Path, final: Path) -> None:
    """Give a synced file its name, durably: all of it is there, or nothing."""
    make_directory(final.parent)
    temporary.replace(final)
    sync_directory(final.parent)


async def read_at(fd: int, position: int, length: int) -> bytes:
    """Up to `length` bytes at `position`: at once if they are in the page cache, else by thread.

    A thread hop for each chunk would cost more than the read (docs/design/stack.md).
    """
    global _buffer
    if len(_buffer) < length:
        _buffer = bytearray(length)
    view = memoryview(_buffer)[:length]
    got = _read_cached(fd, view, position)
    if got is None:
        return await run_blocking(os.pread, fd, length, position)
    return bytes(view[:got])


def _read_cached(fd: int, view: memoryview, position: int) -> int | None:
    """Bytes read into `view` from the page cache; None where they are not in it."""
    try:
        return os.preadv(fd, [view], position, os.RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None  # a file system that cannot tell


@dataclass(frozen=True, slots=True)
class FilePart:
    """The bytes of [start, stop) of an open file, not read yet: whoever sends them on a socket lets
    the kernel do it. To be used before the file is closed.
    """

    fd: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, wanted: slice) -> FilePart:
        """As of bytes, by a slice with the step 1."""
        start, stop, _ = wanted.indices(len(self))
        return FilePart(self.fd, self.start + start, self.start + max(start, stop))

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes, in chunks. Raises EOFError where the file ends before."""
        start = self.start
        while start < self.stop:
            data = await read_at(self.fd, start, min(CHUNK, self.stop - start))
            if not data:
                raise EOFError(f"the file ends at {start}, not at {self.stop}")
            start += len(data)
            yield data

    async def into_cache(self) -> None:
        """Have the bytes in the page cache, so that who sends them is not stopped by the disk.

        For parts of a few MiB at most. Two looks have to do: one at each page would cost more than
        the few that the kernel may have dropped in between.
        """
        for position in (self.start, self.stop - 1):
            if _read_cached(self.fd, _probe, position) is None:
                await run_blocking(os.pread, self.fd, len(self), self.start)
                return


Part = bytes | FilePart  # of a body: in memory, or in a file


async def as_bytes(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    """The same parts, those of files read."""
    async for part in parts:
        if isinstance(part, FilePart):
            async for chunk in part.read():
                yield chunk
        else:
            yield part
