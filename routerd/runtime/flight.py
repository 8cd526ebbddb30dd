"""One call for all who want the same: single flight.

Owns that a running call is joined instead of repeated. Does not keep its result once it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from routerd.runtime.tasks import Tasks

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Running calls by key. They belong to `tasks`: a waiter that leaves does not cancel one."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._running: dict[K, asyncio.Future[V]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def is_running(self, key: K) -> bool:
        """Whether somebody waits for it already."""
        return key in self._running

    async def do(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """The outcome of the running call for `key`; of `work()`, if none runs."""
        outcome = self._running.get(key)
        if outcome is None:
            outcome = self._running[key] = asyncio.get_running_loop().create_future()
            self._tasks.spawn(f"single flight {key}", self._run(key, outcome, work))
        return await asyncio.shield(outcome)

    async def _run(
        self, key: K, outcome: asyncio.Future[V], work: Callable[[], Awaitable[V]]
    ) -> None:
        try:
            result = await work()
        except asyncio.CancelledError:
            outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # every waiter raises it
            outcome.set_exception(error)
            outcome.exception()  # all waiters may have left: then nobody misses it
        else:
            outcome.set_result(result)
        finally:
            del self._running[key]
