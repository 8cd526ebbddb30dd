"""Where things lie in a store's directory.

Owns the names of files, and telling what is ours from what is a stranger's. Does not own reading or
changing any of it. The whole layout is drawn in `directory.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from routerd.oci.errors import RegistryError
from routerd.oci.reference import Digest

INDEX = "index.sqlite"
INDEX_FILES = (INDEX, f"{INDEX}-wal", f"{INDEX}-shm", f"{INDEX}-journal")
QUARANTINE = "quarantine"
BACKUPS = "backups"
ASIDE = "aside"  # indexes that a rebuild has replaced
VERIFY = "verify"  # how far the background check is
QUESTIONS = "questions"  # the locks of those that are being asked
REBUILDING = "index.rebuilding"

_OURS = frozenset(
    {"format", "format.new", "lock", "blobs", "spool", "uploads"}
    | {QUARANTINE, BACKUPS, ASIDE, VERIFY, QUESTIONS, REBUILDING, f"{REBUILDING}-journal"}
    | {"removed", "reserve", "sweep.lock", "swept"}  # what a sweep keeps there
    | {f"{REBUILDING}-wal", f"{REBUILDING}-shm", *INDEX_FILES}
)
_INCOMING = re.compile(r"[0-9a-f]{32}")  # the names of `directory.py`: random, in hex


def blob_path(root: Path, digest: Digest) -> Path:
    """Where the content of this digest lies, if it is there."""
    return root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded


def is_incoming(path: Path) -> bool:
    """Whether this is a file of `spool/` or `uploads/` that routerd made."""
    return _INCOMING.fullmatch(path.name) is not None and path.is_file()


def blob_files(root: Path) -> Iterator[tuple[Path, Digest | None]]:
    """Every file below `blobs/` and the digest that its place says; None: not one of ours."""
    for folder, folders, names in os.walk(root / "blobs"):
        folders.sort()
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for path in (Path(folder) / name for name in sorted([*names, *links])):
            yield path, _digest_at(root, path)


def foreign_files(root: Path) -> Iterator[Path]:
    """What lies in the directory and is not routerd's."""
    for path in sorted(root.iterdir()):
        if path.name not in _OURS:
            yield path
    for path, digest in blob_files(root):
        if digest is None:
            yield path


def has_content(root: Path) -> bool:
    """Whether any content lies there at all."""
    return any(digest is not None for _, digest in _first_blobs(root))


def _first_blobs(root: Path) -> Iterator[tuple[Path, Digest | None]]:
    """As `blob_files`, in no order: for who needs only one, and not a walk over all."""
    for path in (root / "blobs").glob("*/*/*"):
        yield path, _digest_at(root, path)


def _digest_at(root: Path, path: Path) -> Digest | None:
    parts = path.relative_to(root / "blobs").parts
    if len(parts) != 3 or path.is_symlink() or not path.is_file():
        return None
    try:
        digest = Digest.parse(f"{parts[0]}:{parts[2]}")
    except RegistryError:
        return None
    return digest if blob_path(root, digest) == path else None
