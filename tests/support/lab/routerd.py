"""`routerd serve` as a process, from a policy given as text."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.process import Process, environment, free_port
from lab.registry import http_status

# What `pip install` put beside the interpreter that runs this.
COMMAND = Path(sys.executable).with_name("routerd")


class Routerd:
    """One policy being served on loopback. What it keeps lies in `directory`/data.

    The policy's text says @LISTEN@ and @DATA@ where the address and the data directory belong.
    """

    def __init__(
        self,
        directory: Path,
        policy: str,
        *,
        port: int | None = None,
        name: str = "routerd",
        **variables: str,
    ) -> None:
        self.directory = directory
        self.port = free_port() if port is None else port
        self.log = directory / f"{name}.log"
        self._name = name
        self._variables = variables
        self.policy = directory / f"{name}.yaml"
        self.policy.write_text(
            policy.replace("@LISTEN@", self.address).replace("@DATA@", str(directory / "data"))
        )
        self.start()

    @property
    def address(self) -> str:
        """HOST:PORT, as it stands before a repository's name."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve the same policy on the same port and data. Returns once it is ready."""
        self.process = Process(
            self._name,
            [COMMAND, "serve", "--config", self.policy],
            self.log,
            env=environment(**self._variables),
        )
        self.process.wait_until(lambda: http_status(self.port, "/readyz") == 200)

    def stop(self) -> int:
        """SIGTERM; the exit status once it has drained."""
        return self.process.stop()

    def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        self.process.kill()
