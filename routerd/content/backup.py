"""Copies of the index, made while it is in use.

Owns when a copy is due, that each is whole and durable, and how many are kept. Does not own putting
one back: `rebuild.py` does, or the operator (docs/operations.md). Every function blocks.

Copies are numbered: by their times a clock that jumps would have the wrong ones removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from routerd.content.errors import StoreFull
from routerd.content.layout import BACKUPS, INDEX
from routerd.runtime.files import make_directory, publish, sync_directory

log = logging.getLogger("routerd.content")

BACKUP_SECONDS = 3600.0  # between two copies
BACKUPS_KEPT = 6  # the newest; none is made while nothing changes, so they reach further than 6 h
_ROOM = 2  # times the index's size that must be free for a copy
# Of SQLite's extended codes the low byte says the kind.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NAME = re.compile(r"index-([0-9]{6,})\.sqlite")


class DamagedIndex(Exception):
    """A database that is not whole. The message says what SQLite found."""


def backups(root: Path) -> list[Path]:
    """The copies, oldest first."""
    directory = root / BACKUPS
    found = list(directory.iterdir()) if directory.is_dir() else []
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_number)


def newest_usable(root: Path) -> Path | None:
    """The newest copy that is whole."""
    for path in reversed(backups(root)):
        try:
            check_database(path)
        except (DamagedIndex, OSError) as error:
            log.warning("the index backup %s is of no use: %s", path, error)
        else:
            return path
    return None


def back_up(root: Path, now: float, *, at_once: bool = False) -> Path | None:
    """Copy the index, if that is due and it has changed; None: no copy was made.

    `now` in UTC seconds. Another process's copy counts. Raises StoreFull, DamagedIndex, OSError.
    """
    directory = root / BACKUPS
    make_directory(directory)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None  # another process is at it
    else:
        return _back_up(root, directory, now, at_once)
    finally:
        os.close(lock)


def _back_up(root: Path, directory: Path, now: float, at_once: bool) -> Path | None:
    kept = backups(root)
    if kept and not at_once and 0 <= now - kept[-1].stat().st_mtime < BACKUP_SECONDS:
        return None
    index = root / INDEX
    changes = _change_counter(index)
    if changes == (_change_counter(kept[-1]) if kept else 0):
        return None
    if shutil.disk_usage(root).free < _ROOM * index.stat().st_size:
        raise StoreFull
    made = directory / f"index-{_number(kept[-1]) + 1 if kept else 1:06}.sqlite"
    temporary = directory / "new.sqlite"
    try:
        copy_database(index, temporary)
        check_database(temporary)
        os.utime(temporary, (now, now))
        publish(temporary, made)
    finally:
        temporary.unlink(missing_ok=True)
    for old in backups(root)[:-BACKUPS_KEPT]:
        old.unlink()
    return made


def copy_database(source: Path, target: Path) -> None:
    """A durable copy of a database that may be in use, without its log files.

    Raises StoreFull, DamagedIndex, OSError.
    """
    target.unlink(missing_ok=True)
    with (
        _translated(source),
        closing(_read_only(source)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        target.chmod(0o600)
        # In one step: from a copy made in several, a writer would make it begin anew each time.
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(target.parent)


def check_database(path: Path) -> None:
    """Raises DamagedIndex where the database is not whole, OSError where it cannot be read."""
    with _translated(path), closing(_read_only(path)) as connection:
        found = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
    if found != ["ok"]:
        raise DamagedIndex("; ".join(found))


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file itself is broken, and not the disk or a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise DamagedIndex(str(error)) from error
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            raise StoreFull from error
        raise OSError(f"{path} cannot be read: {error}") from error


def _change_counter(path: Path) -> int:
    with _translated(path), closing(_read_only(path)) as connection:
        value: int = connection.execute("SELECT value FROM change_counter").fetchone()[0]
    return value


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
