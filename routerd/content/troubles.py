"""Why a store cannot be opened, told so that the operator knows what to do.

Owns the words. Does not own finding out (`directory.py`) or mending it (`rebuild.py`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from routerd.content.backup import DamagedIndex, is_damage, newest_usable
from routerd.content.layout import INDEX, INDEX_FILES


def why_not_opened(root: Path, error: Exception) -> str:
    """The sentence after "cannot be opened:". Blocks: it looks for a backup that is whole."""
    if not is_damaged_index(error):
        return str(error)
    found = error.orig if isinstance(error, DatabaseError) else error
    log_files = " and ".join(str(root / name) for name in INDEX_FILES[1:3])
    backup = newest_usable(root)
    restore = "There is no usable backup of it."
    if backup is not None:
        restore = (
            f"Or restore the backup {backup}: remove {log_files}, and copy the backup to "
            f"{root / INDEX}; what was pushed after it was made is then not seen."
        )
    return (
        f"its index {root / INDEX} is damaged ({found}). Run `routerd cache rebuild`, which makes it "
        f"anew from the content and the newest backup and keeps the old one aside. {restore}"
    )


def is_damaged_index(error: Exception) -> bool:
    """Whether it is the index itself that is broken."""
    if isinstance(error, DamagedIndex):
        return True
    found = getattr(error, "orig", None)
    return isinstance(found, sqlite3.Error) and is_damage(found)
