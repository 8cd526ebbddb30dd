"""The lab itself: what the other end-to-end tests stand on, without routerd in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.bearer import BearerFront
from lab.docker import Docker
from lab.process import LabError, Process, run
from lab.registry import PASSWORD, USER, Registry
from lab.skopeo import Skopeo


def test_docker_pulls_and_runs_what_skopeo_copied(
    docker: Docker, registry: Callable[..., Registry], skopeo: Skopeo, images: dict[str, str]
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:latest")
    docker("pull", f"{upstream.address}/library/busybox")
    assert docker.note(f"{upstream.address}/library/busybox") == "hub"


def test_a_registry_with_a_login_refuses_who_has_none(
    registry: Callable[..., Registry], skopeo: Skopeo, images: dict[str, str]
) -> None:
    upstream = registry("upstream", login=True)
    destination = f"docker://{upstream.address}/library/busybox:1"
    with pytest.raises(LabError, match=r"unauthorized|authentication required"):
        skopeo.copy(images["hub"], destination)
    skopeo.copy(images["hub"], destination, credentials=f"{USER}:{PASSWORD}")


def test_the_token_server_gives_tokens_to_its_own_user_only(
    registry: Callable[..., Registry],
    bearer_front: Callable[[Registry], BearerFront],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    upstream = registry("upstream")
    skopeo.copy(images["hub"], f"docker://{upstream.address}/library/busybox:1")
    front = bearer_front(upstream)
    source = f"docker://127.0.0.1:{front.port}/library/busybox:1"
    with pytest.raises(LabError, match=r"401|unauthorized|authentication required"):
        skopeo.copy(source, f"dir:{tmp_path}/refused")
    assert not front.tokens
    login = f"--src-creds={USER}:{PASSWORD}"
    plain = "--src-tls-verify=false"
    run(["skopeo", "--insecure-policy", "copy", login, plain, source, f"dir:{tmp_path}/copied"])
    assert set(front.tokens.values()) == {"repository:library/busybox:pull"}
    manifest = json.loads((tmp_path / "copied" / "manifest.json").read_text())
    assert all((tmp_path / "copied" / layer["digest"][7:]).exists() for layer in manifest["layers"])


def test_a_program_that_ends_while_it_is_waited_for_is_reported(tmp_path: Path) -> None:
    process = Process("false", ["sh", "-c", "echo bad luck; exit 3"], tmp_path / "log")
    with pytest.raises(LabError, match="ended with status 3\nbad luck"):
        process.wait_until(lambda: False)
