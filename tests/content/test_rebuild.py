"""rebuild.Rebuild: an index made anew from the bytes and from the newest index that can be read."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from routerd.content import schema
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError
from routerd.content.layout import blob_path
from routerd.content.links import LinkKind, Scope
from routerd.content.rebuild import Rebuilt
from routerd.content.verify import Damage
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.pace import Pace
from stored import DATA, HERE, content, put
from upstream import digest_of, image

MANIFEST = Manifest.parse(image(b"config", DATA), OCI_MANIFEST)
CACHED = Scope("hub", "library/app")


async def filled(root: Path, *, backup: bool = True) -> None:
    """A closed store: a pushed image, a cached blob, and what was pushed after the backup."""
    store = DirectoryStore(root)
    await store.start()
    for data in (b"config", DATA):
        await put(store, data)
    await store.add_manifest(HERE, MANIFEST, tag=Tag("1"), validated_at=5.0, created_by="10.0.0.1")
    await put(store, b"cached", CACHED)
    await store.index.pins.add(HERE, Tag("1"))
    if backup:
        await store.back_up(at_once=True)
    await put(store, b"later")
    late = Manifest.parse(image(b"later"), OCI_MANIFEST)
    await store.add_manifest(HERE, late, tag=Tag("2"), validated_at=6.0)
    await store.aclose()


async def rebuild(root: Path) -> tuple[Rebuilt, list[Damage]]:
    damages, result = [], None
    async with aclosing(DirectoryStore(root).rebuild(Pace(math.inf))) as steps:
        async for step in steps:
            if isinstance(step, Rebuilt):
                result = step
            elif step.damage is not None:
                damages.append(step.damage)
    assert result is not None
    return result, damages


async def reopened(root: Path) -> DirectoryStore:
    store = DirectoryStore(root)
    await store.start()
    return store


async def test_an_index_that_is_whole_loses_nothing(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    result, damages = await rebuild(tmp_path / "s")
    assert damages == []
    assert (result.source, result.aside) == ("index.sqlite", "aside/0001")
    assert (result.blobs, result.manifests, result.new, result.unseen) == (6, 2, 0, 0)
    store = await reopened(tmp_path / "s")
    assert await store.manifest(HERE, MANIFEST.descriptor.digest) == MANIFEST
    entry = await store.index.tag(HERE, Tag("2"))
    assert entry is not None
    assert entry.validated_at == 6.0
    assert [(p.scope, p.reference) for p in await store.index.pins.all()] == [(HERE, "1")]
    await store.aclose()


async def test_links_tags_and_pushers_come_from_the_newest_backup(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root)
    os.truncate(root / "index.sqlite", 5000)
    result, damages = await rebuild(root)
    assert damages == []
    assert result.source == "backups/index-000001.sqlite"
    assert (result.blobs, result.manifests, result.new, result.unseen) == (6, 2, 2, 2)
    assert result.lost_manifests == (digest_of(image(b"later")),)
    assert (root / "aside" / "0001" / "index.sqlite").stat().st_size == 5000
    store = await reopened(root)
    link = await store.index.link(HERE, MANIFEST.descriptor.digest, LinkKind.MANIFEST)
    assert link is not None
    assert (link.created_by, link.media_type) == ("10.0.0.1", OCI_MANIFEST)
    assert await content(store, Digest.of(DATA)) == DATA
    assert await content(store, Digest.of(b"cached"), CACHED) == b"cached"
    assert await content(store, Digest.of(b"later")) is None, "who may see it is not known"
    assert await store.index.tag(HERE, Tag("2")) is None
    assert await put(store, b"later") == Digest.of(b"later")
    await store.aclose()


async def test_without_any_index_the_bytes_are_told_and_seen_by_nobody(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root, backup=False)
    for path in root.glob("index.sqlite*"):
        path.unlink()
    result, _ = await rebuild(root)
    assert (result.source, result.aside) == ("", "")
    assert (result.blobs, result.new, result.unseen) == (6, 6, 6)
    assert set(result.lost_manifests) == {
        str(MANIFEST.descriptor.digest),
        digest_of(image(b"later")),
    }
    store = await reopened(root)
    assert await content(store, Digest.of(DATA)) is None
    totals = await store.inventory.totals()
    assert (totals.blobs, totals.unlinked, totals.endpoints) == (0, 0, ())
    await store.aclose()


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "blobs").rglob("*") if path.is_file()}


async def swept(root: Path) -> int:
    """How many files the first sweep after a restart takes, an hour later."""
    store = DirectoryStore(root, lambda: time.time() + 3600)
    await store.start()
    store.capacity.retain = lambda _: None
    report = await store.capacity.sweep()
    await store.aclose()
    return report.blobs


@pytest.mark.parametrize("backup", [True, False])
async def test_no_sweep_takes_what_lost_its_links_with_the_index(
    tmp_path: Path, backup: bool
) -> None:
    root = tmp_path / "s"
    await filled(root, backup=backup)
    before = files(root)
    os.truncate(root / "index.sqlite", 5000)
    await rebuild(root)
    assert await swept(root) == 0
    result, _ = await rebuild(root)
    assert result.unseen == (2 if backup else 6), "told again"
    assert await swept(root) == 0
    assert files(root) == before
    store = await reopened(root)
    assert await put(store, b"later") == Digest.of(b"later")
    assert await content(store, Digest.of(b"later")) == b"later"
    await store.aclose()


async def test_what_was_given_up_before_the_rebuild_is_swept_after_it(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root)
    store = await reopened(root)
    await store.purging.purge(HERE, Tag("2"))
    await store.aclose()
    result, _ = await rebuild(root)
    assert (result.source, result.unseen) == ("index.sqlite", 2)
    assert await swept(root) == 2


async def test_what_a_backup_had_given_up_may_have_been_pushed_since(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root, backup=False)
    store = await reopened(root)
    await store.purging.purge(HERE, Tag("2"))
    await store.back_up(at_once=True)
    await put(store, b"later")
    await store.aclose()
    os.truncate(root / "index.sqlite", 5000)
    await rebuild(root)
    assert await swept(root) == 0


async def test_what_is_wrong_or_gone_is_told_and_heals_with_the_next_push(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root)
    wrong, gone = Digest.of(DATA), Digest.of(b"config")
    blob_path(root, wrong).write_bytes(b"garbage")
    blob_path(root, gone).unlink()
    result, damages = await rebuild(root)
    assert result.damaged == 2
    assert {damage.digest: damage.why for damage in damages} == {
        wrong: "its bytes are something else",
        gone: "its file is gone",
    }
    assert all(damage.held_by[0].created_by == "tester" for damage in damages)
    assert [path.read_bytes() for path in (root / "quarantine").iterdir()] == [b"garbage"]
    store = await reopened(root)
    for data in (DATA, b"config"):
        assert await content(store, Digest.of(data)) is None
        await put(store, data)
        assert await content(store, Digest.of(data)) == data
    await store.aclose()


async def test_strangers_are_left_alone_and_reported(tmp_path: Path) -> None:
    root = tmp_path / "s"
    await filled(root)
    strangers = ["notes.txt", "blobs/sha256/ab/README"]
    for name in strangers:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine")
    result, _ = await rebuild(root)
    assert sorted(result.foreign) == sorted(strangers)
    assert all((root / name).read_text() == "mine" for name in strangers)


async def test_every_index_that_was_replaced_is_kept(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    for number in (1, 2, 3):
        result, _ = await rebuild(tmp_path / "s")
        assert result.aside == f"aside/000{number}"
    assert len(list((tmp_path / "s" / "aside").iterdir())) == 3


async def test_manifests_without_a_media_type_and_indexes_are_recognised(tmp_path: Path) -> None:
    root = tmp_path / "s"
    child = json.loads(image(b"config"))
    del child["mediaType"]
    plain = json.dumps(child).encode()
    listed = {"mediaType": OCI_MANIFEST, "digest": digest_of(plain), "size": len(plain)}
    index = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    store = DirectoryStore(root)
    await store.start()
    for data in (b"config", plain, index, b'{"schemaVersion": 2}', b"[1]"):
        await put(store, data)
    await store.aclose()
    for path in root.glob("index.sqlite*"):
        path.unlink()
    result, _ = await rebuild(root)
    assert result.manifests == 2
    assert result.lost_manifests == (digest_of(index),)


async def test_a_store_in_use_and_a_newer_index_are_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    store = await reopened(tmp_path / "s")
    with pytest.raises(StoreError, match="in use"):
        await rebuild(tmp_path / "s")
    await store._database.write(lambda c: c.execute(schema.version.update().values(version=99)))
    await store.aclose()
    before = (tmp_path / "s" / "index.sqlite").read_bytes()
    with pytest.raises(StoreError, match="newer"):
        await rebuild(tmp_path / "s")
    assert (tmp_path / "s" / "index.sqlite").read_bytes() == before


async def test_a_rebuild_that_was_broken_off_can_be_done_again(tmp_path: Path) -> None:
    await filled(tmp_path / "s")
    async with aclosing(DirectoryStore(tmp_path / "s").rebuild(Pace(math.inf))) as steps:
        async for _ in steps:
            break
    result, _ = await rebuild(tmp_path / "s")
    assert result.blobs == 6
    assert result.foreign == ()
