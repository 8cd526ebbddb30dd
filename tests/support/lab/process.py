"""One program under test as a process group of its own, with its output in a file.

Owns starting, waiting until ready, and ending by the process ids that were started here. Knows no
program in particular.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic

START_SECONDS = 20.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.05
LOG_TAIL_CHARACTERS = 6_000

# A proxy between loopback and loopback would only hide what is tested.
PROXY_VARIABLES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


class LabError(Exception):
    """A program did not start, did not end or did not do what it was asked to."""


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without proxies, plus `extra`."""
    kept = {key: value for key, value in os.environ.items() if key.lower() not in PROXY_VARIABLES}
    kept["PATH"] = kept.get("PATH", "") + ":/usr/sbin:/sbin"
    return kept | extra


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(argv: Sequence[str | Path], *, seconds: float = 60, **extra_environment: str) -> str:
    """The output of a program that must succeed. Raises LabError with both its streams."""
    done = subprocess.run(
        [str(word) for word in argv],
        env=environment(**extra_environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in argv)
        raise LabError(f"{words}\nexit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Process:
    """A running program: started by the constructor, ended by `stop` or `kill`, in any order."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [str(word) for word in argv],
                env=dict(env) if env is not None else environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Poll `ready` until it holds. Raises LabError when the program ends or time is up."""
        deadline = monotonic() + seconds
        while not ready():
            status = self.wait(POLL_SECONDS)
            if status is not None:
                raise LabError(f"{self.name} ended with status {status}\n{self.tail()}")
            if monotonic() > deadline:
                raise LabError(f"{self.name} was not ready in {seconds:.0f} s\n{self.tail()}")

    def wait(self, seconds: float) -> int | None:
        """The exit status, or None if it still runs after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """SIGTERM to the program itself; does not wait."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM and wait; SIGKILL to the whole group when it does not end. The exit status."""
        self.terminate()
        status = self.wait(seconds)
        self.kill()
        if status is None:
            raise LabError(f"{self.name} did not end in {seconds:.0f} s\n{self.tail()}")
        return status

    def kill(self) -> None:
        """SIGKILL to the whole group, at once; what a power cut leaves of a program."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait(STOP_SECONDS)

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
