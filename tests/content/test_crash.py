"""Killed at any moment, and cut off from its disk: nothing visible is wrong, nothing acknowledged is gone.

The suite does a few rounds; `CRASH_ROUNDS=300` does a few hundred.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.process import environment
from routerd.content.directory import DirectoryStore
from routerd.content.layout import blob_files, blob_path, foreign_files
from routerd.content.links import LinkKind, Scope
from routerd.oci.reference import Digest, Tag

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "8"))
SUPPORT = Path(__file__).parent.parent / "support"
PUSHED = Scope("local", "docker.io/team/app")
SECONDS = 0.4  # the longest that a process lives after it has started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass
class Acknowledged:
    """What clients were promised: blobs, and the digest of each tag."""

    blobs: set[Digest] = field(default_factory=set)
    tags: dict[Tag, Digest] = field(default_factory=dict)

    def note(self, line: str) -> None:
        word, *rest = line.split()
        if word == "blob":
            self.blobs.add(Digest.parse(rest[0]))
        elif word == "tag":
            self.tags[Tag(rest[0])] = Digest.parse(rest[1])
        assert word in ("blob", "tag", "started"), line


class Victim:
    """The program of `crashing.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def live_and_die(self, seconds: float, crash: Callable[[int], None]) -> list[str]:
        """Let it work for so long once it has begun, then `crash(pid)`. What it acknowledged."""
        self._in.write(b"go\n")
        pid = int((await self._line()).split()[1])
        lines = [await self._line()]
        assert lines == ["started"], lines
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, crash, pid)
        while (line := await self._line()) != "ended":
            lines.append(line)
        return lines

    async def _line(self) -> str:
        line = await self._out.readline()
        assert line, "the program itself has ended; its standard error says why"
        return line.decode().strip()


@asynccontextmanager
async def victim(data: Path) -> AsyncIterator[Victim]:
    paths = os.pathsep.join([str(SUPPORT), *sys.path])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SUPPORT / "crashing.py"), str(data)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment(PYTHONPATH=paths),
    )  # fmt: skip
    try:
        yield Victim(process)
    finally:
        process.kill()
        await process.wait()


async def check(root: Path, promised: Acknowledged, hashed: set[Path]) -> None:
    """Open the store as the next server would, and look at everything. `hashed` was right before."""
    store = DirectoryStore(root)
    await store.start()
    try:
        after = ""
        while page := await store.inventory.stored_after(after):
            for digest, size in page:
                assert blob_path(root, digest).stat().st_size == size, digest
            after = str(page[-1][0])
        for path, found in blob_files(root):
            assert found is not None, path
            if path not in hashed:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == found.encoded
                hashed.add(path)
        for digest in promised.blobs:
            assert await store.stat(PUSHED, digest) is not None, digest
        for tag, digest in promised.tags.items():
            entry = await store.index.tag(PUSHED, tag)
            assert entry is not None, tag
            assert tag == "latest" or entry.digest == digest
            assert await store.manifest(PUSHED, entry.digest) is not None
        assert await store.verifier.index_problem() is None
        assert (await store.inventory.totals()).damaged == 0
        assert list(foreign_files(root)) == []
        for digest in promised.tags.values():
            assert await store.index.link(PUSHED, digest, LinkKind.MANIFEST) is not None
    finally:
        await store.aclose()


async def test_a_kill_at_any_moment_spoils_nothing_and_loses_nothing(tmp_path: Path) -> None:
    promised, hashed = Acknowledged(), set[Path]()
    async with victim(tmp_path / "data") as program:
        for _ in range(ROUNDS):
            seconds = random.random() * SECONDS
            for line in await program.live_and_die(
                seconds, lambda pid: os.kill(pid, signal.SIGKILL)
            ):
                promised.note(line)
            await check(tmp_path / "data" / "local", promised, hashed)
    assert len(promised.blobs) > ROUNDS / 4
    await check(tmp_path / "data" / "local", promised, set())


# ext4's ioctl to stop a file system dead (fs/ext4/ext4.h), nothing of what is only in memory written.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = struct.pack("I", 2)
_IMAGE_BYTES = 512 * 1024 * 1024


class Disk:
    """An ext4 file system in a file, which can be cut off from what was not synced."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "disk.img"
        self.path = directory / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True, env=environment())
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def cut(self) -> None:
        """From now on nothing is written, and what was not synced is lost."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(fd)

    def umount(self) -> None:
        subprocess.run(["umount", self.path], check=True)


@contextmanager
def disk_in(directory: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    try:
        disk = Disk(directory)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no ext4 on a loop device here: {error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.path], check=False)


def test_the_disk_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    with disk_in(tmp_path) as disk:
        (disk.path / "unsynced").write_bytes(b"x" * 10_000)
        with (disk.path / "synced").open("wb") as file:
            file.write(b"y" * 10_000)
            file.flush()
            os.fsync(file.fileno())
        (disk.path / "later").write_bytes(b"z")
        disk.cut()
        disk.umount()
        disk.mount()
        assert (disk.path / "synced").read_bytes() == b"y" * 10_000
        lost = disk.path / "unsynced"
        assert not lost.exists() or lost.read_bytes() != b"x" * 10_000
        assert not (disk.path / "later").exists()


async def test_a_power_cut_at_any_moment_spoils_nothing_and_loses_nothing(tmp_path: Path) -> None:
    promised, hashed = Acknowledged(), set[Path]()
    with disk_in(tmp_path) as disk:
        data = disk.path / "data"

        def power_cut(pid: int) -> None:
            disk.cut()
            with suppress(ProcessLookupError):  # it may have found out, and ended
                os.kill(pid, signal.SIGKILL)

        async with victim(data) as program:
            for _ in range(max(3, ROUNDS // 4)):
                for line in await program.live_and_die(random.random() * SECONDS, power_cut):
                    promised.note(line)
                await asyncio.to_thread(disk.umount)
                await asyncio.to_thread(disk.mount)
                hashed.clear()  # what was right before is read from the disk again
                await check(data / "local", promised, hashed)
    assert promised.blobs
