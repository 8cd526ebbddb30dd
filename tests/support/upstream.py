"""A registry that misbehaves on purpose: an HTTP/1.1 server on a real socket, scripted per path.

It records every request as it came in, byte for byte. Where a real registry can show the behaviour,
tests use a real one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Asked:
    """One request: its line and headers as they came in (names in lower case)."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Script:
    """How one path answers. `cut` ends the connection after so many bytes of the body; `gate` is
    waited for after `before_gate` bytes; `length` lies about the Content-Length (None: not sent).
    `resets`: where it would be cut it is reset; `endless`: the body begins anew at its end.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = -1  # -1: the truth
    cut: int | None = None
    gate: asyncio.Event | None = None
    before_gate: int = 0
    ranges: bool = True
    resets: bool = False
    endless: bool = False


Answer = Script | Callable[[Asked], Script | Awaitable[Script]]


class Upstream:
    """The scripted server. `paths` maps a path to a script, or to a function of the request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.paths: dict[str, Answer] = {"/v2/": Script(b"{}")}
        self.asked: list[Asked] = []
        self.connections: list[asyncio.StreamWriter] = []  # every one that was ever accepted
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, method: str, path: str) -> int:
        """How often this was asked."""
        return sum(one.method == method and one.path == path for one in self.asked)

    def manifest(self, name: str, reference: str, body: bytes, **headers: str) -> str:
        """Serve a manifest by tag and by digest; its digest."""
        digest = digest_of(body)
        said = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest, **headers}
        for key in {reference, digest}:
            self.paths[f"/v2/{name}/manifests/{key}"] = Script(body, headers=said)
        return digest

    def blob(self, name: str, body: bytes, **changes: object) -> str:
        """Serve a blob; its digest."""
        digest = digest_of(body)
        headers = {"Content-Type": "application/octet-stream"}
        self.paths[f"/v2/{name}/blobs/{digest}"] = Script(body, headers=headers, **changes)  # type: ignore[arg-type]
        return digest

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from here on, and cut those that are open."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {}
        for line in head[1:-2]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        asked = Asked(method, target, headers)
        self.asked.append(asked)
        answer = self.paths.get(asked.path, Script(b'{"errors":[]}', 404))
        if not isinstance(answer, Script):
            found = answer(asked)
            answer = found if isinstance(found, Script) else await found
        return await self._send(answer, asked, writer)

    async def _send(self, script: Script, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        body, status, headers = script.body, script.status, dict(script.headers)
        wanted = asked.headers.get("range")
        if wanted and script.ranges and status == 200:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        if script.length is not None:
            length = len(body) if script.length == -1 else script.length
            headers.setdefault("Content-Length", str(length))
        else:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        if asked.method != "HEAD":
            if script.gate is not None:
                writer.write(body[: script.before_gate])
                await writer.drain()
                await script.gate.wait()
                body = body[script.before_gate :]
            if script.cut is not None:
                writer.write(body[: script.cut])
                await writer.drain()
                if script.resets:
                    reset(writer)
                return False
            writer.write(body)
            while script.endless:
                await writer.drain()
                writer.write(body)
        await writer.drain()
        return script.length is not None


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a RST, as a crashed machine or a firewall does."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def upstream(tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A started server, stopped in the end."""
    server = Upstream(tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def image(*blobs: bytes, **extra: object) -> bytes:
    """A manifest of these blobs, the first of them the config."""
    listed = [
        {"mediaType": "application/octet-stream", "digest": digest_of(b), "size": len(b)}
        for b in blobs
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": listed[0],
        "layers": listed[1:],
        **extra,
    }
    return json.dumps(document).encode()
