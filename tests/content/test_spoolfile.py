"""spoolfile: one download among several processes, here as stores on the same directory.

Each has locks and file descriptors of its own, as a process has; killed fillers and real processes
are in tests/cli/test_workers.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from routerd.content.directory import DirectoryStore
from routerd.content.fetch import Fetch
from routerd.content.fetchtable import FetchTable
from routerd.content.links import Scope
from routerd.content.store import SpoolReplaced, Told
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.files import as_bytes
from routerd.runtime.tasks import Tasks
from stored import content

DATA = os.urandom(300_000)
DIGEST = Digest.of(DATA)
WRONG = os.urandom(100_000)  # what an upstream has sent of something else
SCOPE = Scope("hub", "library/app")


class Upstream:
    """Sends `data` from where it is asked to, when `ready`; then it may break off, or hang."""

    def __init__(
        self, data: bytes, size: int | None, *, breaks: bool = False, hangs: bool = False
    ) -> None:
        self.data, self.size, self.breaks, self.hangs = data, size, breaks, hangs
        self.ready = asyncio.Event()
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def open(self, start: int) -> AsyncIterator[Stream]:
        self.asked.set()
        await self.ready.wait()
        yield Stream(self, start)


class Stream:
    def __init__(self, upstream: Upstream, start: int) -> None:
        self.upstream, self.start, self.size = upstream, start, upstream.size

    async def chunks(self) -> AsyncIterator[bytes]:
        if self.start < len(self.upstream.data):
            yield self.upstream.data[self.start :]
        if self.upstream.hangs:
            await asyncio.Event().wait()
        if self.upstream.breaks:
            raise RegistryError(Code.UNAVAILABLE, "broken off")


class Process:
    """A store, as one of several processes has it open, and what it downloads."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self.store = DirectoryStore(path, shared=shared)
        self.tasks = Tasks()
        self.table = FetchTable(self.tasks)

    def join(self, upstream: Upstream) -> Fetch:
        return self.table.join(self.store, DIGEST, SCOPE, upstream.open)[0]

    async def aclose(self) -> None:
        await self.tasks.aclose(grace=0)
        await self.store.aclose()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[list[Process]]:
    started = [Process(tmp_path / "store", shared=number > 0) for number in range(2)]
    for process in started:
        await process.store.start()
    yield started
    for process in reversed(started):
        await process.aclose()


async def everything(fetch: Fetch) -> bytes:
    try:
        return b"".join([chunk async for chunk in as_bytes(fetch.read(0, None))])
    finally:
        await fetch.leave()


async def leave_wrong_bytes(process: Process) -> None:
    """A download that broke off, of an upstream that had something else."""
    upstream = Upstream(WRONG, len(WRONG) * 2, breaks=True)
    upstream.ready.set()
    with pytest.raises(RegistryError, match="broken off"):
        await everything(process.join(upstream))
    await until_ended(process)


async def until_ended(process: Process) -> None:
    async with asyncio.timeout(20):
        while len(process.table):
            await asyncio.sleep(0)


async def test_who_follows_a_download_that_is_begun_anew_has_no_mixture(
    processes: list[Process],
) -> None:
    filler, follower = processes
    await leave_wrong_bytes(filler)
    upstream = Upstream(DATA, len(DATA))
    filling = filler.join(upstream)  # read at once: it hands out nothing before upstream answers
    own = asyncio.ensure_future(everything(filling))
    await upstream.asked.wait()
    following = follower.join(Upstream(b"", 0))  # never asked
    async with asyncio.timeout(20):
        await following.started()
    reader = as_bytes(following.read(0, None))
    assert WRONG.startswith(await anext(reader))
    upstream.ready.set()
    assert await own == DATA
    with pytest.raises(RegistryError, match="begun anew"):
        async for _ in reader:
            pass
    await following.leave()
    await until_ended(filler)
    assert await content(filler.store, DIGEST, SCOPE) == DATA


@pytest.mark.parametrize("said", [len(WRONG) * 2, None])
async def test_who_has_followed_a_filler_that_is_gone_begins_nothing_anew_beneath_its_readers(
    processes: list[Process], said: int | None
) -> None:
    former, heir = processes
    stuck = Upstream(WRONG, said, hangs=True)
    stuck.ready.set()
    filling = former.join(stuck)
    await filling.started()
    upstream = Upstream(DATA, len(DATA))
    following = heir.join(upstream)
    async with asyncio.timeout(20):
        await following.started()
    reader = as_bytes(following.read(0, None))
    assert WRONG.startswith(await anext(reader))
    await filling.leave()
    await former.tasks.aclose(grace=0)
    upstream.ready.set()
    with pytest.raises(RegistryError, match="begun anew"):
        async for _ in reader:
            pass
    await following.leave()
    later = heir.join(upstream)
    assert await everything(later) == DATA


async def test_who_followed_another_file_does_not_take_its_successor_for_it(
    processes: list[Process],
) -> None:
    """That was complete and moved into the store between two looks, and is as long."""
    filler, follower = (process.store.spool_file(SCOPE.endpoint, DIGEST) for process in processes)
    assert await filler.elect()
    ingest = await filler.ingest()
    ingest.write([bytes(len(DATA))])
    assert follower.look() == len(DATA)
    await filler.restart()
    ingest.write([DATA])
    await filler.tell(Told(SCOPE.repository, len(DATA), verified=True))
    await ingest.commit(DIGEST, [SCOPE])
    with pytest.raises(SpoolReplaced):
        follower.look()
    await filler.release(forget=False)
    filler.close()
    follower.close()
