"""Lines on their way to a file: written soon, never waited for, never lost without a word."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

import smalldisk
from routerd.runtime import journal
from routerd.runtime.dayfiles import DayFiles, lines_of
from routerd.runtime.journal import Journal

DAY = date(2027, 3, 1)
NOON = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()
MIDNIGHT = NOON + 43200


def gap(at: float, count: int) -> bytes:
    return b"gap of %d\n" % count


@pytest.fixture
def files(tmp_path: Path) -> DayFiles:
    return DayFiles(tmp_path / "trail.log", math.inf)


@pytest.fixture
def disk() -> Iterator[Path]:
    with smalldisk.small_disk("64k") as path:
        yield path


@asynccontextmanager
async def started(
    files: DayFiles, clock: Callable[[], float] = lambda: NOON
) -> AsyncIterator[Journal]:
    running = Journal(files, gap, clock, retry=0.01)
    await running.start()
    try:
        yield running
    finally:
        await running.aclose()


def written(files: DayFiles, day: date = DAY) -> list[bytes]:
    return list(lines_of(files.of(day))) if files.of(day).exists() else []


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_what_is_added_is_written_soon_and_in_order(files: DayFiles) -> None:
    async with started(files) as running:
        for number in range(5000):
            running.add(NOON, b"%d\n" % number)
        await until(lambda: len(written(files)) == 5000)
        running.add(NOON, b"later\n")
        await until(lambda: len(written(files)) == 5001)
    assert written(files) == [*(b"%d\n" % number for number in range(5000)), b"later\n"]


async def test_closing_writes_what_waits(files: DayFiles) -> None:
    async with started(files) as running:
        running.add(NOON, b"last words\n")
    assert written(files) == [b"last words\n"]


async def test_each_line_goes_to_the_day_of_its_own_time(files: DayFiles) -> None:
    async with started(files) as running:
        running.add(MIDNIGHT - 0.001, b"before\n")
        running.add(MIDNIGHT, b"after\n")
        running.add(MIDNIGHT - 0.001, b"the clock went back\n")
    assert written(files) == [b"before\n", b"the clock went back\n"]
    assert written(files, date(2027, 3, 2)) == [b"after\n"]


async def test_old_days_go_while_it_runs(tmp_path: Path) -> None:
    files, now = DayFiles(tmp_path / "trail", 86400.0), NOON
    async with started(files, lambda: now) as running:
        running.add(now, b"old\n")
        await until(lambda: written(files) == [b"old\n"])
        now += 3 * 86400
        running.add(now, b"new\n")
        await until(lambda: [day for day, _ in files.days()] == [date(2027, 3, 4)])


async def test_where_it_cannot_write_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        await Journal(DayFiles(tmp_path / "file" / "trail", 1.0), gap).start()


async def test_what_waits_while_the_disk_is_full_is_written_afterwards(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = DayFiles(disk / "trail.jsonl", math.inf)
    lines = [
        json.dumps({"n": number, "x": "." * (number % 50)}).encode() + b"\n"
        for number in range(500)
    ]
    async with started(files) as running:
        running.add(NOON, lines[0])
        await until(lambda: written(files) == lines[:1])
        smalldisk.fill(disk / "filler")
        for line in lines[1:]:
            running.add(NOON, line)
        await until(lambda: "cannot be written: No space left" in caplog.text)
        (disk / "filler").unlink()
        await until(lambda: written(files)[-1:] == lines[-1:])
    assert running.lost == 0
    whole = [line for line in written(files) if line in set(lines)]
    assert whole == lines
    assert len(written(files)) - len(whole) <= 1, "at most one torn line"
    assert caplog.text.count("is written again") == 1
    assert caplog.text.count("cannot be written") == 1, "said once, not with each attempt"


async def test_a_full_queue_is_said_counted_and_marked_in_the_file(
    files: DayFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "WAITING_LIMIT", 10)
    async with started(files) as running:
        for number in range(25):  # without an await, so nothing is written in between
            running.add(NOON, b"%d\n" % number)
        await until(lambda: len(written(files)) == 11)
        running.add(NOON, b"next\n")
    assert running.lost == 15
    assert written(files) == [
        *(b"%d\n" % number for number in range(10)),
        b"gap of 15\n",
        b"next\n",
    ]
    said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2
    assert "15 lines are missing" in said[1]


async def test_what_cannot_be_written_at_the_end_is_counted_and_said(
    files: DayFiles, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(files) as running:
        files.of(DAY).unlink()
        files.of(DAY).symlink_to("/dev/full")
        running.add(NOON, b"a\n")
        running.add(NOON, b"b\n")
    assert running.lost == 2
    assert "2 lines are missing at the end" in caplog.text


async def test_a_file_that_somebody_moved_away_is_made_anew(files: DayFiles) -> None:
    async with started(files) as running:
        running.add(NOON, b"a\n")
        await until(lambda: written(files) == [b"a\n"])
        files.of(DAY).rename(files.of(DAY).with_suffix(".moved"))
        running.add(NOON, b"b\n")
        await until(lambda: written(files) == [b"b\n"])
