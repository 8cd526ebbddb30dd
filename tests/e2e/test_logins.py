"""Upstreams that want to know who asks: Basic, and Bearer with a token server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.bearer import BearerFront
from lab.client import Client
from lab.process import LabError
from lab.registry import PASSWORD, USER, Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  upstream:
    type: remote
    url: {url}
    namespace: docker.io
    cache: local
    auth: {{type: basic, username: {user}, password: {password}}}
  local: {{type: storage}}
routes:
  "**": upstream
"""


def test_an_upstream_that_wants_basic_is_pulled_from(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    upstream = registry("upstream", login=True)
    login = f"{USER}:{PASSWORD}"
    skopeo.copy(images["hub"], f"docker://{upstream.address}/team/app:1", credentials=login)
    serving = routerd(POLICY.format(url=upstream.url, user=USER, password=PASSWORD))

    skopeo.copy(f"docker://{serving.address}/team/app:1", f"dir:{tmp_path}/copy")

    assert PASSWORD not in serving.log.read_text()


def test_an_upstream_that_wants_bearer_is_pulled_from_with_one_token(
    registry: Callable[..., Registry],
    bearer_front: Callable[[Registry], BearerFront],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["production-next"], f"docker://{upstream.address}/team/app:1")
    front = bearer_front(upstream)
    serving = routerd(POLICY.format(url=front.url, user=USER, password=PASSWORD))

    skopeo.copy(f"docker://{serving.address}/team/app:1", f"dir:{tmp_path}/copy")

    assert list(front.tokens.values()) == ["repository:team/app:pull"]
    assert front.authorized >= 3


def test_a_wrong_login_is_tried_once_and_reported_as_denied(
    registry: Callable[..., Registry],
    bearer_front: Callable[[Registry], BearerFront],
    routerd: Callable[..., Routerd],
) -> None:
    front = bearer_front(registry("upstream"))
    serving = routerd(POLICY.format(url=front.url, user=USER, password="wrong-one"))

    answer = Client(serving.port).request("GET", "/v2/team/app/manifests/1")

    assert (answer.status, answer.error()["code"]) == (403, "DENIED")
    # Docker Hub locks accounts that come again and again with a wrong password.
    assert front.refused == 1
    assert not front.tokens
    assert "wrong-one" not in serving.log.read_text() + answer.body.decode()


def test_a_client_cannot_push_through_a_login_that_is_not_its_own(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
) -> None:
    upstream = registry("upstream", login=True)
    serving = routerd(POLICY.format(url=upstream.url, user=USER, password=PASSWORD))

    with pytest.raises(LabError):
        skopeo.copy(images["hub"], f"docker://{serving.address}/team/app:1")

    assert not upstream.writes()
