"""When content was last pulled: known in memory first, written down now and then.

Owns that a pull costs no write. Does not own what follows from it (`retention.py`). What a process
that is killed had not written down is forgotten: then content looks as if it had been pulled up to
`FLUSH_SECONDS` earlier than it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachetools import LRUCache
from sqlalchemy import Connection, bindparam, update

from routerd.content import schema
from routerd.content.database import Database
from routerd.content.links import LinkKind, Scope
from routerd.oci.reference import Digest

FLUSH_SECONDS = 30.0  # how often whoever runs the store writes them down
PULLS_IN_MEMORY = 50_000  # links; beyond it the one that was pulled longest ago is forgotten
BATCH = 500  # links written in one transaction: some milliseconds

_Key = tuple[Scope, Digest, LinkKind]


class Pulls:
    """The pulls that this process has seen and not written down."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._seen: LRUCache[_Key, float] = LRUCache(PULLS_IN_MEMORY)

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, scope: Scope, digest: Digest, kind: LinkKind) -> None:
        """It was pulled just now. Content without a link is none of ours: nothing comes of it."""
        self._seen[scope, digest, kind] = self._clock()

    async def flush(self) -> None:
        """Write down those seen until now, without moving the change counter. Raises StoreFull and
        keeps them.
        """
        seen = list(
            self._seen
        )  # those noted meanwhile wait: on a busy server there are always some
        for start in range(0, len(seen), BATCH):
            some = seen[start : start + BATCH]
            batch = {key: at for key in some if (at := self._seen.get(key)) is not None}
            if not batch:
                continue  # forgotten, or written by another flush
            rows = [_row(key, at) for key, at in batch.items()]
            await self._database.write_quietly(lambda c, rows=rows: _write(c, rows))  # type: ignore[misc]
            for key, at in batch.items():
                if self._seen.get(key) == at:  # not pulled again meanwhile
                    del self._seen[key]


def _row(key: _Key, at: float) -> Mapping[str, Any]:
    scope, digest, kind = key
    return {
        "in_endpoint": scope.endpoint,
        "in_repository": scope.repository,
        "of_digest": str(digest),
        "of_kind": str(kind),
        "at": at,
    }


def _write(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    k = schema.links.c
    connection.execute(
        update(schema.links)
        .where(
            k.endpoint == bindparam("in_endpoint"),
            k.repository == bindparam("in_repository"),
            k.digest == bindparam("of_digest"),
            k.kind == bindparam("of_kind"),
            k.pulled_at < bindparam("at"),  # another process may have seen a later one
        )
        .values(pulled_at=bindparam("at")),
        rows,
    )
