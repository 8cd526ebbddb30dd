"""The sweep among readers, fills and pushes of several processes, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from routerd.content.directory import DirectoryStore
from routerd.content.links import Scope
from routerd.oci.reference import Digest, Tag
from stored import content
from sweep_stress import AHEAD, DANGLING, LOCAL, TEAM

SUPPORT = Path(__file__).parent.parent / "support"
PUSHED = Scope(LOCAL, str(TEAM))
SECONDS = 8.0
KILLS = 6
AT_WORK = ["fill", "fill", "push", "push", "read", "read"]


class Worker:
    """A process, and the lines that it said."""

    def __init__(self, role: str, path: Path, seed: int) -> None:
        self.role = role
        self.said: list[dict[str, Any]] = []
        self._words = [str(SUPPORT / "sweep_stress.py"), role, str(path), str(seed), str(SECONDS)]

    async def run(self, kill_after: float | None = None) -> None:
        """To its end, or until it is killed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        if kill_after is not None:
            await asyncio.sleep(kill_after)
            process.kill()
        out, trouble = await process.communicate()
        assert kill_after is not None or process.returncode == 0, trouble.decode()
        # The last line of one that was killed may be cut: then nobody has heard of it.
        self.said = [json.loads(line) for line in out.split(b"\n")[:-1]]


async def kill_again_and_again(path: Path, role: str, random: Random) -> list[Worker]:
    workers = [Worker(role, path, random.randrange(10**6)) for _ in range(KILLS)]
    for worker in workers:
        await worker.run(kill_after=0.7 + random.random())
    return workers


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_and_nothing_wrong_is_served(tmp_path: Path) -> None:
    random = Random(3)
    path = tmp_path / "s"
    holder = DirectoryStore(path)  # has the lock, as a supervisor does
    await holder.start()
    working = [Worker(role, path, seed) for seed, role in enumerate(AT_WORK)]
    sweeping = [Worker("sweep", path, 100 + seed) for seed in range(2)]
    *_, killed_sweeps, killed_pushes = await asyncio.gather(
        *(worker.run() for worker in [*working, *sweeping]),
        kill_again_and_again(path, "sweep", random),
        kill_again_and_again(path, "push", random),
    )
    workers = [*working, *sweeping, *killed_sweeps, *killed_pushes]
    counted = sum((Counter(line.get("counted", {})) for w in workers for line in w.said), Counter())
    for what in ("filled", "pushed", "read", "missed", "swept"):
        assert counted[what] > 20, counted

    assert all_files_are_what_they_are_called(path)
    await holder.aclose()
    store = DirectoryStore(path)
    await store.start()
    said = [line for worker in workers for line in worker.said]
    for line in said:
        if "blob" in line:
            digest = Digest.parse(line["blob"])
            data = await content(store, digest, PUSHED)
            assert data is not None, f"{digest} was acknowledged and is gone"
            assert Digest.of(data) == digest
        if "manifest" in line:
            digest = Digest.parse(line["manifest"])
            entry = await store.index.tag(PUSHED, Tag(line["tag"]))
            assert entry is not None
            assert entry.digest == digest
            assert await store.manifest(PUSHED, digest) is not None
    await store.aclose()
    await nothing_else_is_left(path)


def all_files_are_what_they_are_called(path: Path) -> bool:
    return all(Digest.of(f.read_bytes()).encoded == f.name for f in files(path))


def files(path: Path) -> list[Path]:
    return [file for file in (path / "blobs").rglob("*") if file.is_file()]


async def nothing_else_is_left(path: Path) -> None:
    """Once nobody wants what is cached: the files of what was pushed, and rows that have a file."""
    store = DirectoryStore(path, lambda: time.time() + 3 * AHEAD)
    await store.start()
    store.capacity.retain = lambda scope: None if scope.endpoint == LOCAL else 0.0
    await store.capacity.sweep()
    await store.aclose()
    with sqlite3.connect(path / "index.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute(DANGLING).fetchall() == [(0,)]
        rows = dict(connection.execute("SELECT digest, size FROM blob WHERE state = 'stored'"))
        damaged = connection.execute("SELECT count(*) FROM blob WHERE state <> 'stored'").fetchall()
        links = connection.execute("SELECT endpoint, digest FROM link").fetchall()
        listed = {child for [child] in connection.execute("SELECT child FROM edge")}
    connection.close()
    assert damaged == [(0,)]
    assert {digest for endpoint, digest in links if endpoint != LOCAL} <= listed
    assert {digest for _, digest in links} == set(rows)
    sizes = {f"sha256:{file.name}": file.stat().st_size for file in files(path)}
    assert {digest: sizes.get(digest) for digest in rows} == rows
    # A process that is killed between the two has given a file its name and told nobody.
    assert len(sizes) - len(rows) <= KILLS
    assert list((path / "removed").iterdir()) == []
