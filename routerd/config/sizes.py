"""Sizes as the language writes them: `512MiB`, `200GB`, `10%` of a file system.

Owns their parsing and printing, and the limits of a store that are made of them. Bytes everywhere
else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PERCENT = "%"
_UNITS = {
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(rf"([0-9]{{1,9}})({'|'.join(_UNITS)}|{_PERCENT})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Size:
    """So many bytes, or so many hundredths of the file system that they lie on. As in `text`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises ValueError."""
        if _SIZE.fullmatch(text) is None:
            raise ValueError(f"'{text}' is not a size such as 512MiB, 200GB or 10%")
        return cls(text)

    def of(self, total: int) -> int:
        """In bytes, on a file system of `total` bytes."""
        match = _SIZE.fullmatch(self.text)
        assert match is not None  # `parse`
        number, unit = int(match[1]), match[2]
        return total * number // 100 if unit == _PERCENT else number * _UNITS[unit]

    def __str__(self) -> str:
        return self.text


DEFAULT_MIN_FREE = Size("10%")  # config-language.md 4


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """How much a store may take, None for as much as there is, and how much it leaves free."""

    max_size: Size | None = None
    min_free: Size = DEFAULT_MIN_FREE


DEFAULT_LIMITS = StorageLimits()
