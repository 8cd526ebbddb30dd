"""Debian's docker-registry as a process: open, behind a login, or as a pull-through proxy.

Owns its configuration files and what its access log says. Speaks no registry protocol beyond the
question whether it is up.
"""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path

from lab.process import Process, free_port

USER = "fetcher"
PASSWORD = "opens-only-the-lab"
# `htpasswd -nbB fetcher opens-only-the-lab`, made ahead so that no test needs that program.
HTPASSWD = "fetcher:$2y$05$gbdgFBAfzhqgUNuSmztwyewy3FUFqKOxT.tbd5oA9glc1rHque4wS\n"

ACCESS_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<path>/\S*) HTTP/[0-9.]+" (?P<status>[0-9]+)')


def http_status(port: int, path: str) -> int | None:
    """The status of GET `path` on loopback, or None where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Registry:
    """`docker-registry serve` on a free port of loopback, its content below `directory`."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        login: bool = False,
        proxy_of: str | None = None,
    ) -> None:
        self.name = name
        self.login = login
        self.proxy_of = proxy_of
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = self.directory / "registry.log"
        self.start()

    @property
    def address(self) -> str:
        """HOST:PORT, as it stands before a repository's name."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What an endpoint's `url` says."""
        return f"http://{self.address}"

    def start(self) -> None:
        """Serve, on the same port and content as before. Returns once it answers."""
        config = self.directory / "config.yml"
        # JSON is YAML; and json quotes everything that needs it.
        config.write_text(json.dumps(self._config()))
        self.process = Process(self.name, ["docker-registry", "serve", config], self.log)
        self.process.wait_until(lambda: http_status(self.port, "/v2/") in {200, 401})

    def stop(self) -> None:
        """End it; its content stays for the next `start`."""
        self.process.stop()

    def requests(self) -> list[tuple[str, str, int]]:
        """(method, path, status) of every request so far, from the access log."""
        return [
            (line["method"], line["path"], int(line["status"]))
            for line in ACCESS_LINE.finditer(self.log.read_text(errors="replace"))
        ]

    def writes(self) -> list[str]:
        """The paths of all requests so far that were to change something."""
        return [path for method, path, _ in self.requests() if method not in {"GET", "HEAD"}]

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "content")},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": self.address, "secret": "lab"},
        }
        if self.login:
            htpasswd = self.directory / "htpasswd"
            htpasswd.write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "lab", "path": str(htpasswd)}}
        if self.proxy_of is not None:
            config["proxy"] = {"remoteurl": self.proxy_of}
        return config
