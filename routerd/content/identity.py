"""Whose the content is that is stored under an endpoint's name.

Owns what a change of the endpoint does to it (config-language.md 3, "Endpoints keep their
identity"): a new URL keeps the links and expires the tags, another namespace or account hides the
links, a former name's content is taken over. Does not own transactions (`index.py`) or how an
endpoint's options become a fingerprint (`proxy/identity.py`).

A claim is one transaction and the same one twice changes nothing, so any number of processes may
start at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, and_, delete, exists, select, update

from routerd.content import schema
from routerd.content.statements import put

_VEIL = "~"  # no endpoint's name has it
# Whatever the index knows by endpoint, in tables to come as well.
_TABLES = [
    table
    for table in schema.metadata.sorted_tables
    if "endpoint" in table.c and table is not schema.fingerprints
]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an endpoint is: whose images, from which URLs, as seen by which accounts.

    No account at all is a stranger's view, which everyone has.
    """

    namespace: str
    origins: frozenset[str]
    accounts: frozenset[str]

    def shows(self, earlier: Fingerprint) -> bool:
        """Whether whoever sees this may see what `earlier` brought."""
        return self.namespace == earlier.namespace and earlier.accounts <= self.accounts


@dataclass(frozen=True, slots=True)
class Claim:
    """What an endpoint found under its name.

    `since` (UTC seconds): tags that were validated before were another URL's word. `veiled`: the
    name of links that are hidden, but are its own again where upstream answers HEAD 200; None where
    only a download proves that. `taken_over`, `left`: former names whose content is its own now, and
    those whose content it may not show. `has_moved`, `is_hidden`: it was this claim that did it.
    """

    since: float = 0.0
    veiled: str | None = None
    taken_over: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    has_moved: bool = False
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    fingerprint: Fingerprint
    changed_at: float


def settled(
    connection: Connection, name: str, fingerprint: Fingerprint | None, previous: Sequence[str]
) -> Claim | None:
    """The claim, where it changes nothing; None where it does."""
    row = _read(connection, name)
    if (None if row is None else row.fingerprint) != fingerprint:
        return None
    if any(_is_known(connection, old) for old in previous):
        return None
    return Claim() if row is None else _found(connection, name, row)


def claim(
    connection: Connection,
    name: str,
    fingerprint: Fingerprint | None,
    previous: Sequence[str],
    now: float,
) -> Claim:
    """Make what is stored the endpoint's own, as far as it may be. None: of a kind without one."""
    known = [old for old in previous if _is_known(connection, old)]
    taken = tuple(old for old in known if _take_over(connection, old, name))
    left = tuple(old for old in known if old not in taken)
    if fingerprint is None:
        return Claim(taken_over=taken, left=left)
    before = _read(connection, name)
    is_hidden = before is not None and not fingerprint.shows(before.fingerprint)
    if is_hidden:
        _veil(connection, name, fingerprint)
        before = _read(connection, name)
    has_moved = before is not None and before.fingerprint.origins != fingerprint.origins
    since = 0.0 if before is None else now if has_moved else before.changed_at
    row = _Row(fingerprint, since)
    _write(connection, name, row)
    found = _found(connection, name, row)
    return Claim(found.since, found.veiled, taken, left, has_moved, is_hidden)


def rename(connection: Connection, old: str, new: str) -> int:
    """Give all that is stored under `old` to `new`, as an operator asks for; how many rows.

    What it is goes along: the next claim by `new` finds out what that may show. Raises ValueError
    where `new` has rows of its own.
    """
    for table in _TABLES:
        if _has(connection, table, old) and _has(connection, table, new):
            raise ValueError(f"the index has a {table.name} of '{new}' beside those of '{old}'")
    # The new name's own says nothing, as nothing is stored under it, and would count.
    f = schema.fingerprints
    connection.execute(delete(f).where(f.c.endpoint == new))
    moved = _move(connection, old, new)
    return moved + _move_hidden(connection, old, new)


def _found(connection: Connection, name: str, row: _Row) -> Claim:
    hidden = _read(connection, _VEIL + name)
    one, other = row.fingerprint, None if hidden is None else hidden.fingerprint
    # Another registry's 200 proves nothing: then it is as with another endpoint's content.
    provable = (
        other is not None and one.origins == other.origins and one.namespace == other.namespace
    )
    return Claim(row.changed_at, _VEIL + name if provable else None)


def _take_over(connection: Connection, old: str, name: str) -> bool:
    """Rename what is stored under `old`, unless the new name has content of another identity."""
    theirs, own = _read(connection, old), _read(connection, name)
    if theirs is not None and own is not None and not own.fingerprint.shows(theirs.fingerprint):
        return False
    _move(connection, old, name)
    _move_hidden(connection, old, name)
    return True


def _move_hidden(connection: Connection, old: str, new: str) -> int:
    """One generation is kept, and what `new` has is right."""
    if _read(connection, _VEIL + new) is not None:
        return 0
    return _move(connection, _VEIL + old, _VEIL + new)


def _veil(connection: Connection, name: str, fingerprint: Fingerprint) -> None:
    """Hide what is stored under `name`; show what is hidden there already, where that is right.

    One generation is kept: so a mistake in the policy that is mended costs no download.
    """
    hidden = _read(connection, _VEIL + name)
    is_back = hidden is not None and fingerprint.shows(hidden.fingerprint)
    aside = _VEIL + _VEIL + name
    if is_back:
        _move(connection, _VEIL + name, aside)
    else:
        _forget(connection, _VEIL + name)
    _move(connection, name, _VEIL + name)
    if is_back:
        _move(connection, aside, name)


def _move(connection: Connection, old: str, new: str) -> int:
    """Everything known of `old` becomes `new`'s; where both know something, `new` is right.

    How many rows, but for the fingerprint.
    """
    moved = 0
    for table in (*_TABLES, schema.fingerprints):
        rest = [column for column in table.primary_key if column.name != "endpoint"]
        if table.c.endpoint.primary_key:
            other = table.alias()
            same = and_(other.c.endpoint == new, *(other.c[c.name] == c for c in rest))
            connection.execute(delete(table).where(table.c.endpoint == old, exists().where(same)))
        change = update(table).where(table.c.endpoint == old).values(endpoint=new)
        went = connection.execute(change).rowcount
        moved += 0 if table is schema.fingerprints else went
    return moved


def _forget(connection: Connection, name: str) -> None:
    for table in (*_TABLES, schema.fingerprints):
        connection.execute(delete(table).where(table.c.endpoint == name))


def _is_known(connection: Connection, name: str) -> bool:
    return any(_has(connection, table, name) for table in (schema.fingerprints, *_TABLES))


def _has(connection: Connection, table: Table, name: str) -> bool:
    query = select(table.c.endpoint).where(table.c.endpoint == name).limit(1)
    return connection.execute(query).first() is not None


def _read(connection: Connection, name: str) -> _Row | None:
    f = schema.fingerprints.c
    query = select(f.namespace, f.origins, f.account, f.changed_at).where(f.endpoint == name)
    row = connection.execute(query).first()
    if row is None:
        return None
    found = Fingerprint(row.namespace, _words(row.origins), _words(row.account))
    return _Row(found, row.changed_at or 0.0)


def _write(connection: Connection, name: str, row: _Row) -> None:
    one = row.fingerprint
    values = {"endpoint": name, "namespace": one.namespace, "changed_at": row.changed_at}
    values |= {"origins": "\n".join(sorted(one.origins))}
    values |= {"account": "\n".join(sorted(one.accounts))}
    put(connection, schema.fingerprints, values)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("\n")) - {""}
