"""schema.migrate: an index of any released version becomes one of the newest."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from routerd.content import schema
from routerd.content.database import Database
from routerd.content.index import Index
from routerd.content.links import Scope, TagEntry
from routerd.oci.reference import Digest, Tag

RELEASED = sorted((Path(__file__).parent.parent / "golden" / "index").glob("version-*.sql"))
SCOPE = Scope("hub", "library/app")
DIGEST = Digest.of(b"")
A_TAG = "INSERT INTO tag (endpoint, repository, tag, digest, validated_at, cache_control, etag) "
A_TAG += f"VALUES ('hub', 'library/app', '1', '{DIGEST}', 5.0, 'max-age=1', 'e')"


def columns(path: Path) -> dict[str, set[tuple[str, str, int, int]]]:
    """Table -> (name, type, not null, place in the primary key) of each column."""
    with sqlite3.connect(path) as connection:
        tables = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table')")
        ]
        return {
            table: {
                (name, kind, required, key)
                for _, name, kind, required, _, key in connection.execute(
                    f"PRAGMA table_info({table})"
                )
            }
            for table in tables
        }


async def opened(path: Path) -> Database:
    database = Database(path)
    await database.start()
    return database


def test_each_version_before_the_newest_is_kept_as_it_was_released() -> None:
    names = [f"version-{number}.sql" for number in range(1, schema.NEWEST)]
    assert [path.name for path in RELEASED] == names


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
async def test_an_old_index_becomes_the_newest_and_loses_nothing(
    released: Path, tmp_path: Path
) -> None:
    await (await opened(tmp_path / "new.sqlite")).aclose()
    old = tmp_path / "old.sqlite"
    with sqlite3.connect(old) as connection:
        connection.executescript(released.read_text())
        connection.execute(A_TAG)
    connection.close()
    for _ in range(2):  # and a second start changes nothing
        database = await opened(old)
        try:
            found = await Index(database).tag(SCOPE, Tag("1"))
            assert found == TagEntry(DIGEST, 5.0, "max-age=1", "e")
        finally:
            await database.aclose()
        assert columns(old) == columns(tmp_path / "new.sqlite")
