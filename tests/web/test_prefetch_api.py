"""Prefetching over real sockets, from an upstream whose answers the test lets go."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from routerd.content.fetchtable import FILLS_LIMIT
from routerd.proxy import prefetch
from upstream import Script, Upstream, digest_of, image, upstream

from .conftest import Serving

OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


def policy(hub: Upstream, wanted: str = "layers", routes: str = "") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: {hub.url}
    namespace: docker.io
    cache: {{store: local, ttl: 1h, prefetch: {wanted}}}
  local: {{type: storage}}
routes:
  library/*: hub
{routes}
"""


def serve_image(hub: Upstream, *blobs: bytes, tag: str = "1", **changes: Any) -> str:
    for blob in blobs:
        hub.blob("library/app", blob, **changes)
    return hub.manifest("library/app", tag, image(*blobs))


def asked(hub: Upstream, *blobs: bytes) -> list[int]:
    return [hub.count("GET", f"/v2/library/app/blobs/{digest_of(blob)}") for blob in blobs]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


BLOBS = [os.urandom(200_000) for _ in range(6)]


async def test_the_blobs_of_a_pulled_manifest_come_without_being_asked_for(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub, *BLOBS)
    async with serving(policy(hub)) as wire:
        await wire.head("/v2/library/app/manifests/1")
        assert asked(hub, *BLOBS) == [0] * 6, "who only looks pulls nothing"
        await wire.get("/v2/library/app/manifests/1")
        for blob in BLOBS:
            path = f"/v2/library/app/blobs/{digest_of(blob)}"
            async with asyncio.timeout(20):
                while (await wire.head(path)).headers["cache-status"] != "routerd; hit":
                    await asyncio.sleep(0.01)
        await wire.get("/v2/library/app/manifests/1")
        await hub.stop()
        for blob in BLOBS:
            assert (await wire.get(f"/v2/library/app/blobs/{digest_of(blob)}")).body == blob
    assert asked(hub, *BLOBS) == [1] * 6


async def test_nothing_is_fetched_where_the_policy_does_not_say_so(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub, *BLOBS)
    route = "  library/app: {endpoints: hub, cache: {prefetch: none}}"
    async with serving(policy(hub, routes=route)) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await wire.get(f"/v2/library/app/blobs/{digest_of(BLOBS[0])}")
    assert asked(hub, *BLOBS) == [1, 0, 0, 0, 0, 0]


async def test_no_more_than_the_policy_says_are_fetched_at_once(
    serving: Serving, hub: Upstream
) -> None:
    gate = asyncio.Event()
    serve_image(hub, *BLOBS, gate=gate)
    async with serving(policy(hub, "{concurrency: 2}")) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: sum(asked(hub, *BLOBS)) == 2)
        gate.set()
        await until(lambda: sum(asked(hub, *BLOBS)) == 6)


async def test_a_client_that_meets_a_prefetch_joins_it(serving: Serving, hub: Upstream) -> None:
    gate = asyncio.Event()
    serve_image(hub, *BLOBS[:2], gate=gate, before_gate=100)
    path = f"/v2/library/app/blobs/{digest_of(BLOBS[1])}"
    async with serving(policy(hub)) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: asked(hub, BLOBS[1]) == [1])
        begun = [asyncio.Event() for _ in range(5)]
        pulls = [asyncio.ensure_future(wire.send("GET", path, begun=event)) for event in begun]
        async with asyncio.timeout(20):
            await asyncio.gather(*(event.wait() for event in begun))
        gate.set()
        replies = await asyncio.gather(*pulls)
    assert [reply.body == BLOBS[1] for reply in replies] == [True] * 5
    assert replies[0].headers["cache-status"] == "routerd; fwd=miss; collapsed"
    assert asked(hub, BLOBS[1]) == [1]


async def test_a_client_waits_for_no_prefetch(serving: Serving, hub: Upstream) -> None:
    """Every turn is taken by a prefetch that hangs: a client's own download begins all the same."""
    gate = asyncio.Event()
    hanging = [os.urandom(50) for _ in range(FILLS_LIMIT + 2)]
    serve_image(hub, *hanging, gate=gate)
    wanted, late = os.urandom(500), hanging[-1]
    hub.blob("library/app", wanted)
    async with serving(policy(hub, "{concurrency: 16}")) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: sum(asked(hub, *hanging)) == FILLS_LIMIT)
        assert (await wire.get(f"/v2/library/app/blobs/{digest_of(wanted)}")).body == wanted
        assert asked(hub, late) == [0]
        pull = asyncio.ensure_future(wire.get(f"/v2/library/app/blobs/{digest_of(late)}"))
        await until(lambda: asked(hub, late) == [1])  # that waits behind them no longer
        gate.set()
        assert (await pull).body == late
        await until(lambda: asked(hub, *hanging) == [1] * len(hanging))


def serve_index(hub: Upstream) -> dict[str, bytes]:
    """An index of three platforms; the layer of each."""
    layers, children = {}, []
    for platform in ("linux/amd64", "linux/arm64/v8", "windows/amd64"):
        layers[platform] = os.urandom(1000)
        body = image(b"{}", layers[platform])
        hub.blob("library/app", layers[platform])
        digest = hub.manifest("library/app", f"only-{len(children)}", body)
        os_, architecture, *variant = platform.split("/")
        place = {
            "os": os_,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
        }
        media_type = "application/vnd.oci.image.manifest.v1+json"
        children.append(
            {"mediaType": media_type, "digest": digest, "size": len(body), "platform": place}
        )
    hub.blob("library/app", b"{}")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    hub.manifest("library/app", "1", json.dumps(index).encode(), **{"Content-Type": OCI_INDEX})
    return layers


async def test_of_an_index_the_named_platforms_come(serving: Serving, hub: Upstream) -> None:
    layers = serve_index(hub)
    async with serving(policy(hub, "{platforms: [linux/arm64, linux/amd64]}")) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: asked(hub, *layers.values()) == [1, 1, 0])
    assert hub.count("GET", "/v2/library/app/manifests/1") == 1
    assert asked(hub, b"{}") == [1]


async def test_of_an_index_without_platforms_the_child_that_is_pulled_comes(
    serving: Serving, hub: Upstream
) -> None:
    layers = serve_index(hub)
    async with serving(policy(hub)) as wire:
        index = await wire.get("/v2/library/app/manifests/1")
        assert asked(hub, *layers.values()) == [0, 0, 0]
        child = json.loads(index.body)["manifests"][1]["digest"]
        await wire.get(f"/v2/library/app/manifests/{child}")
        await until(lambda: asked(hub, *layers.values()) == [0, 1, 0])


async def test_what_finds_no_room_is_dropped_and_tried_with_the_next_pull(
    serving: Serving, hub: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "QUEUE_LIMIT", 2)
    serve_image(hub, *BLOBS)
    async with serving(policy(hub)) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: sum(asked(hub, *BLOBS)) == 2)
        async with asyncio.timeout(20):
            while sum(asked(hub, *BLOBS)) < 6:
                await wire.get("/v2/library/app/manifests/1")
                await asyncio.sleep(0.02)
                monkeypatch.setattr(prefetch, "QUEUE_LIMIT", 100)


async def test_a_blob_that_fails_keeps_the_others_from_nothing(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub, *BLOBS[:3])
    hub.paths[f"/v2/library/app/blobs/{digest_of(BLOBS[0])}"] = Script(b"", 404)
    async with serving(policy(hub, "{concurrency: 1}")) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: asked(hub, *BLOBS[:3]) == [1, 1, 1])
        hub.blob("library/app", BLOBS[0])
        await wire.get("/v2/library/app/manifests/1")
        await until(lambda: asked(hub, BLOBS[0]) == [2])


async def test_a_stop_waits_for_no_prefetch(serving: Serving, hub: Upstream) -> None:
    serve_image(hub, *BLOBS, gate=asyncio.Event())
    async with asyncio.timeout(10):
        async with serving(policy(hub, "{concurrency: 2}")) as wire:
            await wire.get("/v2/library/app/manifests/1")
            await until(lambda: sum(asked(hub, *BLOBS)) == 2)
