"""directory.DirectoryStore: durable before it says so, visible only whole, seen only through links."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import event

import smalldisk
from routerd.content import schema
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError, StoreFull
from routerd.content.links import LinkKind, Scope
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.files import as_bytes
from stored import DATA, HERE, THERE, content, put, stream
from upstream import image


def files(store_path: Path, folder: str) -> list[Path]:
    return [path for path in (store_path / folder).rglob("*") if path.is_file()]


async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    await store.start()
    digest = await put(store, DATA)
    await store.aclose()
    again = DirectoryStore(tmp_path / "s")
    await again.start()
    assert await content(again, digest) == DATA
    link = await again.index.link(HERE, digest, LinkKind.BLOB)
    assert link is not None
    assert (link.size, link.created_by) == (len(DATA), "tester")
    await again.aclose()


async def test_a_wrong_digest_is_refused_and_nothing_is_left(
    store: DirectoryStore, tmp_path: Path
) -> None:
    upload = await store.start_upload(HERE)
    await upload.append(stream(DATA))
    with pytest.raises(RegistryError) as refused:
        await upload.commit(Digest.of(b"other"), "tester")
    assert refused.value.status == 400
    for folder in ("blobs", "spool", "uploads"):
        assert files(tmp_path / "store", folder) == []
    assert await store.upload(HERE, upload.id) is None


async def test_an_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    await store.start()
    upload = await store.start_upload(HERE)
    await upload.append(stream(b"first "))
    await store.aclose()
    again = DirectoryStore(tmp_path / "s")
    await again.start()
    assert await again.upload(THERE, upload.id) is None
    resumed = await again.upload(HERE, upload.id)
    assert resumed is not None
    assert resumed.offset == 6
    await resumed.append(stream(b"second"))
    await resumed.commit(Digest.of(b"first second"), "")
    assert await content(again, Digest.of(b"first second")) == b"first second"
    await again.aclose()


async def test_an_upload_that_nobody_goes_on_with_is_forgotten(tmp_path: Path) -> None:
    now = 1000.0
    store = DirectoryStore(tmp_path / "s", lambda: now)
    await store.start()
    old = await store.start_upload(HERE)
    await old.append(stream(b"x"))
    await store.aclose()
    now += 86400 + 1
    again = DirectoryStore(tmp_path / "s", lambda: now)
    await again.start()
    assert await again.upload(HERE, old.id) is None
    assert files(tmp_path / "s", "uploads") == []
    await again.aclose()


async def test_an_upload_is_forgotten_while_the_server_runs_too(tmp_path: Path) -> None:
    now = 1000.0
    store = DirectoryStore(tmp_path / "s", lambda: now)
    await store.start()
    old, busy = await store.start_upload(HERE), await store.start_upload(HERE)
    await old.append(stream(b"x"))
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"y"

    writing = asyncio.ensure_future(busy.append(slow()))
    await asyncio.sleep(0)
    now += 86400 + 1
    young = await store.start_upload(HERE)
    await store.maintain()
    assert await store.upload(HERE, old.id) is None
    assert {path.name for path in files(tmp_path / "s", "uploads")} == {busy.id, young.id}
    gate.set()
    await writing
    await busy.commit(Digest.of(b"y"), "")
    await store.aclose()


async def test_leftovers_of_a_killed_process_go_at_the_next_start(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    await store.start()
    ingest = await store.ingest()
    ingest.write([DATA])
    ingest.close()
    await store.aclose()
    assert files(tmp_path / "s", "spool") != []
    again = DirectoryStore(tmp_path / "s")
    await again.start()
    assert files(tmp_path / "s", "spool") == []
    await again.aclose()


async def test_a_file_of_the_wrong_size_is_never_served(
    store: DirectoryStore, tmp_path: Path
) -> None:
    digest = await put(store, DATA)
    [path] = files(tmp_path / "store", "blobs")
    path.write_bytes(DATA[:-1])
    assert await content(store, digest) is None
    path.write_bytes(DATA)
    assert await content(store, digest) is None, "what was once wrong is not trusted again"
    assert await put(store, DATA) == digest
    assert await content(store, digest) == DATA


async def test_a_file_that_is_gone_is_missing_and_no_failure(
    store: DirectoryStore, tmp_path: Path
) -> None:
    digest = await put(store, DATA)
    shutil.rmtree(tmp_path / "store" / "blobs" / "sha256")
    assert await content(store, digest) is None


async def test_a_manifest_that_is_damaged_is_no_longer_there(
    store: DirectoryStore, tmp_path: Path
) -> None:
    manifest = Manifest.parse(image(b"config"), OCI_MANIFEST)
    await store.add_manifest(HERE, manifest, tag=Tag("1"), validated_at=0)
    [path] = files(tmp_path / "store", "blobs")
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    assert await store.manifest(HERE, manifest.descriptor.digest) is None
    await store.add_manifest(HERE, manifest, tag=Tag("1"), validated_at=0)
    assert await store.manifest(HERE, manifest.descriptor.digest) == manifest


async def test_an_open_handle_outlives_the_files_name(
    store: DirectoryStore, tmp_path: Path
) -> None:
    digest = await put(store, DATA)
    handle = await store.open(HERE, digest)
    assert handle is not None
    [path] = files(tmp_path / "store", "blobs")
    path.unlink()
    assert b"".join([chunk async for chunk in as_bytes(handle.read(5, 20))]) == DATA[5:20]
    await handle.aclose()


async def test_a_second_server_on_the_same_store_is_refused(
    store: DirectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="in use"):
        await DirectoryStore(tmp_path / "store").start()
    assert await put(store, DATA) == Digest.of(DATA)


async def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    for name, spoil in (("format", "2\n"), ("index", None)):
        path = tmp_path / name
        store = DirectoryStore(path)
        await store.start()
        if spoil is None:
            await store._database.write(
                lambda c: c.execute(schema.version.update().values(version=99))
            )
        await store.aclose()
        if spoil is not None:
            (path / "format").write_text(spoil)
        with pytest.raises(StoreError, match="newer"):
            await DirectoryStore(path).start()


async def test_an_index_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "index.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="cannot be opened"):
        await DirectoryStore(tmp_path / "s").start()


async def test_the_directory_is_for_its_owner_only(store: DirectoryStore, tmp_path: Path) -> None:
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    await put(store, DATA)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(tmp_path / "store", "blobs"))


async def test_a_look_up_is_remembered_until_another_process_changes_the_index(
    store: DirectoryStore, tmp_path: Path
) -> None:
    queries = 0

    def count(*_args: object) -> None:
        nonlocal queries
        queries += 1

    event.listen(store._database._engine, "before_cursor_execute", count)
    digest = await put(store, DATA)
    await store.index.link(HERE, digest, LinkKind.BLOB)
    before = queries
    for _ in range(5):
        assert await store.index.link(HERE, digest, LinkKind.BLOB) is not None
    assert queries == before
    script = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]);"
        "c.execute('DELETE FROM link'); c.execute('UPDATE change_counter SET value=value+1');"
        "c.commit(); c.close()"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "store" / "index.sqlite"], check=True)
    assert await store.index.link(HERE, digest, LinkKind.BLOB) is None


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with smalldisk.small_disk() as path:
        yield path


async def test_a_full_disk_refuses_new_content_and_keeps_the_old(small_disk: Path) -> None:
    store = DirectoryStore(small_disk / "s")
    await store.start()
    kept = await put(store, DATA)
    upload = await store.start_upload(HERE)
    with pytest.raises(StoreFull) as full:
        await upload.append(stream(*[os.urandom(500_000) for _ in range(10)]))
    assert full.value.status == 507
    offset = upload.offset
    assert offset % 500_000 == 0, "a chunk is there whole or not at all"
    await upload.cancel()
    assert await content(store, kept) == DATA
    fresh = await put(store, b"room again")
    assert await content(store, fresh) == b"room again"
    await store.aclose()


async def test_a_full_disk_refuses_changes_of_the_index_as_well(small_disk: Path) -> None:
    store = DirectoryStore(small_disk / "s")
    await store.start()
    digest = await put(store, DATA)
    filler = small_disk / "filler"
    smalldisk.fill(filler)
    with pytest.raises(StoreFull):
        for number in range(2000):  # until SQLite wants another page
            await store.index.add_blob_link(Scope("local", f"docker.io/team/{number}"), digest)
    assert await content(store, digest) == DATA
    filler.unlink()
    await store.index.add_blob_link(THERE, digest)
    assert await content(store, digest, THERE) == DATA
    await store.aclose()


KILLED = """
import asyncio, os, sys
from pathlib import Path
from routerd.content.directory import DirectoryStore
from routerd.content.links import Scope
from routerd.oci.reference import Digest

async def main():
    store = DirectoryStore(Path(sys.argv[1]))
    await store.start()
    scope = Scope("local", "docker.io/team/app")
    while True:
        data = os.urandom(200_000)
        upload = await store.start_upload(scope)
        async def chunks():
            for at in range(0, len(data), 50_000):
                yield data[at : at + 50_000]
        await upload.append(chunks())
        await upload.commit(Digest.of(data), "")
        print(Digest.of(data), flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_after_a_kill_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "s"
    acknowledged: list[str] = []
    random = Random(7)
    for _ in range(12):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, path, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(random.randint(1, 12)):
            acknowledged.append((await process.stdout.readline()).decode().strip())
        await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=random.random() * 0.02)
        process.kill()
        rest = await process.stdout.read()
        acknowledged += [line.decode() for line in rest.splitlines() if line.endswith(b"")]
        await process.wait()
    store = DirectoryStore(path)
    await store.start()
    complete = [line for line in acknowledged if len(line) == 71]
    assert len(complete) >= 12
    for line in complete:
        digest = Digest.parse(line)
        data = await content(store, digest)
        assert data is not None
        assert Digest.of(data) == digest
    # Whatever lies under a digest's name is that digest, acknowledged or not.
    for file in files(path, "blobs"):
        assert Digest.of(file.read_bytes()).encoded == file.name
    assert files(path, "spool") == []
    await store.aclose()


async def test_strangers_in_the_directory_are_left_alone_and_do_not_stop_a_start(
    tmp_path: Path,
) -> None:
    store = DirectoryStore(tmp_path / "s")
    await store.start()
    digest = await put(store, DATA)
    await store.aclose()
    strangers = []
    for folder in (".", "blobs", "blobs/sha256", "spool", "uploads", "quarantine", "backups"):
        place = tmp_path / "s" / folder
        (place / "directory").mkdir(parents=True)
        (place / "notes.txt").write_text("mine")
        strangers += [place / "directory", place / "notes.txt"]
    again = DirectoryStore(tmp_path / "s")
    await again.start()
    assert await content(again, digest) == DATA
    await again.back_up(at_once=True)
    assert all(path.exists() for path in strangers)
    await again.aclose()
