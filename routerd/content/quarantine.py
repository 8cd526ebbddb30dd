"""Files that turned out to be something else than their name says, kept aside to be looked at.

Owns how many are kept. Does not own finding them (`verify.py`). Everything blocks.
"""

from __future__ import annotations

import logging
from pathlib import Path

from routerd.content.layout import QUARANTINE
from routerd.runtime.files import make_directory

log = logging.getLogger("routerd.content")

QUARANTINE_BYTES = 1024**3  # in all; a file that is larger alone is removed instead
QUARANTINE_FILES = 100  # the oldest go first


class Quarantine:
    """The folder of one store."""

    def __init__(self, root: Path) -> None:
        self._directory = root / QUARANTINE

    def take(self, path: Path, name: str) -> Path | None:
        """Move the file here, under a number and `name`; None where there is no room for it.

        In either case it is no longer at its place. Raises OSError.
        """
        if path.lstat().st_size > QUARANTINE_BYTES:
            path.unlink()
            return None
        make_directory(self._directory)
        kept = self._kept()
        number = int(kept[-1].name.partition("-")[0]) + 1 if kept else 1
        taken = self._directory / f"{number:06}-{name}"
        try:
            path.rename(taken)
        except FileNotFoundError:
            raise
        except OSError as error:
            # What is wrong must not stay, whether or not it can be kept.
            log.warning("%s could not be put into quarantine and is removed: %s", path, error)
            path.unlink()
            return None
        self._forget_oldest()
        return taken

    def _forget_oldest(self) -> None:
        room, files = QUARANTINE_BYTES, QUARANTINE_FILES
        for path in reversed(self._kept()):
            room, files = room - path.stat().st_size, files - 1
            if room < 0 or files < 0:
                path.unlink()

    def _kept(self) -> list[Path]:
        """What is here, oldest first. A stranger's file is none of it."""
        found = [path for path in self._directory.iterdir() if _is_numbered(path)]
        return sorted(found, key=lambda path: int(path.name.partition("-")[0]))


def _is_numbered(path: Path) -> bool:
    number = path.name.partition("-")[0]
    return number.isascii() and number.isdecimal() and path.is_file()
