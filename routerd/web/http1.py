"""Hypercorn's HTTP/1.1, without the ways out of it and with parts of files in its bodies.

Owns what this server changes in Hypercorn's protocol: no h2c, no WebSocket, and the messages of
`zerocopy.py`. Does not own the connection (`listener.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import cast

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ASGISendEvent
from hypercorn.utils import UnexpectedMessageError

from routerd.runtime.files import FilePart
from routerd.web.body import CLIENT_LEFT, ClientDisconnected
from routerd.web.zerocopy import ZEROCOPY, part_of


@dataclass(frozen=True, slots=True)
class RawFile(Event):
    """The next bytes for the connection, in a file."""

    part: FilePart


@dataclass(frozen=True, slots=True)
class _FileBody(StreamEvent):
    """The next bytes of a body, in a file."""

    stream_id: int
    part: FilePart


class Http1(H11Protocol):
    """One connection's protocol."""

    async def handle(self, event: Event) -> None:
        """What the connection has for the protocol."""
        await super().handle(event)
        if isinstance(event, Closed):
            # A request that came before its forerunner's answer was sent waits for that in the
            # reading task, and would for ever.
            self.connection = cast("h11.Connection", _Over())
            await self.can_read.set()

    async def _check_protocol(self, event: h11.Request) -> None:
        """Nothing to check: neither `Upgrade: h2c` nor HTTP/2's preface leads anywhere."""

    async def _create_stream(self, request: h11.Request) -> None:
        # Never a WebSocket: an upgrade may be ignored (RFC 9110 7.8).
        self.stream = _Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def stream_send(self, event: StreamEvent) -> None:
        """What the stream has for the client."""
        if not isinstance(event, _FileBody):
            await super().stream_send(event)
            return
        if isinstance(self.connection, _Over):
            raise ClientDisconnected(CLIENT_LEFT)
        # h11 frames and counts what it does not look into.
        data = h11.Data(data=cast("bytes", event.part))
        assert isinstance(self.connection, h11.Connection)
        try:
            pieces = self.connection.send_with_data_passthrough(data) or ()
        except h11.LocalProtocolError as error:
            if self.connection.their_state is not h11.ERROR:
                raise
            raise ClientDisconnected("the client broke the protocol within its request") from error
        for piece in pieces:
            await self.send(RawFile(piece) if isinstance(piece, FilePart) else RawData(piece))


class _Stream(HTTPStream):
    """One request and its answer."""

    async def handle(self, event: StreamEvent) -> None:
        """One event of the request."""
        if not isinstance(event, StreamClosed):
            await super().handle(event)
        elif not self.closed:
            # Where the application does not read its request, its queue may be full of it. Then it
            # hears of the end with the next thing that it sends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await super().handle(event)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """One message of the application. Raises ClientDisconnected where nobody takes it."""
        if message is not None and self.closed:
            raise ClientDisconnected(CLIENT_LEFT)
        if message is None or message["type"] != ZEROCOPY:
            await super().app_send(message)
            return
        if self.state != ASGIHTTPState.RESPONSE:
            raise UnexpectedMessageError(self.state, message["type"])
        await self.send(_FileBody(STREAM_ID, part_of(message)))
        if self.closed:
            # Nothing more waits for this client, so that nothing else would stop the answer.
            raise ClientDisconnected(CLIENT_LEFT)


class _Over:
    """In place of h11's connection when the client has gone: nothing comes and nothing is sent."""

    our_state = their_state = None
    they_are_waiting_for_100_continue = False

    def receive_data(self, data: bytes) -> None:
        """Nobody wants it any more."""

    def next_event(self) -> type[h11.NEED_DATA]:
        """There is none."""
        return h11.NEED_DATA

    def send(self, event: object) -> bytes:
        """Nobody takes it any more."""
        return b""
