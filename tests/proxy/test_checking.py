"""checking.keep_watch: what a service does with its stores while nobody asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from routerd.config.compile import load_policy
from routerd.content import patrol
from routerd.content.backup import backups
from routerd.content.layout import blob_path
from routerd.content.patrol import read_round
from routerd.endpoints.registry import lookup_type
from routerd.oci.reference import Tag
from routerd.proxy import checking
from routerd.proxy.service import Service
from stored import DATA, HERE, put

POLICY = """
server: {{admin: null, data: '{data}'}}
endpoints: {{local: {{type: storage}}}}
routes: {{team/**: local}}
"""


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(checking, "BACKUP_LOOK", 0.01)
    monkeypatch.setattr(patrol, "PATROL_LOOK", 0.01)
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(data=tmp_path / "data"))
    policy = load_policy(path, environment={}, types=lookup_type).policy
    assert policy is not None
    return Service(policy)


async def test_a_service_backs_its_index_up_and_checks_what_it_has(
    service: Service, tmp_path: Path
) -> None:
    root = tmp_path / "data" / "local"
    async with Service(service.policy, background=False) as quiet:
        digest = await put(quiet.stores["local"], DATA)
        path = blob_path(root, digest)
        path.write_bytes(bytes(len(DATA)))
    assert backups(root) == []
    with capture_logs() as logs:
        async with service:
            await until(lambda: len(backups(root)) == 1 and read_round(root).ended_at is not None)
    assert not path.exists()
    [line] = [line for line in logs if line["event"].startswith("PUSHED content is damaged")]
    assert (line["log_level"], line["pushed_by"], line["digest"]) == (
        "error",
        ("tester",),
        str(digest),
    )
    assert line["repositories"] == (f"local {HERE.repository}",)


async def test_an_index_that_breaks_while_it_is_served_is_told_loudly(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "BACKUP_LOOK", 1000.0)
    root = tmp_path / "data" / "local"
    async with service:
        for number in range(300):
            await service.stores["local"].index.pins.add(HERE, Tag(f"tag-{number}"))
    with (root / "index.sqlite").open("r+b") as index:
        index.seek(-4096, os.SEEK_END)  # of the pins, which a start does not read
        index.write(os.urandom(4096))
    monkeypatch.setattr(checking, "BACKUP_LOOK", 0.01)
    with capture_logs() as logs:
        async with Service(service.policy):
            await until(lambda: any("was not backed up" in line["event"] for line in logs))
    [line] = [line for line in logs if "was not backed up" in line["event"]]
    assert line["log_level"] == "error"
    assert "routerd cache rebuild" in line["why"]
    assert backups(root) == []
