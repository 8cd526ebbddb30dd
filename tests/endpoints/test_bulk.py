"""Large bodies past the parser: every way in which a connection can end, over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from routerd.endpoints.addresses import Addresses
from routerd.endpoints.bulk import BUFFER, BulkReader
from routerd.endpoints.transport import BULK_BYTES, Transport
from upstream import Script, Upstream, upstream

LARGE = os.urandom(5 * BULK_BYTES + 12_345)
STALL_SECONDS = 0.3


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=Transport(Addresses("127.0.0.1", ())),
        timeout=httpx.Timeout(None, connect=2.0, read=STALL_SECONDS),
    ) as client:
        yield client


async def body_of(http: httpx.AsyncClient, url: str, received: list[bytes]) -> bytes:
    """The whole body; what came before a failure is in `received`."""
    async with http.stream("GET", url) as answer:
        async for chunk in answer.aiter_raw():
            received.append(chunk)
    return b"".join(received)


@pytest.mark.parametrize(
    "size",
    [BULK_BYTES - 1, BULK_BYTES, BULK_BYTES + 1, 3 * BUFFER, 3 * BUFFER + 1, len(LARGE)],
)
async def test_a_large_body_comes_whole_and_its_connection_is_used_again(
    http: httpx.AsyncClient, hub: Upstream, size: int
) -> None:
    hub.paths["/large"] = Script(LARGE[:size])
    hub.paths["/small"] = Script(b"small")
    for _ in range(3):
        assert await body_of(http, f"{hub.url}/large", []) == LARGE[:size]
        assert await body_of(http, f"{hub.url}/small", []) == b"small"
    assert len(hub.connections) == 1


async def test_what_the_parser_held_back_comes_first_and_once(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    """Whoever reads late finds aiohttp's buffer full, its parser paused and the socket full."""
    hub.paths["/large"] = Script(LARGE * 4)
    async with http.stream("GET", f"{hub.url}/large") as answer:
        for _ in range(50):  # the event loop goes round, and takes what it has room for
            await asyncio.sleep(0.002)
        assert b"".join([chunk async for chunk in answer.aiter_raw()]) == LARGE * 4


async def test_a_slow_upstream_is_passed_on_as_it_comes(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    gate = asyncio.Event()
    hub.paths["/large"] = Script(LARGE, gate=gate, before_gate=10)
    async with http.stream("GET", f"{hub.url}/large") as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == LARGE[:10]
        gate.set()
        assert b"".join([chunk async for chunk in chunks]) == LARGE[10:]


async def test_a_body_that_ends_early_is_an_error(http: httpx.AsyncClient, hub: Upstream) -> None:
    hub.paths["/large"] = Script(LARGE, cut=len(LARGE) - 1)
    received: list[bytes] = []
    with pytest.raises(httpx.RemoteProtocolError, match="1 bytes of the body did not come"):
        await body_of(http, f"{hub.url}/large", received)
    assert b"".join(received) == LARGE[:-1]


async def test_a_connection_that_is_reset_is_an_error(http: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()

        async def reset() -> None:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_recv(connection, 65536)
                head = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n"
                await loop.sock_sendall(connection, head + LARGE[:100])
                # RST instead of FIN (socket(7), SO_LINGER)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        received: list[bytes] = []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/large"
        _, outcome = await asyncio.gather(
            reset(), body_of(http, url, received), return_exceptions=True
        )
        assert isinstance(outcome, httpx.RequestError)
        assert LARGE.startswith(b"".join(received))


async def test_silence_is_a_timeout(http: httpx.AsyncClient, hub: Upstream) -> None:
    hub.paths["/large"] = Script(LARGE, gate=asyncio.Event(), before_gate=2 * BULK_BYTES)
    received: list[bytes] = []
    with pytest.raises(httpx.ReadTimeout):
        await body_of(http, f"{hub.url}/large", received)
    assert b"".join(received) == LARGE[: 2 * BULK_BYTES]


async def test_who_is_cancelled_leaves_no_connection_half_read(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    hub.paths["/large"] = Script(LARGE, gate=asyncio.Event(), before_gate=2 * BULK_BYTES)
    hub.paths["/small"] = Script(b"small")
    received: list[bytes] = []
    reading = asyncio.ensure_future(body_of(http, f"{hub.url}/large", received))
    while sum(map(len, received)) < 2 * BULK_BYTES:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await body_of(http, f"{hub.url}/small", []) == b"small"
    assert len(hub.connections) == 2


async def test_closing_lets_go_of_the_connection_whoever_holds_the_iterator(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    """An error that is kept holds the frames that it came through."""
    hub.paths["/large"] = Script(LARGE, gate=asyncio.Event(), before_gate=2 * BULK_BYTES)
    before = len(list(Path("/proc/self/fd").iterdir()))
    answer = await http.send(http.build_request("GET", f"{hub.url}/large"), stream=True)
    chunks = answer.aiter_raw()
    assert await anext(chunks)
    assert await anext(chunks)
    await answer.aclose()
    await hub.stop()
    async with asyncio.timeout(5):
        while len(list(Path("/proc/self/fd").iterdir())) > before:
            await asyncio.sleep(0.005)
    await hub.start()
    del chunks


async def test_what_follows_a_body_is_not_part_of_it(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    hub.paths["/large"] = Script(LARGE + b"HTTP/1.1 200 OK\r\n\r\n", length=len(LARGE))
    hub.paths["/small"] = Script(b"small")
    for _ in range(2):
        assert await body_of(http, f"{hub.url}/large", []) == LARGE
        with_luck: list[bytes] = []
        try:
            await body_of(http, f"{hub.url}/small", with_luck)
        except httpx.RequestError:
            continue  # a server that talks out of turn may lose its connection
        assert with_luck == [b"small"]


async def test_a_server_that_closes_an_idle_connection_costs_no_request(
    http: httpx.AsyncClient, hub: Upstream
) -> None:
    hub.paths["/large"] = Script(LARGE)
    assert await body_of(http, f"{hub.url}/large", []) == LARGE
    await hub.stop()
    await hub.start()
    assert await body_of(http, f"{hub.url}/large", []) == LARGE


async def test_over_tls_as_well(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    async with upstream(context) as hub:
        hub.paths["/large"] = Script(LARGE)
        hub.paths["/cut"] = Script(LARGE, cut=len(LARGE) - 1)
        trusted = ssl.create_default_context(cafile=tmp_path / "certificate")
        async with httpx.AsyncClient(
            transport=Transport(Addresses("localhost", ()), trusted), timeout=5.0
        ) as http:
            url = f"https://localhost:{hub.port}"
            for _ in range(2):
                assert await body_of(http, f"{url}/large", []) == LARGE
            assert len(hub.connections) == 1
            with pytest.raises(httpx.RequestError):
                await body_of(http, f"{url}/cut", [])


async def test_bytes_that_wait_for_a_late_reader_are_no_silence(hub: Upstream) -> None:
    """The alarm may ring after bytes came in and before who waits for them has had its turn."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", hub.port)
    reader = BulkReader(transport, 10, STALL_SECONDS)
    reading = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    reader.data_received(b"abc")
    assert reader._waiting_since is not None
    reader._waiting_since -= 2 * STALL_SECONDS
    reader._listen(STALL_SECONDS)
    assert await reading == b"abc"
    assert not reader._closed
    reader.give_back()
    transport.close()
