"""Fixtures of the end-to-end tests: real clients and registries as processes over real sockets.

Everything that a test starts through these fixtures is ended and removed after it, and what it
wrote is shown where the test failed. A missing program skips the test, or fails it where
ROUTERD_REQUIRE_E2E is set, as the continuous check does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.bearer import BearerFront
from lab.docker import Docker
from lab.process import Process
from lab.registry import Registry
from lab.routerd import Routerd
from lab.skopeo import Skopeo

HERE = Path(__file__).parent
SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
LOGS = pytest.StashKey[dict[str, Process]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that `-m "not e2e"` leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show what the processes of a failed test wrote."""
    report = yield
    if report.failed:
        for name, process in item.stash.get(LOGS, {}).items():
            report.sections.append((f"output of {name}", process.tail()))
    return report


def need(*programs: str) -> None:
    """Leave the test where a program is missing; fail it where that is not allowed."""
    missing = [name for name in programs if shutil.which(name, path=SYSTEM_PATH) is None]
    if "dockerd" in programs and os.geteuid() != 0:
        missing.append("root, for dockerd")
    if not missing:
        return
    message = f"missing: {', '.join(missing)} (make test installs what it may)"
    if os.environ.get("ROUTERD_REQUIRE_E2E"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """What must be undone after the test, in reverse order, one failure not hiding another."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Callable[[str, Process], None]:
    """Names a process whose output belongs to a failure of this test."""
    logs: dict[str, Process] = request.node.stash.setdefault(LOGS, {})
    return logs.__setitem__


@pytest.fixture
def registry(
    tmp_path: Path, closing: ExitStack, watched: Callable[[str, Process], None]
) -> Callable[..., Registry]:
    """Starts docker-registry: `registry(name, login=False)`."""
    need("docker-registry")

    def start(name: str, *, login: bool = False) -> Registry:
        started = Registry(name, tmp_path, login=login)
        closing.callback(started.stop)
        watched(name, started.process)
        return started

    return start


@pytest.fixture
def routerd(
    tmp_path: Path, closing: ExitStack, watched: Callable[[str, Process], None]
) -> Callable[..., Routerd]:
    """Serves a policy: `routerd(text, port=None, name="routerd")`, one data directory a test."""

    def start(policy: str, *, port: int | None = None, name: str = "routerd") -> Routerd:
        started = Routerd(tmp_path, policy, port=port, name=name)
        closing.callback(started.kill)
        watched(name, started.process)
        return started

    return start


@pytest.fixture
def docker(tmp_path: Path, closing: ExitStack, watched: Callable[[str, Process], None]) -> Docker:
    """A Docker daemon whose `mirror_port` is free for the test's routerd."""
    need("dockerd", "docker", "busybox", "runc")
    daemon = Docker(tmp_path / "dockerd.log")
    closing.callback(daemon.remove)
    watched("dockerd", daemon.process)
    return daemon


@pytest.fixture
def skopeo(tmp_path: Path) -> Skopeo:
    """skopeo with settings of its own."""
    need("skopeo")
    return Skopeo(tmp_path)


@pytest.fixture
def bearer_front(closing: ExitStack) -> Callable[[Registry], BearerFront]:
    """Starts a token server and a registry that demands its tokens, before an open one."""

    def start(behind: Registry) -> BearerFront:
        front = BearerFront(behind.port)
        closing.callback(front.close)
        return front

    return start


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """skopeo sources of small images: `hub`, `production`, `local`, and `production-next`.

    The last is `production` with one layer more. Each says its own name when it is run.
    """
    need("dockerd", "docker", "busybox", "runc")
    directory = tmp_path_factory.mktemp("images")
    daemon = Docker(directory / "dockerd.log")
    try:
        for name in ("hub", "production", "local"):
            daemon.import_busybox(name, name)
        daemon.add_layer("production", "production-next", "production-next")
        sources = {}
        for name in ("hub", "production", "local", "production-next"):
            archive = directory / f"{name}.tar"
            daemon("save", "--output", archive, name)
            sources[name] = f"docker-archive:{archive}"
        return sources
    finally:
        daemon.remove()
