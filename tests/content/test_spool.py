"""The spool: what waits in memory while a thread hashes and writes, and when readers hear of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from routerd.content.errors import StoreFull
from routerd.content.spool import BACKLOG, BATCH, SMALL, Spool
from routerd.runtime.blocking import run_blocking


class Disk:
    """The part of an ingest that a spool uses, with a gate before each write."""

    def __init__(self) -> None:
        self.offset = 0
        self.writes: list[list[bytes]] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.fails = False

    def write(self, chunks: Sequence[bytes | bytearray]) -> None:
        self.begun.set()
        assert self.gate.wait(10)
        if self.fails:
            raise StoreFull
        self.writes.append([bytes(chunk) for chunk in chunks])
        self.offset += sum(map(len, chunks))

    @property
    def content(self) -> bytes:
        return b"".join(b"".join(write) for write in self.writes)


def spool_on(disk: Disk) -> tuple[Spool, list[int]]:
    heard: list[int] = []
    spool = Spool(disk, lambda: heard.append(spool.written))  # type: ignore[arg-type]
    return spool, heard


async def test_crumbs_are_kept_as_a_few_chunks() -> None:
    """An upstream that sends byte by byte costs neither memory nor a write for each of them."""
    disk = Disk()
    spool, heard = spool_on(disk)
    crumbs = [bytes([n % 256]) * 3 for n in range(3 * SMALL // 3)]
    for crumb in crumbs:
        await spool.add(crumb)
    disk.gate.set()
    await spool.flush()
    assert disk.content == b"".join(crumbs)
    assert sum(map(len, disk.writes)) <= 5
    assert heard[-1] == spool.written == spool.received == 3 * SMALL


async def test_who_adds_waits_while_too_much_waits_for_the_disk() -> None:
    disk = Disk()
    spool, _ = spool_on(disk)
    chunk = bytes(BATCH)
    for _ in range(BACKLOG // BATCH - 1):
        await spool.add(chunk)
    waiting = asyncio.ensure_future(spool.add(chunk))
    await asyncio.sleep(0)
    assert not waiting.done()
    disk.gate.set()
    await waiting
    await spool.flush()
    assert disk.offset == BACKLOG
    assert max(sum(map(len, write)) for write in disk.writes) <= BATCH


async def test_what_is_too_little_for_a_batch_is_written_all_the_same() -> None:
    disk = Disk()
    disk.gate.set()
    spool, heard = spool_on(disk)
    await spool.add(b"first")
    await spool.flush()
    await spool.add(b"second")
    async with asyncio.timeout(5):
        while spool.written < 11:
            await asyncio.sleep(0)
    assert heard == [5, 11]
    assert disk.content == b"firstsecond"


async def test_one_thread_takes_what_goes_on_coming() -> None:
    """Each hop to a thread costs, so it stays a moment for the next bytes."""
    disk = Disk()
    disk.gate.set()
    spool, _ = spool_on(disk)
    await spool.add(bytes(BATCH))
    first = spool._writing
    async with asyncio.timeout(5):
        while spool.written < BATCH:
            await asyncio.sleep(0)
    await spool.add(bytes(BATCH))
    assert spool._writing is first
    await spool.flush()
    assert disk.offset == 2 * BATCH
    assert spool._writing is None


async def test_crumbs_are_written_while_a_thread_waits_for_more() -> None:
    """They are not held back until they are many."""
    disk = Disk()
    disk.gate.set()
    spool, heard = spool_on(disk)
    await spool.add(bytes(BATCH))
    await spool.add(b"crumb")
    async with asyncio.timeout(5):
        while spool.written < BATCH + 5:
            await asyncio.sleep(0)
    assert heard[-1] == BATCH + 5
    await spool.settle(keep=True)


async def test_a_full_disk_is_told_to_who_adds_and_to_who_flushes() -> None:
    disk = Disk()
    disk.fails = True
    disk.gate.set()
    spool, heard = spool_on(disk)
    with pytest.raises(StoreFull):
        for _ in range(2 * BACKLOG // BATCH):
            await spool.add(bytes(BATCH))
    with pytest.raises(StoreFull):
        await spool.flush()
    await spool.settle(keep=True)
    assert heard == []


async def test_settling_waits_for_the_thread_and_begins_nothing_more() -> None:
    disk = Disk()
    spool, _ = spool_on(disk)
    await spool.add(bytes(SMALL))
    await run_blocking(disk.begun.wait, 10)
    await spool.add(b"never written")
    settling = asyncio.ensure_future(spool.settle(keep=False))
    await asyncio.sleep(0)
    assert not settling.done()
    disk.gate.set()
    await settling
    assert disk.offset == SMALL


async def test_what_was_received_is_kept_where_that_is_wanted() -> None:
    disk = Disk()
    spool, _ = spool_on(disk)
    await spool.add(bytes(SMALL))
    await run_blocking(disk.begun.wait, 10)
    await spool.add(b"and a crumb")
    disk.gate.set()
    await spool.settle(keep=True)
    assert disk.content == bytes(SMALL) + b"and a crumb"
