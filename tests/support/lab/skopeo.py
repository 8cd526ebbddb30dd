"""skopeo, with no configuration of this machine's and plain HTTP on both ends."""

from __future__ import annotations

import json
from pathlib import Path

from lab.process import run


class Skopeo:
    """Copies images between registries, directories and archives; settings in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._auth = directory / "skopeo-auth.json"
        self._auth.write_text("{}")
        self._registries = directory / "skopeo-registries.conf"
        self._registries.write_text("unqualified-search-registries = []\n")

    def copy(self, source: str, destination: str, *, credentials: str = "") -> None:
        """`skopeo copy`; `credentials` (USER:PASSWORD) are for the destination."""
        login = [f"--dest-creds={credentials}"] if credentials else []
        self._run(
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            *login,
            source,
            destination,
        )

    def layers(self, source: str) -> list[str]:
        """The digests of the unpacked layers, as the image's configuration lists them."""
        config = json.loads(self._run("inspect", "--config", "--tls-verify=false", source))
        found: list[str] = config["rootfs"]["diff_ids"]
        return found

    def _run(self, *words: str) -> str:
        return run(
            ["skopeo", "--insecure-policy", *words],
            REGISTRY_AUTH_FILE=str(self._auth),
            CONTAINERS_REGISTRIES_CONF=str(self._registries),
        )
