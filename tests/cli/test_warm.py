"""`routerd cache warm`, on a stopped server's data and through the control socket of a running one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.process import environment
from lab.routerd import COMMAND, Routerd
from routerd.config.compile import load_policy
from routerd.endpoints.registry import lookup_type
from routerd.proxy.service import Service
from routerd.runtime.tasks import Tasks
from routerd.web.control import SOCKET, controlled, serve_control
from upstream import Script, Upstream, digest_of, image, upstream
from wire import Wire

CONFIG = b"{}"


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
def policy(hub: Upstream, tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"server: {{listen: '127.0.0.1:0', admin: null, data: '{tmp_path}/data'}}\n"
        "endpoints:\n"
        f"  hub: {{type: remote, url: '{hub.url}', namespace: docker.io, cache: local}}\n"
        "  local: {type: storage}\n"
        "routes: {'library/*': hub}\n"
    )
    return path


def serve_image(hub: Upstream, name: str) -> bytes:
    layer = os.urandom(300_000)
    for data in (CONFIG, layer):
        hub.blob(f"library/{name}", data)
    hub.manifest(f"library/{name}", "1", image(CONFIG, layer))
    return layer


def asked(hub: Upstream, name: str, layer: bytes) -> int:
    return hub.count("GET", f"/v2/library/{name}/blobs/{digest_of(layer)}")


async def run(*words: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit status, output, errors of `routerd cache warm`."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, "cache", "warm", *words, env=environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@asynccontextmanager
async def served(policy: Path) -> AsyncIterator[None]:
    """A server, as far as its control socket goes."""
    found = load_policy(policy, environment={}, types=lookup_type).policy
    assert found is not None
    tasks, stop = Tasks(), asyncio.Event()
    async with Service(found) as service:
        with controlled(found.server.data) as control:
            tasks.spawn("control", serve_control(service, control, stop))
            try:
                yield
            finally:
                stop.set()
                await tasks.aclose(grace=5)


async def test_on_a_stopped_servers_data_it_fetches_by_itself(
    hub: Upstream, policy: Path, tmp_path: Path
) -> None:
    layer = serve_image(hub, "app")
    status, out, err = await run("app:1", "--config", policy, "--format", "json")
    assert (status, err) == (0, "")
    *events, last = lines(out)
    assert last["result"] == "warm"
    assert (last["reference"], last["blobs"]) == ("docker.io/library/app:1", 2)
    assert {(event["kind"], event["part"]) for event in events} == {
        ("content", "manifest"),
        ("content", "blob"),
    }
    of_layer = [event for event in events if event["content"] == digest_of(layer)]
    assert (of_layer[-1]["done"], of_layer[-1]["size"]) == (300_000, 300_000)
    await hub.stop()
    server = Routerd(tmp_path, policy.read_text().replace("127.0.0.1:0", "@LISTEN@"))
    try:
        reply = await Wire(server.port).get(f"/v2/library/app/blobs/{digest_of(layer)}")
        assert reply.body == layer
        assert reply.headers["cache-status"] == "routerd; hit"
    finally:
        server.kill()


async def test_a_running_server_fetches_where_it_has_a_control_socket(
    hub: Upstream, policy: Path
) -> None:
    layers = {name: serve_image(hub, name) for name in ("one", "two")}
    listed = policy.with_name("list")
    listed.write_text("# ours\nlibrary/two:1   # the second\n\nnone:1\n")
    async with served(policy):
        status, out, _ = await run(
            "one:1", "--file", listed, "--config", policy, "--format", "json"
        )
    assert status == 1
    results = [line for line in lines(out) if line["kind"] == "image"]
    assert [line["result"] for line in results] == ["warm", "warm", "failed"]
    assert [asked(hub, name, layer) for name, layer in layers.items()] == [1, 1]


async def test_who_hangs_up_stops_the_fetching(hub: Upstream, policy: Path) -> None:
    first, second = serve_image(hub, "one"), serve_image(hub, "two")
    gate = asyncio.Event()
    hub.blob("library/one", first, gate=gate)
    async with served(policy):
        process = await asyncio.create_subprocess_exec(
            COMMAND, "cache", "warm", "one:1", "two:1", "--config", policy, "--format", "json",
            env=environment(), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            while not asked(hub, "one", first):
                await asyncio.sleep(0.01)
        process.kill()
        await process.communicate()
        gate.set()
        await asyncio.sleep(0.3)
    assert asked(hub, "two", second) == 0


async def test_text_says_what_came_of_each_image(hub: Upstream, policy: Path) -> None:
    serve_image(hub, "app")
    layer = serve_image(hub, "torn")
    hub.paths[f"/v2/library/torn/blobs/{digest_of(layer)}"] = Script(b"", 404)
    stdin = b"library/app:1\nlibrary/torn:1\nquay.io/a/b:1\n"
    status, out, _ = await run("--file", "-", "--config", policy, stdin=stdin)
    assert status == 1
    whole, torn, missing, refused = out.splitlines()
    assert whole.endswith("2 blobs, 0.3 MB")
    assert torn.startswith("docker.io/library/torn:1  sha256:")
    assert missing.startswith("docker.io/library/torn:1  missing: ")
    assert refused.startswith("quay.io/a/b:1  not fetched: no route matches")


@pytest.mark.skipif(sys.platform != "linux", reason="needs script(1)")
async def test_on_a_terminal_there_are_bars(hub: Upstream, policy: Path, tmp_path: Path) -> None:
    serve_image(hub, "app")
    typescript = tmp_path / "typescript"
    command = f"{COMMAND} cache warm app:1 --config {policy}"
    process = await asyncio.create_subprocess_exec(
        "script", "-qec", command, str(typescript), env=environment(TERM="xterm", COLUMNS="120"),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await asyncio.wait_for(process.wait(), 60) == 0
    shown = typescript.read_text()
    assert "sha256:" in shown
    assert "━" in shown


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "REF..., or --file"),
        (("UPPER",), "REF"),
        (("app", "--platform", "linux"), "is not a platform"),
        (("app", "--file", "/nonexistent"), "No such file"),
    ],
)
async def test_a_wrong_use_is_named(policy: Path, words: tuple[str, ...], why: str) -> None:
    status, _, err = await run(*words, "--config", policy)
    assert status == 2
    assert why in err


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"references": "a"}', b'{"references": [1]}', b'{"references": ["UPPER"]}',
     b'{"references": ["a"], "platforms": ["linux"]}', b"[" * 100_000],
)  # fmt: skip
async def test_a_request_that_is_none_is_refused(policy: Path, body: bytes) -> None:
    async with served(policy):
        path = policy.parent / "data" / SOCKET
        reader, writer = await asyncio.open_unix_connection(str(path))
        head = f"POST /v1/warm HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.readuntil(b"}]}"), 20)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
