"""Forgetting cached content by name, and calling an endpoint by another name.

Owns what goes with a tag or a manifest that is forgotten in a scope. Does not own the bytes: what
nobody sees any more goes with the sweep. Nor which rows are an endpoint's (`identity.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, delete, exists, func, select

from routerd.content import schema
from routerd.content.database import Database
from routerd.content.identity import rename
from routerd.content.links import LinkKind, Scope
from routerd.content.statements import forget_negatives, in_scope
from routerd.oci.reference import Digest, Tag


@dataclass(frozen=True, slots=True)
class Purged:
    """What was forgotten in one scope. `freed`: bytes of content that nobody sees any more."""

    tags: int
    manifests: int
    blobs: int
    freed: int


class Purging:
    """Changes of one index that an operator asks for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def purge(self, scope: Scope, reference: Tag | Digest) -> Purged:
        """Forget what is cached under a tag or a digest, with all that only it listed."""
        return await self._database.write(lambda c: _purge(c, scope, reference))

    async def rename_endpoint(self, old: str, new: str) -> int:
        """Give all rows of an endpoint to another name; how many. Raises ValueError where that has
        rows of its own.
        """
        return await self._database.write(lambda c: rename(c, old, new))


def _purge(connection: Connection, scope: Scope, reference: Tag | Digest) -> Purged:
    """Forget a tag, or a digest with its tags; and the manifest, if no other tag is it, with all
    that only it listed in the scope.
    """
    found = _forget_names(connection, scope, reference)
    forget_negatives(connection, scope, [str(reference)])
    if found is None:
        return Purged(0, 0, 0, 0)
    digest, tags = found
    gone: list[tuple[str, str]] = []
    if not _is_tagged(connection, scope, digest):
        gone = list(_forget_closure(connection, scope, digest))
    freed = sum(_freed(connection, one) for one in {name for name, _ in gone})
    manifests = sum(kind == LinkKind.MANIFEST for _, kind in gone)
    return Purged(tags, manifests, len(gone) - manifests, freed)


def _forget_names(
    connection: Connection, scope: Scope, reference: Tag | Digest
) -> tuple[str, int] | None:
    """The digest that the reference is here and how many tags went; None where it is nothing."""
    t, k = schema.tags.c, schema.links.c
    here = in_scope(schema.tags, scope)
    if isinstance(reference, Digest):
        went = connection.execute(delete(schema.tags).where(here, t.digest == str(reference)))
        linked = select(k.digest).where(in_scope(schema.links, scope), k.digest == str(reference))
        known = went.rowcount > 0 or connection.execute(linked).first() is not None
        return (str(reference), went.rowcount) if known else None
    found = connection.execute(select(t.digest).where(here, t.tag == reference)).scalar()
    if found is None:
        return None
    connection.execute(delete(schema.tags).where(here, t.tag == reference))
    return found, 1


def _is_tagged(connection: Connection, scope: Scope, digest: str) -> bool:
    query = select(schema.tags.c.tag).where(
        in_scope(schema.tags, scope), schema.tags.c.digest == digest
    )
    return connection.execute(query.limit(1)).first() is not None


def _is_listed(connection: Connection, scope: Scope, digest: str) -> bool:
    """Whether a manifest that the scope sees lists it."""
    k, e = schema.links.c, schema.edges.c
    query = (
        select(e.parent)
        .join(schema.links, k.digest == e.parent)
        .where(e.child == digest, in_scope(schema.links, scope), k.kind == str(LinkKind.MANIFEST))
        .limit(1)
    )
    return connection.execute(query).first() is not None


def _forget_closure(connection: Connection, scope: Scope, digest: str) -> Iterator[tuple[str, str]]:
    """Forget the links to it, and to what it listed that nothing else in the scope lists or names.
    Yields what went: (digest, kind).
    """
    k, e = schema.links.c, schema.edges.c
    waiting = [digest]
    while waiting:
        one = waiting.pop()
        here = (in_scope(schema.links, scope), k.digest == one)
        kinds = connection.execute(select(k.kind).where(*here)).scalars().all()
        if not kinds:
            continue
        connection.execute(delete(schema.links).where(*here))
        r = schema.referrers
        connection.execute(delete(r).where(in_scope(r, scope), r.c.digest == one))
        yield from ((one, kind) for kind in kinds)
        children = connection.execute(select(e.child).where(e.parent == one)).scalars().all()
        waiting += [
            child
            for child in children
            if not _is_listed(connection, scope, child) and not _is_tagged(connection, scope, child)
        ]


def _freed(connection: Connection, digest: str) -> int:
    b, k = schema.blobs.c, schema.links.c
    query = select(func.coalesce(func.sum(b.size), 0)).where(
        b.digest == digest, ~exists().where(k.digest == digest)
    )
    size: int = connection.execute(query).scalar_one()
    return size
