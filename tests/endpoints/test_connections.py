"""connections.Connections: what a remote says when as much as may be is under way to it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from routerd.endpoints.availability import FAILURES, LeftAlone
from routerd.endpoints.base import EndpointError, Via
from routerd.endpoints.connections import Busy, Connections
from routerd.oci.reference import Digest, Reference, Repository
from upstream import Script, Upstream, image, upstream

from .conftest import MakeRemote

APP = Repository.parse("docker.io", "library/app")
TAGGED = Reference.parse("library/app:1")
MANIFEST = "/v2/library/app/manifests/1"
LAYER = bytes(range(256)) * 4000


async def test_slow_readers_make_it_busy_and_leave_a_healthy_upstream_in_use(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.manifest("library/app", "1", image(b"c"))
    digest = Digest.parse(hub.blob("library/app", LAYER))
    endpoint = await remote(connections=Connections("hub", limit=3, wait=0.0))
    async with AsyncExitStack() as readers:
        for _ in range(3):
            await readers.enter_async_context(endpoint.blob(APP, digest, Via()))
        for _ in range(2 * FAILURES):
            with pytest.raises(Busy, match="hub is busy: 3 requests") as refused:
                await endpoint.manifest(TAGGED, Via())
            assert refused.value.status == 503
            assert int(refused.value.headers["Retry-After"]) > 0
        assert hub.count("GET", MANIFEST) == 0
    await endpoint.manifest(TAGGED, Via())


async def test_who_waits_is_asked_for_as_soon_as_a_reader_is_done(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.manifest("library/app", "1", image(b"c"))
    digest = Digest.parse(hub.blob("library/app", LAYER))
    endpoint = await remote(connections=Connections("hub", limit=1, wait=60.0))
    async with endpoint.blob(APP, digest, Via()) as stream:
        waiting = asyncio.ensure_future(endpoint.manifest(TAGGED, Via()))
        assert b"".join([chunk async for chunk in stream.chunks()]) == LAYER
        assert not waiting.done()
    await waiting


async def test_every_turn_is_given_back_however_it_ends(remote: MakeRemote, hub: Upstream) -> None:
    digest = Digest.parse(hub.blob("library/app", LAYER))
    hub.paths[MANIFEST] = Script(status=404)
    endpoint = await remote(connections=Connections("hub", limit=1, wait=0.0))
    for _ in range(3):
        with pytest.raises(EndpointError, match="has no"):
            await endpoint.manifest(TAGGED, Via())
        with pytest.raises(KeyError):
            async with endpoint.blob(APP, digest, Via()):
                raise KeyError
        assert await endpoint.blob_size(APP, digest, Via()) == len(LAYER)


async def test_a_token_is_had_while_its_question_has_the_last_turn(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.paths["/token"] = Script(b'{"token":"good"}')
    challenge = {"WWW-Authenticate": f'Bearer realm="{hub.url}/token"'}
    hub.paths[MANIFEST] = lambda asked: (
        Script(image(b"c"), headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
        if asked.headers.get("authorization") == "Bearer good"
        else Script(status=401, headers=challenge)
    )
    endpoint = await remote(connections=Connections("hub", limit=1, wait=0.0))
    await endpoint.manifest(TAGGED, Via())


async def test_another_url_is_asked_where_the_first_is_busy(
    remote: MakeRemote, hub: Upstream
) -> None:
    digest = Digest.parse(hub.blob("library/app", LAYER))
    endpoint = await remote(connections=Connections("hub", limit=1, wait=0.0))
    async with upstream() as second:
        second.manifest("library/app", "1", image(b"c"))
        other = await remote(second.url)
        both = type(endpoint)("hub", [*endpoint._upstreams, *other._upstreams])
        async with endpoint.blob(APP, digest, Via()):
            await both.manifest(TAGGED, Via())
        assert second.count("GET", MANIFEST) == 1


async def test_nobody_waits_for_a_connection_to_an_upstream_that_is_left_alone(
    remote: MakeRemote, hub: Upstream
) -> None:
    digest = Digest.parse(hub.blob("library/app", LAYER))
    turns = Connections("hub", limit=2, wait=60.0)
    endpoint = await remote(connections=turns)
    async with endpoint.blob(APP, digest, Via()):
        await hub.stop()
        for _ in range(FAILURES):
            with pytest.raises(EndpointError, match="cannot be connected to"):
                await endpoint.manifest(TAGGED, Via())
        async with turns.one(), asyncio.timeout(5):
            with pytest.raises(LeftAlone):
                await endpoint.manifest(TAGGED, Via())
