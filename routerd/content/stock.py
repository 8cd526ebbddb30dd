"""The index as a sweep reads and changes it.

Owns the statements. Does not own what is to go (`retention.py`) or when a transaction ends
(`sweep.py`). Every removal looks again, in its own transaction, at what speaks against it: since the
decision content may have been pulled, pinned, listed by a new manifest or linked anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
)

from routerd.content import schema
from routerd.content.links import LinkKind, Scope
from routerd.content.retention import Held, Stock

ROWS_AT_ONCE = 500

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
    for digest, size in _rows(connection, select(_BLOBS.digest, _BLOBS.size)):
        sizes[digest] = size
    scopes: dict[tuple[str, str], Scope] = {}  # and texts: once each, however many name them
    texts = {digest: digest for digest in sizes}
    kinds = {str(kind): kind for kind in LinkKind}
    links = []
    query = select(_LINKS.endpoint, _LINKS.repository, _LINKS.digest, _LINKS.kind, _LINKS.pulled_at)
    for endpoint, repository, digest, kind, pulled_at in _rows(connection, query):
        scope = scopes.setdefault((endpoint, repository), Scope(endpoint, repository))
        links.append(Held(scope, texts.setdefault(digest, digest), kinds[kind], pulled_at))
    lists: dict[str, list[str]] = defaultdict(list)
    for parent, child in _rows(connection, select(_EDGES.parent, _EDGES.child)):
        lists[texts.setdefault(parent, parent)].append(texts.setdefault(child, child))
    return Stock(links, lists, sizes, _pinned(connection))


def _rows(connection: Connection, query: Select[Any]) -> Iterable[Any]:
    """By some at a time, since they are made in C, where the interpreter does not change threads."""
    return connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE})


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
    row = {
        "in_endpoint": link.scope.endpoint,
        "in_repository": link.scope.repository,
        "of_digest": link.digest,
        "of_kind": str(link.kind),
        "seen": link.pulled_at,
    }
    if not connection.execute(_UNLINK, row).rowcount:
        return False
    if link.kind is LinkKind.MANIFEST:
        for statement in _UNTAG:
            connection.execute(statement, row)
    return True


def is_wanted(connection: Connection, digest: str) -> bool:
    """Whether somebody has a link to the bytes, or a stored manifest lists them."""
    return bool(connection.execute(_WANTED, {"of_digest": digest}).scalar_one())


def forget(connection: Connection, digest: str) -> int:
    """Forget bytes, and what they list; how many they were."""
    row = {"of_digest": digest}
    size: int = connection.execute(_SIZE, row).scalar() or 0
    for statement in _FORGET:
        connection.execute(statement, row)
    return size


# Made once: making one takes ten times as long as running it.


def _here(table: Table) -> ColumnElement[bool]:
    return and_(
        table.c.endpoint == bindparam("in_endpoint"),
        table.c.repository == bindparam("in_repository"),
    )


_DIGEST: BindParameter[str] = bindparam("of_digest")
_PARENTS = schema.links.alias("parents")
_LISTED = exists().where(
    _EDGES.child == _DIGEST,
    _PARENTS.c.digest == _EDGES.parent,
    _PARENTS.c.kind == str(LinkKind.MANIFEST),
)
_PINNED = exists().where(
    _here(schema.pins),
    or_(
        _PINS.reference == _DIGEST,
        _PINS.reference.in_(select(_TAGS.tag).where(_here(schema.tags), _TAGS.digest == _DIGEST)),
    ),
)
_UNLINK = delete(schema.links).where(
    _here(schema.links),
    _LINKS.digest == _DIGEST,
    _LINKS.kind == bindparam("of_kind"),
    _LINKS.pulled_at <= bindparam("seen"),
    ~_LISTED,
    ~_PINNED,
)
_UNTAG = [
    delete(table).where(_here(table), table.c.digest == _DIGEST)
    for table in (schema.tags, schema.referrers)
]
_WANTED = select(or_(exists().where(_LINKS.digest == _DIGEST), _LISTED))
_SIZE = select(_BLOBS.size).where(_BLOBS.digest == _DIGEST)
_FORGET = [
    delete(schema.blobs).where(_BLOBS.digest == _DIGEST),
    delete(schema.edges).where(_EDGES.parent == _DIGEST),
]
