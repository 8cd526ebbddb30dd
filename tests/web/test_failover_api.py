"""The first URL of an endpoint fails in every way there is, and the second is right: a client gets
right content or a clean error, never wrong content that looks whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest

from routerd.endpoints import remoteblob
from upstream import OCI_MANIFEST, Asked, Script, Upstream, digest_of, image, upstream
from wire import Reply, Wire

from .conftest import Serving

LAYER = os.urandom(3_000_000)
OTHER = os.urandom(3_000_000)
BODY = image(b"config", LAYER)
BLOB = f"/v2/library/app/blobs/{digest_of(LAYER)}"
TAG = "/v2/library/app/manifests/1"
MANIFEST = f"/v2/library/app/manifests/{digest_of(BODY)}"
PULLS = 3  # that a client makes at most, until it has it

Fault = Callable[[bytes, str], Script]


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.blob("library/app", LAYER)
        server.manifest("library/app", "1", BODY)
        yield server


def policy(hub: Upstream, second: Upstream, cache: str = "cache: {store: local, ttl: 60s}") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: ["{hub.url}", "{second.url}"]
    namespace: docker.io
    timeouts: {{connect: 1s, response: 1s, stall: 1s}}
    {cache}
  local: {{type: storage}}
routes: {{"**": hub}}
"""


def sends(body: bytes, kind: str, **changes: object) -> Script:
    headers = {"Content-Type": kind}
    return Script(body, headers=headers, **changes)  # type: ignore[arg-type]


def never() -> asyncio.Event:
    return asyncio.Event()


# What the first URL does to a body that it is asked for, of a type.
FAULTS: dict[str, Fault] = {
    "reset before a byte": lambda body, kind: sends(body, kind, cut=0, resets=True),
    "reset within the body": lambda body, kind: sends(body, kind, cut=len(body) // 2, resets=True),
    "cut within the body": lambda body, kind: sends(body, kind, cut=len(body) // 2),
    "silent after the head": lambda body, kind: sends(body, kind, gate=never()),
    "silent within the body": lambda body, kind: sends(
        body, kind, gate=never(), before_gate=len(body) // 2
    ),
    "503": lambda body, kind: Script(status=503),
    "429": lambda body, kind: Script(status=429, headers={"Retry-After": "60"}),
    "other bytes": lambda body, kind: sends(OTHER[: len(body)], kind),
    "fewer bytes": lambda body, kind: sends(body[:-1], kind),
    "a web page": lambda body, kind: sends(b"<html>sign in", "text/html"),
    "a circle": lambda body, kind: Script(status=307, headers={"Location": "/circle"}),
    "a size that is too large": lambda body, kind: sends(body, kind, length=len(body) + 9),
    "a size that is too small": lambda body, kind: sends(body, kind, length=len(body) - 9),
    "an endless body": lambda body, kind: sends(body, kind, length=None, endless=True),
    "encoded": lambda body, kind: Script(
        body, headers={"Content-Type": kind, "Content-Encoding": "gzip"}
    ),
}


async def pulled(wire: Wire, path: str, body: bytes) -> int:
    """How often it had to be pulled; every answer before was an error that a client can tell."""
    for pulls in range(1, PULLS + 1):
        reply = await wire.get(path)
        if reply.status == 200 and reply.complete:
            assert reply.body == body
            return pulls
        assert is_clean(reply), (reply.status, len(reply.body))
    raise AssertionError(f"{path} was not to be had in {PULLS} pulls")


def is_clean(reply: Reply) -> bool:
    if reply.status == 200:
        return not reply.complete
    return reply.status >= 429 and "errors" in reply.json


@pytest.fixture(params=FAULTS.values(), ids=FAULTS.keys())
def broken(
    request: pytest.FixtureRequest, hub: Upstream, monkeypatch: pytest.MonkeyPatch
) -> Upstream:
    """The first URL with one fault, whatever it is asked for."""
    monkeypatch.setattr(remoteblob, "UNSAID_LIMIT", 2 * len(LAYER))
    fault: Fault = request.param
    hub.paths[BLOB] = fault(LAYER, "application/octet-stream")
    for path in (TAG, MANIFEST):
        hub.paths[path] = fault(BODY, OCI_MANIFEST)
    hub.paths["/circle"] = Script(status=307, headers={"Location": "/circle"})
    return hub


async def test_a_manifest_is_had_from_the_second_url(
    serving: Serving, broken: Upstream, second: Upstream
) -> None:
    async with serving(policy(broken, second)) as wire:
        # By digest at once. By tag what the first URL sends may be a manifest, if not the one: then
        # it is what the tag is, as far as anybody can tell; here nothing it sends is one.
        assert await pulled(wire, MANIFEST, BODY) == 1
        assert await pulled(wire, TAG, BODY) == 1
    assert second.asked


async def test_a_blob_is_had_from_the_second_url(
    serving: Serving, broken: Upstream, second: Upstream
) -> None:
    async with serving(policy(broken, second)) as wire:
        await pulled(wire, BLOB, LAYER)
        assert (await wire.get(BLOB)).body == LAYER


async def test_a_blob_without_a_cache_is_right_or_cut_short(
    serving: Serving, broken: Upstream, second: Upstream
) -> None:
    async with serving(policy(broken, second, "")) as wire:
        for _ in range(PULLS):
            reply = await wire.get(BLOB)
            if reply.status == 200 and reply.complete:
                assert reply.body == LAYER
            else:
                assert is_clean(reply)


async def test_a_head_that_differs_from_get_gives_no_wrong_content(
    serving: Serving, hub: Upstream, second: Upstream
) -> None:
    def lying(asked: Asked) -> Script:
        if asked.method == "HEAD":
            return Script(OTHER, headers={"Docker-Content-Digest": digest_of(OTHER)})
        return Script(status=500)

    hub.paths[TAG] = hub.paths[BLOB] = lying
    async with serving(policy(hub, second).replace("ttl: 60s", "ttl: 0s")) as wire:
        for _ in range(3):  # the first URL's HEAD says that it changed, the second's GET what it is
            assert await pulled(wire, TAG, BODY) == 1
        assert await pulled(wire, BLOB, LAYER) == 1
        head = await wire.head(BLOB)
        assert head.headers["content-length"] == str(len(LAYER))


async def test_a_tag_that_moves_during_a_pull_is_one_or_the_other_and_whole(
    serving: Serving, hub: Upstream, second: Upstream
) -> None:
    bodies = [image(f"config {number}".encode()) for number in range(12)]
    known = {digest_of(body): body for body in bodies}
    turns = count()

    def moving(asked: Asked) -> Script:
        body = bodies[next(turns) % len(bodies)]
        status = 503 if next(turns) % 3 == 0 else 200
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(body)}
        return Script(body, status, headers=headers)

    for server in (hub, second):
        server.paths[TAG] = moving
    async with serving(policy(hub, second).replace("ttl: 60s", "ttl: 0s")) as wire:
        for _ in range(20):
            reply = await wire.get(TAG)
            assert reply.status == 200
            assert known[reply.headers["docker-content-digest"]] == reply.body


async def test_the_second_url_takes_over_within_a_download(
    serving: Serving, hub: Upstream, second: Upstream
) -> None:
    hub.blob("library/app", LAYER, cut=1_000_000)
    async with serving(policy(hub, second)) as wire:
        download = asyncio.ensure_future(wire.get(BLOB))
        while not hub.count("GET", BLOB):
            await asyncio.sleep(0)
        await hub.stop()
        reply = await download
        assert (reply.complete, reply.body == LAYER) == (True, True)
    [resumed] = [one for one in second.asked if one.path == BLOB]
    start = int(resumed.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    assert start <= 1_000_000


async def test_both_urls_down_is_one_clean_error(
    serving: Serving, hub: Upstream, second: Upstream
) -> None:
    async with serving(policy(hub, second)) as wire:
        await hub.stop()
        await second.stop()
        for path in (TAG, BLOB):
            reply = await wire.get(path)
            assert (reply.status, reply.code) == (503, "UNAVAILABLE")
            assert str(hub.port) in reply.message
            assert str(second.port) in reply.message
