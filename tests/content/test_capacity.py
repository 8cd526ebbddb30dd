"""capacity.Capacity: limits kept by sweeping, pushes that do not fit, and a disk that is full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from routerd.config.sizes import Size, StorageLimits
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreFull
from routerd.content.links import LinkKind, Scope
from routerd.content.removal import RESERVE_BYTES
from routerd.content.retention import GRACE
from routerd.content.room import HYSTERESIS, NO_LIMITS, Disk, excess, shortage
from routerd.oci.reference import Digest
from stored import DATA, content, put, stream

DAY = 86400.0
HUB, PUSHED = Scope("hub", "library/app"), Scope("local", "docker.io/team/app")
BLOB = 100_000
MB = 1_000_000


class Clock:
    """Real at first, since files have the real time; then it goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def retain(scope: Scope) -> float | None:
    return 14 * DAY if scope.endpoint == "hub" else None


def limits(max_size: str | None = None, min_free: str = "0%") -> StorageLimits:
    return StorageLimits(None if max_size is None else Size(max_size), Size(min_free))


@pytest.mark.parametrize(
    ("said", "free", "used", "is_full", "wanted"),
    [
        # nothing is said: nothing is wanted, unless a write has found the disk full
        (limits(), 0, 900, False, 0),
        (limits(), 0, 900, True, 10),
        # max_size
        (limits("1kB"), 500, 1000, False, 0),
        (limits("1kB"), 500, 1001, False, 1 + 1000 * HYSTERESIS),
        (limits("50%"), 500, 501, False, 1 + 500 * HYSTERESIS),
        # min_free
        (limits(min_free="10%"), 100, 900, False, 0),
        (limits(min_free="10%"), 99, 900, False, 1 + 100 * HYSTERESIS),
        # the larger of both
        (limits("50%", "10%"), 99, 600, False, 100 + 500 * HYSTERESIS),
        (limits("50%", "10%"), 0, 501, False, 100 + 100 * HYSTERESIS),
        (limits("100%", "100%"), 0, 0, False, 1000 + 1000 * HYSTERESIS),
    ],
)
def test_what_is_to_be_swept(
    said: StorageLimits, free: int, used: int, is_full: bool, wanted: float
) -> None:
    assert shortage(said, Disk(1000, free), used, is_full=is_full) == int(wanted)


def test_what_fits_is_up_to_the_limit_itself() -> None:
    assert excess(limits("1kB"), Disk(5000, 0), 1000) == 0
    assert excess(limits("1kB"), Disk(5000, 0), 1001) == 1
    assert excess(NO_LIMITS, Disk(5000, 0), 1001) < 0


Open = Callable[..., "contextlib.AbstractAsyncContextManager[DirectoryStore]"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opening(clock: Clock) -> Open:
    @contextlib.asynccontextmanager
    async def opened(path: Path, said: StorageLimits = NO_LIMITS) -> AsyncIterator[DirectoryStore]:
        store = DirectoryStore(path, clock, limits=said)
        await store.start()
        store.capacity.retain = retain
        try:
            yield store
        finally:
            await store.aclose()

    return opened


async def keep(store: DirectoryStore, data: bytes) -> Digest:
    ingest = await store.ingest()
    try:
        ingest.write([data])
        await ingest.commit(Digest.of(data), [HUB])
    finally:
        await ingest.abort()
        ingest.close()
    return Digest.of(data)


async def cached(store: DirectoryStore, digests: list[Digest]) -> list[bool]:
    return [await store.index.link(HUB, one, LinkKind.BLOB) is not None for one in digests]


async def test_a_push_takes_the_place_of_what_was_pulled_least_recently(
    tmp_path: Path, clock: Clock, opening: Open
) -> None:
    async with opening(tmp_path / "s", limits("1MB")) as store:
        digests = []
        for number in range(9):
            digests.append(await keep(store, bytes([number]) * BLOB))
            clock.now += DAY
        store.index.pulls.note(HUB, digests[0], LinkKind.BLOB)
        clock.now += DAY
        await put(store, b"p" * BLOB, PUSHED)
        assert all(await cached(store, digests)), "that much fits"
        await put(store, b"q" * BLOB, PUSHED)
        assert await cached(store, digests) == [True, False, False] + [True] * 6
        assert await content(store, Digest.of(b"p" * BLOB), PUSHED) == b"p" * BLOB


async def test_a_push_that_cannot_fit_is_refused_before_it_is_read(
    tmp_path: Path, clock: Clock, opening: Open
) -> None:
    async with opening(tmp_path / "s", limits("1MB")) as store:
        kept = await put(store, b"p" * 900_000, PUSHED)
        await keep(store, b"cached")
        clock.now += DAY
        upload = await store.start_upload(PUSHED)
        asked = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal asked
            asked = True
            yield b"x"

        with pytest.raises(StoreFull, match="max_size is 1MB") as full:
            await upload.append(chunks(), 200_000)
        assert (full.value.status, asked) == (507, False)
        await upload.append(stream(b"y" * 90_000), 90_000)
        await upload.commit(Digest.of(b"y" * 90_000), "")
        # One that does not say its length is refused at its end.
        long = await store.start_upload(PUSHED)
        await long.append(stream(b"z" * 200_000))
        with pytest.raises(StoreFull):
            await long.commit(Digest.of(b"z" * 200_000), "")
        assert await store.upload(PUSHED, long.id) is None
        assert await content(store, kept, PUSHED) == b"p" * 900_000


async def test_a_sweep_in_vain_is_not_repeated_for_each_push(
    tmp_path: Path, clock: Clock, opening: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opening(tmp_path / "s", limits("1MB")) as store:
        await put(store, b"p" * 900_000, PUSHED)
        sweeps = 0
        sweep = store.capacity.sweep

        async def counted(need: int = 0) -> object:
            nonlocal sweeps
            sweeps += 1
            return await sweep(need)

        monkeypatch.setattr(store.capacity, "sweep", counted)
        for _ in range(3):
            with pytest.raises(StoreFull):
                await store.capacity.admit(200_000)
        assert sweeps == 1
        clock.now += GRACE + 1
        with pytest.raises(StoreFull):
            await store.capacity.admit(200_000)
        assert sweeps == 2


async def test_a_cache_above_max_size_is_swept_below_it_and_some_more(
    tmp_path: Path, clock: Clock, opening: Open
) -> None:
    async with opening(tmp_path / "s", limits("1MB")) as store:
        digests = []
        for number in range(12):
            digests.append(await keep(store, bytes([number]) * BLOB))
            clock.now += DAY
        assert all(await cached(store, digests)), "a download is never held up by the limit"
        report = await store.capacity.relieve()
        assert report is not None
        assert report.blobs == 3
        assert await cached(store, digests) == [False] * 3 + [True] * 9
        assert await store.capacity.relieve() is None


async def test_a_limit_that_cannot_be_met_is_said_once_in_a_while(
    tmp_path: Path, clock: Clock, opening: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with opening(tmp_path / "s", limits("1MB")) as store:
        await put(store, b"p" * 900_000, PUSHED)
        young = await keep(store, b"q" * 200_000)
        assert await store.capacity.relieve() is not None
        assert "only 0 could be swept" in caplog.text
        for _ in range(3):
            store.capacity.press()
            await store.capacity.pressed.wait()
            assert await store.capacity.relieve() is None
        assert caplog.text.count("could be swept") == 1
        clock.now += GRACE + 1
        report = await store.capacity.relieve()
        assert report is not None
        assert (report.blobs, await cached(store, [young])) == (1, [False])


async def test_without_a_policy_nothing_is_swept(tmp_path: Path, clock: Clock) -> None:
    store = DirectoryStore(tmp_path / "s", clock, limits=limits("1MB"))
    await store.start()
    digest = await keep(store, b"x" * 2 * MB)
    clock.now += 1000 * DAY
    assert (await store.capacity.sweep(10**9)).links == 0
    assert await cached(store, [digest]) == [True]
    await store.aclose()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """16 MB of a real file system, in a file on a loop device: it has directories to fill as well."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = Path(tempfile.mkdtemp())
    disk = folder / "disk"
    disk.mkdir()
    with (folder / "image").open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", folder / "image"], check=False)
    mounted = subprocess.run(["mount", "-o", "loop", folder / "image", disk], check=False)
    if made.returncode or mounted.returncode:
        (folder / "image").unlink()
        pytest.skip("there are no loop devices here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        (folder / "image").unlink()
        disk.rmdir()
        folder.rmdir()


def fill_up(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    assert Disk.of(disk).free == 0
    return filler


async def test_on_a_full_disk_a_sweep_makes_room_again(
    small_disk: Path, clock: Clock, opening: Open
) -> None:
    async with opening(small_disk / "s", limits(min_free="5%")) as store:
        pushed = await put(store, DATA, PUSHED)
        digests = []
        with pytest.raises(StoreFull):
            for _ in range(1000):
                digests.append(await keep(store, os.urandom(BLOB)))
                clock.now += 600
        fill_up(small_disk)
        await store.capacity.pressed.wait()
        for _ in range(3):  # what the index itself and the reserve need comes on top
            report = await store.capacity.relieve()
            assert report is None or report.size > 0
        assert report is None
        assert Disk.of(small_disk).free >= Size("5%").of(Disk.of(small_disk).total)
        left = await cached(store, digests)
        assert left == sorted(left), "the oldest went first"
        assert 0 < sum(left) < len(left)
        assert await content(store, pushed, PUSHED) == DATA
        fresh = await keep(store, os.urandom(BLOB))
        assert await content(store, fresh, HUB) is not None


async def test_a_store_on_a_full_disk_is_opened_served_and_swept(
    small_disk: Path, clock: Clock, opening: Open
) -> None:
    async with opening(small_disk / "s") as store:
        pushed = await put(store, DATA, PUSHED)
        digests = [await keep(store, os.urandom(BLOB)) for _ in range(20)]
    assert (small_disk / "s" / "reserve").stat().st_size == RESERVE_BYTES
    filler = fill_up(small_disk)
    async with opening(small_disk / "s") as store:
        assert await content(store, pushed, PUSHED) == DATA
        fill_up(small_disk)
        with pytest.raises(StoreFull):
            await put(store, os.urandom(2 * MB), PUSHED)
        clock.now += 15 * DAY
        assert (await store.capacity.sweep()).blobs == 20
        assert await cached(store, digests) == [False] * 20
        assert await content(store, pushed, PUSHED) == DATA
        fresh = await put(store, os.urandom(BLOB), PUSHED)
        assert await content(store, fresh, PUSHED) is not None
        filler.unlink()
        await store.capacity.sweep()
        assert (small_disk / "s" / "reserve").exists()
