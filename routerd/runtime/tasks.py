"""Background tasks that have a name, an owner and an end.

Owns the only call of `create_task`: a task is referenced until it ends, its failure is logged, and
whoever made the `Tasks` closes it. Does not own what a task does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("routerd.tasks")


class Tasks:
    """The tasks of one owner. After `aclose` none runs and none can be spawned."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background. Raises RuntimeError once closed."""
        if self._closed:
            work.close()
            raise RuntimeError(f"no task '{name}' can be spawned: its owner is closed")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def aclose(self, grace: float) -> None:
        """Give what runs `grace` seconds to end, then cancel it and wait for its end."""
        self._closed = True
        if self._running and grace > 0:
            await asyncio.wait(self._running, timeout=grace)
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("background task '%s' failed", task.get_name(), exc_info=error)
