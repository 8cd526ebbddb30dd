"""Files made durable, and read without stopping the event loop.

Owns the order of system calls that survives a power cut, and reading from the page cache. Does not
own what is in the files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from routerd.runtime.blocking import run_blocking

# The file system, or this user's share of it, is full.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_VECTORS = 512  # of one writev; Linux takes 1,024
_buffer = bytearray()  # shared: filled and copied from without an await in between


def write_all(fd: int, chunks: Sequence[bytes | bytearray]) -> None:
    """Append the chunks; raises OSError, after which some of them may be there."""
    views = [memoryview(chunk) for chunk in chunks if chunk]
    while views:
        written = os.writev(fd, views[:_VECTORS])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


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
    try:
        got = os.preadv(fd, [view], position, os.RWF_NOWAIT)
    except BlockingIOError:
        return await run_blocking(os.pread, fd, length, position)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return await run_blocking(os.pread, fd, length, position)
    return bytes(view[:got])


async def read_range(fd: int, start: int, stop: int, chunk: int) -> AsyncIterator[bytes]:
    """The bytes of [start, stop) in chunks. Raises EOFError where the file ends before."""
    while start < stop:
        data = await read_at(fd, start, min(chunk, stop - start))
        if not data:
            raise EOFError(f"the file ends at {start}, not at {stop}")
        start += len(data)
        yield data
