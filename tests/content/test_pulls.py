"""pulls.Pulls: what a flush writes down, and that it comes to an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from routerd.content.database import Database
from routerd.content.errors import StoreFull
from routerd.content.links import LinkKind, Scope
from routerd.content.pulls import BATCH, Pulls
from routerd.oci.reference import Digest

T = TypeVar("T")
HUB = Scope("hub", "library/app")
SEEN = [Digest.of(str(number).encode()) for number in range(BATCH + 1)]
LIMIT = 10  # writes


class Busy(Database):
    """`during` happens while each transaction is written."""

    def __init__(self, path: Path, during: Callable[[], None]) -> None:
        super().__init__(path)
        self.during = during
        self.writes = 0

    async def write_quietly(self, change: Callable[[Connection], T]) -> T:
        self.writes += 1
        assert self.writes < LIMIT, "it has no end"
        self.during()
        return await super().write_quietly(change)


async def test_a_flush_ends_although_pulls_go_on(tmp_path: Path) -> None:
    late = [Digest.of(f"late {number}".encode()) for number in range(LIMIT)]

    def pull() -> None:
        pulls.note(HUB, SEEN[0], LinkKind.BLOB)
        pulls.note(HUB, late[database.writes], LinkKind.BLOB)

    times = iter(range(10_000))
    database = Busy(tmp_path / "index", pull)
    await database.start()
    pulls = Pulls(database, lambda: float(next(times)))
    for digest in SEEN:
        pulls.note(HUB, digest, LinkKind.BLOB)
    await pulls.flush()
    assert database.writes == 2
    assert len(pulls) == 3, "those that came meanwhile, for the next flush"
    database.during = lambda: None
    await pulls.flush()
    assert (database.writes, len(pulls)) == (3, 0)
    await pulls.flush()
    assert database.writes == 3
    await database.aclose()


async def test_what_a_full_disk_did_not_take_is_kept(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StoreFull

    database = Busy(tmp_path / "index", refuse)
    await database.start()
    pulls = Pulls(database)
    pulls.note(HUB, SEEN[0], LinkKind.BLOB)
    with pytest.raises(StoreFull):
        await pulls.flush()
    assert len(pulls) == 1
    database.during = lambda: None
    await pulls.flush()
    assert len(pulls) == 0
    await database.aclose()
