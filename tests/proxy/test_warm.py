"""Warming an image, from an upstream on a real socket into a store on disk."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from routerd.config.compile import load_policy
from routerd.endpoints.registry import lookup_type
from routerd.oci.errors import RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Digest, Reference
from routerd.proxy.answers import Request
from routerd.proxy.service import Service
from routerd.proxy.warm import CONCURRENCY, Stage, WarmEvent
from routerd.runtime.files import as_bytes
from routerd.runtime.tasks import Tasks
from upstream import OCI_MANIFEST, Script, Upstream, digest_of, image, upstream

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = b"{}"
APP = Reference.parse("library/app:1")
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")

Serving = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
def serving(hub: Upstream, tmp_path: Path) -> Serving:
    @asynccontextmanager
    async def serve(warm: str = "[]") -> AsyncIterator[Service]:
        path = tmp_path / "policy.yaml"
        path.write_text(
            f"server: {{data: '{tmp_path}/data', audit: null}}\n"
            "endpoints:\n"
            f"  hub: {{type: remote, url: '{hub.url}', namespace: docker.io, cache: local}}\n"
            f"  bare: {{type: remote, url: '{hub.url}', namespace: docker.io}}\n"
            "  local: {type: storage}\n"
            "routes: {'library/*': hub, 'bare/*': bare, 'closed/*': {deny: never}}\n"
            f"warm: {warm}\n"
        )
        policy = load_policy(path, environment={}, types=lookup_type).policy
        assert policy is not None
        async with Service(policy) as service:
            yield service

    return serve


def blob_path(data: bytes) -> str:
    return f"/v2/library/app/blobs/{digest_of(data)}"


def serve_image(hub: Upstream, *layers: bytes, tag: str = "1") -> str:
    for data in (CONFIG, *layers):
        hub.blob("library/app", data)
    return hub.manifest("library/app", tag, image(CONFIG, *layers))


def serve_index(hub: Upstream, **layers: bytes) -> list[str]:
    """An index of linux images by architecture; the digests of the children."""
    children = []
    for architecture, layer in layers.items():
        digest = serve_image(hub, layer, tag=architecture)
        place = {"os": "linux", "architecture": architecture}
        children.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": digest,
                "size": len(image(CONFIG, layer)),
                "platform": place,
            }
        )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    hub.manifest("library/app", "1", json.dumps(index).encode(), **{"Content-Type": OCI_INDEX})
    return [str(child["digest"]) for child in children]


async def pulled(service: Service, data: bytes) -> bytes:
    digest = Digest.parse(digest_of(data))
    answer = await service.pull.blob(Reference(APP.repository, digest=digest), Request())
    try:
        return b"".join([chunk async for chunk in as_bytes(answer.read(0, answer.size))])
    finally:
        await answer.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_warm_image_is_served_whole_without_upstream(
    serving: Serving, hub: Upstream
) -> None:
    layers = [os.urandom(1_500_000), os.urandom(10)]
    digest = serve_image(hub, *layers)
    events: list[WarmEvent] = []
    async with serving() as service:
        warmed = await service.warm.warm(APP, (), events.append)
        await hub.stop()
        answer = await service.pull.manifest(APP, [], Request())
        assert str(answer.manifest.descriptor.digest) == digest
        for data in (CONFIG, *layers):
            assert await pulled(service, data) == data
    assert (str(warmed.digest), warmed.manifests, warmed.blobs) == (digest, 1, 3)
    assert (warmed.size, warmed.failed) == (len(CONFIG) + 1_500_010, ())
    assert [hub.count("GET", blob_path(data)) for data in (CONFIG, *layers)] == [1, 1, 1]
    of_layer = [event for event in events if event.content == digest_of(layers[0])]
    assert [of_layer[0].stage, of_layer[-1].stage] == [Stage.FETCHING, Stage.KEPT]
    assert [event.done for event in of_layer] == sorted(event.done for event in of_layer)
    assert {event.size for event in of_layer} == {1_500_000}
    assert of_layer[-1].done == 1_500_000
    assert (events[0].kind, events[0].content, events[1].stage) == ("manifest", "1", Stage.KEPT)


async def test_what_is_warm_costs_upstream_nothing(serving: Serving, hub: Upstream) -> None:
    serve_image(hub, os.urandom(1000))
    async with serving() as service:
        first = await service.warm.warm(APP, (), lambda event: None)
        asked = len(hub.asked)
        assert await service.warm.warm(APP, (), lambda event: None) == first
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [
        ((AMD64,), [1, 0]),
        ((ARM64, AMD64), [1, 1]),
        ((), [1, 1]),
        ((Platform("linux", "s390x"),), [0, 0]),
    ],
)
async def test_of_an_index_the_platforms_come(
    serving: Serving, hub: Upstream, platforms: tuple[Platform, ...], expected: list[int]
) -> None:
    layers = {"amd64": os.urandom(100), "arm64": os.urandom(100)}
    children = serve_index(hub, **layers)
    async with serving() as service:
        warmed = await service.warm.warm(APP, platforms, lambda event: None)
    assert [hub.count("GET", blob_path(data)) for data in layers.values()] == expected
    assert [
        hub.count("GET", f"/v2/library/app/manifests/{child}") for child in children
    ] == expected
    assert warmed.manifests == 1 + sum(expected)
    if not any(expected):
        assert warmed.failed == ("docker.io/library/app:1 is not for linux/s390x",)


async def test_what_is_missing_is_said_and_the_rest_is_fetched(
    serving: Serving, hub: Upstream
) -> None:
    layers = {"amd64": os.urandom(100), "arm64": os.urandom(100), "riscv64": os.urandom(100)}
    children = serve_index(hub, **layers)
    hub.paths[f"/v2/library/app/manifests/{children[0]}"] = Script(b"", 404)
    hub.paths[blob_path(layers["arm64"])] = Script(b"", 404)
    events: list[WarmEvent] = []
    async with serving() as service:
        warmed = await service.warm.warm(APP, (), events.append)
        await hub.stop()
        assert await pulled(service, layers["riscv64"]) == layers["riscv64"]
    assert len(warmed.failed) == 2
    failed = {event.content for event in events if event.stage is Stage.FAILED}
    assert failed == {children[0], digest_of(layers["arm64"])}
    assert all(event.error for event in events if event.stage is Stage.FAILED)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("library/none:1", "none"),
        ("closed/app:1", "never"),
        ("nobody/app:1", "no route"),
        ("bare/app:1", "has no 'cache'"),
    ],
)
async def test_an_image_that_cannot_be_had_or_kept_is_an_error(
    serving: Serving, hub: Upstream, text: str, why: str
) -> None:
    hub.manifest("bare/app", "1", image(CONFIG))
    async with serving() as service:
        with pytest.raises(RegistryError, match=why):
            await service.warm.warm(Reference.parse(text), (), lambda event: None)


async def test_wrong_bytes_are_not_kept_and_said(serving: Serving, hub: Upstream) -> None:
    layer = os.urandom(1000)
    serve_image(hub, layer)
    hub.paths[blob_path(layer)] = Script(os.urandom(1000))
    async with serving() as service:
        warmed = await service.warm.warm(APP, (), lambda event: None)
        assert len(warmed.failed) == 1
        hub.blob("library/app", layer)
        assert await pulled(service, layer) == layer


async def test_a_client_that_meets_it_shares_the_download(serving: Serving, hub: Upstream) -> None:
    layer, gate = os.urandom(100_000), asyncio.Event()
    serve_image(hub, layer)
    hub.blob("library/app", layer, gate=gate, before_gate=10)
    tasks = Tasks()
    async with serving() as service:
        warming = tasks.spawn("warm", service.warm.warm(APP, (), lambda event: None))
        await until(lambda: hub.count("GET", blob_path(layer)) == 1)
        reading = tasks.spawn("client", pulled(service, layer))
        await asyncio.sleep(0.02)
        gate.set()
        assert await reading == layer
        assert (await warming).failed == ()
    assert hub.count("GET", blob_path(layer)) == 1
    await tasks.aclose(grace=0)


async def test_so_many_blobs_come_at_once_and_a_stop_waits_for_none(
    serving: Serving, hub: Upstream
) -> None:
    layers = [os.urandom(100) for _ in range(CONCURRENCY + 3)]
    serve_image(hub, *layers)
    for layer in layers:
        hub.blob("library/app", layer, gate=asyncio.Event())
    tasks = Tasks()
    async with asyncio.timeout(10):
        async with serving() as service:
            warming = tasks.spawn("warm", service.warm.warm(APP, (), lambda event: None))
            await until(
                lambda: sum(hub.count("GET", blob_path(layer)) for layer in layers) == CONCURRENCY
            )
            warming.cancel()
            await asyncio.wait({warming})
            assert warming.cancelled()
    await tasks.aclose(grace=0)


async def test_the_policys_own_images_are_fetched_by_the_service(
    serving: Serving, hub: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.proxy.warmschedule.FIRST_SECONDS", 0.0)
    layer = os.urandom(1000)
    serve_image(hub, layer)
    async with serving("[{references: ['library/app:1']}]"):
        await until(lambda: hub.count("GET", blob_path(layer)) == 1)
        assert (tmp_path / "data" / "warm.lock").exists()
