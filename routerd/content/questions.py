"""Questions to an upstream that one process at a time asks: single flight between processes.

Owns the locks: each is one byte of one file that stays empty (fcntl(2), "Open file description
locks"), at the place that the question's key gives. So there is nothing to tidy up, and a lock dies
with its holder. Does not own what is asked, nor single flight within a process (`runtime/flight.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import struct
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

log = logging.getLogger("routerd.cache")

WAIT_SECONDS = 60.0  # for another process's answer; then it is taken for hung and not waited for
LOOK_SECONDS = 0.005  # between two looks whether it has its answer; doubled, up to the other
QUIET_SECONDS = 0.05
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


class Questions:
    """The locks in this file, which is made when the first is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        # The places of its locks, and how many in this process hold each: to the kernel they are one.
        self._held: Counter[int] = Counter()

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncGenerator[bool]:
        """Within it no other process asks the same. True: one did so until now, and what it was told
        may be found in the index.
        """
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") >> 1  # an offset is a signed number
        has_waited = not self._lock(place) and await self._wait(place, key)
        try:
            yield has_waited
        finally:
            self._unlock(place)

    async def _wait(self, place: int, key: str) -> bool:
        loop = asyncio.get_running_loop()
        pause, until = LOOK_SECONDS, loop.time() + WAIT_SECONDS
        while loop.time() < until:
            await asyncio.sleep(pause)
            if self._lock(place):
                return True
            pause = min(2 * pause, QUIET_SECONDS)
        log.warning("another process has been asking for %s for %g s", key, WAIT_SECONDS)
        return True

    def close(self) -> None:
        """No more questions; whoever holds a lock holds it no longer."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._held.clear()

    def _lock(self, place: int) -> bool:
        """Take the byte; False where another process has it."""
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._set(self._fd, place, fcntl.F_WRLCK)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the file system likes
                return False
            self._held[place] += 1
        except OSError as error:  # a full disk, or one without such locks: better asked twice
            log.warning("%s cannot be locked: %s", self._path, error)
        return True

    def _unlock(self, place: int) -> None:
        """Let the byte go, where it was taken."""
        if self._fd is not None and place in self._held:
            self._held[place] -= 1
            if not self._held[place]:
                del self._held[place]
                self._set(self._fd, place, fcntl.F_UNLCK)

    def _set(self, fd: int, place: int, kind: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))
