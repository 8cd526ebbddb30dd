"""The contract of `Endpoint`, run over every adapter: the same content, the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from routerd.content.directory import DirectoryStore
from routerd.endpoints.base import Endpoint, EndpointContext, EndpointError, Via
from routerd.endpoints.registry import lookup_type
from routerd.endpoints.storage import StorageEndpoint
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback
from routerd.runtime.files import as_bytes
from routerd.runtime.tasks import Tasks
from upstream import Script, Upstream, digest_of, image, upstream

APP = Repository.parse("docker.io", "team/app")
LAYER = b"layer " * 100_000
BODY = image(b"config", LAYER)
TAGS = ["1", "2", "latest"]

Make = Callable[[Path, AsyncExitStack], Awaitable[Endpoint]]


async def make_storage(path: Path, stack: AsyncExitStack) -> Endpoint:
    store = DirectoryStore(path / "store")
    await store.start()
    stack.push_async_callback(store.aclose)
    endpoint = StorageEndpoint("local", store)

    async def one(data: bytes) -> AsyncIterator[bytes]:
        yield data

    for data in (b"config", LAYER):
        session = await endpoint.start_upload(APP)
        await session.append(one(data))
        await session.commit(Digest.of(data), "")
    for tag in TAGS:
        manifest = Manifest.parse(BODY, OCI_MANIFEST)
        await endpoint.put_manifest(Reference.parse(f"team/app:{tag}"), manifest, "")
    return endpoint


async def make_remote(path: Path, stack: AsyncExitStack) -> Endpoint:
    server: Upstream = await stack.enter_async_context(upstream())
    for data in (b"config", LAYER):
        server.blob("team/app", data)
    for tag in TAGS:
        server.manifest("team/app", tag, BODY)

    def tags(asked: object) -> Script:
        return Script(b'{"tags": ["latest", "1", "2"]}')

    server.paths["/v2/team/app/tags/list"] = tags
    tasks = Tasks()
    stack.push_async_callback(tasks.aclose, 0.0)
    kind = lookup_type("remote")
    assert kind is not None
    options = {
        "url": (
            {
                "url": server.url,
                "auth": ({"type": "anonymous"},),
                "tls": {"ca": None, "insecure": False},
            },
        ),
        "namespace": None,
        "token_realms": (),
        "offline": False,
        "timeouts": {"connect": 2.0, "response": 5.0, "stall": 5.0},
    }
    endpoint = kind.create(EndpointContext("hub", options, None, "mirror", 5, tasks))
    await endpoint.open()
    stack.push_async_callback(endpoint.aclose)
    return endpoint


@pytest.fixture(params=[make_storage, make_remote], ids=["storage", "remote"])
async def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with AsyncExitStack() as stack:
        yield await request.param(tmp_path, stack)


def missing(name: str = "team/none") -> Reference:
    return Reference.parse(f"{name}:1")


async def test_a_tag_and_its_digest_are_the_same_manifest(endpoint: Endpoint) -> None:
    by_tag = await endpoint.manifest(Reference.parse("team/app:1"), Via())
    digest = by_tag.manifest.descriptor.digest
    by_digest = await endpoint.manifest(Reference(APP, digest=digest), Via())
    assert by_tag.manifest.body == by_digest.manifest.body == BODY
    resolved = await endpoint.resolve(Reference.parse("team/app:1"), Via())
    assert resolved.descriptor == by_tag.manifest.descriptor


@pytest.mark.parametrize("start", [0, 1, 70_000, len(LAYER) - 1])
async def test_a_blob_is_read_from_where_it_is_wanted(endpoint: Endpoint, start: int) -> None:
    async with endpoint.blob(APP, Digest.of(LAYER), Via(), start) as stream:
        assert stream.size == len(LAYER)
        data = b"".join([chunk async for chunk in as_bytes(stream.chunks())])
        assert data == LAYER[stream.start :]
        assert stream.start <= start
    assert await endpoint.blob_size(APP, Digest.of(LAYER), Via()) == len(LAYER)


async def test_what_is_not_there_is_not_found(endpoint: Endpoint) -> None:
    absent = Digest.parse(digest_of(b"absent"))

    async def open_blob() -> None:
        async with endpoint.blob(APP, absent, Via()):
            raise AssertionError("opened what is not there")

    repository = missing().repository
    for attempt in (
        endpoint.manifest(missing(), Via()),
        endpoint.manifest(Reference.parse("team/app:none"), Via()),
        endpoint.manifest(Reference(APP, digest=absent), Via()),
        endpoint.resolve(missing(), Via()),
        endpoint.blob_size(APP, absent, Via()),
        endpoint.blob_size(repository, Digest.of(LAYER), Via()),
        endpoint.tags(repository, Via(), "", 5),
        open_blob(),
    ):
        with pytest.raises(EndpointError) as failed:
            await attempt
        assert failed.value.reason is Fallback.NOT_FOUND
        assert failed.value.status == 404
        assert endpoint.name in failed.value.message


async def test_tags_are_sorted_and_paged(endpoint: Endpoint) -> None:
    assert list((await endpoint.tags(APP, Via(), "", 10)).tags) == TAGS
    page = await endpoint.tags(APP, Via(), "1", 1)
    assert (list(page.tags), page.more) == (["2"], True)
    last = await endpoint.tags(APP, Via(), "2", 5)
    assert (list(last.tags), last.more) == (["latest"], False)
