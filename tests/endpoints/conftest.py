"""A remote endpoint towards the scripted upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from routerd.endpoints.addresses import Addresses
from routerd.endpoints.base import EndpointContext
from routerd.endpoints.client import RegistryClient
from routerd.endpoints.connections import Connections
from routerd.endpoints.remote import RemoteEndpoint
from routerd.endpoints.upstream import Upstream
from routerd.runtime.tasks import Tasks
from upstream import Upstream as Scripted
from upstream import upstream

MakeRemote = Callable[..., Awaitable[RemoteEndpoint]]
LoopFactories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> LoopFactories:
    """Both loops where a connection changes hands: each does that in its own way, and uvloop serves."""
    loops: LoopFactories = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_bulk.py":
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture
async def hub() -> AsyncIterator[Scripted]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.aclose(grace=0)


@pytest.fixture
async def remote(hub: Scripted, tasks: Tasks) -> AsyncIterator[MakeRemote]:
    """`await remote(auth=..., url=..., addresses=...)`: an open endpoint, closed in the end.

    `url` and `auth` may be lists; `tls` and `connections` are of every URL.
    """
    opened: list[RemoteEndpoint] = []

    async def make(
        url: str | list[str] | None = None,
        addresses: Addresses | None = None,
        auth: Any = None,
        clock: Callable[[], float] = time.monotonic,
        connections: Connections | None = None,
        **options: Any,
    ) -> RemoteEndpoint:
        urls = [url or hub.url] if not isinstance(url, list) else url
        accounts = auth if isinstance(auth, list) else [auth or {"type": "anonymous"}]
        tls = {"ca": None, "insecure": False}
        every = {
            "url": tuple({"url": each, "auth": tuple(accounts), "tls": tls} for each in urls),
            "namespace": None,
            "token_realms": (),
            "timeouts": {"connect": 2.0, "response": 5.0, "stall": 5.0},
            "offline": False,
            **options,
        }
        context = EndpointContext("hub", every, None, "mirror-1", 5, tasks)
        clients = [RegistryClient(context, each, addresses, clock) for each in every["url"]]
        endpoint = RemoteEndpoint("hub", [Upstream(client, connections) for client in clients])
        await endpoint.open()
        opened.append(endpoint)
        return endpoint

    yield make
    for endpoint in opened:
        await endpoint.aclose()
