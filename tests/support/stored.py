"""Content put into a store and read back, for the tests of stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

from routerd.content.links import Scope
from routerd.content.store import ContentStore
from routerd.oci.reference import Digest
from routerd.runtime.files import as_bytes

HERE = Scope("local", "docker.io/team/app")
THERE = Scope("local", "docker.io/other/app")
DATA = b"some content " * 1000


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def put(store: ContentStore, data: bytes, scope: Scope = HERE) -> Digest:
    upload = await store.start_upload(scope)
    await upload.append(stream(data))
    digest = Digest.of(data)
    await upload.commit(digest, "tester")
    return digest


async def content(store: ContentStore, digest: Digest, scope: Scope = HERE) -> bytes | None:
    handle = await store.open(scope, digest)
    if handle is None:
        return None
    try:
        return b"".join([chunk async for chunk in as_bytes(handle.read(0, None))])
    finally:
        await handle.aclose()
