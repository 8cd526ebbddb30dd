"""Lines in a file a day: whole or told to be torn, whoever appends and whatever it dies of."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

import smalldisk
from routerd.runtime.dayfiles import LINE_LIMIT, DayFiles, day_of, lines_of

DAY = date(2027, 3, 1)
NOON = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()
SECONDS = 86400.0


@pytest.fixture
def files(tmp_path: Path) -> DayFiles:
    return DayFiles(tmp_path / "trail" / "audit.jsonl", 2 * SECONDS)


@pytest.fixture
def disk() -> Iterator[Path]:
    with smalldisk.small_disk("64k") as path:
        yield path


def test_a_day_has_a_file_named_after_it_that_only_its_owner_reads(files: DayFiles) -> None:
    files.prepare(NOON)
    assert files.append(DAY, [b"a\n", b"b\n"]).count == 2
    assert files.append(DAY, [b"c\n"]).count == 1
    path = files.path.with_name("audit-2027-03-01.jsonl")
    assert path.read_bytes() == b"a\nb\nc\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_days_are_found_oldest_first_and_strangers_are_not(files: DayFiles) -> None:
    assert files.days() == []
    files.prepare(NOON)
    names = ["audit-2027-02-03.jsonl", "audit-2027-13-01.jsonl", "audit-.jsonl", "audit.jsonl",
             "audit-2027-02-03.jsonl.gz", "xaudit-2027-02-03.jsonl", "audit-2027-02-03xjsonl"]  # fmt: skip
    for name in names:
        (files.path.parent / name).touch()
    assert [day for day, _ in files.days()] == [date(2027, 2, 3), DAY]


def test_a_torn_line_does_not_spoil_the_next(files: DayFiles) -> None:
    files.prepare(NOON)
    files.of(DAY).write_bytes(b"whole\nto")
    assert files.append(DAY, [b"next\n"]).count == 1
    assert list(lines_of(files.of(DAY))) == [b"whole\n", b"to\n", b"next\n"]


def test_a_line_without_an_end_is_read_in_pieces(files: DayFiles) -> None:
    files.prepare(NOON)
    files.of(DAY).write_bytes(bytes(LINE_LIMIT + 1) + b"\nnext\n")
    assert [len(line) for line in lines_of(files.of(DAY))] == [LINE_LIMIT, 2, 5]


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (datetime(2027, 3, 3, 23, 59, tzinfo=UTC), [date(2027, 3, 1), date(2027, 3, 3)]),
        (datetime(2027, 3, 4, tzinfo=UTC), [date(2027, 3, 3)]),
        (datetime(2027, 2, 1, tzinfo=UTC), [date(2027, 3, 1), date(2027, 3, 3)]),
    ],
)
def test_a_file_goes_when_its_last_line_is_too_old(
    files: DayFiles, now: datetime, kept: list[date]
) -> None:
    files.prepare(NOON)
    files.append(date(2027, 3, 3), [b"x\n"])
    files.sweep(now.timestamp())
    assert [day for day, _ in files.days()] == kept


def test_never_is_for_ever(tmp_path: Path) -> None:
    files = DayFiles(tmp_path / "a", math.inf)
    files.append(date(1970, 1, 1), [b"x\n"])
    assert files.sweep(NOON) == []
    assert [path.name for _, path in files.days()] == ["a-1970-01-01"]


def test_a_full_disk_keeps_whole_lines_and_says_how_many(disk: Path) -> None:
    files = DayFiles(disk / "audit.jsonl", math.inf)
    line = b"x" * 999 + b"\n"
    appended = files.append(DAY, [line] * 100)
    assert appended.problem is not None
    assert 50 < appended.count < 100
    assert files.append(DAY, [line]).count == 0
    found = list(lines_of(files.of(DAY)))
    assert found[: appended.count] == [line] * appended.count
    assert len(found) - appended.count <= 1, "at most one torn line"


APPENDER = """
import sys, time
from pathlib import Path
from routerd.runtime.dayfiles import DayFiles, day_of
name, path, start = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
files = DayFiles(path, 86400.0)
for number in range(600):
    at = start + number * 3600  # 25 days pass
    line = b'%s %d %s\\n' % (name.encode(), number, b'.' * (number % 97))
    assert files.append(day_of(at), [line] * 3).problem is None
    if number % 24 == 0:
        files.sweep(start - 86400)
    print(number, flush=True)
"""


def appender(name: str, files: DayFiles) -> subprocess.Popen[bytes]:
    script = [sys.executable, "-c", APPENDER, name, str(files.path), str(NOON)]
    return subprocess.Popen(script, stdout=subprocess.PIPE)


def test_two_processes_append_over_many_days_and_no_line_is_lost(files: DayFiles) -> None:
    files.prepare(NOON)
    running = [appender(name, files) for name in ("one", "two")]
    for process in running:
        process.communicate(timeout=60)
        assert process.returncode == 0
    days = files.days()
    assert len(days) > 20
    found: Counter[str] = Counter()
    for day, path in days:
        for line in lines_of(path):
            name, number, dots = line.decode().split(" ")
            assert dots == "." * (int(number) % 97) + "\n"
            assert day_of(NOON + int(number) * 3600) == day
            found[f"{name} {number}"] += 1
    assert len(found) == 1200
    assert set(found.values()) == {3}


@pytest.mark.slow
def test_a_kill_costs_the_line_that_was_written_and_no_other(files: DayFiles) -> None:
    files.prepare(NOON)
    for round_ in range(20):
        process = appender(f"r{round_}", files)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.005 * (round_ % 5))
        os.kill(process.pid, signal.SIGKILL)
        said = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        files.append(DAY, [b"survivor %d -\n" % round_])
        wanted = {f"r{round_} {number.decode()}" for number in said}
        found: Counter[str] = Counter()
        for _, path in files.days():
            for line in lines_of(path):
                name, _, rest = line.decode().partition(" ")
                found[f"{name} {rest.split(' ')[0]}"] += 1
        assert all(found[one] == 3 for one in wanted), "what was written stays"
        assert found[f"survivor {round_}"] == 1
