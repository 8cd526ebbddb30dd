"""`routerd serve` as a process: starting, stopping, draining, and what it says when it cannot."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.process import free_port
from lab.registry import http_status
from lab.routerd import COMMAND, Routerd
from upstream import digest_of
from wire import Wire

POLICY = """
server:
  listen: "@LISTEN@"
  admin: 127.0.0.1:{admin}
  data: "@DATA@"
  drain: 10s
  log: {{format: json, level: info}}
endpoints:
  local: {{type: storage}}
routes:
  team/**: local
"""


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(tmp_path: Path, closing: ExitStack, admin: int) -> Routerd:
    server = Routerd(tmp_path, POLICY.format(admin=admin))
    closing.callback(server.kill)
    return server


def log_of(server: Routerd) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return True
    return False


async def push(wire: Wire, data: bytes) -> str:
    digest = digest_of(data)
    reply = await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={digest}", data)
    assert reply.status == 201
    return digest


async def test_health_is_on_both_listeners_and_each_request_is_one_line(
    tmp_path: Path, closing: ExitStack
) -> None:
    admin = free_port()
    server = start(tmp_path, closing, admin)
    for port in (server.port, admin):
        assert http_status(port, "/healthz") == http_status(port, "/readyz") == 200
    assert http_status(admin, "/v2/") == 404
    wire = Wire(server.port)
    digest = await push(wire, b"x" * 1000)
    secret = {"Authorization": "Basic c2VjcmV0OnNlY3JldA==", "User-Agent": "evil\x1b[31m"}
    await wire.send("GET", f"/v2/team/app/blobs/{digest}?token=hunter2", headers=secret)
    assert server.stop() == 0
    lines = [line for line in log_of(server) if line["event"] == "request"]
    line = next(x for x in lines if x["method"] == "GET" and str(x["path"]).endswith(digest))
    assert line["route"] == "docker.io/team/**"
    assert line["endpoint"] == "local"
    assert line["reference"] == f"docker.io/team/app@{digest}"
    assert (line["status"], line["bytes"], line["result"]) == (200, 1000, "hit")
    assert line["client"] == "127.0.0.1"
    assert isinstance(line["ms"], float)
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "hunter2" not in text
    assert "c2VjcmV0" not in text
    assert "\x1b" not in text


async def test_sigterm_lets_a_running_download_end_and_takes_no_new_one(
    tmp_path: Path, closing: ExitStack
) -> None:
    admin = free_port()
    server = start(tmp_path, closing, admin)
    data = bytes(range(256)) * 100_000
    digest = await push(Wire(server.port), data)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = client.recv(1000)
        server.process.terminate()
        server.process.wait_until(lambda: http_status(admin, "/readyz") == 503)
        server.process.wait_until(lambda: is_refused(server.port))
        while chunk := client.recv(1 << 20):
            received += chunk
    assert received.partition(b"\r\n\r\n")[2] == data
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()


async def test_a_second_signal_ends_at_once(tmp_path: Path, closing: ExitStack) -> None:
    admin = free_port()
    server = start(tmp_path, closing, admin)
    digest = await push(Wire(server.port), bytes(20_000_000))
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.recv(1000)
        server.process.terminate()
        server.process.wait_until(lambda: http_status(admin, "/readyz") == 503)
        server.process.terminate()
        assert server.process.wait(8) == 0
    assert "Traceback" not in server.log.read_text()


def serve(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_what_cannot_be_served_says_why_and_leaves(tmp_path: Path, closing: ExitStack) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    closing.callback(taken.close)
    port = taken.getsockname()[1]
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY.format(admin=free_port()).replace("@LISTEN@", f"127.0.0.1:{port}"))
    status, said = serve("--config", policy)
    assert (status, "Traceback" in said) == (1, False)
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert serve("--config", tmp_path / "none.yaml")[0] == 2
    assert serve("--config", policy, "--listen", "nonsense")[0] == 2
    policy.write_text("endpoints: {}\n")
    status, said = serve("--config", policy)
    assert status == 1
    assert "error[" in said


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path, closing: ExitStack) -> None:
    first = start(tmp_path, closing, free_port())
    other = tmp_path / "other.yaml"
    other.write_text(re.sub(r"admin: \S+", "admin: null", first.policy.read_text()))
    status, said = serve("--config", other, "--listen", "127.0.0.1:0")
    assert (status, "Traceback" in said) == (1, False)
    assert "in use by another server" in said


def test_a_store_that_the_policy_no_longer_names_is_warned_about(
    tmp_path: Path, closing: ExitStack
) -> None:
    server = start(tmp_path, closing, free_port())
    assert server.stop() == 0
    server.policy.write_text(server.policy.read_text().replace("local", "renamed"))
    server.start()
    assert server.stop() == 0
    assert "no storage endpoint of the policy uses this directory" in server.log.read_text()


def test_an_endpoint_that_is_the_server_itself_is_warned_about(
    tmp_path: Path, closing: ExitStack
) -> None:
    policy = POLICY.replace("routes:", "  me: {{type: remote, url: 'http://@LISTEN@'}}\nroutes:")
    server = Routerd(tmp_path, policy.format(admin=free_port()) + "  self/**: me\n")
    closing.callback(server.kill)
    assert http_status(server.port, "/v2/self/app/manifests/1") == 503  # 508 from itself
    assert server.stop() == 0
    assert "this server's own" in server.log.read_text()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "routerd", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("routerd, version ")
