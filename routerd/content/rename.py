"""A store in a directory of another name: its storage endpoint was renamed.

Owns that it is renamed once, by one of the processes that start, and never beneath a server that
uses it. Does not own the store (`directory.py`) or the names in its index (`identity.py`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from routerd.content.errors import StoreError
from routerd.runtime.files import sync_directory

LOCK = "rename.lock"  # beside the stores; held while one is renamed


def take_over_directory(path: Path, former: Path) -> bool:
    """Rename the store in `former` to `path`; False where there is none or `path` exists. Blocks.

    Raises StoreError where a server uses it, or where it cannot be renamed.
    """
    if not _is_store(former):
        return False
    try:
        with _locked(path.parent / LOCK, wait=True):
            if path.exists() or not _is_store(former):  # another process was first
                return False
            with _locked(former / "lock", wait=False):
                former.rename(path)
                sync_directory(path.parent)
    except BlockingIOError as error:
        raise StoreError(
            f"the store in {former} is to become {path}, but another server uses it"
        ) from error
    except OSError as error:
        raise StoreError(f"{former} cannot be renamed to {path}: {error}") from error
    return True


def _is_store(path: Path) -> bool:
    return (path / "format").is_file()


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
