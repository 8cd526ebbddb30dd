"""skopeo, with no configuration of this machine's and plain HTTP on both ends."""

from __future__ import annotations

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

    def raw_manifest(self, source: str) -> str:
        """The manifest as the registry sent it."""
        return self._run("inspect", "--raw", "--tls-verify=false", source)

    def _run(self, *words: str) -> str:
        return run(
            ["skopeo", "--insecure-policy", *words],
            REGISTRY_AUTH_FILE=str(self._auth),
            CONTAINERS_REGISTRIES_CONF=str(self._registries),
        )
