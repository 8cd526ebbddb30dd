"""fetch: one download, many readers (architecture.md, "One download, many readers")."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerd.content.directory import DirectoryStore
from routerd.content.download import RESUMES_LIMIT
from routerd.content.errors import StoreFull
from routerd.content.fetch import LOOK_SECONDS, Fetch, Superseded
from routerd.content.fetchtable import CLIENT_LIMIT, FILLS_LIMIT, FetchTable
from routerd.content.ingest import FileIngest
from routerd.content.links import Scope
from routerd.content.spoolfile import DirectorySpoolFile
from routerd.content.store import Told
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.blocking import THREADS, run_blocking
from routerd.runtime.files import as_bytes
from routerd.runtime.tasks import Tasks

DATA = os.urandom(8 * 1024 * 1024 + 12345)  # more than may wait in memory
DIGEST = Digest.of(DATA)
SCOPE = Scope("hub", "library/app")
OTHER = Scope("hub", "library/other")
LATE = Scope("hub", "library/late")  # admitted when everything is over


class Broken(RegistryError):
    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "broken off")


class Upstream:
    """A source whose chunks come as the test lets them."""

    def __init__(
        self,
        data: bytes = DATA,
        *,
        size: int | None = -1,
        breaks: tuple[int, ...] = (),
        resumes: bool = True,
        chunk: int = 70_000,
    ) -> None:
        self.data, self.chunk, self.resumes = data, chunk, resumes
        self.size = len(data) if size == -1 else size
        self.breaks = list(breaks)
        self.opened: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}

    def gate(self, position: int) -> asyncio.Event:
        """Chunks from `position` on wait for this."""
        return self.gates.setdefault(position, asyncio.Event())

    @asynccontextmanager
    async def open(self, start: int) -> AsyncIterator[Stream]:
        self.opened.append(start)
        yield Stream(self, start if self.resumes else 0)


class Stream:
    def __init__(self, upstream: Upstream, start: int) -> None:
        self.upstream, self.start, self.size = upstream, start, upstream.size

    async def chunks(self) -> AsyncIterator[bytes]:
        position = self.start
        stop = self.upstream.breaks.pop(0) if self.upstream.breaks else None
        while position < len(self.upstream.data):
            for at, gate in self.upstream.gates.items():
                if position >= at:
                    await gate.wait()
            if stop is not None and position >= stop:
                raise Broken
            yield self.upstream.data[position : position + self.upstream.chunk]
            position += self.upstream.chunk


Join = Callable[..., Fetch]


@pytest.fixture
def join(store: DirectoryStore, fetches: FetchTable) -> Join:
    def run(
        upstream: Upstream, scope: Scope = SCOPE, digest: Digest = DIGEST, client: str = ""
    ) -> Fetch:
        return fetches.join(store, digest, scope, upstream.open, client=client)[0]

    return run


async def read(fetch: Fetch, start: int = 0, stop: int | None = None) -> bytes:
    try:
        return b"".join([chunk async for chunk in as_bytes(fetch.read(start, stop))])
    finally:
        await fetch.leave()


async def until_kept(fetches: FetchTable) -> None:
    async with asyncio.timeout(20):
        while len(fetches):
            await asyncio.sleep(0)


def spooled(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "spool").iterdir())


async def test_a_download_is_read_while_it_comes_in_and_kept(
    join: Join, store: DirectoryStore, fetches: FetchTable, tmp_path: Path
) -> None:
    upstream = Upstream()
    gate = upstream.gate(140_000)
    fetch = join(upstream)
    await fetch.started()
    reader = as_bytes(fetch.read(0, None))
    assert DATA.startswith(await anext(reader))
    gate.set()
    async for _ in reader:
        pass
    await fetch.leave()
    await until_kept(fetches)
    handle = await store.open(SCOPE, DIGEST)
    assert handle is not None
    assert b"".join([chunk async for chunk in as_bytes(handle.read(0, None))]) == DATA
    await handle.aclose()
    assert spooled(tmp_path) == []
    assert upstream.opened == [0]


async def test_many_readers_make_one_download_at_their_own_speed(
    join: Join, fetches: FetchTable
) -> None:
    upstream = Upstream()
    gate = upstream.gate(1_000_000)
    first = join(upstream)
    await first.started()
    others = [join(upstream) for _ in range(9)]
    assert all(other is first for other in others)
    slow = as_bytes(first.read(0, None))
    begun = await anext(slow)
    readers = [asyncio.ensure_future(read(other)) for other in others]
    gate.set()
    assert await asyncio.gather(*readers) == [DATA] * 9
    assert begun + b"".join([chunk async for chunk in slow]) == DATA  # from the file by now
    await first.leave()
    assert upstream.opened == [0]


async def test_a_reader_that_leaves_stops_nothing(
    join: Join, store: DirectoryStore, fetches: FetchTable
) -> None:
    upstream = Upstream()
    gate = upstream.gate(70_000)
    fetch = join(upstream)
    await fetch.started()
    await fetch.leave()
    gate.set()
    await until_kept(fetches)
    assert await store.index.endpoint_has("hub", DIGEST)


async def test_every_scope_that_waited_gets_its_link(
    join: Join, store: DirectoryStore, fetches: FetchTable
) -> None:
    upstream = Upstream()
    gate = upstream.gate(70_000)
    one, two = join(upstream), join(upstream, OTHER)
    assert one is two
    await one.started()
    assert (one.admits(SCOPE), one.admits(OTHER)) == (True, False)
    await one.admit(OTHER)
    gate.set()
    await asyncio.gather(read(one), read(two))
    await until_kept(fetches)
    await one.admit(LATE)
    for scope in (SCOPE, OTHER, LATE):
        handle = await store.open(scope, DIGEST)
        assert handle is not None
        await handle.aclose()
    assert await store.open(Scope("hub", "library/third"), DIGEST) is None


async def test_another_endpoint_makes_its_own_download(join: Join, fetches: FetchTable) -> None:
    one, two = Upstream(), Upstream()
    first = join(one)
    second = join(two, Scope("quay", "library/app"))
    assert first is not second
    await asyncio.gather(read(first), read(second))
    assert (one.opened, two.opened) == ([0], [0])


async def test_the_last_byte_comes_only_when_the_digest_is_right(
    join: Join, store: DirectoryStore, fetches: FetchTable, tmp_path: Path
) -> None:
    upstream = Upstream(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    fetch = join(upstream)
    await fetch.started()
    received = 0
    with pytest.raises(RegistryError, match="not sha256"):
        async for chunk in as_bytes(fetch.read(0, None)):
            received += len(chunk)
    await fetch.leave()
    assert received < len(DATA)
    await until_kept(fetches)
    assert await store.open(SCOPE, DIGEST) is None
    assert spooled(tmp_path) == []


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1, 0])
async def test_another_size_than_was_said_is_an_error(
    join: Join, fetches: FetchTable, tmp_path: Path, size: int
) -> None:
    fetch = join(Upstream(size=size))
    with pytest.raises(RegistryError, match="said"):
        await read(fetch)
    await until_kept(fetches)
    assert spooled(tmp_path) == []


async def test_a_size_that_is_not_said_is_found_out(join: Join) -> None:
    fetch = join(Upstream(size=None))
    await fetch.started()
    assert fetch.size is None
    assert await read(fetch) == DATA


async def test_an_empty_blob_is_a_download_too(join: Join) -> None:
    fetch = join(Upstream(b""), digest=Digest.of(b""))
    await fetch.started()
    assert await read(fetch) == b""


async def test_a_broken_download_is_resumed_where_it_broke(join: Join) -> None:
    upstream = Upstream(breaks=(700_000, 1_400_000))
    assert await read(join(upstream)) == DATA
    assert upstream.opened == [0, 700_000, 1_400_000]


async def test_who_comes_when_the_file_has_been_moved_into_the_store_reads_it_there(
    store: DirectoryStore, join: Join
) -> None:
    """Another process has told that it is complete, and has not let go of the lock yet."""
    filler = store.spool_file(SCOPE.endpoint, DIGEST)
    assert await filler.elect()
    ingest = await filler.ingest()
    ingest.write([DATA])
    await filler.tell(Told(SCOPE.repository, len(DATA), verified=True))
    await ingest.commit(DIGEST, [SCOPE])
    fetch = join(Upstream())
    starting = asyncio.ensure_future(fetch.started())
    await asyncio.sleep(10 * LOOK_SECONDS)
    assert not starting.done(), "it has no byte"
    await filler.release(forget=False)
    filler.close()
    with pytest.raises(Superseded):
        await starting
    await fetch.leave()


async def test_who_comes_while_a_failed_download_ends_takes_nothing_from_it(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has told is no other process's word: upstream may have nothing by now."""
    release, let_go = DirectorySpoolFile.release, asyncio.Event()

    async def late(file: DirectorySpoolFile, *, forget: bool) -> None:
        await let_go.wait()
        await release(file, forget=forget)

    monkeypatch.setattr(DirectorySpoolFile, "release", late)
    with pytest.raises(Broken):
        await read(join(Upstream(breaks=(700_000,) * (2 * RESUMES_LIMIT))))
    gone = Upstream()

    @asynccontextmanager
    async def refuse(start: int) -> AsyncIterator[Stream]:
        gone.opened.append(start)
        raise Broken
        yield  # which makes it a generator

    gone.open = refuse  # type: ignore[method-assign]
    fetch = join(gone)
    starting = asyncio.ensure_future(fetch.started())
    await asyncio.sleep(5 * LOOK_SECONDS)
    assert not starting.done()
    assert gone.opened == []
    let_go.set()
    with pytest.raises(Broken):
        await starting
    await fetch.leave()


async def test_an_upstream_that_gives_a_few_bytes_each_time_is_given_up(
    join: Join, fetches: FetchTable
) -> None:
    upstream = Upstream(breaks=tuple(range(100, 100_000, 100)), chunk=100)
    with pytest.raises(Broken):
        await read(join(upstream))
    assert len(upstream.opened) == RESUMES_LIMIT + 1
    await until_kept(fetches)


async def test_an_upstream_that_cannot_resume_begins_anew_and_is_skipped(join: Join) -> None:
    upstream = Upstream(breaks=(700_000,), resumes=False)
    assert await read(join(upstream)) == DATA


async def test_a_download_that_makes_no_progress_is_given_up(
    join: Join, fetches: FetchTable, tmp_path: Path
) -> None:
    upstream = Upstream(breaks=(700_000,) * 20)
    with pytest.raises(Broken):
        await read(join(upstream))
    assert upstream.opened == [0, *[700_000] * RESUMES_LIMIT]
    await until_kept(fetches)
    assert len(spooled(tmp_path)) == 2, "what came, and what is known of it"
    mended = Upstream()
    assert await read(join(mended)) == DATA
    assert mended.opened == [700_000], "it goes on where that one ended"
    await until_kept(fetches)
    assert spooled(tmp_path) == []


async def test_a_failure_before_the_first_byte_is_not_retried(join: Join) -> None:
    upstream = Upstream(breaks=(0,) * 5)
    fetch = join(upstream)
    with pytest.raises(Broken):
        await fetch.started()
    await fetch.leave()
    assert upstream.opened == [0]


async def test_after_a_failure_the_next_one_asks_anew(join: Join, fetches: FetchTable) -> None:
    upstream = Upstream(breaks=(0,))
    with pytest.raises(Broken):
        await read(join(upstream))
    await until_kept(fetches)
    assert await read(join(upstream)) == DATA


async def test_one_who_joins_late_and_reads_later_still_gets_everything(
    join: Join, fetches: FetchTable
) -> None:
    upstream = Upstream()
    fetch = join(upstream)
    late = join(upstream)
    assert await read(fetch) == DATA
    await until_kept(fetches)
    assert await read(late) == DATA


async def test_a_full_disk_is_an_error_for_all_who_wait(
    join: Join, monkeypatch: pytest.MonkeyPatch, fetches: FetchTable, tmp_path: Path
) -> None:
    write = FileIngest.write

    def full(ingest: FileIngest, chunks: Sequence[bytes]) -> None:
        if ingest.offset > 1_000_000:
            raise StoreFull
        write(ingest, chunks)

    monkeypatch.setattr(FileIngest, "write", full)
    upstream = Upstream()
    readers = [asyncio.ensure_future(read(join(upstream))) for _ in range(3)]
    outcomes = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreFull] * 3
    assert upstream.opened == [0], "asking again would not make room"
    await until_kept(fetches)
    assert spooled(tmp_path) == [], "what does not fit gives its room back"


async def test_downloads_to_a_slow_disk_leave_threads_for_the_others(
    store: DirectoryStore, fetches: FetchTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than threads, each with more waiting than it ever gets written."""
    write, disk, turns = FileIngest.write, threading.Event(), threading.Semaphore(0)

    def slow(ingest: FileIngest, chunks: Sequence[bytes]) -> None:
        if not disk.is_set():
            assert turns.acquire(timeout=20)
        write(ingest, chunks)

    monkeypatch.setattr(FileIngest, "write", slow)
    blobs = [os.urandom(4_000_000) for _ in range(THREADS + 2)]
    found = [
        fetches.join(store, Digest.of(blob), Scope(f"hub{n}", "x"), Upstream(blob).open)[0]
        for n, blob in enumerate(blobs)
    ]
    reading = [asyncio.ensure_future(read(fetch)) for fetch in found]
    looking = asyncio.ensure_future(run_blocking(int))
    for _ in range(3 * THREADS):  # a few batches of each: by then its turn is over
        turns.release()
    async with asyncio.timeout(20):
        await looking
    disk.set()
    for _ in range(2 * len(blobs)):
        turns.release()
    assert await asyncio.gather(*reading) == blobs


async def test_stopping_ends_the_readers_with_an_error(
    store: DirectoryStore,
) -> None:
    tasks = Tasks()
    upstream = Upstream()
    upstream.gate(70_000)
    fetch, _ = FetchTable(tasks).join(store, DIGEST, SCOPE, upstream.open)
    reader = asyncio.ensure_future(read(fetch))
    await fetch.started()
    await tasks.aclose(grace=0)
    with pytest.raises(RegistryError, match="stopped"):
        await reader


@given(
    ranges=st.lists(
        st.tuples(st.integers(0, len(DATA)), st.integers(0, len(DATA))), min_size=1, max_size=5
    ),
    chunk=st.integers(100_000, 900_000),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_range_during_a_download_is_the_content(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]], chunk: int
) -> None:
    store = DirectoryStore(tmp_path_factory.mktemp("store"))
    await store.start()
    tasks = Tasks()
    table = FetchTable(tasks)
    upstream = Upstream(chunk=chunk)
    found = [table.join(store, DIGEST, SCOPE, upstream.open)[0] for _ in ranges]
    parts = await asyncio.gather(
        *(read(fetch, start, stop) for fetch, (start, stop) in zip(found, ranges, strict=True))
    )
    assert parts == [DATA[start:stop] for start, stop in ranges]
    await until_kept(table)
    await tasks.aclose(grace=1)
    await store.aclose()


async def test_an_endpoint_that_hangs_keeps_nobody_from_the_others(
    store: DirectoryStore, fetches: FetchTable, join: Join
) -> None:
    stuck = [Upstream(os.urandom(10)) for _ in range(FILLS_LIMIT + 1)]
    for number, upstream in enumerate(stuck):
        upstream.gate(0)
        await join(upstream, digest=Digest.of(upstream.data), client=str(number)).leave()
    other = Upstream()
    fetch = join(other, Scope("other", "library/app"))
    assert await read(fetch) == DATA
    assert sum(len(upstream.opened) for upstream in stuck) == FILLS_LIMIT
    for upstream in stuck:
        upstream.gate(0).set()
    await until_kept(fetches)
    assert all(upstream.opened == [0] for upstream in stuck)


async def test_a_client_with_many_layers_keeps_nobody_else_waiting(
    fetches: FetchTable, join: Join
) -> None:
    stuck = [Upstream(os.urandom(10)) for _ in range(FILLS_LIMIT)]
    for upstream in stuck:
        upstream.gate(0)
        await join(upstream, digest=Digest.of(upstream.data), client="10.0.0.1").leave()
    assert await read(join(Upstream(), client="10.0.0.2")) == DATA
    assert sum(len(upstream.opened) for upstream in stuck) == CLIENT_LIMIT
    for upstream in stuck:
        upstream.gate(0).set()
    await until_kept(fetches)
    assert all(upstream.opened == [0] for upstream in stuck)


async def test_a_turn_that_does_not_come_is_an_error(
    join: Join, fetches: FetchTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.content.fetchtable.TURN_SECONDS", 0.05)
    stuck = [Upstream(os.urandom(10)) for _ in range(FILLS_LIMIT)]
    for upstream in stuck:
        upstream.gate(0)
        await join(upstream, digest=Digest.of(upstream.data)).leave()
    late = join(Upstream())
    with pytest.raises(RegistryError, match="hub is busy") as refused:
        await late.started()
    await late.leave()
    assert refused.value.status == 503
    for upstream in stuck:
        upstream.gate(0).set()
    await until_kept(fetches)


async def test_who_waits_while_the_others_receive_is_not_told_that_upstream_is_busy(
    join: Join, fetches: FetchTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.content.fetchtable.TURN_SECONDS", 0.05)
    slow = [Upstream(os.urandom(10), chunk=1) for _ in range(FILLS_LIMIT)]
    gates = [[upstream.gate(position) for position in range(10)] for upstream in slow]
    for upstream in slow:
        await join(upstream, digest=Digest.of(upstream.data)).leave()
    late = join(Upstream())
    for position in range(6):  # several times as long as a turn is waited for
        gates[0][position].set()
        await asyncio.sleep(0.04)
        assert not late.has_failed
    for gate in gates:
        for event in gate:
            event.set()
    assert await read(late) == DATA
    await until_kept(fetches)


async def test_a_fill_that_is_cancelled_leaves_its_file_to_the_thread_that_writes(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that is closed under a write may be another file's by then."""
    writing, go_on = threading.Event(), threading.Event()
    written = FileIngest.write
    closed_while_writing: list[bool] = []
    busy = threading.Event()

    def slow(self: FileIngest, chunks: Sequence[bytes | bytearray]) -> None:
        busy.set()
        writing.set()
        go_on.wait(10)
        written(self, chunks)
        busy.clear()

    def close(self: FileIngest) -> None:
        closed_while_writing.append(busy.is_set())
        self._file.close()

    monkeypatch.setattr(FileIngest, "write", slow)
    monkeypatch.setattr(FileIngest, "close", close)
    tasks = Tasks()
    fetch, _ = FetchTable(tasks).join(store, DIGEST, SCOPE, Upstream().open)
    while not writing.is_set():
        await asyncio.sleep(0)
    ending = asyncio.ensure_future(tasks.aclose(grace=0))
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    await ending
    await fetch.leave()
    assert closed_while_writing == [False]
