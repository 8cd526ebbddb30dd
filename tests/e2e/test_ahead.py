"""Fetching ahead from a real registry, seen by a real client when that registry is gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from lab.client import MANIFEST_TYPE, Client, sha256
from lab.process import run
from lab.registry import Registry
from lab.routerd import COMMAND, Routerd
from lab.skopeo import Skopeo

POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: {hub}
    namespace: docker.io
    cache: {{store: local, ttl: 1h, prefetch: layers}}
  local: {{type: storage, actions: [pull]}}
routes:
  "**": hub
"""
LAYER = bytes(range(256)) * 20_000


def gets(registry: Registry, digest: str) -> int:
    """How often the registry sent this blob."""
    return sum(
        method == "GET" and path.endswith(digest) and status == 200
        for method, path, status in registry.requests()
    )


def assert_served_whole(skopeo: Skopeo, serving: Routerd, copy: Path) -> None:
    skopeo.copy(f"docker://{serving.address}/team/app:1", f"dir:{copy}")
    assert hashlib.sha256((copy / sha256(LAYER)[7:]).read_bytes()).digest() == (
        hashlib.sha256(LAYER).digest()
    )


def test_a_pulled_manifest_brings_its_layers(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    hub = registry("hub")
    Client(hub.port).push_image("team/app", "1", LAYER)
    serving = routerd(POLICY.format(hub=hub.url))
    client = Client(serving.port)
    answer = client.request("GET", "/v2/team/app/manifests/1", Accept=MANIFEST_TYPE)
    assert answer.status == 200

    def is_kept(digest: str) -> bool:
        head = client.request("HEAD", f"/v2/team/app/blobs/{digest}")
        return head.headers["cache-status"] == "routerd; hit"

    serving.process.wait_until(lambda: is_kept(sha256(LAYER)) and is_kept(sha256(b"{}")))
    hub.stop()
    assert_served_whole(skopeo, serving, tmp_path / "copy")
    assert gets(hub, sha256(LAYER)) == 1


def test_an_image_that_was_warmed_before_the_start_needs_no_upstream(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    hub = registry("hub")
    digest = Client(hub.port).push_image("team/app", "1", LAYER)
    serving = routerd(POLICY.format(hub=hub.url))
    assert serving.stop() == 0
    out = run(
        [COMMAND, "cache", "warm", "team/app:1", "--config", serving.policy, "--format", "json"]
    )
    last = json.loads(out.splitlines()[-1])
    assert (last["result"], last["digest"]) == ("warm", digest)
    hub.stop()
    serving.start()
    assert_served_whole(skopeo, serving, tmp_path / "copy")
    assert gets(hub, sha256(LAYER)) == 1

    assert serving.stop() == 0
    trail = run([COMMAND, "audit", "--config", serving.policy, "--format", "json"])
    pulls = [json.loads(line) for line in trail.splitlines()]
    assert {(one["action"], one["cache"], one["digest"]) for one in pulls} == {
        ("pull", "hit", digest)
    }
