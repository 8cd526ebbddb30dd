"""Two registries behind one endpoint: the first is killed within a download, and the second ends it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.client import Client, sha256
from lab.registry import Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

LAYER_BYTES = 200_000_000
NOWHERE = "http://registry.invalid"  # RFC 6761: no name server knows it
POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: [{first}, {second}]
    namespace: docker.io
    cache: {{store: local, ttl: 1h}}
  local: {{type: storage}}
routes:
  "**": hub
"""


def spooled(data: Path) -> int:
    """The bytes of the largest download that is on its way in."""
    sizes = [0]
    for path in (data / "local" / "spool").rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue  # it has just come in
    return max(sizes)


def test_the_first_registry_is_killed_within_a_download_and_the_second_ends_it(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    tmp_path: Path,
) -> None:
    layer = os.urandom(LAYER_BYTES)
    first, second = registry("first"), registry("second")
    for one in (first, second):
        digest = Client(one.port).push_image("team/app", "1", layer)
    served = routerd(POLICY.format(first=first.url, second=second.url))
    caught = []

    def kill_within() -> None:
        deadline = time.monotonic() + 60
        while (received := spooled(tmp_path / "data")) < 1_000_000 and time.monotonic() < deadline:
            time.sleep(0.0005)
        os.kill(first.process.pid, signal.SIGSTOP)  # at once, so that no more comes
        caught.append(received)
        first.process.kill()

    killer = threading.Thread(target=kill_within)
    killer.start()
    skopeo.copy(f"docker://{served.address}/team/app:1", f"dir:{tmp_path}/copy")
    killer.join()

    assert 1_000_000 <= caught[0] < LAYER_BYTES
    expected = hashlib.sha256(layer).hexdigest()
    with (tmp_path / "copy" / expected).open("rb") as copied:
        assert hashlib.file_digest(copied, "sha256").hexdigest() == expected
    manifest = (tmp_path / "copy" / "manifest.json").read_bytes()
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == digest
    blob = f"/v2/team/app/blobs/sha256:{expected}"
    asked = [
        status for method, path, status in second.requests() if (method, path) == ("GET", blob)
    ]
    assert asked == [206], "from where it broke, and not from its beginning"
    assert json.loads(manifest)["layers"][0]["size"] == LAYER_BYTES


def test_a_server_that_starts_without_name_server_and_registry_serves_what_it_has(
    registry: Callable[..., Registry], routerd: Callable[..., Routerd]
) -> None:
    upstream = registry("upstream")
    layer = os.urandom(100_000)
    digest = Client(upstream.port).push_image("team/app", "1", layer)
    policy = POLICY.format(first=NOWHERE, second=upstream.url).replace("ttl: 1h", "ttl: 0s")
    served = routerd(policy)
    manifest, blob = "/v2/team/app/manifests/1", f"/v2/team/app/blobs/{sha256(layer)}"
    client = Client(served.port)
    for path in (manifest, blob):
        assert client.request("GET", path).status == 200
    # A client has its last byte before what it read is durable and linked.
    served.process.wait_until(
        lambda: client.request("HEAD", blob).headers["cache-status"] == "routerd; hit"
    )
    assert served.stop() == 0
    upstream.stop()

    served.start()

    stale = client.request("GET", manifest)
    assert (stale.status, sha256(stale.body)) == (200, digest)
    assert "stale-if-error" in stale.headers["cache-status"]
    assert client.request("GET", blob).body == layer
    assert client.request("GET", "/v2/team/app/manifests/2").status == 503
