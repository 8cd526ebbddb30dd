"""One request on its connection: its body fed with back-pressure, its answer counted and logged.

Owns the class that Quart is given as `asgi_http_class`, and the one log line a request. Does not
own answering: that is Quart's and `v2.py`'s.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from quart import Request
from quart.asgi import ASGIHTTPConnection

from routerd.oci.errors import RegistryError, printable
from routerd.web.body import BoundedBody, ClientDisconnected

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

log = structlog.get_logger("routerd.access")

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
    """Quart's handling of one ASGI request, with back-pressure and a log line at the end."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        started = time.perf_counter()
        record = RequestRecord()
        self.scope["state"]["record"] = record

        async def counted(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            elif message["type"] == "http.response.body":
                record.bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    # Closing with unread bytes resets the connection under the answer.
                    await self._body.drain()
            await send(message)

        try:
            await super().__call__(receive, counted)
        except (RegistryError, ClientDisconnected) as error:
            # The headers are out: returning without an end of the body closes the connection short.
            record.error = str(error)
        finally:
            self._log(record, time.perf_counter() - started)

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        request = super()._create_request_from_scope(send)
        assert isinstance(request, RegistryRequest)
        self._body = request.body
        return request

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
            status=record.status or CLIENT_CLOSED,
            bytes=record.bytes,
            result=record.result,
            ms=round(seconds * 1000, 1),
            **({"error": record.error} if record.error else {}),
        )
