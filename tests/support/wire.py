"""A small HTTP/1.1 client on a raw socket: sends what it is told, byte for byte, and reads what comes.

Owns nothing clever: real clients rewrite paths and hide short bodies, which is what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SECONDS = 20.0


@dataclass(frozen=True)
class Reply:
    """One answer. `complete` is False where the connection ended before the body did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error code of distribution-spec's error body."""
        code: str = self.json["errors"][0]["code"]
        return code

    @property
    def message(self) -> str:
        """The first error's message."""
        message: str = self.json["errors"][0]["message"]
        return message


@dataclass
class Wire:
    """A server's address and how to speak to it."""

    port: int
    default_headers: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Reply:
        """GET; header names are written with `_` for `-`."""
        return await self.send("GET", path, headers=headers)

    async def head(self, path: str, **headers: str) -> Reply:
        """HEAD."""
        return await self.send("HEAD", path, headers=headers)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        begun: asyncio.Event | None = None,
    ) -> Reply:
        """One request on a connection of its own. `begun` is set once the answer's head is there."""
        lines = [f"{method} {path} HTTP/1.1", "Host: mirror.test", "Connection: close"]
        for name, value in {**self.default_headers, **(headers or {})}.items():
            lines.append(f"{name.replace('_', '-')}: {value}")
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return await self.raw(head + (body or b""), head=method == "HEAD", begun=begun)

    async def raw(
        self, request: bytes, *, head: bool = False, begun: asyncio.Event | None = None
    ) -> Reply:
        """Send these bytes and read one answer."""
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                await writer.drain()
                return await read_reply(reader, head=head, begun=begun)
            finally:
                writer.close()
                try:
                    await writer.wait_closed()
                except ConnectionError:
                    pass


async def read_reply(
    reader: asyncio.StreamReader, *, head: bool = False, begun: asyncio.Event | None = None
) -> Reply:
    """Read one answer, however it is framed."""
    raw = await reader.readuntil(b"\r\n\r\n")
    if begun is not None:
        begun.set()
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    status = int(first.split()[1])
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if head or status in (204, 304):
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        return await _chunked(reader, status, headers)
    if "content-length" not in headers:
        return Reply(status, headers, await reader.read())
    wanted = int(headers["content-length"])
    try:
        return Reply(status, headers, await reader.readexactly(wanted))
    except asyncio.IncompleteReadError as error:
        return Reply(status, headers, error.partial, complete=False)


async def _chunked(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> Reply:
    body = b""
    while True:
        try:
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
        except asyncio.IncompleteReadError as error:
            return Reply(status, headers, body + error.partial, complete=False)
        if size == 0:
            return Reply(status, headers, body)
