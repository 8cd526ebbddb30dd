"""A remote endpoint towards the scripted upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from routerd.endpoints.addresses import Addresses
from routerd.endpoints.base import EndpointContext
from routerd.endpoints.client import RegistryClient
from routerd.endpoints.remote import RemoteEndpoint
from routerd.runtime.tasks import Tasks
from upstream import Upstream, upstream

MakeRemote = Callable[..., Awaitable[RemoteEndpoint]]


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
