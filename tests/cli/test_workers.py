"""`workers: 2`: real processes on one data directory, before an upstream that the test scripts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lab.client import MANIFEST_TYPE
from lab.routerd import Routerd
from routerd.cli.control import rows_of
from routerd.config.compile import load_policy
from routerd.endpoints.registry import lookup_type
from routerd.web.control import SOCKET
from upstream import Asked, Script, Upstream, digest_of, image, upstream
from wire import Wire

POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@", workers: 2, drain: 10s}}
endpoints:
  hub: {{type: remote, url: "{url}", namespace: docker.io, cache: local}}
  local: {{type: storage}}
routes: {{"library/**": hub, "team/**": local}}
"""
LAYER = os.urandom(24_000_000)
DIGEST = digest_of(LAYER)
PATH = f"/v2/library/app/blobs/{DIGEST}"
HALF = 12_000_000


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def two(hub: Upstream, tmp_path: Path) -> AsyncIterator[Routerd]:
    # Starting waits, which would keep the upstream from answering if it asked; it does not.
    server = await asyncio.to_thread(Routerd, tmp_path, POLICY.format(url=hub.url))
    try:
        # It is ready with the first of them; clients shall find both.
        await until(lambda: server.process.tail().count("event=serving") == 2)
        yield server
    finally:
        await asyncio.to_thread(server.kill)


def workers(server: Routerd) -> list[int]:
    pid = server.process.pid
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def filler(server: Routerd) -> int | None:
    """The worker that has the lock of a download open."""
    for pid in workers(server):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if entry.readlink().name.endswith(".hub.lock"):
                    return pid
            except FileNotFoundError:
                continue  # closed meanwhile
    return None


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def gets(hub: Upstream) -> list[str | None]:
    """The Range of each GET of the blob."""
    return [
        one.headers.get("range") for one in hub.asked if (one.method, one.path) == ("GET", PATH)
    ]


async def begin(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return reader, writer


async def test_two_workers_make_one_download(hub: Upstream, two: Routerd) -> None:
    gate = asyncio.Event()
    hub.paths[PATH] = Script(LAYER, gate=gate, before_gate=HALF)
    clients = [await begin(two.port) for _ in range(24)]
    heads = [await reader.readuntil(b"\r\n\r\n") for reader, _ in clients]  # all, before the rest
    assert all(head.startswith(b"HTTP/1.1 200") for head in heads)
    gate.set()
    async with asyncio.timeout(30):
        bodies = [await reader.readexactly(len(LAYER)) for reader, _ in clients]
    assert all(body == LAYER for body in bodies)
    assert gets(hub) == [None]
    for _, writer in clients:
        writer.close()


async def test_a_killed_filler_is_taken_over_from_the_bytes_on_disk(
    hub: Upstream, two: Routerd
) -> None:
    gate = asyncio.Event()
    hub.paths[PATH] = Script(LAYER, gate=gate, before_gate=HALF)
    clients = [await begin(two.port) for _ in range(16)]
    begun = []
    for reader, _ in clients:
        await reader.readuntil(b"\r\n\r\n")
        begun.append(await reader.readexactly(HALF // 2))
    victim = filler(two)
    assert victim is not None
    hub.paths[PATH] = Script(LAYER)
    os.kill(victim, signal.SIGKILL)
    bodies = []
    async with asyncio.timeout(30):
        for start, (reader, writer) in zip(begun, clients, strict=True):
            bodies.append(start + await reader.read(-1))
            writer.close()
    whole = [body for body in bodies if len(body) == len(LAYER)]
    assert whole, "the other worker's clients have everything"
    assert all(LAYER.startswith(body) for body in bodies), "and nobody has anything wrong"
    first, second = gets(hub)
    assert first is None
    assert second is not None
    assert second.startswith("bytes=")
    assert int(second[6:].rstrip("-")) >= HALF // 2
    await until(lambda: len(workers(two)) == 2)
    assert (await Wire(two.port).get(PATH)).body == LAYER


async def test_after_a_restart_of_everything_a_download_goes_on(
    hub: Upstream, two: Routerd
) -> None:
    hub.paths[PATH] = Script(LAYER, gate=asyncio.Event(), before_gate=HALF)
    reader, writer = await begin(two.port)
    await reader.readexactly(HALF // 2)
    for pid in workers(two):
        os.kill(pid, signal.SIGSTOP)  # so that nobody takes over
    for pid in [two.process.pid, *workers(two)]:
        os.kill(pid, signal.SIGKILL)
    writer.close()
    await asyncio.to_thread(two.kill)
    hub.paths[PATH] = Script(LAYER)
    await asyncio.to_thread(two.start)
    assert (await Wire(two.port).get(PATH)).body == LAYER
    _, second = gets(hub)
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) >= HALF // 2


async def test_a_worker_that_dies_comes_back_and_harms_no_other(
    hub: Upstream, two: Routerd
) -> None:
    before = workers(two)
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: len(workers(two)) == 2 and before[0] not in workers(two))
    replies = await asyncio.gather(*(Wire(two.port).get("/v2/") for _ in range(20)))
    assert [reply.status for reply in replies] == [200] * 20


async def test_what_one_worker_took_every_other_has_at_once(two: Routerd) -> None:
    """Each request is a connection of its own, so that now one worker and now the other answers."""
    wire = Wire(two.port)
    for number in range(10):
        config = f'{{"n": {number}}}'.encode()
        digest = digest_of(config)
        session = await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")
        where = session.headers["location"]
        for byte in config:  # an upload that goes from worker to worker
            sent = await wire.send("PATCH", where, bytes([byte]))
            assert sent.status == 202
            where = sent.headers["location"]
        done = await wire.send("PUT", f"{where}?digest={digest}", b"")
        assert done.status == 201, done
        manifest = (
            f'{{"schemaVersion": 2, "config": {{"mediaType": "application/x", "size": '
            f'{len(config)}, "digest": "{digest}"}}, "layers": []}}'
        ).encode()
        media_type = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        put = await wire.send("PUT", "/v2/team/app/manifests/latest", manifest, media_type)
        assert put.status == 201, put
        seen = await asyncio.gather(*(wire.get("/v2/team/app/manifests/latest") for _ in range(6)))
        assert [hashlib.sha256(reply.body).digest() for reply in seen] == [
            hashlib.sha256(manifest).digest()
        ] * 6


async def test_a_running_transfer_ends_before_the_workers_do(hub: Upstream, two: Routerd) -> None:
    gate = asyncio.Event()
    hub.paths[PATH] = Script(LAYER, gate=gate, before_gate=HALF)
    reader, writer = await begin(two.port)
    await reader.readuntil(b"\r\n\r\n")
    os.kill(two.process.pid, signal.SIGTERM)

    async def is_refused() -> bool:
        try:
            _, other = await asyncio.open_connection("127.0.0.1", two.port)
        except ConnectionRefusedError:
            return True
        other.close()
        return False

    async with asyncio.timeout(10):
        while not await is_refused():
            await asyncio.sleep(0.01)
    gate.set()
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(LAYER)) == LAYER
    writer.close()
    assert await asyncio.to_thread(two.process.wait, 15) == 0


async def test_the_control_socket_is_every_workers_and_outlives_each(two: Routerd) -> None:
    policy = load_policy(two.policy, environment={}, types=lookup_type).policy
    assert policy is not None

    def ask() -> list[str]:
        return [row["store"] for row in rows_of(policy, "stat", {})]

    for victim in workers(two):
        assert await asyncio.to_thread(ask) == ["local"]
        os.kill(victim, signal.SIGTERM)  # it drains, and may well tidy up behind itself
        await until(lambda gone=victim: gone not in workers(two) and len(workers(two)) == 2)
    assert await asyncio.to_thread(ask) == ["local"]
    assert await asyncio.to_thread(two.stop) == 0
    assert not (policy.server.data / SOCKET).exists()


async def test_two_workers_ask_for_a_manifest_once(hub: Upstream, two: Routerd) -> None:
    """Whoever asks in vain is told the same too."""
    manifest = image(b"{}")
    asked = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def answer(_: Asked) -> Script:
        asked.release()
        await go_on.wait()
        return Script(manifest, headers={"Content-Type": MANIFEST_TYPE})

    path = "/v2/library/app/manifests/1"
    hub.paths[path] = answer
    clients = [asyncio.ensure_future(Wire(two.port).get(path)) for _ in range(24)]
    await asked.acquire()
    await asyncio.sleep(0.2)  # the others have come meanwhile, at both workers
    go_on.set()
    answers = await asyncio.gather(*clients)
    assert {one.body for one in answers} == {manifest}
    assert hub.count("GET", path) == 1
    missing = "/v2/library/app/manifests/2"
    answers = await asyncio.gather(*(Wire(two.port).get(missing) for _ in range(24)))
    assert {one.status for one in answers} == {404}
    assert hub.count("GET", missing) == 1
