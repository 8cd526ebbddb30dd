"""Look-ups of the index: remembered until anything changes, and several at the cost of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routerd.content.database import Database
from routerd.content.directory import DirectoryStore
from routerd.content.links import LinkKind, Scope
from routerd.oci.reference import Digest

DIGEST = Digest.of(b"content")
SCOPE = Scope("hub", "library/app")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was read on a thread."""
    seen: list[object] = []
    read = Database.read

    async def counted(database: Database, query: Callable[[Any], Any]) -> Any:
        seen.append(query)
        return await read(database, query)

    monkeypatch.setattr(Database, "read", counted)
    return seen


async def keep(store: DirectoryStore) -> None:
    ingest = await store.ingest()
    ingest.write([b"content"])
    await ingest.commit(DIGEST, [SCOPE])
    ingest.close()


async def test_what_a_miss_asks_for_is_read_once_until_something_changes(
    store: DirectoryStore, reads: list[object]
) -> None:
    async def ask() -> tuple[bool, bool, bool]:
        link = await store.index.link(SCOPE, DIGEST, LinkKind.BLOB)
        has = [await store.index.endpoint_has(name, DIGEST) for name in ("hub", "~hub")]
        return link is not None, has[0], has[1]

    await store.index.at_hand(SCOPE, DIGEST, ["hub", "~hub"])
    assert await ask() == (False, False, False)
    assert len(reads) == 1
    await keep(store)
    assert await ask() == (True, True, False)
    assert len(reads) == 4
    await store.index.at_hand(SCOPE, DIGEST, ["hub", "~hub"])
    assert len(reads) == 4
