"""The audit trail: what an entry says, and reading it back across files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.content.errors import StoreError
from routerd.proxy.audit import AuditEntry, AuditTrail, Gap, parse_line, parse_time
from routerd.proxy.auditlog import SORTED_LIMIT, Read, Unreadable, Wanted, read
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action
from routerd.runtime.dayfiles import DayFiles, day_of

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()
DIGEST = "sha256:" + "a" * 64


def entry(at: float = NOON, **changes: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "client": "10.0.0.1",
        "user": "-",
        "action": Action.PULL,
        "reference": "docker.io/library/nginx:1",
        "digest": DIGEST,
        "route": "docker.io/library/*",
        "endpoint": "hub",
        "cache": "hit",
        "status": 200,
        "transferred": 1234,
    }
    return AuditEntry(at, **{**values, **changes})


@pytest.fixture
def files(tmp_path: Path) -> DayFiles:
    return DayFiles(tmp_path / "audit.jsonl", math.inf)


def write(files: DayFiles, *entries: AuditEntry | Gap) -> None:
    for one in entries:
        assert files.append(day_of(one.time), [one.line()]).problem is None


def found(files: DayFiles, wanted: Wanted | None = None) -> list[AuditEntry | Gap]:
    return [one.entry for one in read(files, wanted or Wanted()) if isinstance(one, Read)]


def test_a_line_is_json_with_the_words_that_are_documented() -> None:
    assert json.loads(entry(NOON + 0.25).line()) == {
        "time": "2027-03-01T12:00:00.250Z",
        "client": "10.0.0.1",
        "user": "-",
        "action": "pull",
        "reference": "docker.io/library/nginx:1",
        "digest": DIGEST,
        "route": "docker.io/library/*",
        "endpoint": "hub",
        "cache": "hit",
        "status": 200,
        "bytes": 1234,
    }


texts = st.text(max_size=20)
names = st.none() | texts


@given(
    at=st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000),
    client=texts,
    action=st.sampled_from(Action),
    reference=texts,
    digest=names,
    route=names,
    endpoint=names,
    cache=names,
    status=st.integers(100, 599),
    transferred=st.integers(0, 2**50),
)
def test_what_is_written_is_what_is_read(at: float, **changes: Any) -> None:
    one = entry(at, **changes)
    line = one.line()
    assert line.count(b"\n") == 1, "whatever a name holds, it is one line"
    back = parse_line(line)
    assert isinstance(back, AuditEntry)
    assert back.line() == line
    assert back.time == pytest.approx(at, abs=0.001)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\x00\x00\n",
        b"[" * 100_000 + b"\n",
        entry().line()[:-1],
        entry().line()[5:],
        entry().line().replace(b"pull", b"pool"),
        entry().line().replace(b"200", b'"200"'),
        entry().line().replace(b"2027-03-01T", b"2027-03-41T"),
        entry().line().replace(b'"digest"', b'"time"'),
        b'{"time": "2027-03-01T12:00:00Z", "lost": "many"}\n',
    ],
)
def test_what_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(line)


@pytest.mark.parametrize(
    "text",
    [
        "2027-03-01T12:00:00Z",
        "2027-03-01T14:00:00+02:00",
        "2027-03-01 12:00",
        "2027-03-01T12:00:00.000",
    ],
)
def test_a_time_without_an_offset_is_utc(text: str) -> None:
    assert parse_time(text) == NOON


def test_files_are_read_oldest_first_whatever_order_they_were_written_in(files: DayFiles) -> None:
    days = [entry(NOON + day * 86400) for day in (2, 0, 1)]
    write(files, *days)
    assert [one.time for one in found(files)] == sorted(one.time for one in days)


def test_entries_that_several_processes_wrote_late_come_in_order(files: DayFiles) -> None:
    times = [NOON + (number // 100) + (99 - number % 100) / 100 for number in range(10_000)]
    files.append(day_of(NOON), [entry(at).line() for at in times])
    assert len(times) > SORTED_LIMIT
    assert [one.time for one in found(files)] == sorted(times)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), 5),
        (Wanted(since=NOON + 86400), 2),
        (Wanted(until=NOON + 86400), 3),
        (Wanted(since=NOON + 1, until=NOON + 3), 2),
        (Wanted(action=Action.PUSH), 1),
        (Wanted(client=ip_network("10.0.0.2")), 1),
        (Wanted(client=ip_network("10.0.0.0/30")), 3),
        (Wanted(client=ip_network("::/0")), 1),
        (Wanted(repository=Pattern.parse("library/*")), 3),
        (Wanted(repository=Pattern.parse("library/*:1")), 2),
        (Wanted(repository=Pattern.parse("ghcr.io/**")), 1),
        (Wanted(repository=Pattern.parse("*"), action=Action.DELETE), 0),
    ],
)
def test_only_what_is_wanted_is_found(files: DayFiles, wanted: Wanted, expected: int) -> None:
    write(
        files,
        entry(NOON),
        entry(NOON + 1, client="10.0.0.2", action=Action.PUSH),
        entry(NOON + 2, client="", reference="ghcr.io/a/b:1"),
        entry(NOON + 86400, client="10.0.0.3", reference=f"docker.io/library/nginx@{DIGEST}"),
        entry(NOON + 86401, client="2001:db8::1", reference="not a reference"),
    )
    assert len(found(files, wanted)) == expected


def test_a_gap_is_found_whatever_is_looked_for(files: DayFiles) -> None:
    write(files, entry(NOON), Gap(NOON + 1, 3))
    wanted = Wanted(action=Action.DELETE)
    assert found(files, wanted) == [Gap(NOON + 1, 3)]
    assert found(files, Wanted(since=NOON + 2)) == []


def test_torn_lines_are_left_out_and_said(files: DayFiles) -> None:
    write(files, entry(NOON))
    path = files.of(day_of(NOON))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30] + b"\n" + whole + b"\x00\x00\n" + whole + whole[:9])
    read_back = list(read(files, Wanted()))
    assert [type(one) for one in read_back] == [Read, Read, Read, Unreadable]
    assert read_back[-1] == Unreadable(path, count=3, first=2)


async def test_a_trail_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trail = AuditTrail(DayFiles(tmp_path / "file" / "audit.jsonl", 1.0))
    with pytest.raises(StoreError, match=r"cannot be written: .*/file: .*audit: null"):
        await trail.open()


def test_a_day_is_only_read_where_it_can_hold_something(
    files: DayFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files, *(entry(NOON + day * 86400) for day in range(5)))
    opened: list[str] = []
    real: Callable[[Path], Any] = __import__("routerd.runtime.dayfiles", fromlist=["x"]).lines_of

    def counted(path: Path) -> Any:
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr("routerd.proxy.auditlog.lines_of", counted)
    second = datetime.combine(date(2027, 3, 2), datetime.min.time(), UTC).timestamp()
    assert len(found(files, Wanted(since=second, until=second + 86400))) == 1
    assert opened == ["audit-2027-03-02.jsonl", "audit-2027-03-03.jsonl"]
