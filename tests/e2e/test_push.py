"""docker pushes to the storage endpoint, and is told where it may not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.client import Client
from lab.docker import Docker
from lab.process import LabError
from lab.registry import Registry
from lab.routerd import Routerd

STORAGE = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: {upstream}
    namespace: docker.io
    cache: local
  local:
    type: storage
routes:
  library/*: hub
  team/**: local
  legacy/**: {{deny: "moved to team/"}}
"""


def test_docker_pushes_and_pulls_back_the_same_image(
    docker: Docker, registry: Callable[..., Registry], routerd: Callable[..., Routerd]
) -> None:
    serving = routerd(STORAGE.format(upstream=registry("upstream").url))
    image = f"{serving.address}/team/app:1"
    docker.import_busybox(image, "pushed")
    docker.add_layer(image, f"{serving.address}/team/app:2", "pushed again")

    docker("push", image)
    docker("push", f"{serving.address}/team/app:2")
    docker.forget(image, f"{serving.address}/team/app:2")
    docker("pull", image)
    docker("pull", f"{serving.address}/team/app:2")

    assert docker.note(image) == "pushed"
    assert docker.note(f"{serving.address}/team/app:2") == "pushed again"
    listed = Client(serving.port).request("GET", "/v2/team/app/tags/list")
    assert listed.status == 200
    assert b'"1"' in listed.body
    assert b'"2"' in listed.body


def test_a_push_to_a_route_that_only_pulls_is_refused_with_a_sentence(
    docker: Docker, registry: Callable[..., Registry], routerd: Callable[..., Routerd]
) -> None:
    upstream = registry("upstream")
    serving = routerd(STORAGE.format(upstream=upstream.url))
    image = f"{serving.address}/library/mine:1"
    docker.import_busybox(image, "not to be pushed")

    with pytest.raises(LabError, match=r"(?i)unsupported"):
        docker("push", image)

    answer = Client(serving.port).request("POST", "/v2/library/mine/blobs/uploads/")
    assert (answer.status, answer.error()["code"]) == (405, "UNSUPPORTED")
    assert "hub" in answer.error()["message"]
    assert not upstream.writes()


def test_docker_shows_the_reason_of_a_denied_route(
    docker: Docker, registry: Callable[..., Registry], routerd: Callable[..., Routerd]
) -> None:
    serving = routerd(STORAGE.format(upstream=registry("upstream").url))
    with pytest.raises(LabError, match=r"moved to team/"):
        docker("pull", f"{serving.address}/legacy/app:1")
