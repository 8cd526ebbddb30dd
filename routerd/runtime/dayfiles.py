"""A file of lines that becomes another each day (UTC), appended to by any number of processes.

Owns the names of the days' files, that a line is there whole or can be told to be torn, and their
removal. Does not own when lines are written (`journal.py`) or what they say.

No lock is held, so that a process that is stopped or killed stops no other: a file is opened with
O_APPEND for each batch, which is one write, and the kernel puts writes one after the other. What
somebody was killed in the middle of ends without a newline, and the next batch begins with one.
Since a day's file is never renamed, there is no moment in which a line could go astray.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from routerd.runtime.files import make_directory

LINE_LIMIT = 64 * 1024  # bytes; what is longer was not written here, and is read in pieces
_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def day_of(at: float) -> date:
    """The day (UTC) of a time in UTC seconds."""
    return datetime.fromtimestamp(at, UTC).date()


@dataclass(frozen=True, slots=True)
class Appended:
    """How many of the lines of a batch are in the file, and what kept the others out of it."""

    count: int
    problem: OSError | None = None


@dataclass(frozen=True, slots=True)
class DayFiles:
    """The files of one trail: `audit.jsonl` stands for `audit-2027-03-01.jsonl` and its siblings.

    `keep` (seconds, `math.inf` for ever) is counted from the end of a file's day.
    """

    path: Path
    keep: float

    def of(self, day: date) -> Path:
        """The file of one day."""
        return self.path.with_name(f"{self.path.stem}-{day.isoformat()}{self.path.suffix}")

    def days(self) -> list[tuple[date, Path]]:
        """The files there are, oldest first. Raises OSError."""
        stem, suffix = re.escape(self.path.stem), re.escape(self.path.suffix)
        named = re.compile(rf"{stem}-(\d{{4}}-\d\d-\d\d){suffix}", re.ASCII)
        if not self.path.parent.is_dir():
            return []
        found = []
        for path in self.path.parent.iterdir():
            match = named.fullmatch(path.name)
            if match is not None and (day := _parsed(match[1])) is not None:
                found.append((day, path))
        return sorted(found)

    def prepare(self, now: float) -> None:
        """Make sure that today's lines can be written. Raises OSError."""
        make_directory(self.path.parent)
        os.close(os.open(self.of(day_of(now)), _OPEN, 0o600))

    def append(self, day: date, lines: Sequence[bytes]) -> Appended:
        """Add whole lines, each with its newline, to the file of a day, by one write."""
        try:
            fd = os.open(self.of(day), _OPEN, 0o600)
        except OSError as error:
            return Appended(0, error)
        try:
            mend = b"" if _ends_a_line(fd) else b"\n"
            data = mend + b"".join(lines)
            written = os.write(fd, data) - len(mend)
        except OSError as error:
            return Appended(0, error)
        finally:
            os.close(fd)
        if written + len(mend) == len(data):
            return Appended(len(lines))
        return Appended(_whole(lines, written), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def sweep(self, now: float) -> list[Path]:
        """Remove, and name, the files whose last line is older than `keep`. Raises OSError."""
        gone = []
        for day, path in self.days():
            ended = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC).timestamp()
            if ended + self.keep <= now:
                path.unlink(missing_ok=True)  # another process may be quicker
                gone.append(path)
        return gone


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file as they are, the torn ones without their newline. Raises OSError."""
    with path.open("rb") as file:
        while line := file.readline(LINE_LIMIT):
            yield line


def _ends_a_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"


def _whole(lines: Sequence[bytes], written: int) -> int:
    """How many of the lines lie within the first `written` bytes of them."""
    count = 0
    for line in lines:
        written -= len(line)
        if written < 0:
            break
        count += 1
    return count


def _parsed(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
