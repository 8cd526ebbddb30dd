"""backup.back_up: whole copies of the index while it is in use, a few of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from routerd.content import backup
from routerd.content.backup import BACKUP_SECONDS, BACKUPS_KEPT, DamagedIndex, backups
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError, StoreFull
from routerd.content.links import LinkKind
from routerd.oci.reference import Tag
from stored import DATA, HERE, content, put


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def opened(path: Path, clock: Clock) -> DirectoryStore:
    store = DirectoryStore(path, clock)
    await store.start()
    return store


async def test_a_copy_is_made_when_it_is_due_and_something_changed(tmp_path: Path) -> None:
    clock = Clock()
    store = await opened(tmp_path / "s", clock)
    assert await store.back_up() is None, "an index without anything needs no copy"
    digest = await put(store, DATA)
    first = await store.back_up()
    assert first is not None
    assert first.stat().st_mode & 0o077 == 0
    await put(store, b"more")
    assert await store.back_up() is None, "not due"
    clock.now += BACKUP_SECONDS
    second = await store.back_up()
    clock.now += BACKUP_SECONDS
    assert await store.back_up() is None, "nothing changed"
    assert backups(tmp_path / "s") == [first, second]
    with sqlite3.connect(first) as copy:
        rows = copy.execute("SELECT digest, created_by FROM link").fetchall()
    copy.close()
    assert rows == [(str(digest), "tester")]
    await store.aclose()


async def test_the_newest_few_are_kept_whatever_the_clock_does(tmp_path: Path) -> None:
    clock = Clock()
    store = await opened(tmp_path / "s", clock)
    made = []
    for number in range(BACKUPS_KEPT + 3):
        await put(store, bytes([number]))
        clock.now += -5 * 86400 if number == 4 else BACKUP_SECONDS
        made.append(await store.back_up())
    assert None not in made
    assert backups(tmp_path / "s") == made[3:]
    await store.aclose()


async def test_one_process_at_a_time_makes_a_copy(store: DirectoryStore, tmp_path: Path) -> None:
    await put(store, DATA)
    (tmp_path / "store" / "backups").mkdir()
    fd = os.open(tmp_path / "store" / "backups" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert await store.back_up(at_once=True) is None
    os.close(fd)
    assert await store.back_up(at_once=True) is not None


async def test_a_damaged_index_does_not_push_out_the_good_copies(tmp_path: Path) -> None:
    clock = Clock()
    store = await opened(tmp_path / "s", clock)
    for number in range(300):
        await store.index.pins.add(HERE, Tag(f"tag-{number}"))
    good = await store.back_up()
    for number in range(300):
        await store.index.pins.add(HERE, Tag(f"other-{number}"))
    await store.aclose()
    index = tmp_path / "s" / "index.sqlite"
    data = bytearray(index.read_bytes())
    for page in range(6, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    index.write_bytes(data)
    clock.now += BACKUP_SECONDS
    with pytest.raises(DamagedIndex):
        backup.back_up(tmp_path / "s", clock.now)
    assert backups(tmp_path / "s") == [good]
    assert {path.name for path in (tmp_path / "s" / "backups").iterdir()} == {good.name, "lock"}


async def test_without_room_no_copy_is_tried(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(StoreFull):
        await store.back_up()


async def spoiled(tmp_path: Path, how: str) -> Path:
    """A closed store with one blob and a backup, whose index is no more."""
    store = await opened(tmp_path / "s", Clock())
    await put(store, DATA)
    for number in range(300):
        await store.index.pins.add(HERE, Tag(f"tag-{number}"))
    await store.back_up()
    await store.aclose()
    index = tmp_path / "s" / "index.sqlite"
    size = index.stat().st_size
    if how == "gone":
        index.unlink()
    elif how == "overwritten":
        index.write_bytes(b"not a database" * 1000)
    else:
        os.truncate(index, {"empty": 0, "half": size // 2, "odd": size // 2 + 100}[how])
    return tmp_path / "s"


@pytest.mark.parametrize("how", ["gone", "empty", "half", "odd", "overwritten"])
async def test_a_start_with_a_damaged_index_says_what_to_do(tmp_path: Path, how: str) -> None:
    root = await spoiled(tmp_path, how)
    before = {path: path.stat().st_size for path in root.iterdir() if path.is_file()}
    with pytest.raises(StoreError) as refused:
        await DirectoryStore(root).start()
    said = str(refused.value)
    assert "cannot be opened" in said
    assert "routerd cache rebuild" in said
    assert f"backup {backups(root)[0]}" in said
    assert before == {path: path.stat().st_size for path in root.iterdir() if path.is_file()}
    # And what it says works.
    (root / "index.sqlite").unlink(missing_ok=True)
    shutil.copy(backups(root)[0], root / "index.sqlite")
    store = DirectoryStore(root)
    await store.start()
    [digest] = [digest for digest, _ in await store.inventory.stored_after("")]
    assert await content(store, digest) == DATA
    link = await store.index.link(HERE, digest, LinkKind.BLOB)
    assert link is not None
    assert link.created_by == "tester"
    await store.aclose()


async def test_without_a_backup_it_says_so_and_a_bad_backup_is_none(tmp_path: Path) -> None:
    root = await spoiled(tmp_path, "half")
    [kept] = backups(root)
    kept.write_bytes(kept.read_bytes()[:5000])
    with pytest.raises(StoreError, match="There is no usable backup"):
        await DirectoryStore(root).start()
