"""What is known about the bytes: links, tags, edges, referrers, uploads.

Owns every question and change of the index. Does not own the bytes (`directory.py`), the form of
the tables (`schema.py`) or transactions (`database.py`). What a change returns from is committed
with `synchronous=FULL`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from sqlalchemy import Connection, delete, insert, select, update

from routerd.content import schema
from routerd.content.database import Database
from routerd.content.errors import Vanished
from routerd.content.identity import Claim, Fingerprint, claim, settled
from routerd.content.links import Link, LinkKind, Scope, TagEntry
from routerd.content.pins import Pins
from routerd.content.pulls import Pulls
from routerd.content.statements import (
    add_edges,
    add_link,
    add_negative,
    forget_negatives,
    in_any,
    in_scope,
    is_stored,
    keys,
    know_blob,
    put,
    refuse_other_tag,
    select_has,
    select_link,
    select_tag,
    set_state,
    tag_row,
)
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag

NEGATIVES_LIMIT = 10_000  # 404s that are remembered; about 200 bytes each


class Index:
    """The index of one store."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        has_bytes: Callable[[Digest], bool] = lambda _digest: True,
    ) -> None:
        self._database = database
        self._clock = clock
        # Asked within transactions that write: who takes bytes away does it in one of its own.
        self._has_bytes = has_bytes
        self.pulls = Pulls(database, clock)
        self.pins = Pins(database, clock)

    async def claim(
        self, endpoint: str, fingerprint: Fingerprint | None, previous: Sequence[str] = ()
    ) -> Claim:
        """Make what is stored under the endpoint's name, or its former ones, its own (identity.py).

        Raises StoreFull, where something has to be changed.
        """
        found = await self._database.read(lambda c: settled(c, endpoint, fingerprint, previous))
        if found is not None:
            return found
        now = self._clock()
        return await self._database.write(lambda c: claim(c, endpoint, fingerprint, previous, now))

    async def is_settled(
        self, endpoint: str, fingerprint: Fingerprint | None, previous: Sequence[str] = ()
    ) -> bool:
        """Whether `claim` would change nothing."""
        found = await self._database.read(lambda c: settled(c, endpoint, fingerprint, previous))
        return found is not None

    # Reading

    async def link(self, scope: Scope, digest: Digest, kind: LinkKind) -> Link | None:
        """The scope's link to stored content of this kind."""
        return await self._database.lookup(
            ("link", scope, digest, kind), lambda c: select_link(c, scope, digest, kind)
        )

    async def tag(self, scope: Scope, tag: Tag) -> TagEntry | None:
        """What the tag is in the scope."""
        return await self._database.lookup(("tag", scope, tag), lambda c: select_tag(c, scope, tag))

    async def tags(self, scope: Scope, last: str, n: int) -> Sequence[Tag]:
        """Up to `n` tags after `last`, in the order of their bytes."""
        t = schema.tags.c
        query = (
            select(t.tag).where(in_scope(schema.tags, scope), t.tag > last).order_by(t.tag).limit(n)
        )
        return await self._database.read(lambda c: [Tag(row.tag) for row in c.execute(query)])

    async def is_empty(self, scope: Scope) -> bool:
        """Whether nothing at all is linked in the scope."""
        query = select(schema.links.c.digest).where(in_scope(schema.links, scope)).limit(1)
        return await self._database.read(lambda c: c.execute(query).first() is None)

    async def holders(
        self, digest: Digest, scopes: Collection[Scope], kind: LinkKind
    ) -> set[Scope]:
        """Those of `scopes` that have a link of this kind to the content."""
        k = schema.links.c
        query = select(k.endpoint, k.repository).where(
            k.digest == str(digest), k.kind == str(kind), in_any(schema.links, scopes)
        )
        return await self._database.read(lambda c: {Scope(*row) for row in c.execute(query)})

    async def announcers(self, digest: Digest, scopes: Collection[Scope]) -> set[Scope]:
        """Those of `scopes` where a tag is this digest, or a manifest that is linked lists it."""
        tagged = select(schema.tags.c.endpoint, schema.tags.c.repository).where(
            schema.tags.c.digest == str(digest), in_any(schema.tags, scopes)
        )
        listed = (
            select(schema.links.c.endpoint, schema.links.c.repository)
            .join(schema.edges, schema.edges.c.parent == schema.links.c.digest)
            .where(
                schema.edges.c.child == str(digest),
                schema.links.c.kind == str(LinkKind.MANIFEST),
                in_any(schema.links, scopes),
            )
        )
        return await self._database.read(
            lambda c: {Scope(*row) for query in (tagged, listed) for row in c.execute(query)}
        )

    async def endpoint_has(self, endpoint: str, digest: Digest) -> bool:
        """Whether any repository of the endpoint has a link to the content as a blob."""
        return await self._database.lookup(
            ("has", endpoint, digest), lambda c: select_has(c, endpoint, digest)
        )

    async def at_hand(self, scope: Scope, digest: Digest, endpoints: Sequence[str]) -> None:
        """Have at hand what `link` says of it as a blob and `endpoint_has` of these endpoints: a miss
        asks for all of it, and each look-up alone would be another hop to a thread.
        """
        kind = LinkKind.BLOB
        queries: dict[tuple[object, ...], Callable[[Connection], object]] = {
            ("has", endpoint, digest): partial(select_has, endpoint=endpoint, digest=digest)
            for endpoint in endpoints
        }
        queries["link", scope, digest, kind] = partial(
            select_link, scope=scope, digest=digest, kind=kind
        )
        await self._database.lookups(queries)

    # Writing

    async def add_blob(
        self, digest: Digest, size: int, scopes: Iterable[Scope], created_by: str
    ) -> None:
        """The bytes are durable: know them, and link them as a blob in `scopes`. Raises Vanished
        where they are gone again: a check or a sweep of the file that had their name before, which
        takes it in a transaction as well, was in its midst.
        """
        now = self._clock()

        def write(connection: Connection) -> None:
            self._require(digest)
            know_blob(connection, digest, size, now)
            for scope in scopes:
                add_link(connection, scope, digest, LinkKind.BLOB, "", created_by, now)

        await self._database.write(write)

    async def add_blob_link(self, scope: Scope, digest: Digest, created_by: str = "") -> bool:
        """Let the scope see a blob that is stored; False where it is not, or not any more."""
        now = self._clock()

        def write(connection: Connection) -> bool:
            if not is_stored(connection, digest) or not self._has_bytes(digest):
                return False
            add_link(connection, scope, digest, LinkKind.BLOB, "", created_by, now)
            return True

        return await self._database.write(write)

    async def put_manifest(
        self,
        scope: Scope,
        manifest: Manifest,
        tag: Tag | None,
        entry: TagEntry,
        created_by: str,
        *,
        immutable: bool = False,
    ) -> None:
        """The bytes are durable: know, link, list and tag the manifest, in one transaction.

        Raises Vanished, and 403 DENIED where an immutable tag is another digest.
        """
        now = self._clock()

        def write(connection: Connection) -> None:
            digest = manifest.descriptor.digest
            self._require(digest)
            if immutable and tag is not None:
                refuse_other_tag(connection, scope, tag, digest)
            forget_negatives(connection, scope, [str(digest), *([tag] if tag else [])])
            media_type = manifest.descriptor.media_type
            know_blob(connection, digest, manifest.descriptor.size, now)
            add_link(connection, scope, digest, LinkKind.MANIFEST, media_type, created_by, now)
            add_edges(connection, manifest)
            if manifest.subject is not None:
                put(
                    connection,
                    schema.referrers,
                    {**keys(scope), "subject": str(manifest.subject.digest)}
                    | {"digest": str(digest), "artifact_type": manifest.artifact_type},
                )
            if tag is not None:
                put(connection, schema.tags, {**keys(scope), "tag": tag, **tag_row(entry)})

        await self._database.write(write)

    async def checked(self, scope: Scope, tag: Tag, entry: TagEntry) -> None:
        """What came of asking for the tag again. Nothing where it is another digest by now."""
        t = schema.tags.c
        await self._database.write(
            lambda c: c.execute(
                update(schema.tags)
                .where(in_scope(schema.tags, scope), t.tag == tag, t.digest == str(entry.digest))
                .values(**tag_row(entry))
            )
        )

    async def delete_tag(self, scope: Scope, tag: Tag) -> bool:
        """Forget a tag; False where there is none."""
        where = (in_scope(schema.tags, scope), schema.tags.c.tag == tag)
        return await self._database.write(
            lambda c: c.execute(delete(schema.tags).where(*where)).rowcount > 0
        )

    async def delete_link(self, scope: Scope, digest: Digest, kind: LinkKind) -> bool:
        """Forget a link, and with a manifest's the tags that are it; False where there is none."""

        def write(connection: Connection) -> bool:
            if kind is LinkKind.MANIFEST:
                for table in (schema.tags, schema.referrers):
                    connection.execute(
                        delete(table).where(in_scope(table, scope), table.c.digest == str(digest))
                    )
            k = schema.links.c
            found = connection.execute(
                delete(schema.links).where(
                    in_scope(schema.links, scope), k.digest == str(digest), k.kind == str(kind)
                )
            )
            return found.rowcount > 0

        return await self._database.write(write)

    async def mark_damaged(self, digest: Digest, is_still: Callable[[], bool]) -> None:
        """The bytes are not what the index says: never serve them again.

        `is_still` is called within the transaction: they may have come in again meanwhile.
        """
        await self._database.write(lambda c: is_still() and set_state(c, digest, "damaged"))

    # Answers that there is nothing

    async def negative(self, scope: Scope, reference: str) -> float | None:
        """When upstream last said that it has no such tag or digest."""
        n = schema.negatives.c
        query = select(n.answered_at).where(
            in_scope(schema.negatives, scope), n.reference == reference
        )
        return await self._database.read(lambda c: c.execute(query).scalar())

    async def note_negative(self, scope: Scope, reference: str) -> None:
        """Upstream says that it has no such tag or digest. Raises StoreFull.

        Nobody remembers this, so it need not move the change counter: a client that asks for names
        that are not there must not make all others' look-ups slow.
        """
        now = self._clock()
        await self._database.write_quietly(
            lambda c: add_negative(c, scope, reference, now, NEGATIVES_LIMIT)
        )

    def _require(self, digest: Digest) -> None:
        if not self._has_bytes(digest):
            raise Vanished(digest)

    # Uploads

    async def add_upload(self, scope: Scope, session: str, file: str, owner: str) -> None:
        """A new upload session."""
        now = self._clock()
        row = {"id": session, **keys(scope), "file": file, "owner": owner, "offset": 0}
        row |= {"started_at": now, "updated_at": now}
        await self._database.write(lambda c: c.execute(insert(schema.uploads).values(**row)))

    async def upload_scope(self, session: str) -> Scope | None:
        """The scope that an upload session belongs to."""
        u = schema.uploads.c
        query = select(u.endpoint, u.repository).where(u.id == session)
        row = await self._database.read(lambda c: c.execute(query).first())
        return None if row is None else Scope(row.endpoint, row.repository)

    async def upload_progress(self, session: str, offset: int) -> None:
        """So many bytes of the session are in its file."""
        now = self._clock()
        await self._database.write(
            lambda c: c.execute(
                update(schema.uploads)
                .where(schema.uploads.c.id == session)
                .values(offset=offset, updated_at=now)
            )
        )

    async def delete_upload(self, session: str) -> None:
        """The session has ended."""
        await self._database.write(
            lambda c: c.execute(delete(schema.uploads).where(schema.uploads.c.id == session))
        )

    async def forget_uploads(self, before: float, busy: Collection[str] = ()) -> Sequence[str]:
        """Forget the sessions that received nothing since, but not the busy ones; their ids."""
        u = schema.uploads.c
        query = select(u.id).where(u.updated_at < before)

        if not await self._database.read(lambda c: c.execute(query.limit(1)).first()):
            return ()  # and the index need not be as if something had changed

        def write(connection: Connection) -> Sequence[str]:
            found = [id for id in connection.execute(query).scalars() if id not in busy]
            for session in found:
                connection.execute(delete(schema.uploads).where(u.id == session))
            return found

        return await self._database.write(write)

    async def upload_ids(self) -> set[str]:
        """Every open session."""
        return await self._database.read(
            lambda c: set(c.execute(select(schema.uploads.c.id)).scalars())
        )
