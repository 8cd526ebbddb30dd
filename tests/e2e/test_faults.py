"""Two workers before Debian's docker-registry, with a proxy in between that breaks what it sends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.client import Client, sha256
from lab.docker import Docker
from lab.faultproxy import Fault, FaultProxy
from lab.registry import Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo
from wire import Reply, Wire

POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@", workers: 2}}
endpoints:
  hub:
    type: remote
    url: {url}
    namespace: docker.io
    timeouts: {{connect: 1s, response: 2s, stall: 1s}}
    cache: {{store: local, ttl: 1h}}
  local: {{type: storage, actions: [pull]}}
routes: {{"**": hub}}
"""
BLOB_BYTES = 300_000
CROWD = 200
CROWD_BYTES = 8_000_000
FAULTS = {
    "cut": Fault(cut=100_000),
    "cut before a byte": Fault(cut=0),
    "reset": Fault(cut=100_000, resets=True),
    "stall": Fault(cut=100_000, stalls=True),
    "429": Fault(status=429),
    "503": Fault(status=503),
    "slow": Fault(rate=150_000),
    "wrong bytes": Fault(flips=True),
    "a web page": Fault(html=True),
}


@pytest.fixture
def upstream(registry: Callable[..., Registry]) -> Registry:
    return registry("upstream")


@pytest.fixture
def proxy(upstream: Registry, closing: ExitStack) -> FaultProxy:
    started = FaultProxy(upstream.port)
    closing.callback(started.close)
    return started


@pytest.fixture
def served(proxy: FaultProxy, routerd: Callable[..., Routerd]) -> Routerd:
    started = routerd(POLICY.format(url=proxy.url))
    wait_until(lambda: started.process.tail().count("event=serving") == 2)
    return started


def wait_until(is_so: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to it"
        time.sleep(0.01)


def workers(served: Routerd) -> list[int]:
    pid = served.process.pid
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def filler(served: Routerd) -> int | None:
    """The worker that has the lock of a download open."""
    for pid in workers(served):
        try:
            names = [entry.readlink().name for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except FileNotFoundError:
            continue  # something was closed meanwhile
        if any(name.endswith(".hub.lock") for name in names):
            return pid
    return None


def is_right_or_clean(reply: Reply, blob: bytes, fault: Fault | None) -> bool:
    """The content; or an error, or a connection that ends short."""
    if reply.status != 200:
        return reply.status >= 429 and "errors" in reply.json
    if reply.complete:
        return reply.body == blob
    # What is wrong is known with the last byte, which nobody gets.
    return blob.startswith(reply.body) or fault == FAULTS["wrong bytes"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_client_has_right_content_or_a_clean_error(
    upstream: Registry, proxy: FaultProxy, served: Routerd, fault: Fault
) -> None:
    blob = os.urandom(BLOB_BYTES)
    path = f"/v2/team/app/blobs/{Client(upstream.port).push_blob('team/app', blob)}"
    proxy.fault = fault
    replies = await asyncio.gather(*(Wire(served.port).get(path) for _ in range(8)))
    assert all(is_right_or_clean(reply, blob, fault) for reply in replies)
    proxy.fault = None
    async with asyncio.timeout(30):
        while (reply := await Wire(served.port).get(path)).status != 200 or not reply.complete:
            assert is_right_or_clean(reply, blob, fault)
            await asyncio.sleep(0.1)
    assert reply.body == blob
    asked = len(proxy.blobs)
    assert (await Wire(served.port).get(path)).body == blob
    assert len(proxy.blobs) == asked, "it is stored"


async def pulled(port: int, path: str, begun: asyncio.Semaphore) -> tuple[str, int]:
    """The digest of what one client of its own connection received, and how much that was."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    hashed, received = hashlib.sha256(), 0
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        begun.release()
        while piece := await reader.read(256 * 1024):
            hashed.update(piece)
            received += len(piece)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # its worker was killed
    finally:
        writer.close()
    return f"sha256:{hashed.hexdigest()}", received


async def test_two_hundred_clients_cost_one_download(
    upstream: Registry, proxy: FaultProxy, served: Routerd
) -> None:
    digest = Client(upstream.port).push_blob("team/app", os.urandom(CROWD_BYTES))
    path, begun = f"/v2/team/app/blobs/{digest}", asyncio.Semaphore(0)
    proxy.fault = Fault(rate=8_000_000)
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(pulled(served.port, path, begun) for _ in range(CROWD)))
    assert set(found) == {(digest, CROWD_BYTES)}
    assert [one for one in proxy.blobs if one[0] == path] == [(path, None)]


async def test_two_hundred_clients_and_the_filler_is_killed(
    upstream: Registry, proxy: FaultProxy, served: Routerd
) -> None:
    digest = Client(upstream.port).push_blob("team/app", os.urandom(CROWD_BYTES))
    path, begun = f"/v2/team/app/blobs/{digest}", asyncio.Semaphore(0)
    proxy.fault = Fault(rate=4_000_000)
    async with asyncio.timeout(60):
        clients = [asyncio.ensure_future(pulled(served.port, path, begun)) for _ in range(CROWD)]
        for _ in clients:
            await begun.acquire()
        victim = filler(served)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        found = await asyncio.gather(*clients)
    whole = [one for one in found if one[1] == CROWD_BYTES]
    assert whole, "the other worker's clients have everything"
    assert {one[0] for one in whole} == {digest}
    first, second = [one[1] for one in proxy.blobs if one[0] == path]
    assert first is None
    assert second is not None, "the second GET goes on where the first was"
    assert second.startswith("bytes=")


def test_docker_pulls_while_a_worker_dies(
    docker: Docker,
    upstream: Registry,
    proxy: FaultProxy,
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:latest")
    served = routerd(POLICY.format(url=proxy.url), port=docker.mirror_port)
    proxy.fault = Fault(rate=400_000)
    killed: list[int] = []

    def kill_the_filler() -> None:
        wait_until(lambda: filler(served))
        victim = filler(served)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
        proxy.fault = None

    killer = threading.Thread(target=kill_the_filler)
    killer.start()
    docker("pull", "busybox", seconds=120)
    killer.join()
    assert killed
    assert docker.note("busybox") == "hub"


def test_ten_kilobytes_a_second_are_enough(
    upstream: Registry, proxy: FaultProxy, served: Routerd
) -> None:
    digest = Client(upstream.port).push_blob("team/app", os.urandom(30_000))
    proxy.fault = Fault(rate=10_000)
    answer = Client(served.port).request("GET", f"/v2/team/app/blobs/{digest}")
    assert (answer.status, sha256(answer.body)) == (200, digest)
