"""What a store holds, to be listed and counted.

Owns the questions that people ask of an index. Does not own those that serving asks (`index.py`).
Nothing here is remembered, and every answer is a page or a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    distinct,
    exists,
    func,
    literal,
    select,
    tuple_,
    union_all,
)

from routerd.content import schema
from routerd.content.closures import closure_sizes
from routerd.content.database import Database
from routerd.content.links import LinkKind, Scope
from routerd.oci.reference import Digest

PAGE = 500  # rows of one query
SHOWN = 20  # holders, and manifests that list it, that are told of one blob

Place = tuple[str, str, str]  # endpoint, repository, reference: where a page ends


@dataclass(frozen=True, slots=True)
class Holder:
    """A scope that sees some content. `created_by`: who pushed it there; empty: it was cached."""

    scope: Scope
    kind: str
    created_by: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Parent:
    """A manifest that lists some content, in a scope, with a tag that it has there or none."""

    scope: Scope
    digest: Digest
    tag: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A tag, or a manifest without one that no other lists. `size`: stored bytes of all it lists.

    Times are UTC seconds. `created_by` is empty for what was not pushed.
    """

    scope: Scope
    reference: str
    digest: Digest
    size: int
    pulled_at: float
    created_at: float
    created_by: str
    pinned: bool
    damaged: bool

    @property
    def place(self) -> Place:
        """For the page after it."""
        return self.scope.endpoint, self.scope.repository, self.reference


@dataclass(frozen=True, slots=True)
class EndpointTotals:
    """What one endpoint has in a store. Bytes are counted once, whatever the repositories."""

    endpoint: str
    repositories: int
    tags: int
    manifests: int
    blobs: int
    size: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What a store has. Bytes are counted once, whatever the endpoints."""

    endpoints: tuple[EndpointTotals, ...]
    blobs: int
    size: int
    damaged: int
    unlinked: int  # stored, but nobody sees it


class Inventory:
    """Lists and sums of one index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stored_after(self, after: str) -> Sequence[tuple[Digest, int]]:
        """The next stored blobs by digest, with their sizes in bytes."""
        b = schema.blobs.c
        query = (
            select(b.digest, b.size)
            .where(b.digest > after, b.state == "stored")
            .order_by(b.digest)
            .limit(PAGE)
        )
        return await self._database.read(
            lambda c: [(Digest.parse(digest), size) for digest, size in c.execute(query)]
        )

    async def entries(self, after: Place = ("", "", "")) -> Sequence[Entry]:
        """The next entries by endpoint, repository and reference."""
        return await self._database.read(lambda c: _entries(c, after))

    async def knows(self, endpoint: str) -> bool:
        """Whether anything is stored under the endpoint's name."""
        k = schema.links.c
        query = select(k.endpoint).where(k.endpoint == endpoint).limit(1)
        return await self._database.read(lambda c: c.execute(query).first() is not None)

    async def totals(self) -> Totals:
        """The sums."""
        return await self._database.read(_totals)


def holders_of(connection: Connection, digest: Digest) -> tuple[Holder, ...]:
    """The first scopes that see the content, those where it was pushed first."""
    k = schema.links.c
    query = (
        select(k.endpoint, k.repository, k.kind, k.created_by, k.created_at)
        .where(k.digest == str(digest))
        .order_by(k.created_by.desc(), k.endpoint, k.repository)
        .limit(SHOWN)
    )
    return tuple(Holder(Scope(*row[:2]), *row[2:]) for row in connection.execute(query))


def parents_of(connection: Connection, digest: Digest) -> tuple[Parent, ...]:
    """The first manifests that list the content, or are it and have a tag, where they are seen."""
    k, t, e = schema.links.c, schema.tags.c, schema.edges.c
    has_tag = and_(t.endpoint == k.endpoint, t.repository == k.repository, t.digest == k.digest)
    lists = exists().where(e.parent == k.digest, e.child == str(digest))
    query = (
        select(k.endpoint, k.repository, k.digest, t.tag)
        .outerjoin(schema.tags, has_tag)
        .where(k.kind == str(LinkKind.MANIFEST))
        .where(lists | and_(k.digest == str(digest), t.tag.is_not(None)))
        .order_by(k.endpoint, k.repository, t.tag)
        .limit(SHOWN)
    )
    return tuple(
        Parent(Scope(row.endpoint, row.repository), Digest.parse(row.digest), row.tag)
        for row in connection.execute(query)
    )


def _named(after: Place) -> Select[tuple[str, str, str, str]]:
    """The next tags, and the next manifests that have none and that no manifest of their scope
    lists. Each kind is read in the order of its own key, so that a page costs a page.
    """
    t, k, e = schema.tags.c, schema.links.c, schema.edges.c
    other = schema.links.alias("other").c
    tagged = exists().where(
        t.endpoint == k.endpoint, t.repository == k.repository, t.digest == k.digest
    )
    parent_is_here = exists().where(
        other.digest == e.parent,
        other.kind == str(LinkKind.MANIFEST),
        other.endpoint == k.endpoint,
        other.repository == k.repository,
    )
    # One within the other, not a join: SQLite would begin with all links of the repository.
    listed = exists().where(
        e.child == k.digest, parent_is_here.correlate(schema.edges, schema.links)
    )
    tags = select(t.endpoint, t.repository, t.tag.label("reference"), t.digest)
    manifests = select(k.endpoint, k.repository, k.digest.label("reference"), k.digest).where(
        k.kind == str(LinkKind.MANIFEST), ~tagged, ~listed
    )
    pages = [
        select(_page(tags, (t.endpoint, t.repository, t.tag), after)),
        select(_page(manifests, (k.endpoint, k.repository, k.digest), after)),
    ]
    named = union_all(*pages).subquery("named").c
    key = (named.endpoint, named.repository, named.reference)
    return select(*key, named.digest).order_by(*key).limit(PAGE)


def _page(query: Select[Any], key: Sequence[ColumnElement[str]], after: Place) -> Subquery:
    later = query.where(tuple_(*key) > tuple_(*map(literal, after)))
    return later.order_by(*key).limit(PAGE).subquery()


def _entries(connection: Connection, after: Place) -> Sequence[Entry]:
    named = _named(after).subquery("n").c
    k, b, p = schema.links.c, schema.blobs.c, schema.pins.c
    pinned = exists().where(
        p.endpoint == named.endpoint,
        p.repository == named.repository,
        p.reference.in_([named.reference, named.digest]),
    )
    same = and_(
        k.endpoint == named.endpoint,
        k.repository == named.repository,
        k.digest == named.digest,
        k.kind == str(LinkKind.MANIFEST),
    )
    key = (named.endpoint, named.repository, named.reference)
    query = (
        select(*key, named.digest, k.pulled_at, k.created_at, k.created_by, b.state)
        .add_columns(pinned.label("pinned"))
        .join(schema.links, same)
        .join(schema.blobs, b.digest == named.digest)
        .order_by(*key)
    )
    rows = connection.execute(query).all()
    sizes = closure_sizes(connection, {row.digest for row in rows})
    return [
        Entry(
            Scope(row.endpoint, row.repository),
            row.reference,
            Digest.parse(row.digest),
            sizes[row.digest],
            row.pulled_at,
            row.created_at,
            row.created_by,
            bool(row.pinned),
            row.state != "stored",
        )
        for row in rows
    ]


def _totals(connection: Connection) -> Totals:
    k, b, t = schema.links.c, schema.blobs.c, schema.tags.c
    linked = exists().where(k.digest == b.digest)
    stored = select(func.count(), func.coalesce(func.sum(b.size), 0)).where(b.state == "stored")
    blobs, size = connection.execute(stored).one()
    unlinked, _ = connection.execute(stored.where(~linked)).one()
    damaged = select(func.count()).select_from(schema.blobs).where(b.state != "stored")
    by_endpoint = select(t.endpoint, func.count()).group_by(t.endpoint)
    tags: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_endpoint)}
    found = [
        _of_endpoint(connection, endpoint, tags.get(endpoint, 0))
        for endpoint in connection.execute(
            select(k.endpoint).distinct().order_by(k.endpoint)
        ).scalars()
    ]
    return Totals(tuple(found), blobs, size, connection.execute(damaged).scalar_one(), unlinked)


def _of_endpoint(connection: Connection, endpoint: str, tags: int) -> EndpointTotals:
    k, b = schema.links.c, schema.blobs.c
    here = select(k.digest, k.kind).where(k.endpoint == endpoint).distinct().subquery("here").c
    counted = (
        select(here.kind, func.count(), func.coalesce(func.sum(b.size), 0))
        .join(schema.blobs, b.digest == here.digest)
        .where(b.state == "stored")
        .group_by(here.kind)
    )
    by_kind = {kind: (count, size) for kind, count, size in connection.execute(counted)}
    manifests, in_manifests = by_kind.get(str(LinkKind.MANIFEST), (0, 0))
    blobs, in_blobs = by_kind.get(str(LinkKind.BLOB), (0, 0))
    repositories = connection.execute(
        select(func.count(distinct(k.repository))).where(k.endpoint == endpoint)
    ).scalar_one()
    return EndpointTotals(endpoint, repositories, tags, manifests, blobs, in_manifests + in_blobs)
