"""Hypercorn's HTTP/1.1, without the ways out of it and with parts of files in its bodies.

Owns what this server changes in Hypercorn's protocol: no h2c, no WebSocket, and the messages of
`zerocopy.py`. Does not own the connection (`listener.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import h11
from hypercorn.events import Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ASGISendEvent

from routerd.runtime.files import FilePart
from routerd.web.body import ClientDisconnected
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
        assert isinstance(self.connection, h11.Connection)
        # h11 frames and counts what it does not look into.
        data = h11.Data(data=cast("bytes", event.part))
        for piece in self.connection.send_with_data_passthrough(data) or ():
            await self.send(RawFile(piece) if isinstance(piece, FilePart) else RawData(piece))


class _Stream(HTTPStream):
    """One request and its answer."""

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """One message of the application."""
        if message is None or message["type"] != ZEROCOPY:
            await super().app_send(message)
        elif self.state == ASGIHTTPState.RESPONSE:
            await self.send(_FileBody(STREAM_ID, part_of(message)))
            if self.closed:
                # Nothing more waits for this client, so that nothing else would stop the answer.
                raise ClientDisconnected("the client closed the connection within its answer")
