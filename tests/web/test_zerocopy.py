"""Blobs on their way from the page cache to a socket: whole, in order, and cut short when they must."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path

import pytest

from routerd.web.zerocopy import ZEROCOPY
from wire import Wire, read_reply

from .conftest import Serving

POLICY = "endpoints: {local: {type: storage}}\nroutes: {'team/**': local}\n"
BLOB = os.urandom(12 * 1024 * 1024 + 7)  # more than the buffers of two sockets
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
PATH = f"/v2/team/app/blobs/{DIGEST}"


async def push(wire: Wire) -> None:
    reply = await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={DIGEST}", BLOB)
    assert reply.status == 201


def stored(tmp_path: Path) -> Path:
    return next((tmp_path / "data").glob(f"**/{DIGEST.partition(':')[2]}"))


def request(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_answers_on_one_connection_come_whole_and_in_order(serving: Serving) -> None:
    """What is written and what is sent from a file go through two doors of one socket."""
    async with serving(POLICY) as wire:
        await push(wire)
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
        ranged = request(PATH, "Range: bytes=5-1000004")
        writer.write(request(PATH) + request("/v2/") + ranged + request(PATH) + request("/v2/"))
        replies = [await read_reply(reader) for _ in range(5)]
        writer.close()
    assert [reply.status for reply in replies] == [200, 200, 206, 200, 200]
    whole, ping, part, again, _ = (reply.body for reply in replies)
    assert whole == again == BLOB
    assert part == BLOB[5:1_000_005]
    assert ping == b"{}"


async def test_a_blob_that_is_not_in_the_page_cache_is_sent(
    serving: Serving, tmp_path: Path
) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        with stored(tmp_path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (await wire.get(PATH)).body == BLOB


async def test_slow_readers_get_every_byte_and_stop_nobody(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        slow = [
            await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16) for _ in range(8)
        ]
        for _, writer in slow:
            writer.write(request(PATH))
        assert (await wire.get(PATH)).body == BLOB  # while nobody of them takes anything
        bodies = [(await read_reply(reader)).body for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        assert all(body == BLOB for body in bodies)


async def test_a_file_that_is_cut_meanwhile_ends_the_answer_short(
    serving: Serving, tmp_path: Path
) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
        writer.write(request(PATH))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        os.truncate(stored(tmp_path), len(BLOB) - 100)
        rest = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        assert len(rest) < len(BLOB)
        assert BLOB.startswith(rest)
        assert (await wire.get("/v2/")).status == 200


async def test_clients_that_leave_within_a_blob_leave_no_descriptor(serving: Serving) -> None:
    def descriptors() -> int:
        """Of sockets and of the blob; the index's come and go with its threads."""
        count = 0
        for entry in Path("/proc/self/fd").iterdir():
            try:
                name = str(entry.readlink())
            except FileNotFoundError:
                continue  # the descriptor that lists the directory
            count += name.startswith("socket:") or DIGEST.partition(":")[2] in name
        return count

    async with serving(POLICY) as wire:
        await push(wire)
        before = descriptors()
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
            writer.write(request(PATH))
            await reader.readexactly(100_000)
            writer.transport.abort()
        async with asyncio.timeout(10):
            while descriptors() > before:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("more", [b"\r\n", b"G", request("/v2/"), request(PATH)])
async def test_a_client_that_leaves_with_more_on_its_way_leaves_nothing_behind(
    serving: Serving, more: bytes
) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        before = len(asyncio.all_tasks())
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
            writer.write(request(PATH) + more)
            await reader.readexactly(100_000)
            writer.transport.abort()
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.01)


async def test_a_client_that_leaves_with_an_unread_body_leaves_nothing_behind(
    serving: Serving,
) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        before = len(asyncio.all_tasks())
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
        writer.write(request(PATH, "Content-Length: 5000000") + bytes(4_000_000))
        await reader.readexactly(100_000)
        writer.transport.abort()
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.01)


async def test_a_client_that_breaks_the_protocol_within_its_request_is_no_failure_of_ours(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(POLICY) as wire:
        await push(wire)
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port, limit=1 << 16)
        writer.write(request(PATH, "Transfer-Encoding: chunked") + b"zz\r\n")
        async with asyncio.timeout(10):
            assert len(await reader.read(-1)) < len(BLOB)
        writer.close()
        assert (await wire.get("/v2/")).status == 200
    assert "Traceback" not in caplog.text


async def test_a_file_system_whose_files_cannot_be_sent_is_read(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    async with serving(POLICY) as wire:
        await push(wire)
        monkeypatch.setattr(os, "sendfile", refuse)
        assert (await wire.get(PATH)).body == BLOB


async def test_a_disk_that_fails_ends_the_answer_short_and_is_said(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    async with serving(POLICY) as wire:
        await push(wire)
        monkeypatch.setattr(os, "sendfile", fail)
        reply = await wire.get(PATH)
        assert (reply.status, reply.complete) == (200, False)
    assert "Input/output error" in capfd.readouterr().out


async def test_a_server_that_cannot_send_files_is_given_the_bytes(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other ASGI server, which offers no such extension."""
    monkeypatch.setattr("routerd.web.listener.offering", lambda app: app)
    async with serving(POLICY) as wire:
        await push(wire)
        assert (await wire.get(PATH)).body == BLOB
        assert (await wire.get(PATH, Range="bytes=3-9")).body == BLOB[3:10]
    assert ZEROCOPY == "http.response.zerocopysend"
