"""The tables of the index and their migrations.

Owns the form of the database from version 1 on. Does not own what is asked of it (`index.py`).
Statements are portable: one machine has SQLite, several will have PostgreSQL. Times are UTC
seconds; identities are (endpoint, repository), never a row number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    inspect,
    select,
    text,
)

metadata = MetaData()


def _scope() -> tuple[Column[str], Column[str]]:
    return (
        Column("endpoint", String, primary_key=True),
        Column("repository", String, primary_key=True),
    )


version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

# Moves with every change, so that what a process knows in memory can be checked for its age.
changes = Table("change_counter", metadata, Column("value", BigInteger, nullable=False))

blobs = Table(
    "blob",
    metadata,
    Column("digest", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("state", String, nullable=False),  # stored | damaged
    Column("created_at", Float, nullable=False),
)

links = Table(
    "link",
    metadata,
    *_scope(),
    Column("digest", String, primary_key=True),
    Column("kind", String, primary_key=True),  # manifest | blob
    Column("media_type", String, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("pulled_at", Float, nullable=False),
    Index("link_by_digest", "digest"),
)

tags = Table(
    "tag",
    metadata,
    *_scope(),
    Column("tag", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("validated_at", Float, nullable=False),
    Column("cache_control", String, nullable=False),
    Column("etag", String, nullable=False),
    Column("checked_at", Float, nullable=True),
    Column("gone_at", Float, nullable=True),
    Index("tag_by_digest", "endpoint", "repository", "digest"),
)

edges = Table(
    "edge",
    metadata,
    Column("parent", String, primary_key=True),
    Column("child", String, primary_key=True),
    Column("kind", String, nullable=False),  # manifest | blob
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("platform", String, nullable=False),
    Index("edge_by_child", "child"),
)

referrers = Table(
    "referrer",
    metadata,
    *_scope(),
    Column("subject", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("artifact_type", String, nullable=False),
)

uploads = Table(
    "upload",
    metadata,
    Column("id", String, primary_key=True),
    Column("endpoint", String, nullable=False),
    Column("repository", String, nullable=False),
    Column("file", String, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("owner", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

negatives = Table(
    "negative",
    metadata,
    *_scope(),
    Column("reference", String, primary_key=True),
    Column("answered_at", Float, nullable=False),
)

pins = Table(
    "pin",
    metadata,
    *_scope(),
    Column("reference", String, primary_key=True),
    Column("created_at", Float, nullable=False),
)

leases = Table(
    "lease",
    metadata,
    Column("fill", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("address", String, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("fence", BigInteger, nullable=False),
)

fingerprints = Table(
    "endpoint_fingerprint",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("namespace", String, nullable=False),
    Column("origins", String, nullable=False),
    Column("account", String, nullable=False),
    Column("changed_at", Float, nullable=True),
)


class NewerIndex(Exception):
    """The database was written by a newer routerd."""


def _add_failed_checks(connection: Connection) -> None:
    for column in (tags.c.checked_at, tags.c.gone_at):
        connection.execute(text(f"ALTER TABLE tag ADD COLUMN {column.name} FLOAT"))


def _add_changed_at(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE endpoint_fingerprint ADD COLUMN changed_at FLOAT"))


# Each entry leads from the version that is its position, counted from 1, to the next. Entries are
# never changed once released; a new table or column is a new entry and stands in `metadata` as well.
MIGRATIONS: Sequence[Callable[[Connection], None]] = (_add_failed_checks, _add_changed_at)
NEWEST = len(MIGRATIONS) + 1


def migrate(connection: Connection) -> None:
    """Bring the database to the newest version, in the caller's transaction. Raises NewerIndex."""
    if not inspect(connection).has_table(version.name):
        metadata.create_all(connection)
        connection.execute(changes.insert().values(value=0))
        connection.execute(version.insert().values(version=NEWEST))
        return
    current = connection.execute(select(version.c.version)).scalar_one()
    if current > NEWEST:
        raise NewerIndex(
            f"its index has version {current}, this routerd knows {NEWEST}: a newer routerd wrote it"
        )
    for step in MIGRATIONS[current - 1 :]:
        step(connection)
    connection.execute(version.update().values(version=NEWEST))
