"""connection: what an answer holds is let go, however the answer ends. ASGI, without a socket: no real
client can be made to leave in the one instant that matters.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from routerd.config.compile import load_policy
from routerd.endpoints.registry import lookup_type
from routerd.proxy.service import Service
from routerd.web.app import create_app
from routerd.web.health import Health
from upstream import digest_of

POLICY = "endpoints: {local: {type: storage}}\nroutes: {'**': local}\n"
BLOB = os.urandom(100_000)


def scope(method: str, path: str, query: str = "") -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"x"), (b"content-length", b"%d" % len(BLOB))][
            : 1 + (method != "GET")
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
        "extensions": {},
    }


def open_blobs(root: Path) -> int:
    links = (path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return sum(str(link).startswith(str(root / "data" / "local" / "blobs")) for link in links)


async def test_a_head_that_cannot_be_sent_closes_the_body(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"server: {{admin: null, data: '{tmp_path}/data'}}\n" + POLICY)
    policy = load_policy(path, environment={}, types=lookup_type).policy
    assert policy is not None

    waiting = [{"type": "http.request", "body": BLOB, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def refuse(message: Any) -> None:
        statuses.append(message["status"])
        raise ConnectionResetError("it has left")

    async with Service(policy) as service:
        app: Any = create_app(service, Health())
        query = f"digest={digest_of(BLOB)}"
        await app(scope("POST", "/v2/a/b/blobs/uploads/", query), receive, send)
        await app(scope("GET", f"/v2/a/b/blobs/{digest_of(BLOB)}"), receive, refuse)
        assert statuses == [201, 200]
        assert open_blobs(tmp_path) == 0
