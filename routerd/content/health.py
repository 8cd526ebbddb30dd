"""How a store's directory is doing: room, backups, the background check.

Owns reading it off the file system. Does not own what the index knows (`inventory.py`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from routerd.content.backup import backups
from routerd.content.layout import QUARANTINE
from routerd.content.patrol import Round, read_round


@dataclass(frozen=True, slots=True)
class Health:
    """Bytes of the file system, how many files are in quarantine, the newest backup's time (UTC
    seconds), and how far the background check is.
    """

    free: int
    capacity: int
    quarantined: int
    backups: int
    backed_up_at: float | None
    checking: Round


def read_health(root: Path) -> Health:
    """Blocks."""
    usage, copies = shutil.disk_usage(root), backups(root)
    quarantine = root / QUARANTINE
    return Health(
        usage.free,
        usage.total,
        len(list(quarantine.iterdir())) if quarantine.is_dir() else 0,
        len(copies),
        copies[-1].stat().st_mtime if copies else None,
        read_round(root),
    )
