"""listener.listen: connections that end when they should, and HTTP/1.1 whatever is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from routerd.web.body import DRAIN_SECONDS
from wire import Wire, read_reply

from .conftest import Serving

POLICY = "endpoints: {local: {type: storage}}\nroutes: {'team/**': local}\n"


def open_sockets() -> int:
    """Sockets of this process, which is server and client."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += entry.readlink().name.startswith("socket:")
        except FileNotFoundError:
            continue  # the descriptor that lists the directory
    return count


async def fewer_sockets_than(limit: int) -> None:
    async with asyncio.timeout(5):
        while open_sockets() >= limit:
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_an_idle_connection_leaves_nothing_behind(
    serving: Serving,
) -> None:
    async with serving(POLICY) as wire:
        before = open_sockets()
        for _ in range(50):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_reply(reader)).status == 200
            writer.close()
            await writer.wait_closed()
        await fewer_sockets_than(before + 5)


async def test_a_connection_serves_many_requests(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        for _ in range(20):
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_reply(reader)).status == 200
        writer.close()


async def test_idle_connections_do_not_hold_up_the_end(serving: Serving) -> None:
    started = asyncio.get_running_loop().time()
    async with serving(POLICY) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_reply(reader)
    assert await reader.read() == b""
    assert asyncio.get_running_loop().time() - started < 1.0, "the drain is one second there"
    writer.close()


async def test_an_upgrade_is_ignored(serving: Serving) -> None:
    """An aborted HTTP/2 body is never ended, so a client would hang where it should fail."""
    async with serving(POLICY) as wire:
        for upgrade in (
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n",
        ):
            reply = await wire.raw(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
            assert (reply.status, reply.json) == (200, {})


async def test_http2_without_asking_is_refused(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")
        writer.close()


async def test_an_early_error_comes_whole_before_the_rest_of_the_request(serving: Serving) -> None:
    """A client that waits for the answer before it sends on must not be held up by the draining."""
    async with serving(POLICY) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"POST /v2/nobody/here/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n")
        started = asyncio.get_running_loop().time()
        writer.write(b"Content-Length: 10\r\n\r\n")
        reply = await read_reply(reader)
        assert reply.status == 404
        assert asyncio.get_running_loop().time() - started < DRAIN_SECONDS / 2
        writer.close()


async def test_a_target_without_a_path_is_refused_and_logged(
    serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(POLICY) as wire:
        reply = await wire.raw(b"GET ?x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (400 <= reply.status < 500, bool(reply.code)) == (True, True)
    assert f"status={reply.status}" in capfd.readouterr().out


async def test_hundreds_of_connections_at_once_are_served(serving: Serving) -> None:
    count = 400
    async with serving(POLICY) as wire:
        before = open_sockets()

        async def one(wire: Wire) -> int:
            return (await wire.get("/v2/")).status

        assert await asyncio.gather(*[one(wire) for _ in range(count)]) == [200] * count
        await fewer_sockets_than(before + 5)
