"""skopeo copies in and out in every form it knows, and pushes what another endpoint has in part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.registry import Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

STORAGE = """
server: {listen: "@LISTEN@", admin: null, data: "@DATA@"}
endpoints:
  local: {type: storage}
routes:
  "**": local
"""

ORDERED = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  production:
    type: remote
    url: {production}
    namespace: docker.io
  local: {{type: storage}}
routes:
  mycorp/**:
    endpoints: [production, local]
    push_to: local
"""


def assert_whole(directory: Path) -> None:
    """Every blob of the manifest in a `dir:` copy is there and has its digest."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for descriptor in (manifest["config"], *manifest["layers"]):
        algorithm, _, expected = descriptor["digest"].partition(":")
        data = (directory / expected).read_bytes()
        assert hashlib.new(algorithm, data).hexdigest() == expected
        assert len(data) == descriptor["size"]


@pytest.mark.parametrize("form", ["dir", "oci", "docker-archive"])
def test_skopeo_copies_in_and_out(
    form: str,
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    team = f"docker://{routerd(STORAGE).address}/team"
    outside = f"{form}:{tmp_path}/copy"
    if form != "dir":
        outside += ":copy:1" if form == "docker-archive" else ":1"

    skopeo.copy(images["production-next"], f"{team}/app:1")
    skopeo.copy(f"{team}/app:1", outside)
    skopeo.copy(outside, f"{team}/back:1")
    skopeo.copy(f"{team}/back:1", f"dir:{tmp_path}/check")

    assert_whole(tmp_path / "check")
    # Between the forms of Docker and OCI documents are rewritten; what layers unpack to is not.
    assert skopeo.layers(f"{team}/back:1") == skopeo.layers(f"{team}/app:1")


def test_a_push_brings_over_the_layers_that_another_endpoint_of_the_route_has(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    production = registry("production")
    skopeo.copy(images["production"], f"docker://{production.address}/mycorp/app:1")
    written_before = production.writes()
    serving = routerd(ORDERED.format(production=production.url))
    app = f"docker://{serving.address}/mycorp/app"

    skopeo.copy(f"{app}:1", f"dir:{tmp_path}/from-production")
    skopeo.copy(images["production-next"], f"{app}:next")

    assert_whole(tmp_path / "from-production")
    assert production.writes() == written_before
    serving.stop()
    production.stop()
    alone = routerd(STORAGE, name="alone")
    skopeo.copy(f"docker://{alone.address}/mycorp/app:next", f"dir:{tmp_path}/alone")
    assert_whole(tmp_path / "alone")


def test_tags_of_both_endpoints_are_found_in_order(
    registry: Callable[..., Registry],
    routerd: Callable[..., Routerd],
    skopeo: Skopeo,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    production = registry("production")
    skopeo.copy(images["production"], f"docker://{production.address}/mycorp/app:both")
    serving = routerd(ORDERED.format(production=production.url))
    app = f"docker://{serving.address}/mycorp/app"
    skopeo.copy(images["local"], f"{app}:only-local")

    skopeo.copy(f"{app}:both", f"dir:{tmp_path}/both")
    skopeo.copy(f"{app}:only-local", f"dir:{tmp_path}/only-local")

    assert_whole(tmp_path / "both")
    assert_whole(tmp_path / "only-local")
    first = json.loads((tmp_path / "both" / "manifest.json").read_text())
    second = json.loads((tmp_path / "only-local" / "manifest.json").read_text())
    assert first["config"]["digest"] != second["config"]["digest"]
