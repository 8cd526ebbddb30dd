"""Rows of the index as statements, for `index.py` to put into transactions.

Owns how a value becomes a row and back. Does not own transactions (`database.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from routerd.content import schema
from routerd.content.links import Link, LinkKind, Scope, TagEntry
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag


def keys(scope: Scope) -> dict[str, Any]:
    return {"endpoint": scope.endpoint, "repository": scope.repository}


def in_scope(table: Table, scope: Scope) -> ColumnElement[bool]:
    return and_(table.c.endpoint == scope.endpoint, table.c.repository == scope.repository)


def in_any(table: Table, scopes: Iterable[Scope]) -> ColumnElement[bool]:
    return or_(*(in_scope(table, scope) for scope in scopes))


def put(connection: Connection, table: Table, row: dict[str, Any]) -> None:
    """Insert, or replace the row of the same primary key."""
    statement = upsert(table).values(**row)
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=row)
    )


def tag_row(entry: TagEntry) -> dict[str, Any]:
    return {
        "digest": str(entry.digest),
        "validated_at": entry.validated_at,
        "cache_control": entry.cache_control,
        "etag": entry.etag,
        "checked_at": entry.checked_at,
        "gone_at": entry.gone_at,
    }


def know_blob(connection: Connection, digest: Digest, size: int, now: float) -> None:
    row = {"digest": str(digest), "size": size, "state": "stored", "created_at": now}
    put(connection, schema.blobs, row)


def is_stored(connection: Connection, digest: Digest) -> bool:
    """Whether its bytes are known to be there and right."""
    b = schema.blobs.c
    query = select(b.digest).where(b.digest == str(digest), b.state == "stored")
    return connection.execute(query).first() is not None


def set_state(connection: Connection, digest: Digest, state: str) -> bool:
    """Change what is known of stored content; False where it is not stored."""
    b = schema.blobs.c
    change = update(schema.blobs).where(b.digest == str(digest), b.state == "stored")
    return connection.execute(change.values(state=state)).rowcount > 0


def forget_negatives(connection: Connection, scope: Scope, references: Iterable[str]) -> None:
    n = schema.negatives
    connection.execute(delete(n).where(in_scope(n, scope), n.c.reference.in_(list(references))))


def add_negative(
    connection: Connection, scope: Scope, reference: str, now: float, limit: int
) -> None:
    """Note a 404; of more than `limit` the oldest are forgotten, a tenth at once."""
    n = schema.negatives
    put(connection, n, {**keys(scope), "reference": reference, "answered_at": now})
    count = connection.execute(select(func.count()).select_from(n)).scalar_one()
    if count > limit:
        old = select(n.c.answered_at).order_by(n.c.answered_at).offset(limit // 10).limit(1)
        oldest_kept = connection.execute(old).scalar_one()
        connection.execute(delete(n).where(n.c.answered_at <= oldest_kept))


def refuse_other_tag(connection: Connection, scope: Scope, tag: Tag, digest: Digest) -> None:
    """Raises 403 DENIED where the tag is another digest already (`immutable_tags`)."""
    known = select_tag(connection, scope, tag)
    if known is not None and known.digest != digest:
        raise RegistryError(
            Code.DENIED,
            f"tag {tag} of {scope.repository} is immutable by policy and is {known.digest}: "
            "push under another tag",
        )


def add_link(
    connection: Connection,
    scope: Scope,
    digest: Digest,
    kind: LinkKind,
    media_type: str,
    created_by: str,
    now: float,
) -> None:
    row = {**keys(scope), "digest": str(digest), "kind": str(kind), "media_type": media_type}
    row |= {"created_by": created_by, "created_at": now, "pulled_at": now}
    # Who brought it first stays known. That it comes again is as good as a pull.
    statement = upsert(schema.links).values(**row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(schema.links.primary_key), set_={"pulled_at": now}
        )
    )


def add_edges(connection: Connection, manifest: Manifest) -> None:
    parent = str(manifest.descriptor.digest)
    for kind, listed in (
        (LinkKind.MANIFEST, manifest.children),
        (LinkKind.BLOB, manifest.blobs),
    ):
        for child in listed:
            row: dict[str, Any] = {"parent": parent, "child": str(child.digest), "kind": str(kind)}
            row |= {"media_type": child.media_type, "size": child.size}
            row |= {"platform": child.platform}
            connection.execute(upsert(schema.edges).values(**row).on_conflict_do_nothing())


# Made once: making and comparing a statement costs more than asking it.
_LINK = (
    select(
        schema.links.c.media_type,
        schema.blobs.c.size,
        schema.links.c.created_by,
        schema.links.c.created_at,
    )
    .join(schema.blobs, schema.blobs.c.digest == schema.links.c.digest)
    .where(
        schema.links.c.endpoint == bindparam("endpoint"),
        schema.links.c.repository == bindparam("repository"),
        schema.links.c.digest == bindparam("digest"),
        schema.links.c.kind == bindparam("kind"),
        schema.blobs.c.state == "stored",
    )
)


def select_link(
    connection: Connection, scope: Scope, digest: Digest, kind: LinkKind
) -> Link | None:
    row = connection.execute(
        _LINK,
        {
            "endpoint": scope.endpoint,
            "repository": scope.repository,
            "digest": str(digest),
            "kind": str(kind),
        },
    ).first()
    if row is None:
        return None
    return Link(digest, kind, row.media_type, row.size, row.created_by, row.created_at)


_HAS = (
    select(schema.links.c.digest)
    .join(schema.blobs, schema.blobs.c.digest == schema.links.c.digest)
    .where(
        schema.links.c.digest == bindparam("digest"),
        schema.links.c.kind == str(LinkKind.BLOB),
        schema.links.c.endpoint == bindparam("endpoint"),
        schema.blobs.c.state == "stored",
    )
    .limit(1)
)


def select_has(connection: Connection, endpoint: str, digest: Digest) -> bool:
    """Whether any repository of the endpoint has a link to the content as a blob."""
    found = connection.execute(_HAS, {"digest": str(digest), "endpoint": endpoint})
    return found.first() is not None


def select_tag(connection: Connection, scope: Scope, tag: Tag) -> TagEntry | None:
    t = schema.tags.c
    row = connection.execute(
        select(t.digest, t.validated_at, t.cache_control, t.etag, t.checked_at, t.gone_at).where(
            in_scope(schema.tags, scope), t.tag == tag
        )
    ).first()
    if row is None:
        return None
    return TagEntry(Digest.parse(row.digest), *row[1:])
