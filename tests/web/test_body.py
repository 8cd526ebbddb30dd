"""body.BoundedBody: a bounded queue between the network and the handler."""

import asyncio

import pytest

from routerd.oci.errors import RegistryError
from routerd.web.body import DRAIN_BYTES, QUEUE_LIMIT, BoundedBody, ClientDisconnected


async def test_the_network_waits_while_nobody_reads() -> None:
    body = BoundedBody()
    for _ in range(QUEUE_LIMIT):
        await body.put(b"x", True)
    blocked = asyncio.ensure_future(body.put(b"y", True))
    await asyncio.sleep(0)
    assert not blocked.done()

    reader = aiter(body)
    assert await anext(reader) == b"x" * QUEUE_LIMIT
    await blocked
    await body.put(b"", False)
    assert [chunk async for chunk in reader] == [b"y"]


async def test_a_reader_waits_for_what_is_still_to_come() -> None:
    body = BoundedBody()
    reading = asyncio.ensure_future(body.read(10))
    await asyncio.sleep(0)
    await body.put(b"ab", True)
    await asyncio.sleep(0)
    await body.put(b"c", False)
    assert await reading == b"abc"


async def test_an_empty_body_ends_at_once() -> None:
    body = BoundedBody()
    await body.put(b"", False)
    assert await body.read(0) == b""


async def test_a_client_that_leaves_is_an_error_after_the_bytes_that_came() -> None:
    body = BoundedBody()
    await body.put(b"half", True)
    leaving = asyncio.ensure_future(body.disconnect())
    reader = aiter(body)
    assert await anext(reader) == b"half"
    assert not leaving.done()  # whoever reads gets to the end of what came
    with pytest.raises(ClientDisconnected):
        await anext(reader)
    await leaving


async def test_a_client_that_falls_silent_is_408_after_the_bytes_that_came() -> None:
    body = BoundedBody()
    body.stall_seconds = 0
    await body.put(b"half", True)
    reader = aiter(body)
    assert await anext(reader) == b"half"
    for chunks in (reader, aiter(body)):  # and never a body that seems whole
        with pytest.raises(RegistryError) as refused:
            await anext(chunks)
        assert refused.value.status == 408
    await body.drain()


async def test_a_disconnect_after_the_last_byte_is_none() -> None:
    body = BoundedBody()
    await body.put(b"whole", False)
    await body.disconnect()
    assert await body.read(10) == b"whole"


async def test_a_body_over_the_limit_is_413() -> None:
    body = BoundedBody()
    await body.put(b"12345", False)
    with pytest.raises(RegistryError) as refused:
        await body.read(4)
    assert refused.value.status == 413


async def test_draining_reads_to_the_end_but_not_without_end() -> None:
    short = BoundedBody()
    await short.put(b"rest", False)
    await short.drain()
    assert [chunk async for chunk in short] == []

    endless = BoundedBody()
    chunk = b"x" * (DRAIN_BYTES // 4)

    async def feed() -> None:
        while True:
            await endless.put(chunk, True)

    feeder = asyncio.ensure_future(feed())
    await endless.drain()
    assert not feeder.done()
    feeder.cancel()
