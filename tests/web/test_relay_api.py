"""A download that breaks goes on at the next endpoint of its route, from the byte where it broke."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from upstream import Asked, Script, Upstream, digest_of, image, upstream

from .conftest import Serving

LAYER = os.urandom(3_000_000)
HALF = len(LAYER) // 2
BLOB = f"/v2/library/app/blobs/{digest_of(LAYER)}"


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    """Gives half of the layer, once, and then nothing."""
    async with upstream() as server:

        def answer(asked: Asked) -> Script:
            if server.count("GET", BLOB) > 1:
                return Script(status=503)
            return Script(LAYER, cut=HALF)

        server.paths[BLOB] = answer
        yield server


@pytest.fixture
async def backup() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


def policy(hub: Upstream, backup: Upstream, route: str = "[hub, backup]") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: "{hub.url}"
    namespace: docker.io
    timeouts: {{connect: 1s, response: 1s, stall: 1s}}
    cache: local
  backup: {{type: remote, url: "{backup.url}", namespace: docker.io, cache: local}}
  local: {{type: storage}}
routes: {{"library/**": {route}, "team/**": local}}
"""


def ranges(server: Upstream) -> list[int]:
    """Where each GET of the blob began."""
    return [
        int(one.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        for one in server.asked
        if (one.method, one.path) == ("GET", BLOB)
    ]


async def test_the_next_endpoint_gives_the_rest(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    backup.blob("library/app", LAYER)
    async with serving(policy(hub, backup)) as wire:
        assert (await wire.get(BLOB)).body == LAYER
        assert (await wire.get(BLOB)).body == LAYER, "and it is stored"
    assert ranges(hub)[0] == 0
    (start,) = ranges(backup)
    assert 0 < start <= HALF


async def test_who_sends_nothing_more_is_left_for_the_next(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    """It answers each time, and breaks where it broke before."""
    hub.paths[BLOB] = Script(LAYER, cut=HALF, ranges=False)
    backup.blob("library/app", LAYER)
    async with serving(policy(hub, backup)) as wire:
        assert (await wire.get(BLOB)).body == LAYER
    assert len(ranges(backup)) == 1


async def test_a_storage_endpoint_may_have_the_rest(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    hub.blob("library/app", b"config")
    hub.manifest("library/app", "1", image(b"config", LAYER))
    async with serving(policy(hub, backup, "{endpoints: [hub, local], push_to: local}")) as wire:
        path = f"/v2/library/app/blobs/uploads/?digest={digest_of(LAYER)}"
        assert (await wire.send("POST", path, LAYER)).status == 201
        # Asked first is who announced it (config-language.md 3).
        assert (await wire.get("/v2/library/app/manifests/1")).status == 200
        assert (await wire.get(BLOB)).body == LAYER
    assert ranges(hub)[0] == 0


async def test_the_next_endpoint_may_have_the_rest_stored(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    for server, tag in ((hub, "1"), (backup, "b1")):
        server.blob("library/app", b"config")
        server.manifest("library/app", tag, image(b"config", LAYER))
    backup.blob("library/app", LAYER)
    more = 'routes: {"library/app:b*": backup, '
    async with serving(policy(hub, backup).replace("routes: {", more)) as wire:
        assert (await wire.get("/v2/library/app/manifests/b1")).status == 200
        assert (await wire.get(BLOB)).body == LAYER
        assert not ranges(hub)
        await backup.stop()
        assert (await wire.get("/v2/library/app/manifests/1")).status == 200
        assert (await wire.get(BLOB)).body == LAYER


async def test_an_endpoint_that_may_not_be_fallen_back_on_is_not_asked(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    backup.blob("library/app", LAYER)
    route = "{endpoints: [hub, backup], fallback_on: []}"
    async with serving(policy(hub, backup, route)) as wire:
        reply = await wire.get(BLOB)
        assert not reply.complete
        assert LAYER.startswith(reply.body)
    assert not ranges(backup)


async def test_where_nobody_has_the_rest_the_answer_ends_short(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    async with serving(policy(hub, backup)) as wire:
        reply = await wire.get(BLOB)
        assert not reply.complete
        assert LAYER.startswith(reply.body)
    assert ranges(backup), "it was asked"


async def test_another_size_at_the_next_endpoint_spoils_nothing(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    backup.paths[BLOB] = Script(b"x" * 400, ranges=False)
    async with serving(policy(hub, backup)) as wire:
        reply = await wire.get(BLOB)
        assert not reply.complete
        assert LAYER.startswith(reply.body)
        hub.blob("library/app", LAYER)
        assert (await wire.get(BLOB)).body == LAYER
    assert ranges(hub)[-1] > 0, "what was received is gone on with"


async def test_who_joins_a_prefetch_has_the_rest_from_the_next_endpoint_too(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    hub.blob("library/app", b"config")
    hub.manifest("library/app", "1", image(b"config", LAYER))
    backup.blob("library/app", LAYER)
    text = policy(hub, backup).replace(
        "cache: local\n", "cache: {store: local, prefetch: layers}\n"
    )
    async with serving(text) as wire:
        assert (await wire.get("/v2/library/app/manifests/1")).status == 200
        async with asyncio.timeout(10):
            while not ranges(hub):
                await asyncio.sleep(0.005)
        assert (await wire.get(BLOB)).body == LAYER
    assert len(ranges(backup)) == 1


async def test_what_the_next_endpoint_sends_must_be_the_content(
    serving: Serving, hub: Upstream, backup: Upstream
) -> None:
    backup.paths[BLOB] = Script(os.urandom(len(LAYER)))
    async with serving(policy(hub, backup)) as wire:
        reply = await wire.get(BLOB)
        assert reply.status == 502 or not reply.complete
