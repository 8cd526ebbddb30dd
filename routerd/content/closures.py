"""What manifests list, and what that comes to.

Owns following edges. Does not own removing anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from sqlalchemy import Connection, select

from routerd.content import schema
from routerd.content.links import LinkKind

IN_LIST = 500  # values in one IN list; SQLite takes 32,766 variables a statement
NESTING_LIMIT = 8  # indexes within indexes that are followed; real ones have one level


def closure_sizes(connection: Connection, digests: Iterable[str]) -> Mapping[str, int]:
    """For each manifest the stored bytes of itself and all that it lists, each content once."""
    roots = set(digests)
    children = _edges_below(connection, roots)
    every = roots | {child for listed in children.values() for child in listed}
    sizes = _stored_sizes(connection, every)
    return {root: sum(sizes.get(one, 0) for one in _below(root, children)) for root in roots}


def _edges_below(connection: Connection, roots: set[str]) -> Mapping[str, set[str]]:
    e = schema.edges.c
    found: dict[str, set[str]] = defaultdict(set)
    level = roots
    for _ in range(NESTING_LIMIT):
        following: set[str] = set()
        for some in chunks(level):
            query = select(e.parent, e.child, e.kind).where(e.parent.in_(some))
            for parent, child, kind in connection.execute(query):
                found[parent].add(child)
                if kind == LinkKind.MANIFEST and child not in found:
                    following.add(child)
        if not following:
            break
        level = following
    return found


def _stored_sizes(connection: Connection, digests: Iterable[str]) -> Mapping[str, int]:
    b = schema.blobs.c
    sizes: dict[str, int] = {}
    for some in chunks(digests):
        query = select(b.digest, b.size).where(b.digest.in_(some), b.state == "stored")
        sizes.update((digest, size) for digest, size in connection.execute(query))
    return sizes


def _below(root: str, children: Mapping[str, set[str]]) -> set[str]:
    """`root` and all that it lists, however deep; a circle ends where it began."""
    seen, waiting = {root}, [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return seen


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """The values in lists short enough for a statement."""
    rest = iter(values)
    while some := list(islice(rest, IN_LIST)):
        yield some
