"""verify.Verifier and patrol.Patrol: what is stored is still what its name says."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from routerd.content import quarantine, verify
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError, Vanished
from routerd.content.layout import blob_path
from routerd.content.links import LinkKind, Scope
from routerd.content.patrol import PATROL_EVERY, PATROL_LOOK, PATROL_RATE, Patrol, Round
from routerd.content.verify import LOOK_BYTES, Damage
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.pace import Pace
from stored import DATA, HERE, content, put
from upstream import image

CACHED = Scope("hub", "library/app")


async def damages(store: DirectoryStore) -> list[Damage]:
    found = [one.damage async for one in store.verifier.run(Pace(math.inf))]
    return [damage for damage in found if damage is not None]


def spoil(root: Path, digest: Digest) -> None:
    """Other bytes of the same length under the digest's name."""
    path = blob_path(root, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


async def test_whole_content_is_passed_over(store: DirectoryStore, tmp_path: Path) -> None:
    digests = {await put(store, bytes([n]) * 1000) for n in range(5)}
    found = [one async for one in store.verifier.run(Pace(math.inf))]
    assert {one.digest for one in found} == digests
    assert [str(one.digest) for one in found] == sorted(map(str, digests))
    assert all(one.damage is None and one.size == 1000 for one in found)
    assert not (tmp_path / "store" / "quarantine").exists()


async def test_what_is_wrong_is_put_aside_and_told_of_whom_it_concerns(
    store: DirectoryStore, tmp_path: Path
) -> None:
    digest = await put(store, DATA)
    manifest = Manifest.parse(image(b"config", DATA), OCI_MANIFEST)
    await store.add_manifest(HERE, manifest, tag=Tag("1"), validated_at=0, created_by="10.0.0.1")
    spoil(tmp_path / "store", digest)
    wrong = blob_path(tmp_path / "store", digest).read_bytes()
    [damage] = await damages(store)
    assert (damage.digest, damage.size) == (digest, len(DATA))
    assert damage.why == f"its bytes are {Digest.of(wrong)}"
    assert [(one.scope, one.created_by) for one in damage.held_by] == [(HERE, "tester")]
    [parent] = damage.listed_by
    assert (parent.scope, parent.digest, parent.tag) == (HERE, manifest.descriptor.digest, "1")
    assert (tmp_path / "store" / "quarantine" / damage.quarantined).read_bytes() == wrong
    assert not blob_path(tmp_path / "store", digest).exists()
    assert await content(store, digest) is None
    assert await damages(store) == []
    assert await put(store, DATA) == digest, "and what comes in again is served again"
    assert await content(store, digest) == DATA


async def test_a_file_that_is_gone_or_short_is_found(store: DirectoryStore, tmp_path: Path) -> None:
    gone, short = await put(store, b"gone" * 100), await put(store, b"short" * 100)
    blob_path(tmp_path / "store", gone).unlink()
    os.truncate(blob_path(tmp_path / "store", short), 7)
    found = {damage.digest: damage.why for damage in await damages(store)}
    assert found == {
        gone: "its file is gone",
        short: "its file has 7 bytes where the index says 500",
    }
    for digest in (gone, short):
        assert await content(store, digest) is None


async def test_what_cannot_be_read_is_told_and_left_as_it_is(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await put(store, DATA)

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(verify, "hash_next", fails)
        [damage] = await damages(store)
    assert damage.is_served
    assert "cannot be read and is left as it is" in damage.why
    assert await content(store, digest) == DATA
    assert await damages(store) == []


async def test_what_came_in_anew_during_the_check_is_not_put_aside(
    store: DirectoryStore, tmp_path: Path
) -> None:
    digest = await put(store, DATA)
    spoil(tmp_path / "store", digest)

    async def meanwhile(_seconds: float) -> None:
        other = await store.ingest()
        other.write([DATA])
        await other.commit(digest, [HERE])
        other.close()

    assert await store.verifier.check(digest, len(DATA), Pace(math.inf, sleep=meanwhile)) is None
    assert await content(store, digest) == DATA


async def test_a_push_whose_file_is_taken_away_before_it_is_visible_is_not_acknowledged(
    store: DirectoryStore, tmp_path: Path
) -> None:
    ingest = await store.ingest()
    ingest.write([DATA])
    digest = Digest.of(DATA)
    await ingest.keep(digest)
    blob_path(tmp_path / "store", digest).unlink()
    with pytest.raises(Vanished):
        await store.index.add_blob(digest, len(DATA), [HERE], "")
    ingest.close()
    assert await store.index.link(HERE, digest, LinkKind.BLOB) is None


async def test_the_quarantine_forgets_its_oldest(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "QUARANTINE_FILES", 2)
    monkeypatch.setattr(quarantine, "QUARANTINE_BYTES", 10_000)
    folder = tmp_path / "store" / "quarantine"
    names = []
    for size in (100, 200, 300, 9_900, 20_000):
        digest = await put(store, os.urandom(size))
        spoil(tmp_path / "store", digest)
        [damage] = await damages(store)
        names.append(damage.quarantined)
        assert not blob_path(tmp_path / "store", digest).exists()
    assert names[-1] == "", "what is larger than all of it is removed"
    assert {path.name for path in folder.iterdir()} == {names[3]}
    assert [name[:6] for name in names[:4]] == ["000001", "000002", "000003", "000004"]


async def test_hashing_takes_the_time_that_its_rate_says(store: DirectoryStore) -> None:
    await put(store, b"x" * 3_000_000)
    now, slept = 0.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    pace = Pace(1_000_000, monotonic=lambda: now, sleep=sleep)
    assert len([one async for one in store.verifier.run(pace)]) == 1
    assert slept == pytest.approx((3_000_000 + LOOK_BYTES) / 1_000_000)


async def test_files_that_are_not_ours_are_named_and_left_alone(
    store: DirectoryStore, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    digest = await put(store, DATA)
    strangers = ["notes.txt", "blobs/README", f"blobs/sha256/zz/{digest.encoded}", "blobs/sha256/x"]
    for name in strangers:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine")
    (root / "blobs" / "link").symlink_to("/etc")
    assert sorted(await store.verifier.foreign(10)) == sorted([*strangers, "blobs/link"])
    assert len(await store.verifier.foreign(2)) == 2
    assert await damages(store) == []
    assert all((root / name).read_text() == "mine" for name in strangers)


class Steps:
    """A sleep that counts its seconds and stops the patrol after a number of rounds."""

    def __init__(self, rounds: int) -> None:
        self.seconds = 0.0
        self.looks = 0
        self._rounds = rounds

    async def __call__(self, seconds: float) -> None:
        if seconds == PATROL_LOOK:
            self.looks += 1
            if self.looks > self._rounds:
                raise asyncio.CancelledError
        else:
            self.seconds += seconds


async def patrol(
    store: DirectoryStore, root: Path, now: float = 1000.0, rounds: int = 1
) -> tuple[list[Damage], Steps]:
    steps, found = Steps(rounds), list[Damage]()
    with pytest.raises(asyncio.CancelledError):
        await Patrol(root, store.verifier, lambda: now, steps).run(found.append)
    return found, steps


async def test_the_background_check_goes_round_slowly_and_then_rests(
    store: DirectoryStore, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    await put(store, os.urandom(2_000_000))
    bad = await put(store, DATA)
    spoil(root, bad)
    found, steps = await patrol(store, root)
    assert [damage.digest for damage in found] == [bad]
    assert steps.seconds > 2_000_000 / PATROL_RATE  # it slept, and no clock moved meanwhile
    state = Round(**json.loads((root / "verify").read_text()))
    assert (state.checked, state.damaged, state.begun_at, state.ended_at) == (2, 1, 1000, 1000)
    for now, checks in ((1000 + PATROL_EVERY - 1, 0), (1000 + PATROL_EVERY, 1), (500.0, 1)):
        (root / "verify").write_text(json.dumps({"ended_at": 1000}))
        _, steps = await patrol(store, root, now)
        assert (steps.seconds > 0) == bool(checks), now


async def test_the_background_check_goes_on_where_it_stopped(
    store: DirectoryStore, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    digests = sorted([await put(store, bytes([n])) for n in range(6)], key=str)
    spoil(root, digests[1])
    spoil(root, digests[4])
    (root / "verify").write_text(
        json.dumps({"after": str(digests[2]), "checked": 3, "begun_at": 7})
    )
    found, _ = await patrol(store, root)
    assert [damage.digest for damage in found] == [digests[4]]
    state = json.loads((root / "verify").read_text())
    assert (state["checked"], state["begun_at"], state["after"]) == (6, 7, "")


@pytest.mark.parametrize("written", [b"", b"garbage", b'{"after": 5}', b'{"unknown": 1}', b"[]"])
async def test_a_place_that_cannot_be_read_begins_a_new_round(
    store: DirectoryStore, tmp_path: Path, written: bytes
) -> None:
    await put(store, DATA)
    (tmp_path / "store" / "verify").write_bytes(written)
    await patrol(store, tmp_path / "store")
    assert json.loads((tmp_path / "store" / "verify").read_text())["checked"] == 1


async def test_one_process_checks_in_the_background(store: DirectoryStore, tmp_path: Path) -> None:
    """Locks belong to the open file, so a second one in this process stands for another process."""
    root = tmp_path / "store"
    await put(store, DATA)
    inside = asyncio.Event()

    async def hang(seconds: float) -> None:
        if seconds != PATROL_LOOK:
            inside.set()
            await asyncio.Event().wait()

    first = asyncio.ensure_future(
        Patrol(root, store.verifier, lambda: 1000.0, hang).run(lambda _: None)
    )
    await inside.wait()
    _, steps = await patrol(store, root)
    assert steps.seconds == 0
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    _, steps = await patrol(store, root)
    assert steps.seconds > 0


async def test_a_damaged_index_is_told(store: DirectoryStore, tmp_path: Path) -> None:
    assert await store.verifier.index_problem() is None
    for number in range(200):
        await store.index.pins.add(HERE, Tag(f"tag-{number}"))
    await store.aclose()
    index = tmp_path / "store" / "index.sqlite"
    data = bytearray(index.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    index.write_bytes(data)
    assert await store.verifier.index_problem() is not None
    shutil.rmtree(tmp_path / "store")


async def test_a_background_check_that_cannot_use_the_index_says_so(
    store: DirectoryStore, tmp_path: Path
) -> None:
    await store._database.write(lambda c: c.exec_driver_sql("DROP TABLE blob"))

    async def at_once(_seconds: float) -> None:
        pass

    with pytest.raises(StoreError, match="cannot be used"):
        await Patrol(tmp_path / "store", store.verifier, lambda: 0.0, at_once).run(lambda _: None)
