"""What is swept of a served policy, and what does not fit, over real sockets (config-language.md 4)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from upstream import Upstream, digest_of, image, upstream
from wire import Wire

from .conftest import Serving

DAY = 86400.0
LAYER = os.urandom(300_000)
BLOB = f"/v2/library/app/blobs/{digest_of(LAYER)}"
MANIFEST = "/v2/library/app/manifests/1"


class Clock:
    """UTC seconds, moved by hand; real at first, since files have the real time."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # Hours of the test's clock pass in no time, and so the stores are looked after as often.
    monkeypatch.setattr("routerd.proxy.upkeep.FLUSH_SECONDS", 0.02)
    return Clock()


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.manifest("library/app", "1", image(LAYER))
        server.blob("library/app", LAYER)
        yield server


def policy(hub: Upstream, keys: str = "retain: 14d", storage: str = "", routes: str = "") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: {hub.url}
    namespace: docker.io
    cache: {{store: local, {keys}}}
    timeouts: {{connect: 2s, response: 3s, stall: 10s}}
  local: {{type: storage, min_free: 0%{storage}}}
routes:
  team/**: local
  "**": hub
{routes}
"""


async def pull(wire: Wire) -> None:
    assert (await wire.get(MANIFEST)).status == 200
    assert (await wire.get(BLOB)).body == LAYER
    async with asyncio.timeout(20):
        while (await wire.head(BLOB)).headers["cache-status"] != "routerd; hit":
            await asyncio.sleep(0.01)


def kept(data: Path) -> set[str]:
    return {path.name for path in (data / "local" / "blobs").rglob("*") if path.is_file()}


async def until_kept(data: Path, count: int) -> None:
    async with asyncio.timeout(20):
        while len(kept(data)) != count:
            await asyncio.sleep(0.01)


async def until_swept(data: Path, clock: Clock) -> None:
    """A sweep has come to its end at the clock's time."""
    async with asyncio.timeout(20):
        while (data / "local" / "swept").stat().st_mtime < clock.now - 1:
            await asyncio.sleep(0.01)


async def test_an_image_stays_while_it_is_pulled_and_goes_when_it_is_not(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    async with serving(policy(hub), clock) as wire:
        await pull(wire)
        for _ in range(3):
            clock.now += 10 * DAY
            assert (await wire.get(MANIFEST)).status == 200
            await until_swept(tmp_path / "data", clock)
            assert len(kept(tmp_path / "data")) == 2
        clock.now += 15 * DAY
        await until_kept(tmp_path / "data", 0)
        await pull(wire)
        assert hub.count("GET", BLOB) == 2
        pushed = f"/v2/team/app/blobs/uploads/?digest={digest_of(b'pushed')}"
        assert (await wire.send("POST", pushed, b"pushed")).status == 201
        clock.now += 1000 * DAY
        await until_kept(tmp_path / "data", 1)
        assert (await wire.get(f"/v2/team/app/blobs/{digest_of(b'pushed')}")).status == 200


async def test_what_an_endpoint_hides_goes_as_its_own_does(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    plain = policy(hub)
    login = plain.replace("namespace:", "auth: {type: bearer, token: t}\n    namespace:")
    async with serving(login, clock) as wire:
        await pull(wire)
    async with serving(plain, clock):
        clock.now += 13 * DAY
        await until_swept(tmp_path / "data", clock)
        assert len(kept(tmp_path / "data")) == 2, "whoever takes the change back finds it"
        clock.now += 2 * DAY
        await until_kept(tmp_path / "data", 0)


async def test_a_changed_policy_counts_at_the_next_sweep(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    route = '  "library/*:*": {cache: {retain: %s}}\n  library/*: {cache: {retain: %s}}'
    async with serving(policy(hub, routes=route % ("never", "1d")), clock) as wire:
        await pull(wire)
        clock.now += 100 * DAY
        await until_swept(tmp_path / "data", clock)
        assert len(kept(tmp_path / "data")) == 2, "the longer of the routes counts"
    async with serving(policy(hub, routes=route % ("2d", "1d")), clock):
        clock.now += DAY
        await until_kept(tmp_path / "data", 0)


async def test_a_push_that_does_not_fit_is_refused_at_its_head(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    async with serving(policy(hub, storage=", max_size: 1MB"), clock) as wire:
        await pull(wire)
        clock.now += DAY
        digest = digest_of(b"never sent")
        refused = await wire.raw(
            f"POST /v2/team/app/blobs/uploads/?digest={digest} HTTP/1.1\r\n"
            "Host: mirror.test\r\nContent-Length: 2000000\r\n\r\n".encode()
        )
        assert (refused.status, refused.code) == (507, "DENIED")
        assert "max_size is 1MB" in refused.message
        # What fits once the cache has made room does fit.
        data = os.urandom(900_000)
        path = f"/v2/team/app/blobs/uploads/?digest={digest_of(data)}"
        assert (await wire.send("POST", path, data)).status == 201
        assert kept(tmp_path / "data") == {digest_of(data).removeprefix("sha256:")}
        small = image(data)
        fits = await wire.send("PUT", "/v2/team/app/manifests/1", small)
        assert fits.status == 201


async def test_a_cache_that_outgrows_its_store_is_swept_without_being_told(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    for number in range(5):
        name = f"library/app{number}"
        hub.manifest(name, "1", image(layer := os.urandom(300_000)))
        hub.blob(name, layer)
    async with serving(policy(hub, "retain: never", ", max_size: 1MB"), clock) as wire:
        for path in [path for path in hub.paths if "/blobs/" in path or path.endswith("/1")]:
            assert (await wire.get(path)).status == 200
            clock.now += 600
        async with asyncio.timeout(20):
            while stored_bytes(tmp_path / "data") > 950_000:
                await asyncio.sleep(0.01)
        last = list(hub.paths)[-1]
        assert (await wire.head(last)).headers["cache-status"] == "routerd; hit"


def stored_bytes(data: Path) -> int:
    total = 0
    for path in (data / "local" / "blobs").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # swept in this moment
            total += path.stat().st_size if path.is_file() else 0
    return total
