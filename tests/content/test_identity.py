"""identity: what a changed endpoint still shows of what is stored, as rows of a real index."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from routerd.content.database import Database
from routerd.content.identity import Claim, Fingerprint
from routerd.content.index import Index
from routerd.content.links import LinkKind, Scope, TagEntry, owner_of
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Tag
from upstream import image

BLOB = Digest.of(b"blob")
MANIFEST = Manifest.parse(image(b"c"), OCI_MANIFEST)
TAG = Tag("1")
NOW = 1_000_000.0


def of(
    *accounts: str, namespace: str = "docker.io", origins: Sequence[str] = ("https://a",)
) -> Fingerprint:
    return Fingerprint(namespace, frozenset(origins), frozenset(accounts))


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    database = Database(tmp_path / "index.sqlite")
    await database.start()
    yield Index(database, lambda: NOW)
    await database.aclose()


async def fill(index: Index, endpoint: str, tag: Tag = TAG) -> None:
    scope = Scope(endpoint, "library/app")
    await index.add_blob(BLOB, 4, [scope], "")
    digest = MANIFEST.descriptor.digest
    await index.put_manifest(scope, MANIFEST, tag, TagEntry(digest, NOW), "")


async def sees(index: Index, endpoint: str, tag: Tag = TAG) -> bool:
    """Whether all of `fill` is there under this name; a part of it is a failure."""
    scope = Scope(endpoint, "library/app")
    found = {
        await index.link(scope, BLOB, LinkKind.BLOB) is not None,
        await index.link(scope, MANIFEST.descriptor.digest, LinkKind.MANIFEST) is not None,
        await index.tag(scope, tag) is not None,
    }
    assert len(found) == 1
    return found.pop()


async def test_whose_hidden_content_is_can_be_told_from_its_name(index: Index) -> None:
    await index.claim("hub", of("a"))
    await fill(index, "hub")
    hiding = await index.claim("hub", of("b"))
    assert hiding.veiled is not None
    assert await sees(index, hiding.veiled)
    assert owner_of(hiding.veiled) == owner_of("hub") == "hub"


async def test_what_an_index_of_before_has_is_the_endpoints_own(index: Index) -> None:
    await fill(index, "hub")
    assert await index.claim("hub", of("a")) == Claim()
    assert await index.claim("hub", of("a")) == Claim()
    assert await sees(index, "hub")


async def test_another_url_keeps_the_links_and_says_since_when(index: Index) -> None:
    await index.claim("hub", of("a"))
    await fill(index, "hub")
    moved = await index.claim("hub", of("a", origins=["https://b"]))
    assert moved == Claim(since=NOW, has_moved=True)
    assert await index.claim("hub", of("a", origins=["https://b"])) == Claim(since=NOW)
    assert await sees(index, "hub")


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (of(), of("a"), True),  # what a stranger sees, everyone sees
        (of("a"), of("a", "b"), True),
        (of("a", "b"), of("a"), False),  # b may have seen more
        (of("a"), of(), False),
        (of("a"), of("b"), False),
        (of(), of(namespace="ghcr.io"), False),
        (of("a"), of("b", origins=["https://b"]), False),
    ],
)
async def test_only_who_sees_as_much_is_shown_what_was_stored(
    index: Index, before: Fingerprint, after: Fingerprint, shown: bool
) -> None:
    await index.claim("hub", before)
    await fill(index, "hub")
    claim = await index.claim("hub", after)
    assert claim.is_hidden is not shown
    assert await sees(index, "hub") is shown


@pytest.mark.parametrize(
    ("after", "proves"),
    [
        (of("b"), True),
        (of("b", origins=["https://b"]), False),
        (of("a", namespace="ghcr.io"), False),
    ],
)
async def test_a_head_proves_a_hidden_blob_only_at_the_same_registry(
    index: Index, after: Fingerprint, proves: bool
) -> None:
    await index.claim("hub", of("a"))
    await fill(index, "hub")
    for _ in range(2):  # and so after each later start
        claim = await index.claim("hub", after)
        assert (claim.veiled is not None) is proves
    assert not await index.endpoint_has("hub", BLOB)
    if claim.veiled is not None:
        assert await index.endpoint_has(claim.veiled, BLOB)


async def test_a_mistake_that_is_mended_costs_nothing(index: Index) -> None:
    await index.claim("hub", of("a"))
    await fill(index, "hub")
    await index.claim("hub", of("typo"))
    await fill(index, "hub", Tag("2"))
    assert (await index.claim("hub", of("a"))).is_hidden
    assert await sees(index, "hub")
    assert await index.tag(Scope("hub", "library/app"), Tag("2")) is None
    await index.claim("hub", of("other"))
    await index.claim("hub", of("third"))
    assert not await sees(index, "~hub"), "one generation is kept"


async def test_a_former_name_is_taken_over_once(index: Index) -> None:
    await index.claim("old", of("a"))
    await fill(index, "old")
    assert (await index.claim("new", of("a"), ["older", "old"])).taken_over == ("old",)
    assert (await sees(index, "new"), await sees(index, "old")) == (True, False)
    assert await index.claim("new", of("a"), ["older", "old"]) == Claim()


async def test_a_former_name_that_was_another_account_is_hidden_under_the_new_one(
    index: Index,
) -> None:
    await index.claim("old", of("a"))
    await fill(index, "old")
    claim = await index.claim("new", of("b"), ["old"])
    assert (claim.taken_over, claim.is_hidden, claim.veiled) == (("old",), True, "~new")
    assert not await sees(index, "new")


async def test_both_names_have_content_and_it_becomes_one(index: Index) -> None:
    for name, tag in (("old", TAG), ("new", TAG)):
        await index.claim(name, of("a"))
        await fill(index, name, tag)
    await fill(index, "old", Tag("2"))
    assert (await index.claim("new", of("a"), ["old"])).taken_over == ("old",)
    assert await sees(index, "new")
    assert await index.tag(Scope("new", "library/app"), Tag("2")) is not None
    assert not await sees(index, "old")


async def test_a_former_name_of_another_identity_is_left_where_it_is(index: Index) -> None:
    await index.claim("old", of("secret"))
    await fill(index, "old")
    await index.claim("new", of("a"))
    claim = await index.claim("new", of("a"), ["old"])
    assert (claim.taken_over, claim.left) == ((), ("old",))
    assert (await sees(index, "new"), await sees(index, "old")) == (False, True)


async def test_a_name_without_a_fingerprint_is_renamed_as_well(index: Index) -> None:
    await fill(index, "old")
    assert (await index.claim("new", None, ["old"])).taken_over == ("old",)
    assert await sees(index, "new")
    assert await index.claim("new", None, ["old"]) == Claim()


def claim_in_a_process(path: Path, barrier: object, results: object) -> None:
    async def claim() -> Claim:
        database = Database(path)
        await database.start()
        barrier.wait(30)  # type: ignore[attr-defined]
        try:
            return await Index(database, lambda: NOW).claim("new", of("b"), ["old"])
        finally:
            await database.aclose()

    results.put(asyncio.run(claim()))  # type: ignore[attr-defined]


async def test_several_processes_that_start_at_once_do_it_once(
    index: Index, tmp_path: Path
) -> None:
    await index.claim("old", of("a"))
    await fill(index, "old")
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(4), spawn.Queue()
    started = [
        spawn.Process(target=claim_in_a_process, args=(tmp_path / "index.sqlite", barrier, results))
        for _ in range(4)
    ]
    for process in started:
        process.start()
    claims = [await asyncio.to_thread(results.get, True, 60) for _ in started]
    for process in started:
        await asyncio.to_thread(process.join, 60)
    assert sorted(claim.taken_over for claim in claims) == [(), (), (), ("old",)]
    assert {claim.veiled for claim in claims} == {"~new"}
    assert not await sees(index, "new")
    assert await sees(index, "~new")
