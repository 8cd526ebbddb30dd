"""purging.Purging and what the index remembers for every process: purges, names, 404s, pins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerd.content import index as index_module
from routerd.content.database import Database
from routerd.content.directory import DirectoryStore
from routerd.content.identity import Fingerprint
from routerd.content.index import Index
from routerd.content.links import LinkKind, Scope
from routerd.content.purging import Purging
from routerd.oci.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from stored import HERE, THERE, content, put
from upstream import digest_of, image

HUB = Scope("hub", "library/app")


@pytest.fixture
async def other(store: DirectoryStore, tmp_path: Path) -> AsyncIterator[Database]:
    """The index as another process has it open."""
    database = Database(tmp_path / "store" / "index.sqlite")
    await database.start()
    yield database
    await database.aclose()


async def add(store: DirectoryStore, body: bytes, tag: str | None, scope: Scope = HUB) -> Manifest:
    manifest = Manifest.parse(body, OCI_MANIFEST if b"config" in body else OCI_INDEX)
    await store.add_manifest(scope, manifest, tag=None if tag is None else Tag(tag), validated_at=0)
    return manifest


def index_of(*manifests: Manifest) -> bytes:
    listed = ",".join(
        f'{{"mediaType":"{m.descriptor.media_type}","digest":"{m.descriptor.digest}",'
        f'"size":{m.descriptor.size}}}'
        for m in manifests
    )
    return f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{listed}]}}'.encode()


async def test_a_purge_takes_what_only_it_needs(store: DirectoryStore) -> None:
    blobs = {data: await put(store, data, HUB) for data in (b"a", b"b", b"shared")}
    first = await add(store, image(b"a", b"shared"), None)
    second = await add(store, image(b"b", b"shared"), "second")
    whole = await add(store, index_of(first, second), "all")
    await add(store, whole.body, "same")
    once = await store.purging.purge(HUB, Tag("same"))
    assert (once.tags, once.manifests, once.blobs, once.freed) == (1, 0, 0, 0)
    gone = await store.purging.purge(HUB, Tag("all"))
    assert (gone.tags, gone.manifests, gone.blobs) == (1, 2, 1), "the index, one child, its blob"
    assert gone.freed == whole.descriptor.size + first.descriptor.size + 1
    assert await content(store, blobs[b"a"], HUB) is None
    for data in (b"b", b"shared"):
        assert await content(store, blobs[data], HUB) == data
    assert await store.manifest(HUB, second.descriptor.digest) == second
    nothing = await store.purging.purge(HUB, Tag("all"))
    assert (nothing.tags, nothing.manifests, nothing.blobs) == (0, 0, 0)


async def test_a_purge_of_a_digest_takes_its_tags_and_no_other_repository(
    store: DirectoryStore,
) -> None:
    for scope in (HUB, HERE):
        await put(store, b"config", scope)
        for tag in ("1", "2"):
            await add(store, image(b"config"), tag, scope)
    digest = Manifest.parse(image(b"config"), OCI_MANIFEST).descriptor.digest
    gone = await store.purging.purge(HUB, digest)
    assert (gone.tags, gone.manifests, gone.blobs, gone.freed) == (2, 1, 1, 0)
    assert await store.index.is_empty(HUB)
    assert await store.index.tags(HERE, "", 10) == ["1", "2"]


async def test_a_purge_by_another_process_counts_with_the_next_look(
    store: DirectoryStore, other: Database
) -> None:
    manifest = await add(store, image(b"config"), "1")
    digest = manifest.descriptor.digest
    assert await store.index.link(HUB, digest, LinkKind.MANIFEST) is not None
    assert await store.index.tag(HUB, Tag("1")) is not None
    await Purging(other).purge(HUB, Tag("1"))
    assert await store.index.link(HUB, digest, LinkKind.MANIFEST) is None
    assert await store.index.tag(HUB, Tag("1")) is None


async def test_a_404_counts_for_every_process_until_something_comes_in(
    store: DirectoryStore, other: Database
) -> None:
    elsewhere = Index(other, lambda: 50.0)
    await elsewhere.note_negative(HUB, "1")
    await elsewhere.note_negative(HUB, "2")
    assert await store.index.negative(HUB, "1") == 50
    assert await store.index.negative(THERE, "1") is None
    await add(store, image(b"config"), "1")
    assert await elsewhere.negative(HUB, "1") is None
    assert await elsewhere.negative(HUB, "2") == 50
    await store.purging.purge(HUB, Tag("2"))
    assert await elsewhere.negative(HUB, "2") is None


async def test_404s_are_bounded_and_leave_what_is_remembered_alone(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "NEGATIVES_LIMIT", 20)
    now = 0.0
    index = Index(store._database, lambda: now)
    before = store._database._change_counter()
    for number in range(30):
        now += 1
        await index.note_negative(HUB, f"tag-{number}")
    assert store._database._change_counter() == before
    known = [number for number in range(30) if await index.negative(HUB, f"tag-{number}")]
    assert 15 <= len(known) <= 20
    assert known == list(range(30 - len(known), 30)), "the oldest went"


async def test_a_renamed_endpoint_keeps_everything(store: DirectoryStore) -> None:
    await put(store, b"config", HUB)
    manifest = await add(store, image(b"config"), "1")
    await store.index.pins.add(HUB, Tag("1"))
    assert await store.purging.rename_endpoint("hub", "mirror") == 4
    there = Scope("mirror", "library/app")
    assert await store.manifest(there, manifest.descriptor.digest) == manifest
    assert await store.index.tags(there, "", 10) == ["1"]
    assert [(p.scope, p.reference) for p in await store.index.pins.all()] == [(there, "1")]
    assert await store.index.is_empty(HUB)
    assert await store.purging.rename_endpoint("hub", "mirror") == 0
    await put(store, b"config", HUB)
    with pytest.raises(ValueError, match="beside those of 'hub'"):
        await store.purging.rename_endpoint("hub", "mirror")
    assert await content(store, manifest.blobs[0].digest, HUB) == b"config"


async def test_a_renamed_endpoint_keeps_what_is_hidden_of_it(store: DirectoryStore) -> None:
    seen = [Fingerprint("docker.io", frozenset(), frozenset({name})) for name in ("a", "b")]
    await store.index.claim("hub", seen[0])
    await put(store, b"config", HUB)
    await store.index.claim("hub", seen[1])
    await store.index.claim("mirror", seen[1])  # as the start does that the rename is done in
    assert await store.purging.rename_endpoint("hub", "mirror") == 1
    assert (await store.index.claim("mirror", seen[1])).veiled == "~mirror"
    assert (await store.index.claim("mirror", seen[0])).is_hidden
    there = Scope("mirror", "library/app")
    assert await content(store, Digest.of(b"config"), there) == b"config"


async def test_entries_are_tags_and_manifests_that_nothing_names(store: DirectoryStore) -> None:
    await put(store, b"config", HUB)
    child = await add(store, image(b"config"), None)
    whole = await add(store, index_of(child), "all")
    lonely = await add(store, image(b"config", b"missing"), None)
    await store.index.pins.add(HUB, whole.descriptor.digest)
    found = await store.inventory.entries()
    assert [(entry.reference, entry.pinned) for entry in found] == [
        ("all", True),
        (str(lonely.descriptor.digest), False),
    ]
    assert found[0].size == whole.descriptor.size + child.descriptor.size + 6
    assert found[1].size == lonely.descriptor.size + 6, "what is listed and not stored is no size"
    assert await store.inventory.entries(found[0].place) == found[1:]
    assert digest_of(b"missing") not in {entry.reference for entry in found}
