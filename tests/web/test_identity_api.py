"""Offline, renamed and changed endpoints over real sockets, on one data directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from upstream import OCI_MANIFEST, Asked, Script, Upstream, digest_of, image, upstream
from wire import Wire

from .conftest import Serving

LAYER = b"layer " * 200_000
BODY = image(b"config", LAYER)
TAG = "/v2/library/app/manifests/1"
BLOB = f"/v2/library/app/blobs/{digest_of(LAYER)}"
CONFIG = f"/v2/library/app/blobs/{digest_of(b'config')}"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.blob("library/app", LAYER)
        server.manifest("library/app", "1", BODY)
        yield server


def policy(
    url: str,
    keys: str = "",
    name: str = "hub",
    route: str = '"**"',
    store: str = "local: {type: storage}",
) -> str:
    cache = store.partition(":")[0]
    return f"""
endpoints:
  {name}:
    type: remote
    url: {url}
    cache: {{store: {cache}, ttl: 60s}}
    timeouts: {{connect: 1s, response: 1s, stall: 1s}}
    {keys}
  {store}
routes: {{{route}: {name}, "team/**": {cache}}}
"""


async def pull(wire: Wire) -> None:
    """All of the image, until it is kept."""
    assert (await wire.get(TAG)).body == BODY
    assert (await wire.get(BLOB)).body == LAYER
    async with asyncio.timeout(20):
        while (await wire.head(BLOB)).headers["cache-status"] != "routerd; hit":
            await asyncio.sleep(0.01)


async def test_offline_serves_what_is_stored_whatever_its_age_and_asks_nobody(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub.url), clock) as wire:
        await pull(wire)
    asked = len(hub.asked)
    connections = len(hub.connections)
    async with serving(policy(hub.url, "offline: true"), clock) as wire:
        fresh = await wire.get(TAG)
        assert fresh.headers["cache-status"].startswith("routerd; hit; ttl=")
        clock.now += 90 * 86400  # far beyond stale_if_error
        stale = await wire.get(TAG)
        assert (stale.status, stale.body) == (200, BODY)
        assert 'detail="stale-if-error"' in stale.headers["cache-status"]
        assert stale.headers["warning"].startswith("299 - ")
        assert (await wire.get(BLOB)).body == LAYER
        for path in (TAG.replace("/1", "/2"), CONFIG, "/v2/library/app/tags/list"):
            missed = await wire.get(path)
            assert (missed.status, missed.code) == (503, "UNAVAILABLE")
            assert "hub is offline by policy" in missed.message
        assert (await wire.head(CONFIG)).status == 503
    assert (len(hub.asked), len(hub.connections)) == (asked, connections)


async def test_offline_goes_on_to_the_next_endpoint_only_where_the_route_says_so(
    serving: Serving, hub: Upstream
) -> None:
    text = policy(hub.url, "offline: true", route='"library/**"')
    other = f"  other: {{type: remote, url: '{hub.url}', namespace: docker.io}}\nroutes: {{"
    text = text.replace("routes: {", other)
    async with serving(text.replace(": hub,", ": [hub, other],")) as wire:
        assert (await wire.get(TAG)).status == 503
    falling = ": {endpoints: [hub, other], fallback_on: [unavailable]},"
    async with serving(text.replace(": hub,", falling)) as wire:
        assert (await wire.get(TAG)).body == BODY


async def test_a_start_without_a_name_server_serves_what_is_stored(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    nowhere = "http://registry.invalid"
    async with serving(policy(f'["{nowhere}", "{hub.url}"]'), clock) as wire:
        await pull(wire)
    await hub.stop()
    clock.now += 3600
    async with serving(policy(f'["{nowhere}", "{hub.url}"]'), clock) as wire:
        stale = await wire.get(TAG)
        assert (stale.status, stale.body) == (200, BODY)
        assert 'detail="stale-if-error"' in stale.headers["cache-status"]
        assert (await wire.get(BLOB)).body == LAYER
        assert (await wire.get(CONFIG)).status == 503


async def test_at_another_url_a_tag_is_confirmed_before_it_is_served(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub.url), clock) as wire:
        await pull(wire)
    async with upstream() as other:
        other.manifest("library/app", "1", BODY)
        clock.now += 10
        async with serving(policy(other.url), clock) as wire:
            first = await wire.get(TAG)
            assert first.headers["cache-status"].startswith("routerd; fwd=stale; fwd-status=304")
            assert (await wire.get(TAG)).headers["cache-status"].startswith("routerd; hit")
            assert (await wire.get(BLOB)).body == LAYER, "the links are kept"
        assert [one.method for one in other.asked] == ["HEAD"]
        clock.now += 10
        async with serving(policy(hub.url), clock) as wire:
            await hub.stop()
            down = await wire.get(TAG)
            assert 'detail="stale-if-error"' in down.headers["cache-status"]


def guarded(hub: Upstream, *accounts: str) -> None:
    """Let only these tokens read; everyone else is told that there is nothing."""
    for path, script in list(hub.paths.items()):
        assert isinstance(script, Script)

        def answer(asked: Asked, script: Script = script) -> Script:
            token = asked.headers.get("authorization", "")
            return script if token.removeprefix("Basic ") in accounts else Script(status=404)

        hub.paths[path] = answer


async def test_another_account_sees_nothing_of_what_was_cached_before(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    login = "auth: {type: basic, username: a, password: p}"
    async with serving(policy(hub.url, login), clock) as wire:
        await pull(wire)
    digest = f"/v2/library/app/manifests/{digest_of(BODY)}"
    hub.paths = {path: Script(status=404) for path in hub.paths}
    async with serving(policy(hub.url, login.replace(" a,", " b,")), clock) as wire:
        for path in (TAG, BLOB, digest):
            assert (await wire.get(path)).status == 404
    async with serving(policy(hub.url, login), clock) as wire:
        assert (await wire.get(BLOB)).body == LAYER, "the first account's is its own again"
        assert (await wire.get(digest)).body == BODY


async def test_another_account_gets_nothing_of_what_was_being_received(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    spool = tmp_path / "data" / "local" / "spool"
    hub.paths[BLOB] = Script(LAYER, cut=len(LAYER) // 2, ranges=False)
    async with serving(policy(hub.url)) as wire:
        assert not (await wire.get(BLOB)).complete
    assert list(spool.glob("sha256-*.hub"))
    async with serving(policy(hub.url)):
        assert list(spool.glob("sha256-*.hub")), "the same account goes on with it"
    async with serving(policy(hub.url, "auth: {type: bearer, token: other}")) as wire:
        assert not list(spool.glob("sha256-*"))
        hub.paths[BLOB] = Script(status=404)
        assert (await wire.get(BLOB)).status == 404


async def test_another_account_is_shown_a_blob_after_a_head_and_no_download(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub.url, "auth: {type: bearer, token: t}"), clock) as wire:
        await pull(wire)
    gets, heads = hub.count("GET", BLOB), hub.count("HEAD", BLOB)
    async with serving(policy(hub.url), clock) as wire:
        assert (await wire.get(BLOB)).headers["cache-status"] == "routerd; hit"
        assert (await wire.get(TAG)).headers["cache-status"].startswith("routerd; fwd=miss")
    assert hub.count("GET", BLOB) == gets
    assert hub.count("HEAD", BLOB) == heads + 1


async def test_a_renamed_endpoint_and_a_renamed_store_lose_nothing(
    serving: Serving, hub: Upstream, clock: Clock, tmp_path: Path
) -> None:
    async with serving(policy(hub.url), clock) as wire:
        await pull(wire)
        headers = {"Content-Type": OCI_MANIFEST}
        await wire.send(
            "POST", f"/v2/team/x/blobs/uploads/?digest={digest_of(b'config')}", b"config"
        )
        pushed = await wire.send("PUT", "/v2/team/x/manifests/1", image(b"config"), headers)
        assert pushed.status == 201, pushed.body
    asked = len(hub.asked)
    store = "kept: {type: storage, previous_names: [local, older]}"
    renamed = policy(hub.url, "previous_names: [hub]", "docker-hub", store=store)
    for _ in range(2):
        async with serving(renamed, clock) as wire:
            assert (await wire.get(TAG)).headers["cache-status"].startswith("routerd; hit")
            assert (await wire.get(BLOB)).body == LAYER
            assert (await wire.get("/v2/team/x/manifests/1")).body == image(b"config")
    assert len(hub.asked) == asked
    assert not (tmp_path / "data" / "local").exists()


async def test_a_former_directory_beside_the_new_one_is_left_alone(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    async with serving(policy(hub.url)) as wire:
        await pull(wire)
    store = "kept: {type: storage}"
    async with serving(policy(hub.url, store=store)) as wire:
        await pull(wire)
    former = {"type: storage": "type: storage, previous_names: [local]"}
    async with serving(policy(hub.url, store=store.replace(*former.popitem()))) as wire:
        assert (await wire.get(BLOB)).body == LAYER
    assert (tmp_path / "data" / "local").is_dir()
    assert (tmp_path / "data" / "kept").is_dir()
