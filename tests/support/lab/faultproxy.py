"""A proxy before a registry that spoils what the registry sends, as a test says.

One request a connection, HTTP/1.1. Only GETs of blobs are spoiled; everything else passes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from dataclasses import dataclass

PIECE = 16 * 1024  # bytes passed on at once


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next blobs. `cut`: the connection ends after so many bytes of the body;
    `resets`: with a RST; `stalls`: it stays open instead, and silent. `status`: this answer instead
    of the registry's; `rate`: bytes a second; `flips`: a byte of the body is another one; `html`: a
    web page with 200 instead.
    """

    cut: int | None = None
    resets: bool = False
    stalls: bool = False
    status: int | None = None
    rate: float | None = None
    flips: bool = False
    html: bool = False


class FaultProxy:
    """On a free port of loopback, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.fault: Fault | None = None
        self.blobs: list[tuple[str, str | None]] = []  # path and Range of each GET of a blob
        self.port = 0
        self._target = target
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        """What an endpoint's `url` says."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End it and every connection."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._ending = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ending.wait()
        server.close()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split("\r\n")[0].split(" ")
            fault = None
            if method == "GET" and "/blobs/" in path:
                fault = self.fault
                self.blobs.append((path, _header(head, "range")))
            if fault is not None and (fault.status is not None or fault.html):
                writer.write(_instead(fault))
                await writer.drain()
                return
            await self._forward(head, writer, fault)
        except (OSError, asyncio.IncompleteReadError):
            return  # who asked has left
        finally:
            writer.close()

    async def _forward(self, head: str, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
        reader, onwards = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            lines = [
                line for line in head.split("\r\n") if not line.lower().startswith("connection:")
            ]
            lines[1:1] = ["Connection: close"]
            onwards.write("\r\n".join(lines).encode("latin-1"))
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await self._body(reader, writer, fault or Fault())
        finally:
            onwards.close()

    async def _body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault
    ) -> None:
        passed = 0
        while piece := await reader.read(PIECE if fault.cut is None else min(PIECE, fault.cut + 1)):
            if fault.flips and passed == 0:
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            if fault.cut is not None and passed + len(piece) > fault.cut:
                writer.write(piece[: fault.cut - passed])
                await writer.drain()
                if fault.stalls:
                    await self._ending.wait()
                if fault.resets:
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                return
            writer.write(piece)
            await writer.drain()
            passed += len(piece)
            if fault.rate is not None:
                await asyncio.sleep(len(piece) / fault.rate)


def _header(head: str, name: str) -> str | None:
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


def _instead(fault: Fault) -> bytes:
    kind, body = ("text/html", b"<html>sign in</html>") if fault.html else ("text/plain", b"no")
    more = "Retry-After: 1\r\n" if fault.status == 429 else ""
    return (
        f"HTTP/1.1 {fault.status or 200} X\r\nContent-Type: {kind}\r\n{more}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
