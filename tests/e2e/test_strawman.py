"""The strawman of the discussion, its URLs and logins replaced by those of local registries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.docker import Docker
from lab.process import LabError
from lab.registry import PASSWORD, USER, Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

EXAMPLE = Path(__file__).parents[2] / "examples" / "strawman.yaml"
SERVER = '\nserver: {listen: "@LISTEN@", admin: null, data: "@DATA@"}\n'
PULL_ONLY = 'actions: ["pull"] # disables pushes to local'


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """`text` with each first replaced by its second; every first must be there."""
    for old, new in pairs:
        assert old in text, f"the example no longer says {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def strawman(registry: Callable[..., Registry], skopeo: Skopeo, images: dict[str, str]) -> str:
    """The policy, with `remote` and `production` behind logins and holding an image each."""
    hub = registry("hub", login=True)
    production = registry("production", login=True)
    login = f"{USER}:{PASSWORD}"
    skopeo.copy(images["hub"], f"docker://{hub.address}/library/busybox:1", credentials=login)
    destination = f"docker://{production.address}/mycorp/product"
    skopeo.copy(images["production"], f"{destination}:1", credentials=login)
    skopeo.copy(images["production"], f"{destination}:latest", credentials=login)
    return (
        replaced(
            EXAMPLE.read_text(),
            ("https://registry-1.docker.com/v2", f"{hub.url}/v2"),
            ("https://production.internal/v2", f"{production.url}/v2"),
            ("username: foo", f"username: {USER}"),
            ("password: bar", f"password: {PASSWORD}"),
        )
        + SERVER
    )


def test_latest_comes_from_local_and_the_rest_from_production_both_whole(
    docker: Docker, routerd: Callable[..., Routerd], strawman: str
) -> None:
    pushable = routerd(
        replaced(strawman, (PULL_ONLY, 'actions: ["pull", "push"]')),
        port=docker.mirror_port,
        name="pushable",
    )
    image = f"{pushable.address}/mycorp/product"
    docker.import_busybox(f"{image}:latest", "local")
    docker("push", f"{image}:latest")
    docker.forget(f"{image}:latest")
    assert pushable.stop() == 0

    routerd(strawman, port=docker.mirror_port, name="strawman")
    docker("pull", f"{image}:latest")
    docker("pull", f"{image}:1")
    docker("pull", "busybox:1")

    assert docker.note(f"{image}:latest") == "local"
    assert docker.note(f"{image}:1") == "production"
    assert docker.note("busybox:1") == "hub"


def test_the_strawman_itself_takes_no_push(
    docker: Docker, routerd: Callable[..., Routerd], strawman: str
) -> None:
    serving = routerd(strawman)
    image = f"{serving.address}/mycorp/product:latest"
    docker.import_busybox(image, "refused")
    with pytest.raises(LabError, match=r"(?i)unsupported"):
        docker("push", image)
