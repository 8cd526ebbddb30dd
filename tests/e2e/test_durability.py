"""What was acknowledged outlives a kill -9; what runs outlives a SIGTERM."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import closing

from lab.client import MANIFEST_TYPE, Client, sha256
from lab.process import LabError
from lab.registry import http_status
from lab.routerd import Routerd

POLICY = """
server: {listen: "@LISTEN@", admin: null, data: "@DATA@", drain: 20s}
endpoints:
  local: {type: storage}
routes:
  "**": local
"""

ROUNDS = 4
DOWNLOAD_BYTES = 64 << 20
WINDOW_BYTES = 64 << 10


def noise(seed: int, size: int) -> bytes:
    """The same incompressible bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def test_a_kill_right_after_the_acknowledgement_loses_nothing(
    routerd: Callable[..., Routerd],
) -> None:
    serving = routerd(POLICY)
    client = Client(serving.port)
    for number in range(ROUNDS):
        layer = noise(number, 3_000_000)
        manifest = client.push_image("team/app", f"v{number}", layer)
        serving.kill()
        serving.start()

        for earlier in range(number + 1):
            expected = noise(earlier, 3_000_000)
            read = client.request("GET", f"/v2/team/app/blobs/{sha256(expected)}")
            assert (read.status, sha256(read.body)) == (200, sha256(expected))
            path = f"/v2/team/app/manifests/v{earlier}"
            tag = client.request("GET", path, Accept=MANIFEST_TYPE)
            assert (tag.status, sha256(tag.body)) == (200, tag.headers["docker-content-digest"])
        assert tag.headers["docker-content-digest"] == manifest


def test_a_kill_in_the_middle_of_an_upload_leaves_nothing_to_be_seen(
    routerd: Callable[..., Routerd],
) -> None:
    serving = routerd(POLICY)
    client = Client(serving.port)
    data = noise(7, 4_000_000)
    half = data[:2_000_000]
    location = client.start_upload("team/app")
    patched = client.request("PATCH", location, half, Content_Type="application/octet-stream")
    assert patched.status == 202
    serving.kill()
    serving.start()

    for part in (data, half):
        assert client.request("GET", f"/v2/team/app/blobs/{sha256(part)}").status == 404
    client.push_blob("team/app", data)
    read = client.request("GET", f"/v2/team/app/blobs/{sha256(data)}")
    assert sha256(read.body) == sha256(data)


def test_a_running_download_ends_whole_after_sigterm(routerd: Callable[..., Routerd]) -> None:
    serving = routerd(POLICY)
    data = noise(11, DOWNLOAD_BYTES)
    digest = Client(serving.port).push_blob("team/app", data)
    with closing(socket.socket()) as connection:
        # A small window: most of the blob must still be unsent when the signal comes.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", serving.port))
        connection.sendall(
            f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: lab\r\n\r\n".encode()
        )
        received = bytearray(connection.recv(WINDOW_BYTES))

        serving.process.terminate()
        refuses_new_requests(serving)
        head_end = received.index(b"\r\n\r\n") + 4
        while len(received) - head_end < DOWNLOAD_BYTES:
            chunk = connection.recv(1 << 20)
            assert chunk, f"cut after {len(received) - head_end} bytes"
            received += chunk
    assert sha256(bytes(received[head_end:])) == digest
    assert serving.process.wait(25) == 0, serving.process.tail()


def refuses_new_requests(serving: Routerd) -> None:
    """Wait until new clients are no longer served; fails if the process ends before that."""
    try:
        serving.process.wait_until(lambda: http_status(serving.port, "/readyz") != 200, 5)
    except LabError as error:
        raise AssertionError(f"did not drain: {error}") from error
