"""sweep.Sweeper on a directory: what is gone, what stays, and what other processes see of it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerd.content.directory import DirectoryStore
from routerd.content.links import LinkKind, Scope
from routerd.content.retention import GRACE, RetainOf
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.files import as_bytes, publish
from stored import DATA, content, put
from upstream import image

DAY = 86400.0
HUB, OTHER = Scope("hub", "library/app"), Scope("hub", "library/other")
PUSHED = Scope("local", "docker.io/team/app")


class Clock:
    """Goes when it is told to; the files of a test are of the real time."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def retain(scope: Scope) -> float | None:
    return 14 * DAY if scope.endpoint == "hub" else None


async def opened(path: Path, clock: Clock, shared: bool = False) -> DirectoryStore:
    store = DirectoryStore(path, clock, shared=shared)
    await store.start()
    store.capacity.retain = retain
    return store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[DirectoryStore]:
    store = await opened(tmp_path / "s", clock)
    yield store
    await store.aclose()


@pytest.fixture
async def member(
    tmp_path: Path, clock: Clock, store: DirectoryStore
) -> AsyncIterator[DirectoryStore]:
    """The same store, as another process has it."""
    other = await opened(tmp_path / "s", clock, shared=True)
    yield other
    await other.aclose()


async def keep(store: DirectoryStore, data: bytes, scope: Scope = HUB) -> Digest:
    """What a download does with a blob."""
    ingest = await store.ingest()
    ingest.write([data])
    await ingest.commit(Digest.of(data), [scope])
    ingest.close()
    return Digest.of(data)


async def keep_image(
    store: DirectoryStore, tag: str, *blobs: bytes, scope: Scope = HUB, **extra: object
) -> Digest:
    for data in blobs:
        await keep(store, data, scope)
    manifest = Manifest.parse(image(*blobs, **extra), OCI_MANIFEST)
    await store.add_manifest(scope, manifest, tag=Tag(tag), validated_at=0)
    return manifest.descriptor.digest


def files(store_path: Path) -> set[str]:
    return {path.name for path in (store_path / "blobs").rglob("*") if path.is_file()}


def rows(store_path: Path, table: str) -> int:
    with sqlite3.connect(store_path / "index.sqlite") as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return count


async def test_what_nobody_pulls_goes_with_its_tags_rows_and_files(
    store: DirectoryStore, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = await keep_image(store, "1", b"config", DATA)
    signed = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 5}
    await keep_image(store, "sig", b"signature", subject=signed)
    pushed = await put(store, b"pushed", PUSHED)
    clock.now += 15 * DAY
    caplog.set_level("INFO", "routerd.sweep")
    report = await store.capacity.sweep()
    assert (report.manifests, report.blobs, report.skipped) == (2, 5, False)
    assert report.size > len(DATA)
    assert files(tmp_path / "s") == {pushed.encoded}
    assert await store.index.tag(HUB, Tag("1")) is None
    assert await store.index.link(HUB, digest, LinkKind.MANIFEST) is None
    assert [rows(tmp_path / "s", t) for t in ("tag", "edge", "referrer", "blob", "link")] == [
        0,
        0,
        0,
        1,
        1,
    ]
    assert f"swept manifest library/app@{digest} of hub, last pulled 15.0 days ago" in caplog.text
    assert list((tmp_path / "s" / "removed").iterdir()) == []


async def test_a_pull_keeps_an_image_and_costs_no_write(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    digest = await keep_image(store, "1", DATA)
    await keep_image(store, "2", b"other")
    clock.now += 10 * DAY
    await store.index.tag(HUB, Tag("1"))
    before = store._database._change_counter()
    store.index.pulls.note(HUB, digest, LinkKind.MANIFEST)
    assert pulled_at(tmp_path / "s", digest) < clock.now
    await store.index.pulls.flush()
    assert pulled_at(tmp_path / "s", digest) == clock.now
    assert store._database._change_counter() == before, "every process goes on knowing what it knew"
    clock.now += 10 * DAY
    assert (await store.capacity.sweep()).manifests == 1
    assert await content(store, Digest.of(DATA), HUB) == DATA


def pulled_at(store_path: Path, digest: Digest) -> float:
    with sqlite3.connect(store_path / "index.sqlite") as connection:
        [[at]] = connection.execute("SELECT pulled_at FROM link WHERE digest = ?", [str(digest)])
    connection.close()
    return float(at)


async def test_pulls_are_written_down_at_the_end_and_the_latest_counts(
    tmp_path: Path, clock: Clock
) -> None:
    store = await opened(tmp_path / "s", clock)
    digest = await keep_image(store, "1", DATA)
    member = await opened(tmp_path / "s", clock, shared=True)
    clock.now += 5 * DAY
    store.index.pulls.note(HUB, digest, LinkKind.MANIFEST)
    clock.now += 5 * DAY
    member.index.pulls.note(HUB, digest, LinkKind.MANIFEST)
    await member.aclose()
    await store.aclose()
    assert pulled_at(tmp_path / "s", digest) == clock.now


async def test_an_index_keeps_what_it_lists_and_goes_with_it(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    digests = [await keep_image(store, str(n), b"config %d" % n, DATA) for n in range(2)]
    listed = [{"mediaType": OCI_MANIFEST, "digest": str(one), "size": 10} for one in digests]
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    parsed = Manifest.parse(json.dumps(body).encode(), OCI_INDEX)
    await store.add_manifest(HUB, parsed, tag=Tag("all"), validated_at=0)
    clock.now += 10 * DAY
    store.index.pulls.note(HUB, digests[0], LinkKind.MANIFEST)
    clock.now += 10 * DAY
    assert (await store.capacity.sweep()).links == 0
    clock.now += 10 * DAY
    assert (await store.capacity.sweep()).manifests == 3
    assert files(tmp_path / "s") == set()


async def test_a_pin_keeps_what_a_tag_is_until_it_is_taken_away(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    first = await keep_image(store, "1", DATA)
    await keep_image(store, "2", b"second")
    await store.index.pins.add(HUB, Tag("1"))
    await store.index.pins.add(OTHER, first)
    assert [(pin.scope, pin.reference) for pin in await store.index.pins.all()] == [
        (HUB, "1"),
        (OTHER, str(first)),
    ]
    clock.now += 100 * DAY
    report = await store.capacity.sweep(need=10**9)
    assert (report.manifests, report.pinned) == (1, 1)
    assert await content(store, Digest.of(DATA), HUB) == DATA
    assert await store.index.pins.remove(HUB, Tag("1"))
    assert not await store.index.pins.remove(HUB, Tag("1"))
    assert (await store.capacity.sweep()).manifests == 1, "the other pin is of another scope"
    assert files(tmp_path / "s") == set()


def in_between(path: Path, statement: str, *values: object) -> RetainOf:
    """A change of another process after the sweep has read, and before it removes anything."""

    def asked(scope: Scope) -> float | None:
        with sqlite3.connect(path / "index.sqlite") as connection:
            connection.execute(statement, values)
        connection.close()
        return retain(scope)

    return asked


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE link SET pulled_at = pulled_at + 1",
        "INSERT OR IGNORE INTO pin VALUES ('hub', 'library/app', '1', 0)",
        "INSERT OR IGNORE INTO pin SELECT endpoint, repository, digest, 0 FROM link WHERE kind = 'manifest'",
    ],
)
async def test_what_is_pulled_or_pinned_after_the_decision_stays(
    store: DirectoryStore, clock: Clock, tmp_path: Path, statement: str
) -> None:
    digest = await keep_image(store, "1", DATA)
    clock.now += 15 * DAY
    store.capacity.retain = in_between(tmp_path / "s", statement)
    assert (await store.capacity.sweep()).links == 0
    assert await content(store, Digest.of(DATA), HUB) == DATA
    assert await store.manifest(HUB, digest) is not None


async def test_what_a_new_manifest_lists_after_the_decision_stays(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    digest = await keep(store, DATA)
    keeper = Manifest.parse(image(b"config"), OCI_MANIFEST)
    await store.add_manifest(PUSHED, keeper, validated_at=0)
    clock.now += 15 * DAY
    store.capacity.retain = in_between(
        tmp_path / "s",
        "INSERT OR IGNORE INTO edge VALUES (?, ?, 'blob', '', 1, '')",
        str(keeper.descriptor.digest),
        str(digest),
    )
    assert (await store.capacity.sweep()).links == 0
    assert await content(store, digest, HUB) == DATA


async def test_what_is_linked_anew_after_its_link_went_keeps_its_bytes(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    digest = await keep(store, DATA)
    clock.now += 15 * DAY
    store.capacity.retain = in_between(
        tmp_path / "s",
        "INSERT OR IGNORE INTO link VALUES ('hub', 'library/other', ?, 'blob', '', '', 0, 0)",
        str(digest),
    )
    report = await store.capacity.sweep()
    assert (report.links, report.blobs) == (1, 0)
    assert await content(store, digest, OTHER) == DATA


async def test_bytes_that_came_in_a_moment_ago_are_left_where_they_are(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    """Their row is old: this is the same content, stored again by who has not linked it yet."""
    digest = await keep(store, DATA)
    with sqlite3.connect(tmp_path / "s" / "index.sqlite") as connection:
        connection.execute("DELETE FROM link")
    connection.close()
    assert (await store.capacity.sweep()).blobs == 0
    assert files(tmp_path / "s") == {digest.encoded}
    clock.now += GRACE + 1
    assert (await store.capacity.sweep()).blobs == 1
    assert files(tmp_path / "s") == set()


async def test_bytes_that_come_in_anew_while_the_old_are_taken_are_put_back(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the file and its rename another process gives the name to a new one."""
    digest = await keep(store, DATA)
    place, fresh = store._blob(digest), tmp_path / "fresh"
    fresh.write_bytes(DATA)
    inode = fresh.stat().st_ino

    def name(_count: int) -> str:
        publish(fresh, place)
        return "taken"

    monkeypatch.setattr("routerd.content.removal.secrets.token_hex", name)
    assert store._removed.take(str(digest), time.time() + 10) is False
    assert (place.stat().st_ino, place.read_bytes()) == (inode, DATA)


async def test_a_commit_that_a_sweep_has_overtaken_is_not_acknowledged(
    store: DirectoryStore, tmp_path: Path
) -> None:
    ingest = await store.ingest()
    ingest.write([DATA])
    await ingest.keep(Digest.of(DATA))
    assert store._removed.take(str(Digest.of(DATA)), time.time() + 10)
    with pytest.raises(RegistryError, match="removed meanwhile") as vanished:
        await store.index.add_blob(Digest.of(DATA), len(DATA), [PUSHED], "")
    assert vanished.value.status == 503
    assert await content(store, Digest.of(DATA), PUSHED) is None
    ingest.close()


async def test_a_mount_of_what_is_just_gone_links_nothing(
    store: DirectoryStore, clock: Clock
) -> None:
    digest = await keep(store, DATA)
    clock.now += 15 * DAY
    await store.capacity.sweep()
    assert not await store.index.add_blob_link(OTHER, digest)
    assert await store.index.link(OTHER, digest, LinkKind.BLOB) is None


async def test_another_process_reads_on_and_then_misses_cleanly(
    store: DirectoryStore, member: DirectoryStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    digest = await keep(store, DATA)
    handle = await member.open(HUB, digest)
    assert handle is not None
    clock.now += 15 * DAY
    assert (await store.capacity.sweep()).blobs == 1
    assert b"".join([chunk async for chunk in as_bytes(handle.read(0, None))]) == DATA
    await handle.aclose()
    assert await member.open(HUB, digest) is None
    assert "no longer served" not in caplog.text
    await keep(member, DATA)
    assert await content(store, digest, HUB) == DATA


async def test_a_file_that_goes_while_it_is_opened_is_a_miss_and_no_damage(
    store: DirectoryStore,
    member: DirectoryStore,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The member has looked the link up; before it opens the file, all of it is swept."""
    digest = await keep(store, DATA)
    clock.now += 15 * DAY
    looked_up = member.index.link
    swept = False

    async def slow(scope: Scope, wanted: Digest, kind: LinkKind) -> object:
        nonlocal swept
        link = await looked_up(scope, wanted, kind)
        if not swept:
            swept = True
            assert (await store.capacity.sweep()).blobs == 1
        return link

    monkeypatch.setattr(member.index, "link", slow)
    assert await member.open(HUB, digest) is None
    assert "no longer served" not in caplog.text
    await keep(store, DATA)
    assert await content(member, digest, HUB) == DATA, "and nothing is marked as damaged"


async def test_one_process_sweeps_at_a_time(store: DirectoryStore, member: DirectoryStore) -> None:
    leave = store._removed.claim()
    assert leave is not None
    assert (await member.capacity.sweep()).skipped
    assert (await store.capacity.sweep()).skipped
    assert await store.capacity.swept_at() is None
    leave()
    assert not (await member.capacity.sweep()).skipped
    assert await store.capacity.swept_at() == pytest.approx(member._clock(), abs=0.01)


async def test_what_a_killed_sweep_left_is_taken_up(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    """Killed between the file's way out and the end of its transaction; and after both."""
    half = await keep(store, DATA)
    whole = await keep(store, b"whole")
    with sqlite3.connect(tmp_path / "s" / "index.sqlite") as connection:
        connection.execute("DELETE FROM link")
        connection.execute("DELETE FROM blob WHERE digest = ?", [str(whole)])
    connection.close()
    for digest in (half, whole):
        assert store._removed.take(str(digest), time.time() + 10)
    assert len(list((tmp_path / "s" / "removed").iterdir())) == 2
    assert (await store.capacity.sweep()).blobs == 1
    assert rows(tmp_path / "s", "blob") == 0
    assert list((tmp_path / "s" / "removed").iterdir()) == []


async def test_a_file_that_no_row_knows_is_left_alone(
    store: DirectoryStore, clock: Clock, tmp_path: Path
) -> None:
    """After the loss of an index it is what a new one is made from."""
    await keep(store, DATA)
    with sqlite3.connect(tmp_path / "s" / "index.sqlite") as connection:
        connection.execute("DELETE FROM link")
        connection.execute("DELETE FROM blob")
    connection.close()
    clock.now += 100 * DAY
    await store.capacity.sweep(need=10**12)
    assert files(tmp_path / "s") == {Digest.of(DATA).encoded}


async def test_many_rows_take_many_steps(
    store: DirectoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.content.sweep.STEP_ROWS", 7)
    for number in range(30):
        await keep(store, b"%d" % number)
    before = store._database._change_counter()
    clock.now += 15 * DAY
    assert (await store.capacity.sweep()).blobs == 30
    assert store._database._change_counter() >= before + 5


async def test_a_clock_that_jumps_back_sweeps_nothing(store: DirectoryStore, clock: Clock) -> None:
    await keep(store, DATA)
    clock.now -= 1000 * DAY
    assert (await store.capacity.sweep(need=10**9)).links == 0
