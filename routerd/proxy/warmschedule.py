"""`warm:` of the policy: which image is fetched ahead when, and when rather not.

Owns the schedule, that one process of several keeps it, and stopping above a floor of what upstream
allows. Does not own fetching (`warm.py`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from routerd.config.settings import WarmRule
from routerd.content.errors import TROUBLE
from routerd.endpoints.base import Endpoint, Quota, RateLimited
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Reference
from routerd.proxy.warm import Warm, WarmEvent
from routerd.routing.policy import SELF, Action
from routerd.routing.table import RouteTable
from routerd.runtime.blocking import finish_blocking
from routerd.runtime.lockfile import LockFile

log = structlog.get_logger("routerd.warm")

LOCK_FILE = "warm.lock"  # in the data directory: who holds it keeps the schedule
LOCK_SECONDS = 60.0  # between two looks whether the one who kept it has gone
# A server that starts has clients to serve first, and a fleet that starts at once has one upstream.
FIRST_SECONDS = 60.0
JITTER = 0.1  # of `every`, so that servers with the same policy do not ask in step
# What of an account's allowance is left to clients: Docker Hub's free one is 200 pulls in six hours.
FLOOR_SHARE = 0.25
FLOOR_REQUESTS = 20  # where upstream says what is left, but not of how many


@dataclass(slots=True)
class _Due:
    rule: WarmRule
    at: float


class WarmSchedule:
    """The rules of one policy, kept by one process at a time. `run` ends only when cancelled, or
    where every rule is to be kept once and was.
    """

    def __init__(
        self,
        rules: Sequence[WarmRule],
        warm: Warm,
        table: RouteTable,
        endpoints: Mapping[str, Endpoint],
        lock: LockFile,
        *,
        clock: Callable[[], float] = time.monotonic,  # seconds; never set back
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,  # of [0, 1)
    ) -> None:
        self._rules = rules
        self._warm = warm
        self._table = table
        self._endpoints = endpoints
        self._lock = lock
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    async def run(self) -> None:
        """Wait for the lock, then keep the schedule."""
        try:
            while not await finish_blocking(self._lock.acquire):
                await self._sleep(LOCK_SECONDS)
            await self._keep()
        finally:
            self._lock.release()

    async def _keep(self) -> None:
        first = self._clock()
        dues = [_Due(rule, first + FIRST_SECONDS * self._chance()) for rule in self._rules]
        while dues:
            due = min(dues, key=lambda one: one.at)
            await self._sleep(max(0.0, due.at - self._clock()))
            await self._round(due.rule)
            # From the end of the round: one that takes longer than `every` must not run for ever.
            due.at = self._clock() + due.rule.every * (1 + JITTER * (2 * self._chance() - 1))
            if math.isinf(due.at):
                dues.remove(due)

    async def _round(self, rule: WarmRule) -> None:
        """Each image once, one after the other; one that fails is tried in the next round."""
        for reference in rule.references:
            if (endpoint := self._spent(reference)) is not None:
                log.warning(
                    "not fetched ahead: what upstream still allows is left to clients",
                    reference=str(reference),
                    endpoint=endpoint,
                )
                continue
            try:
                warmed = await self._warm.warm(reference, rule.platforms, _unseen)
            except RegistryError as error:
                log.warning("not fetched ahead", reference=str(reference), why=error.message)
                continue
            except TROUBLE as error:  # the next round goes on
                log.error("not fetched ahead", reference=str(reference), why=str(error))
                continue
            if warmed.failed:
                log.warning(
                    "not all of it was fetched ahead",
                    reference=str(reference),
                    missing=len(warmed.failed),
                    why=warmed.failed[0],
                )
            else:
                log.info(
                    "fetched ahead",
                    reference=str(reference),
                    digest=str(warmed.digest),
                    manifests=warmed.manifests,
                    blobs=warmed.blobs,
                    bytes=warmed.size,
                )

    def _spent(self, reference: Reference) -> str | None:
        """The endpoint that the image would come from, where it is to be spared."""
        for step in self._table.decide(reference, Action.PULL, SELF).steps:
            endpoint = self._endpoints[step.endpoint]
            if isinstance(endpoint, RateLimited) and not is_above_floor(endpoint.rate_limits()):
                return step.endpoint
        return None


def is_above_floor(quotas: Sequence[Quota]) -> bool:
    """Whether some account has more left than is kept for clients; where nothing is known, yes."""
    return not quotas or any(quota.remaining > _floor(quota) for quota in quotas)


def _floor(quota: Quota) -> float:
    return FLOOR_REQUESTS if quota.limit is None else quota.limit * FLOOR_SHARE


def _unseen(event: WarmEvent) -> None:
    """Nobody looks at the progress of a schedule; what came of it is logged."""
