"""docker behind `--registry-mirror`: one pull stores, the next needs no upstream."""

from __future__ import annotations

from collections.abc import Callable

from lab.docker import Docker
from lab.registry import Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

MIRROR = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: {upstream}
    namespace: docker.io
    cache: {{store: local, ttl: {ttl}}}
  local:
    type: storage
    actions: [pull]
routes:
  "**": hub
"""


def test_docker_pulls_and_runs_busybox_through_the_mirror(
    docker: Docker,
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:latest")
    routerd(MIRROR.format(upstream=upstream.url, ttl="1h"), port=docker.mirror_port)

    docker("pull", "busybox")

    assert docker.note("busybox") == "hub"


def test_a_second_pull_needs_no_upstream(
    docker: Docker,
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:latest")
    routerd(MIRROR.format(upstream=upstream.url, ttl="1h"), port=docker.mirror_port)
    docker("pull", "busybox")
    docker.forget("busybox")
    upstream.stop()

    docker("pull", "busybox")

    assert docker.note("busybox") == "hub"


def test_an_expired_tag_is_still_served_while_upstream_is_down_even_after_a_restart(
    docker: Docker,
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:latest")
    mirror = routerd(MIRROR.format(upstream=upstream.url, ttl="0s"), port=docker.mirror_port)
    docker("pull", "busybox")
    docker.forget("busybox")
    upstream.stop()
    assert mirror.stop() == 0
    mirror.start()

    docker("pull", "busybox")

    assert docker.note("busybox") == "hub"


def test_a_tag_that_moved_upstream_is_followed_once_its_ttl_is_over(
    docker: Docker,
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["production"], f"docker://{upstream.address}/library/busybox:latest")
    routerd(MIRROR.format(upstream=upstream.url, ttl="0s"), port=docker.mirror_port)
    docker("pull", "busybox")
    assert docker.note("busybox") == "production"
    skopeo.copy(images["production-next"], f"docker://{upstream.address}/library/busybox:latest")

    docker("pull", "busybox")

    assert docker.note("busybox") == "production-next"
    gets = [path for method, path, _ in upstream.requests() if method == "GET"]
    blobs = [path for path in gets if "/blobs/" in path]
    assert len(blobs) == len(set(blobs)), "a blob was downloaded twice"
