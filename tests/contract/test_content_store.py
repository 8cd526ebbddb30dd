"""The contract of `ContentStore`, run over the directory and over a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memory_store import MemoryStore
from routerd.content.directory import DirectoryStore
from routerd.content.links import LinkKind
from routerd.content.store import ContentStore
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.files import as_bytes
from stored import DATA, HERE, THERE, content, put, stream
from upstream import digest_of, image


@pytest.fixture(params=["directory", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ContentStore]:
    opened: ContentStore = (
        DirectoryStore(tmp_path / "store")
        if request.param == "directory"
        else MemoryStore(tmp_path / "index.sqlite")
    )
    await opened.start()
    yield opened
    await opened.aclose()


async def test_an_ingest_is_seen_after_its_commit_and_not_before(store: ContentStore) -> None:
    digest = Digest.of(DATA)
    ingest = await store.ingest()
    ingest.write([DATA[:100], DATA[100:]])
    assert ingest.offset == len(DATA)
    assert b"".join([chunk async for chunk in as_bytes(ingest.read(50, 150))]) == DATA[50:150]
    assert await content(store, digest) is None
    assert ingest.matches(digest)
    await ingest.commit(digest, [HERE, THERE], "tester")
    await ingest.abort()  # changes nothing any more
    assert b"".join([chunk async for chunk in as_bytes(ingest.read(0, 10))]) == DATA[:10]
    ingest.close()
    for scope in (HERE, THERE):
        assert await content(store, digest, scope) == DATA
        link = await store.index.link(scope, digest, LinkKind.BLOB)
        assert link is not None
        assert (link.size, link.created_by) == (len(DATA), "tester")


async def test_an_ingest_of_something_else_is_refused(store: ContentStore) -> None:
    ingest = await store.ingest()
    ingest.write([DATA])
    with pytest.raises(RegistryError) as refused:
        await ingest.commit(Digest.of(b"other"), [HERE])
    assert (refused.value.status, str(refused.value.code)) == (400, "DIGEST_INVALID")
    await ingest.abort()
    ingest.close()
    for digest in (Digest.of(DATA), Digest.of(b"other")):
        assert await content(store, digest) is None


async def test_stat_agrees_with_open(store: ContentStore) -> None:
    digest = await put(store, DATA)
    assert await store.stat(HERE, digest) == len(DATA)
    assert await store.stat(THERE, digest) is None
    assert await store.stat(HERE, digest, LinkKind.MANIFEST) is None
    assert await store.stat(HERE, Digest.of(b"other")) is None


async def test_nothing_at_all_is_content_too(store: ContentStore) -> None:
    assert await content(store, await put(store, b"")) == b""


async def test_ranges_are_read_as_they_are_asked_for(store: ContentStore) -> None:
    handle = await store.open(HERE, await put(store, DATA))
    assert handle is not None
    for start, stop in ((0, 1), (5, 20), (len(DATA) - 1, None), (len(DATA), None), (7, 7)):
        assert (
            b"".join([chunk async for chunk in as_bytes(handle.read(start, stop))])
            == DATA[start:stop]
        )
    await handle.aclose()


async def test_a_handle_that_is_open_outlives_the_link(store: ContentStore) -> None:
    digest = await put(store, DATA)
    handle = await store.open(HERE, digest)
    assert handle is not None
    assert await store.index.delete_link(HERE, digest, LinkKind.BLOB)
    assert b"".join([chunk async for chunk in as_bytes(handle.read(0, None))]) == DATA
    await handle.aclose()


async def test_an_upload_that_was_cancelled_or_committed_is_gone(store: ContentStore) -> None:
    cancelled = await store.start_upload(HERE)
    assert await store.upload(THERE, cancelled.id) is None
    await cancelled.cancel()
    committed = await store.start_upload(HERE)
    await committed.commit(Digest.of(b""), "")
    for upload in (cancelled, committed):
        assert await store.upload(HERE, upload.id) is None
        with pytest.raises(RegistryError) as gone:
            await upload.append(stream(b"more"))
        assert str(gone.value.code) == "BLOB_UPLOAD_UNKNOWN"


async def test_content_is_seen_only_through_a_link_of_its_kind(store: ContentStore) -> None:
    digest = await put(store, DATA)
    assert await content(store, digest, THERE) is None
    assert await store.open(HERE, digest, LinkKind.MANIFEST) is None
    await store.index.add_blob_link(THERE, digest)
    assert await content(store, digest, THERE) == DATA
    assert await store.index.delete_link(HERE, digest, LinkKind.BLOB)
    assert await content(store, digest, HERE) is None
    assert await content(store, digest, THERE) == DATA


async def test_sha512_is_kept_by_its_own_name(store: ContentStore) -> None:
    digest = Digest.parse(digest_of(DATA, "sha512"))
    upload = await store.start_upload(HERE)
    await upload.append(stream(DATA))
    await upload.commit(digest, "")
    assert await content(store, digest) == DATA
    assert await content(store, Digest.of(DATA)) is None


async def test_what_arrived_stays_when_the_client_breaks_off(store: ContentStore) -> None:
    upload = await store.start_upload(HERE)

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await upload.append(broken())
    assert upload.offset == 3


async def test_two_requests_on_one_upload_do_not_mix(store: ContentStore) -> None:
    upload = await store.start_upload(HERE)
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"abc"

    writing = asyncio.ensure_future(upload.append(slow()))
    await asyncio.sleep(0)
    same = await store.upload(HERE, upload.id)
    assert same is upload
    with pytest.raises(RegistryError, match="another request"):
        await same.append(stream(b"xyz"))
    gate.set()
    await writing
    await upload.commit(Digest.of(b"abc"), "")


async def test_a_manifest_is_linked_listed_and_tagged(store: ContentStore) -> None:
    manifest = Manifest.parse(image(b"config", DATA), OCI_MANIFEST)
    digest = manifest.descriptor.digest
    await store.add_manifest(HERE, manifest, tag=Tag("1"), validated_at=5.0, etag="e")
    assert await store.manifest(HERE, digest) == manifest
    assert await store.manifest(THERE, digest) is None
    entry = await store.index.tag(HERE, Tag("1"))
    assert entry is not None
    assert (entry.digest, entry.validated_at, entry.etag) == (digest, 5.0, "e")
    # A mention gives no sight, but says who announced it.
    listed = Digest.of(DATA)
    assert await store.open(HERE, listed) is None
    assert await store.index.announcers(listed, [HERE, THERE]) == {HERE}
    assert await store.index.announcers(digest, [HERE, THERE]) == {HERE}
    assert await store.index.holders(digest, [HERE, THERE], LinkKind.MANIFEST) == {HERE}
    assert await store.index.holders(digest, [HERE, THERE], LinkKind.BLOB) == set()
    # The manifest takes its tags with it.
    assert await store.index.delete_link(HERE, digest, LinkKind.MANIFEST)
    assert await store.index.tag(HERE, Tag("1")) is None


async def test_tags_come_in_the_order_of_their_bytes(store: ContentStore) -> None:
    manifest = Manifest.parse(image(b"config"), OCI_MANIFEST)
    for tag in ("b", "B", "a", "10", "9"):
        await store.add_manifest(HERE, manifest, tag=Tag(tag), validated_at=0)
    assert await store.index.tags(HERE, "", 10) == ["10", "9", "B", "a", "b"]
    assert await store.index.tags(HERE, "9", 2) == ["B", "a"]


async def test_a_sweep_takes_what_is_cached_and_leaves_what_was_pushed(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("retention", "sweep"):
        monkeypatch.setattr(f"routerd.content.{module}.GRACE", -10.0)  # nothing is too young
    shared, own = await put(store, DATA), await put(store, b"own", THERE)
    assert await store.index.add_blob_link(THERE, shared)
    manifest = Manifest.parse(image(b"own", DATA), OCI_MANIFEST)
    await store.add_manifest(THERE, manifest, tag=Tag("1"), validated_at=0)
    assert (await store.capacity.sweep(10**9)).links == 0, "no policy says that it may go"
    store.capacity.retain = lambda scope: -1000.0 if scope == THERE else None
    report = await store.capacity.sweep()
    assert (report.manifests, report.links, report.blobs) == (1, 3, 2)
    assert await store.capacity.swept_at() is not None
    assert await store.index.tag(THERE, Tag("1")) is None
    assert await content(store, own, THERE) is None
    assert await content(store, shared, THERE) is None
    assert await content(store, shared) == DATA
