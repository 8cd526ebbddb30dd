"""Pins: what an operator wants kept, whatever its age and however little room there is.

Owns the pins themselves. Does not own what they protect: what the reference is, with all that it
lists (`retention.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from routerd.content import schema
from routerd.content.database import Database
from routerd.content.links import Scope
from routerd.content.statements import in_scope, keys, put
from routerd.oci.reference import Digest, Tag


@dataclass(frozen=True, slots=True)
class Pin:
    """A reference that is kept: a tag, with whatever it is, or a digest, as it stands in a path."""

    scope: Scope
    reference: str
    created_at: float


class Pins:
    """The pins of one store. A pin may be of what is not stored (yet, or any more)."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def add(self, scope: Scope, reference: Tag | Digest) -> None:
        """Keep it from now on. Raises StoreFull."""
        row = {**keys(scope), "reference": str(reference), "created_at": self._clock()}
        await self._database.write(lambda c: put(c, schema.pins, row))

    async def remove(self, scope: Scope, reference: Tag | Digest) -> bool:
        """Let it go its way; False where it was not pinned."""
        where = (in_scope(schema.pins, scope), schema.pins.c.reference == str(reference))
        return await self._database.write(
            lambda c: c.execute(delete(schema.pins).where(*where)).rowcount > 0
        )

    async def all(self) -> Sequence[Pin]:
        """Every pin, by scope and reference."""
        p = schema.pins.c
        query = select(p.endpoint, p.repository, p.reference, p.created_at).order_by(
            p.endpoint, p.repository, p.reference
        )
        return await self._database.read(
            lambda c: [Pin(Scope(*row[:2]), *row[2:]) for row in c.execute(query)]
        )
