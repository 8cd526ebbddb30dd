"""One request on its connection: its body fed with back-pressure, its answer counted and logged.

Owns the class that Quart is given as `asgi_http_class`, how an answer's parts become messages, and
the one log line a request. Does not own what is answered: that is `v2.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from quart import Request, Response
from quart.asgi import ASGIHTTPConnection
from quart.utils import encode_headers
from quart.wrappers.response import DataBody

from routerd.oci.errors import RegistryError, printable
from routerd.runtime.files import Part
from routerd.runtime.tasks import Tasks
from routerd.web.body import CLIENT_LEFT, BoundedBody, ClientDisconnected
from routerd.web.zerocopy import ZEROCOPY, sent_bytes, zerocopy

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
    from quart.typing import ResponseTypes

log = structlog.get_logger("routerd.access")

SPAN = 1024 * 1024  # bytes of a file that are sent at a time, so that connections take turns
CLIENT_CLOSED = 499  # nginx's status for a client that left before its answer began; only logged


@dataclass(slots=True)
class RequestRecord:
    """What the log line of one request says. Filled while the request is answered."""

    client: str = ""
    reference: str = ""
    route: str = ""
    endpoint: str = ""
    result: str = ""  # hit, miss, collapsed, stale, revalidated
    status: int = 0
    bytes: int = 0
    error: str = ""
    digest: str = ""  # of the manifest, once it is known
    received: int = 0  # bytes of a pushed manifest
    on_end: Callable[[RequestRecord], None] | None = None  # called when all of the above is known


class RegistryRequest(Request):
    """Quart's request with a bounded body and a record for the log."""

    body_class = BoundedBody  # type: ignore[assignment]  # same use, other class: see body.py
    body: BoundedBody  # type: ignore[assignment]

    @property
    def record(self) -> RequestRecord:
        """The log record of this request."""
        record: RequestRecord = self.scope["state"]["record"]
        return record


class RegistryConnection(ASGIHTTPConnection):
    """Quart's handling of one ASGI request, with back-pressure and a log line at the end.

    What comes in has a task of its own, the answer has none: it is made in the task that Hypercorn
    made for the request.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        started = time.perf_counter()
        record = RequestRecord()
        self.scope["state"]["record"] = record
        # Of a target without a path Quart would make an IndexError.
        self.scope["path"] = self.scope["path"] or "/"
        request = self._create_request_from_scope(send)
        assert isinstance(request, RegistryRequest)
        if not _has_body(request):
            request.body.end()  # so that an answer need not wait to be told so

        async def counted(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)
            record.bytes += sent_bytes(message)

        try:
            await self._answer(request, receive, counted)
        # The headers are out: returning without an end of the body closes the connection short.
        except (RegistryError, ClientDisconnected) as error:
            record.error = str(error)
        except (OSError, EOFError) as error:
            record.error = f"the content could not be read to its end: {error}"
            log.error("an answer was cut short", reference=record.reference, why=str(error))
        finally:
            record.status = record.status or CLIENT_CLOSED
            self._log(record, time.perf_counter() - started)
            if record.on_end is not None:
                record.on_end(record)

    async def _answer(
        self, request: RegistryRequest, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer, until that is done or the client has gone."""
        answering = asyncio.current_task()
        assert answering is not None
        gone = False

        async def listen() -> None:
            nonlocal gone
            await self.handle_messages(request, receive)
            gone = True
            answering.cancel()

        listening = Tasks().spawn("what comes in", listen())
        self._request_body = request.body
        try:
            await self.handle_request(request, send)
        except asyncio.CancelledError:
            # As asyncio.timeout does it: somebody else may have cancelled as well.
            if not gone or answering.uncancel() > 0:
                raise
            request.record.error = request.record.error or CLIENT_LEFT
        finally:
            listening.cancel()

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        """As Quart does it, but with the end of the body in the same message where that may be."""
        assert isinstance(response, Response)
        headers = encode_headers(response.headers)
        start: ASGISendEvent = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
        }
        body = response.response
        if isinstance(body, DataBody) and self._request_body.has_ended:
            await send(start)
            await send({"type": "http.response.body", "body": body.data, "more_body": False})
            return
        async with body as parts:  # which is closed also where the head cannot be sent any more
            await send(start)
            async for part in parts:
                await self._send_part(send, part)
        # Closing with unread bytes resets the connection under the answer.
        await self._request_body.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_part(self, send: ASGISendCallable, part: Part) -> None:
        if isinstance(part, bytes):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        elif ZEROCOPY not in self.scope["extensions"]:
            async for chunk in part.read():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            for start in range(0, len(part), SPAN):
                await send(zerocopy(part[start : start + SPAN]))

    async def handle_messages(self, request: Request, receive: ASGIReceiveCallable) -> None:
        """Feed the body as fast as it is read, until the client has gone."""
        body: Any = request.body
        while True:
            message = await receive()
            if message["type"] == "http.request":
                await body.put(message.get("body", b""), message.get("more_body", False))
            elif message["type"] == "http.disconnect":
                await body.disconnect()
                return

    def _log(self, record: RequestRecord, seconds: float) -> None:
        log.info(
            "request",
            method=self.scope["method"],
            path=printable(self.scope["raw_path"].decode("latin-1")),
            client=record.client,
            reference=record.reference,
            route=record.route,
            endpoint=record.endpoint,
            status=record.status,
            bytes=record.bytes,
            result=record.result,
            ms=round(seconds * 1000, 1),
            **({"error": record.error} if record.error else {}),
        )


def _has_body(request: Request) -> bool:
    """Whether anything may follow the head (RFC 9112 6.3)."""
    return "Content-Length" in request.headers or "Transfer-Encoding" in request.headers
