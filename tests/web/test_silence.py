"""Clients that fall silent without a word: nothing of theirs is held for ever (protocol.md 2)."""

from __future__ import annotations

import asyncio
import socket

import pytest

from routerd.web.body import BoundedBody
from routerd.web.connection import RegistryConnection, RequestRecord
from upstream import digest_of
from wire import Reply, read_reply

from .conftest import Serving

POLICY = """
endpoints:
  local: {type: storage}
routes:
  team/**: local
"""


async def begin(port: int, head: str, data: bytes) -> Reply:
    """Send a head and a part of its body, then nothing; what is answered before the close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{head} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        writer.write(head.encode() + data)
        async with asyncio.timeout(10):
            reply = await read_reply(reader)
            assert await reader.read() == b""
        return reply
    finally:
        writer.close()
        await writer.wait_closed()


async def test_an_upload_that_stalls_is_408_and_goes_on_where_it_was(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        with monkeypatch.context() as patch:
            patch.setattr(BoundedBody, "stall_seconds", 0.1)
            reply = await begin(wire.port, f"PATCH {where}", b"a" * 500)
        assert (reply.status, reply.code) == (408, "SIZE_INVALID")
        rest = await wire.send("PATCH", where, b"b", {"Content-Range": "500-500"})
        assert (rest.status, rest.headers["range"]) == (202, "0-500")
        digest = digest_of(b"a" * 500 + b"b")
        assert (await wire.send("PUT", f"{where}?digest={digest}", b"")).status == 201


async def test_a_manifest_that_stalls_is_408(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedBody, "stall_seconds", 0.1)
    async with serving(POLICY) as wire:
        head = "PUT /v2/team/app/manifests/1"
        reply = await begin(wire.port, head, b"{")
        assert (reply.status, reply.code) == (408, "SIZE_INVALID")


async def test_a_client_that_takes_nothing_is_given_up(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.web.listener.TAKES_NOTHING_SECONDS", 0.5)
    blob = bytes(32 * 1024 * 1024)  # more than the buffers of two sockets
    ended = asyncio.Event()
    log = RegistryConnection._log

    def logged(self: RegistryConnection, record: RequestRecord, seconds: float) -> None:
        log(self, record, seconds)
        if 0 < record.bytes < len(blob):
            ended.set()

    monkeypatch.setattr(RegistryConnection, "_log", logged)
    async with serving(POLICY) as wire:
        digest = digest_of(blob)
        await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={digest}", blob)
        with socket.create_connection(("127.0.0.1", wire.port)) as client:
            head = f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
            client.sendall(head.encode())
            async with asyncio.timeout(10):
                await ended.wait()  # and with the answer ended what it held: the blob, a download
