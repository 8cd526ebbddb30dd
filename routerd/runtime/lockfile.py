"""A lock that one process at a time holds, and that its end releases, whatever it dies of.

Owns the file. Does not own what the lock is for: correctness must not rest on it where the data
directory is on a file system without flock(2).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LockFile:
    """Not held until `acquire` says so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock unless another process (or another LockFile) has it. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Let it go, if it is held. The file stays: removing it would let two hold it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
