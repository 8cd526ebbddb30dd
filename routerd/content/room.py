"""How much room a store has: `max_size` and `min_free` against what there is.

Owns the arithmetic of the limits. Does not own making room (`sweep.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from routerd.config.sizes import Size, StorageLimits

NO_LIMITS = StorageLimits(None, Size("0%"))
# When a limit is passed, so much of it is swept below it, or the next write would pass it again.
HYSTERESIS = 0.05
# Of the file system: swept when a write found it full although no limit is passed (a quota, say).
FULL_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, in bytes. `free` is what this user may still write."""

    total: int
    free: int

    @classmethod
    def of(cls, path: Path) -> Disk:
        """The one that `path` lies on. Blocks."""
        found = os.statvfs(path)
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def excess(limits: StorageLimits, disk: Disk, used: int) -> int:
    """Bytes by which content of `used` bytes is over `max_size`; not positive: so much still fits."""
    if limits.max_size is None:
        return used - disk.total
    return used - limits.max_size.of(disk.total)


def shortage(limits: StorageLimits, disk: Disk, used: int, *, is_full: bool = False) -> int:
    """Bytes to be swept so that both limits hold, with some to spare; 0 while they do.

    `is_full`: a write found no room, whatever the limits say.
    """
    wanted = [int(disk.total * FULL_SHARE)] if is_full else [0]
    over = excess(limits, disk, used)
    if limits.max_size is not None and over > 0:
        wanted.append(over + int(limits.max_size.of(disk.total) * HYSTERESIS))
    least = limits.min_free.of(disk.total)
    if disk.free < least:
        wanted.append(least - disk.free + int(least * HYSTERESIS))
    return max(wanted)
