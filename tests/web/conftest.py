"""A served policy for the tests of the web floor: real sockets, this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from routerd.config.compile import load_policy
from routerd.config.settings import Address
from routerd.endpoints.registry import lookup_type
from routerd.proxy.service import Service
from routerd.runtime.tasks import Tasks
from routerd.web.app import create_app
from routerd.web.health import Health, State
from routerd.web.listener import listen
from routerd.web.sockets import bind
from wire import Wire

Serving = Callable[..., AbstractAsyncContextManager[Wire]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that `server.py` serves on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """`async with serving(policy_text, clock) as wire:`; the data directory is the test's own."""

    @asynccontextmanager
    async def serve(text: str, clock: Callable[[], float] = time.time) -> AsyncIterator[Wire]:
        path = tmp_path / "policy.yaml"
        path.write_text(f"server: {{admin: null, data: '{tmp_path}/data'}}\n" + text)
        compilation = load_policy(path, environment={}, types=lookup_type)
        assert compilation.policy is not None, compilation.diagnostics
        listener = bind(Address("127.0.0.1", 0))
        port = listener.getsockname()[1]
        health, stop, tasks = Health(), asyncio.Event(), Tasks()
        try:
            async with Service(compilation.policy, clock) as service:
                serving = tasks.spawn(
                    "server", listen(create_app(service, health), [listener], stop, 1.0)
                )
                health.state = State.READY
                yield Wire(port)
                stop.set()
                await serving
        finally:
            await tasks.aclose(grace=0)
            listener.close()

    return serve
