"""The index as a sweep reads and changes it.

Owns the statements. Does not own what is to go (`retention.py`) or when a transaction ends
(`sweep.py`). Every removal looks again, in its own transaction, at what speaks against it: since the
decision content may have been pulled, pinned, listed by a new manifest or linked anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select

from routerd.content import schema
from routerd.content.links import LinkKind, Scope
from routerd.content.retention import Held, Stock
from routerd.content.statements import in_scope

_BLOBS, _LINKS, _EDGES, _PINS, _TAGS = (
    schema.blobs.c,
    schema.links.c,
    schema.edges.c,
    schema.pins.c,
    schema.tags.c,
)


def read_stock(connection: Connection) -> Stock:
    """Everything that a decision needs. For 100,000 blobs about 40 MB, for a second or two."""
    sizes: dict[str, int] = {}
    for digest, size in connection.execute(select(_BLOBS.digest, _BLOBS.size)):
        sizes[digest] = size
    scopes: dict[tuple[str, str], Scope] = {}  # and texts: once each, however many name them
    texts = {digest: digest for digest in sizes}
    kinds = {str(kind): kind for kind in LinkKind}
    links = []
    query = select(_LINKS.endpoint, _LINKS.repository, _LINKS.digest, _LINKS.kind, _LINKS.pulled_at)
    for endpoint, repository, digest, kind, pulled_at in connection.execute(query):
        scope = scopes.setdefault((endpoint, repository), Scope(endpoint, repository))
        links.append(Held(scope, texts.setdefault(digest, digest), kinds[kind], pulled_at))
    lists: dict[str, list[str]] = defaultdict(list)
    for parent, child in connection.execute(select(_EDGES.parent, _EDGES.child)):
        lists[texts.setdefault(parent, parent)].append(texts.setdefault(child, child))
    return Stock(links, lists, sizes, _pinned(connection))


def _pinned(connection: Connection) -> Set[tuple[Scope, str]]:
    """The links that pins name: digests as they stand, tags as they are now."""
    by_tag = select(_TAGS.endpoint, _TAGS.repository, _TAGS.digest).join(
        schema.pins,
        and_(
            _PINS.endpoint == _TAGS.endpoint,
            _PINS.repository == _TAGS.repository,
            _PINS.reference == _TAGS.tag,
        ),
    )
    by_digest = select(_PINS.endpoint, _PINS.repository, _PINS.reference)
    return {
        (Scope(endpoint, repository), digest)
        for query in (by_tag, by_digest)
        for endpoint, repository, digest in connection.execute(query)
    }


def used_bytes(connection: Connection) -> int:
    """What all content takes."""
    return connection.execute(select(func.sum(_BLOBS.size))).scalar() or 0


def unlink(connection: Connection, link: Held) -> bool:
    """Forget a link, and with a manifest's the tags that are it. False where it is to stay."""
    removed = connection.execute(
        delete(schema.links).where(
            in_scope(schema.links, link.scope),
            _LINKS.digest == link.digest,
            _LINKS.kind == str(link.kind),
            _LINKS.pulled_at <= link.pulled_at,
            ~_is_listed(link.digest),
            ~_is_pinned(link),
        )
    )
    if not removed.rowcount:
        return False
    if link.kind is LinkKind.MANIFEST:
        for table in (schema.tags, schema.referrers):
            connection.execute(
                delete(table).where(in_scope(table, link.scope), table.c.digest == link.digest)
            )
    return True


def is_wanted(connection: Connection, digest: str) -> bool:
    """Whether somebody has a link to the bytes, or a stored manifest lists them."""
    linked = exists().where(_LINKS.digest == digest)
    return bool(connection.execute(select(or_(linked, _is_listed(digest)))).scalar_one())


def forget(connection: Connection, digest: str) -> int:
    """Forget bytes, and what they list; how many they were."""
    where = _BLOBS.digest == digest
    size = connection.execute(select(_BLOBS.size).where(where)).scalar()
    connection.execute(delete(schema.blobs).where(where))
    connection.execute(delete(schema.edges).where(_EDGES.parent == digest))
    return size or 0


def _is_listed(digest: str) -> ColumnElement[bool]:
    parents = schema.links.alias("parents")
    return exists().where(
        schema.edges.c.child == digest,
        parents.c.digest == schema.edges.c.parent,
        parents.c.kind == str(LinkKind.MANIFEST),
    )


def _is_pinned(link: Held) -> ColumnElement[bool]:
    tags: Any = select(_TAGS.tag).where(
        in_scope(schema.tags, link.scope), _TAGS.digest == link.digest
    )
    return exists().where(
        in_scope(schema.pins, link.scope),
        or_(_PINS.reference == link.digest, _PINS.reference.in_(tags)),
    )
