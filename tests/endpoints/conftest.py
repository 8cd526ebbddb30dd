"""A remote endpoint towards the scripted upstream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from routerd.endpoints.addresses import Addresses
from routerd.endpoints.base import EndpointContext
from routerd.endpoints.client import RegistryClient
from routerd.endpoints.remote import RemoteEndpoint
from routerd.runtime.tasks import Tasks
from upstream import Upstream, upstream

MakeRemote = Callable[..., Awaitable[RemoteEndpoint]]
LoopFactories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> LoopFactories:
    """Both loops where a connection changes hands: each does that in its own way, and uvloop serves."""
    loops: LoopFactories = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_bulk.py":
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.aclose(grace=0)


@pytest.fixture
async def remote(hub: Upstream, tasks: Tasks) -> AsyncIterator[MakeRemote]:
    """`await remote(auth=..., url=..., addresses=...)`: an open endpoint, closed in the end."""
    opened: list[RemoteEndpoint] = []

    async def make(
        url: str | None = None, addresses: Addresses | None = None, **options: Any
    ) -> RemoteEndpoint:
        every = {
            "url": url or hub.url,
            "namespace": None,
            "auth": {"type": "anonymous"},
            "token_realms": (),
            "tls": {"ca": None, "insecure": False},
            "timeouts": {"connect": 2.0, "response": 5.0, "stall": 5.0},
            **options,
        }
        context = EndpointContext("hub", every, None, "mirror-1", 5, tasks)
        endpoint = RemoteEndpoint(RegistryClient(context, addresses))
        await endpoint.open()
        opened.append(endpoint)
        return endpoint

    yield make
    for endpoint in opened:
        await endpoint.aclose()
