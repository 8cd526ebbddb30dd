"""A policy served in the test's own loop, control socket included, to be stopped and started again.

Owns nothing clever: what `web/worker.py` does beside it (signals, drains) has tests of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from routerd.cli.control import rows_of
from routerd.config.compile import Policy, load_policy
from routerd.config.settings import Address
from routerd.endpoints.registry import lookup_type
from routerd.proxy.service import Service
from routerd.runtime.tasks import Tasks
from routerd.web.app import create_app
from routerd.web.control import controlled, serve_control
from routerd.web.health import Health, State
from routerd.web.listener import listen
from routerd.web.sockets import bind
from wire import Wire


class Served:
    """One policy on loopback; its data lies in `directory`/data, which @DATA@ in the text stands for."""

    def __init__(self, directory: Path, text: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.policy = directory / "policy.yaml"
        self.policy.write_text(text.replace("@DATA@", str(self.data)))
        self._stack: AsyncExitStack | None = None
        self.wire = Wire(0)

    @property
    def is_running(self) -> bool:
        return self._stack is not None

    def compiled(self) -> Policy:
        compilation = load_policy(self.policy, environment={}, types=lookup_type)
        assert compilation.policy is not None, compilation.diagnostics
        return compilation.policy

    async def start(self) -> None:
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(Service(self.compiled()))
            control = stack.enter_context(controlled(self.data))
            stop, tasks, health = asyncio.Event(), Tasks(), Health()
            stack.push_async_callback(tasks.aclose, 5.0)
            stack.callback(stop.set)
            listener = bind(Address("127.0.0.1", 0))
            stack.callback(listener.close)
            tasks.spawn("server", listen(create_app(service, health), [listener], stop, 1.0))
            tasks.spawn("control", serve_control(service, control, stop))
            health.state = State.READY
            self.wire = Wire(listener.getsockname()[1])
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    async def rows(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        """What `routerd cache` has to print, asked for as it does: at the socket, or here."""
        return await asyncio.to_thread(lambda: list(rows_of(self.compiled(), name, arguments)))
