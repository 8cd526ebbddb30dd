"""Listening sockets served by Hypercorn's connections, HTTP/1.1 only, until told to stop.

Owns Hypercorn's settings, the connections and how they end. Does not own binding, the signals
(`server.py`), the protocol (`http1.py`) or the application (`app.py`). Hypercorn's own loop is not
used: it holds on to a connection whose client has left for `keep_alive_timeout`, takes cleartext
HTTP/2, whose aborted bodies never end, and raises when it is cancelled in its drain
(docs/design/stack.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr
from quart import Quart

from routerd.runtime.files import FilePart
from routerd.web.http1 import Http1, RawFile
from routerd.web.sockets import BACKLOG
from routerd.web.zerocopy import FileSender, offering

KEEP_ALIVE_SECONDS = 120  # above Go's 90 s idle pools, so that never we close while they send
KEEP_ALIVE_REQUESTS = 1_000_000  # a connection; Hypercorn's 1,000 only costs clients reconnects
HEADER_LIMIT = 64 * 1024  # bytes of request line and headers; registry tokens are long
# A client that takes nothing for so long is gone without a word, or may as well be. Longer than the
# silence of a sender: who unpacks a layer while it downloads it may well stop to think.
TAKES_NOTHING_SECONDS = 600.0
CUT_SECONDS = 1.0  # for connections to end once they are cancelled

# The name of a Unix socket is removed by who made it: other workers may listen there.
_KEEP_NAME: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}

log = logging.getLogger("routerd.listener")


async def listen(
    app: Quart, sockets: Sequence[socket.socket], stop: asyncio.Event, drain: float
) -> None:
    """Serve until `stop`; then take no connections, and give those that are busy `drain` seconds.

    The sockets stay the caller's: what is closed here are copies.
    """
    listener = _Listener(app)
    servers = [
        await (
            asyncio.start_unix_server(
                listener.serve, sock=each.dup(), backlog=BACKLOG, **_KEEP_NAME
            )
            if each.family == socket.AF_UNIX
            else asyncio.start_server(listener.serve, sock=each.dup(), backlog=BACKLOG)
        )
        for each in sockets
    ]
    try:
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        await listener.aclose(drain)


class _Listener:
    """The connections of one application."""

    def __init__(self, app: Quart) -> None:
        self._app = ASGIWrapper(offering(app))
        self._config = _config()
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        task = asyncio.current_task()
        assert task is not None
        loop, state = asyncio.get_running_loop(), LifespanState({})
        connection = _Connection(
            self._app, loop, self._config, self._context, state, reader, writer
        )
        self._connections[task] = connection
        try:
            await connection
        finally:
            del self._connections[task]

    async def aclose(self, grace: float) -> None:
        """Close the idle connections at once, and the busy ones after `grace` seconds, or when this
        is cancelled.
        """
        await self._context.terminated.set()
        for connection in self._connections.values():
            connection.close_if_idle()
        try:
            if self._connections:
                await asyncio.wait(self._connections, timeout=grace)
        finally:
            if self._connections:
                log.warning(
                    "%s connections are cut at the end of the drain", len(self._connections)
                )
                for task in self._connections:
                    task.cancel()
                await asyncio.wait(self._connections, timeout=CUT_SECONDS)


class _Connection(TCPServer):
    """Hypercorn's connection, over when the client has left, and never anything but HTTP/1.1.

    That it is idle is a timer instead of Hypercorn's task, of which each request would make one and
    cancel it (docs/performance.md, "Small answers").
    """

    _idle: asyncio.TimerHandle | None = None  # until a request comes, or KEEP_ALIVE_SECONDS
    _sender: FileSender | None = None

    async def run(self) -> None:
        """Serve the requests of the connection, one after the other."""
        connection = self.writer.get_extra_info("socket")
        # The kernel's clock (tcp(7), closed windows included) costs nothing a chunk.
        patience = int(TAKES_NOTHING_SECONDS * 1000)
        try:
            client = server = None
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
                client = parse_socket_addr(connection.family, connection.getpeername())
                server = parse_socket_addr(connection.family, connection.getsockname())
            async with TaskGroup(self.loop) as task_group:
                self.protocol = Http1(  # type: ignore[assignment]  # without its wrapper
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(self.state),
                    self.writer.get_extra_info("ssl_object") is not None,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.protocol.initiate()
                self._rest()
                await self._read_data()
        except OSError:
            pass  # the client is gone, which is nobody's failure
        finally:
            self._wake()
            if self._sender is not None:
                self._sender.close()
            # That of TCP_USER_TIMEOUT, which Hypercorn does not expect.
            with contextlib.suppress(TimeoutError):
                await self._close()

    async def protocol_send(self, event: Event) -> None:
        """What the protocol has for the client, or says of itself."""
        if isinstance(event, RawFile):
            await self._send_file(event.part)
        elif not isinstance(event, Updated):
            await super().protocol_send(event)
        elif event.idle:
            self._rest()
        else:
            self._wake()

    def close_if_idle(self) -> None:
        """Close it where no request is being answered. Its end is read like a client's."""
        if self._idle is not None:
            self.writer.close()

    async def _send_file(self, part: FilePart) -> None:
        if self._sender is None:  # a connection of many small answers needs none
            self._sender = FileSender(self.writer)
        try:
            async with self.send_lock:
                await self._sender.send(part)
        except (ConnectionError, TimeoutError):  # as of every other write
            await self.protocol.handle(Closed())

    def _rest(self) -> None:
        self._wake()
        self._idle = self.loop.call_later(KEEP_ALIVE_SECONDS, self.close_if_idle)
        if self.context.terminated.is_set():
            self.close_if_idle()

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _config() -> Config:
    config = Config()
    config.keep_alive_max_requests = KEEP_ALIVE_REQUESTS
    config.h11_max_incomplete_size = HEADER_LIMIT
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
