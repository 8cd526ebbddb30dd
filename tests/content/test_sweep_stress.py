"""The sweep among readers, fills and pushes of several processes, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
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
KILLS = 6
ENOUGH = 20  # times that each thing was done, however long a busy machine takes for it
DONE = ["filled", "pushed", "read", "missed", "swept"]
AT_WORK = ["fill", "fill", "push", "push", "read", "read", "sweep", "sweep"]


class Stress:
    """A store, the processes that work on it, and the lines that they said."""

    def __init__(self, path: Path) -> None:
        self.said: list[dict[str, Any]] = []
        self._path = path
        self._stop = path.with_name("enough")
        self._counted: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def run(self, random: Random) -> None:
        """All processes, until some were killed and enough is done."""
        try:
            async with asyncio.TaskGroup() as group:
                for seed, role in enumerate(AT_WORK):
                    group.create_task(self._work(role, seed))
                await asyncio.gather(*(self._kill(role, random) for role in ("sweep", "push")))
                while min(self._counted[what] for what in DONE) < ENOUGH:
                    self._changed.clear()
                    await self._changed.wait()
                self._stop.touch()
        finally:
            self._stop.touch()  # whatever went wrong, no process goes on for ever

    async def _kill(self, role: str, random: Random) -> None:
        for _ in range(KILLS):
            await self._work(role, random.randrange(10**6), kill_after=0.7 + random.random())

    async def _work(self, role: str, seed: int, kill_after: float | None = None) -> None:
        """One process, to its end."""
        words = [str(SUPPORT / "sweep_stress.py"), role, str(self._path), str(seed)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            str(self._stop),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        trouble = asyncio.ensure_future(process.stderr.read())
        if kill_after is not None:
            asyncio.get_running_loop().call_later(kill_after, process.kill)
        async for line in process.stdout:
            if line.endswith(b"\n"):  # a cut one of one that was killed nobody has heard of
                self._hear(json.loads(line))
        expected = 0 if kill_after is None else -signal.SIGKILL
        assert await process.wait() == expected, (await trouble).decode()
        await trouble

    def _hear(self, line: dict[str, Any]) -> None:
        self.said.append(line)
        if "done" in line:
            self._counted[line["done"]] += line["times"]
            self._changed.set()


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_and_nothing_wrong_is_served(tmp_path: Path) -> None:
    path = tmp_path / "s"
    holder = DirectoryStore(path)  # has the lock, as a supervisor does
    await holder.start()
    stress = Stress(path)
    await stress.run(Random(3))

    assert all_files_are_what_they_are_called(path)
    await holder.aclose()
    store = DirectoryStore(path)
    await store.start()
    for line in stress.said:
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
