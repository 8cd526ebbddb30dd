"""The database of one index: connections, transactions, look-ups remembered while nothing moves.

Owns SQLite and its settings. Does not own what is asked (`index.py`). What `write` returns from is
committed with `synchronous=FULL`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cachetools import LRUCache
from sqlalchemy import Connection, Engine, create_engine, event, update
from sqlalchemy.exc import OperationalError

from routerd.content import schema
from routerd.content.errors import StoreFull
from routerd.runtime.blocking import run_blocking

T = TypeVar("T")

LOOKUPS_IN_MEMORY = 50_000  # answered look-ups kept; about 500 bytes each
WATCH_SECONDS = 1  # the longest that the event loop would wait, while SQLite recovers a log
BUSY_SECONDS = 30  # SQLite waits so long for another process's transaction


class Database:
    """One SQLite file. `start` before and `aclose` after use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: Engine | None = None
        self._watch: sqlite3.Connection | None = None
        self._writing = asyncio.Lock()
        self._seen = -1  # the change counter that `_known` belongs to
        self._known: LRUCache[tuple[object, ...], Any] = LRUCache(LOOKUPS_IN_MEMORY)

    async def start(self) -> None:
        """Open the database and migrate it. Raises NewerIndex, sqlalchemy.exc.DatabaseError."""
        await run_blocking(self._start)

    def _start(self) -> None:
        self._engine = create_engine(
            f"sqlite:///{self._path}", connect_args={"timeout": BUSY_SECONDS}
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._transaction() as connection:
            schema.migrate(connection)
        # Read on the event loop's thread: one row that is in memory, and WAL readers never wait.
        self._watch = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=WATCH_SECONDS
        )

    async def aclose(self) -> None:
        """Close the database."""
        async with self._writing:
            await run_blocking(self._close)

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._engine is not None:
            self._engine.dispose()

    def _transaction(self) -> Any:
        assert self._engine is not None, "the index is not started"
        return self._engine.execution_options(writes=True).begin()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """`query` in a transaction of its own, on a thread."""

        def read() -> T:
            assert self._engine is not None, "the index is not started"
            with self._engine.connect() as connection:
                return query(connection)

        return await run_blocking(read)

    async def write(self, change: Callable[[Connection], T]) -> T:
        """`change` in a transaction of its own, on a thread; it moves the change counter.

        Raises StoreFull.
        """

        def counted(connection: Connection) -> T:
            result = change(connection)
            connection.execute(update(schema.changes).values(value=schema.changes.c.value + 1))
            return result

        return await self.write_quietly(counted)

    async def write_quietly(self, change: Callable[[Connection], T]) -> T:
        """As `write`, for a change that makes no remembered look-up wrong: the counter stays.

        Raises StoreFull.
        """

        def write() -> T:
            try:
                with self._transaction() as connection:
                    return change(connection)
            except OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise StoreFull from error
                raise

        async with self._writing:
            return await run_blocking(write)

    async def lookup(self, key: tuple[object, ...], query: Callable[[Connection], T]) -> T:
        """`query`, remembered until anything in the index changes, whoever changes it."""
        found: T = (await self.lookups({key: query}))[key]
        return found

    async def lookups(
        self, queries: Mapping[tuple[object, ...], Callable[[Connection], Any]]
    ) -> dict[tuple[object, ...], Any]:
        """Several of them at the cost of one: what is not remembered is read on one thread."""
        seen = self._change_counter()
        if seen != self._seen:
            self._known.clear()
            self._seen = seen
        known = {key: self._known[key] for key in queries if key in self._known}
        missing = {key: query for key, query in queries.items() if key not in known}
        if not missing:
            return known
        found = await self.read(lambda c: {key: query(c) for key, query in missing.items()})
        # Where something moved meanwhile it is right now, but not to be remembered.
        if self._change_counter() == seen == self._seen:
            self._known.update(found)
        return {**known, **found}

    def _change_counter(self) -> int:
        assert self._watch is not None, "the index is not started"
        value: int = self._watch.execute("SELECT value FROM change_counter").fetchone()[0]
        return value


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    # SQLAlchemy says BEGIN itself (`_begin`); the driver's own would come too late for IMMEDIATE.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
