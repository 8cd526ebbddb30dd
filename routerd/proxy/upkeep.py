"""What every store needs done from time to time, for as long as a policy is served.

Owns the schedule. Does not own what is done (`content/`), or how long a scope keeps its content: the
policy's routes say it (`routing/retention.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from routerd.content.errors import TROUBLE
from routerd.content.links import Scope, owner_of
from routerd.content.pulls import FLUSH_SECONDS
from routerd.content.retention import RetainOf
from routerd.content.store import ContentStore
from routerd.routing.retention import Retention

log = structlog.get_logger("routerd.upkeep")

SWEEP_SECONDS = 3600.0  # between two sweeps for age, by whichever process, over restarts as well


class Upkeep:
    """Of one store. `run` ends when it is cancelled."""

    def __init__(self, store: ContentStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Look after the store every FLUSH_SECONDS, and at once when a write finds it full."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._store.capacity.pressed.wait()
            except TimeoutError:
                pass
            await self.once()

    async def once(self) -> None:
        """What is due now. What goes wrong is said, and done again when it is next due: without upkeep
        a store fills up, and what clients pulled looks unused.
        """
        try:
            await self._store.index.pulls.flush()
            if await self._store.capacity.relieve() is None and await self._is_due():
                await self._store.maintain()
                await self._store.capacity.sweep()
        except TROUBLE as error:
            log.error("a store could not be looked after", why=str(error))

    async def _is_due(self) -> bool:
        swept_at = await self._store.capacity.swept_at()
        # A clock that was set back does not put the next sweep off.
        return swept_at is None or not 0 <= self._clock() - swept_at < SWEEP_SECONDS


def retain_by(cached: Mapping[str, Retention]) -> RetainOf:
    """How long the scopes of a store stay; `cached` has the endpoints that are cached in it.

    What the storage endpoint itself holds was pushed, and what belongs to an endpoint that the policy
    does not name might have been: neither is ever swept. What an endpoint hides was cached by it,
    and goes when what it shows would.
    """

    def retain(scope: Scope) -> float | None:
        retention = cached.get(owner_of(scope.endpoint))
        return None if retention is None else retention.of(scope.repository)

    return retain
