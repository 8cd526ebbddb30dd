"""The audit trail of a served policy, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from upstream import OCI_MANIFEST, Script, Upstream, digest_of, image, upstream
from wire import Wire

from .conftest import Serving

NOW = 1_803_902_400.0  # 2027-03-01T12:00:00Z
TYPE = {"Content-Type": OCI_MANIFEST}


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


def policy(hub: Upstream) -> str:
    return f"""
endpoints:
  hub: {{type: remote, url: '{hub.url}', namespace: docker.io, cache: {{store: local, ttl: 1h}}}}
  local: {{type: storage, actions: [pull, push, delete]}}
routes:
  team/**: local
  closed/**: {{deny: "not here"}}
  guarded/**: {{endpoints: local, allow: {{pull: [], push: []}}}}
  "library/*": hub
"""


async def trail(tmp_path: Path, count: int) -> list[dict[str, Any]]:
    """The entries, once there are as many."""
    path = tmp_path / "data" / "audit-2027-03-01.jsonl"
    async with asyncio.timeout(20):
        while len(lines := path.read_bytes().splitlines(keepends=True)) < count:
            await asyncio.sleep(0.005)
    return [json.loads(line) for line in lines]


async def push(wire: Wire, name: str, tag: str) -> bytes:
    config = b"{}"
    await wire.send("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(config)}", config)
    body = image(config)
    await wire.send("PUT", f"/v2/{name}/manifests/{tag}", body, TYPE)
    return body


async def test_a_pull_says_who_what_from_where_and_how(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    body = image(b"{}")
    digest = hub.manifest("library/app", "1", body)
    async with serving(policy(hub), lambda: NOW) as wire:
        await wire.get("/v2/library/app/manifests/1")
        await wire.head("/v2/library/app/manifests/1")
        await wire.get(f"/v2/library/app/manifests/{digest}")
        await wire.get("/v2/library/app/manifests/1", If_None_Match=f'"{digest}"')
        miss, hit, unchanged = await trail(tmp_path, 3)
    assert miss == {
        "time": "2027-03-01T12:00:00.000Z",
        "client": "127.0.0.1",
        "user": "-",
        "action": "pull",
        "reference": "docker.io/library/app:1",
        "digest": digest,
        "route": "docker.io/library/*",
        "endpoint": "hub",
        "cache": "miss",
        "status": 200,
        "bytes": len(body),
    }
    assert hit == {**miss, "reference": f"docker.io/library/app@{digest}", "cache": "hit"}
    assert unchanged == {**miss, "cache": "hit", "status": 304, "bytes": 0}


async def test_a_push_and_a_deletion_are_written_with_their_target(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    async with serving(policy(hub), lambda: NOW) as wire:
        body = await push(wire, "team/app", "1")
        digest = digest_of(body)
        await wire.send("DELETE", "/v2/team/app/manifests/1")
        await wire.send("DELETE", f"/v2/team/app/manifests/{digest}")
        pushed, untagged, deleted = await trail(tmp_path, 3)
    assert (pushed["action"], pushed["status"], pushed["bytes"]) == ("push", 201, len(body))
    assert (pushed["endpoint"], pushed["route"]) == ("local", "docker.io/team/**")
    assert (pushed["digest"], pushed["cache"]) == (digest, None)
    assert (untagged["action"], untagged["status"], untagged["digest"]) == ("delete", 202, None)
    assert (deleted["endpoint"], deleted["status"], deleted["digest"]) == ("local", 202, digest)


async def test_attempts_are_written_too_and_their_status_tells(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    body, missing = image(b"{}"), f"sha256:{'0' * 64}"
    hub.paths["/v2/library/broken/manifests/1"] = Script(b"", 500)
    attempts: list[tuple[str, str, bytes | None, int, str | None, str | None]] = [
        ("GET", "closed/app/manifests/1", None, 403, "docker.io/closed/**", None),
        ("GET", "guarded/app/manifests/1", None, 403, "docker.io/guarded/**", None),
        ("PUT", "guarded/app/manifests/1", body, 403, "docker.io/guarded/**", None),
        ("PUT", "library/app/manifests/1", body, 405, "docker.io/library/*", None),
        ("PUT", "team/app/manifests/1", b"no manifest", 400, "docker.io/team/**", "local"),
        ("DELETE", f"team/app/manifests/{missing}", None, 404, "docker.io/team/**", "local"),
        ("GET", "nobody/app/manifests/1", None, 404, None, None),
        ("GET", "library/none/manifests/1", None, 404, "docker.io/library/*", None),
        ("GET", "library/broken/manifests/1", None, 502, "docker.io/library/*", None),
    ]
    async with serving(policy(hub), lambda: NOW) as wire:
        for method, path, sent, *_ in attempts:
            await wire.send(method, f"/v2/{path}", sent, TYPE if sent else None)
        entries = await trail(tmp_path, len(attempts))
    got = [(one["status"], one["route"], one["endpoint"]) for one in entries]
    assert [status // 100 for status, _, _ in got] == [row[3] // 100 for row in attempts]
    assert [one[1:] for one in got] == [row[4:] for row in attempts]
    assert [one["action"] for one in entries[:3]] == ["pull", "pull", "push"]
    assert entries[4]["bytes"] == len(b"no manifest")


async def test_a_request_that_comes_round_in_a_circle_is_written(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    async with serving("\n" + policy(hub), lambda: NOW) as wire:
        name = (tmp_path / "data" / "name").read_text().strip()
        reply = await wire.get("/v2/team/app/manifests/1", Via=f"1.1 {name}")
        assert reply.status == 508
        [entry] = await trail(tmp_path, 1)
    assert (entry["status"], entry["reference"]) == (508, "docker.io/team/app:1")


async def test_blobs_tags_and_other_methods_are_not_written(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    async with serving(policy(hub), lambda: NOW) as wire:
        await wire.get("/v2/")
        await wire.get("/v2/team/app/tags/list")
        await wire.get(f"/v2/team/app/blobs/sha256:{'0' * 64}")
        await wire.send("POST", "/v2/team/app/manifests/1")
        await push(wire, "team/app", "1")
        entries = await trail(tmp_path, 1)
    assert [(one["action"], one["status"]) for one in entries] == [("push", 201)]


async def test_a_full_disk_stops_no_pull(serving: Serving, hub: Upstream, tmp_path: Path) -> None:
    hub.manifest("library/app", "1", image(b"{}"))
    path = tmp_path / "data" / "audit-2027-03-01.jsonl"
    async with serving(policy(hub), lambda: NOW) as wire:
        path.unlink()
        path.symlink_to("/dev/full")
        for _ in range(20):
            assert (await wire.get("/v2/library/app/manifests/1")).status == 200
        path.unlink()
    assert len(await trail(tmp_path, 20)) == 20, "what waited was written at the end"
