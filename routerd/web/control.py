"""The control socket: the operator's use cases over HTTP on a Unix socket in the data directory.

Owns the HTTP of it: `POST /v1/OPERATION` with a JSON object of arguments, answered with a JSON object
a line, as they come. Does not own the operations (`proxy/operations.py`). Who may open the socket may
use it: its mode is 0600.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quart import Quart, Response
from quart.wrappers.response import ResponseBody

from routerd.content.errors import StoreError
from routerd.oci.errors import Code, RegistryError
from routerd.proxy.operations import Row, run
from routerd.proxy.service import Service
from routerd.runtime.unixsocket import bind_unix, is_answered
from routerd.web.app import Application
from routerd.web.connection import RegistryRequest
from routerd.web.listener import listen

SOCKET = "control.sock"  # in the data directory
PREFIX = "/v1/"
ARGUMENTS_LIMIT = 1024 * 1024  # bytes; some ten thousand references
GRACE_SECONDS = 1.0  # for what an operator waits for, when the server has ended
_BACKLOG = 16  # operators are few


def bind_control(data: Path) -> socket.socket:
    """The control socket of a data directory, listening. Raises StoreError."""
    path = data / SOCKET
    try:
        if is_answered(path):
            raise StoreError(f"the data directory {data} is in use by another server")
        return bind_unix(path, _BACKLOG)
    except OSError as error:
        raise StoreError(f"the control socket {path} cannot be made: {error}") from error


@contextmanager
def controlled(data: Path) -> Iterator[socket.socket]:
    """The control socket of a data directory, for as long as it is entered; for who holds the locks
    of its stores, so that no other server can take the name away. Raises StoreError.
    """
    control = bind_control(data)
    try:
        yield control
    finally:
        control.close()
        (data / SOCKET).unlink(missing_ok=True)


async def serve_control(service: Service, control: socket.socket, stop: asyncio.Event) -> None:
    """Serve the operator until `stop`. The socket stays: other workers may serve it as well."""
    await listen(create_control_app(service), [control], stop, GRACE_SECONDS)


def create_control_app(service: Service) -> Quart:
    """The application of the control socket."""

    async def view(call: RegistryRequest) -> Response:
        if call.method != "POST" or not call.path.startswith(PREFIX):
            raise RegistryError(
                Code.UNSUPPORTED, f"the control socket takes POST {PREFIX}OPERATION", status=404
            )
        arguments = _arguments(await call.body.read(ARGUMENTS_LIMIT))
        rows = run(service, call.path.removeprefix(PREFIX), arguments)
        # What is refused is refused with a status; that takes a look at the first row.
        first = await anext(rows, None)
        return Response(_Lines(first, rows), 200, headers={"Content-Type": "application/x-ndjson"})

    return Application(view)


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise RegistryError(Code.UNSUPPORTED, "the arguments are not JSON", status=400) from error
    if not isinstance(arguments, dict):
        raise RegistryError(Code.UNSUPPORTED, "the arguments are not an object", status=400)
    return arguments


class _Lines(ResponseBody):
    """Rows as lines of JSON. Where an operation fails within, the connection is closed short."""

    def __init__(self, first: Row | None, rows: AsyncGenerator[Row, None]) -> None:
        self._first = first
        self._rows = rows

    async def __aenter__(self) -> _Lines:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._rows.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            yield _line(self._first)
        async for row in self._rows:
            yield _line(row)


def _line(row: Row) -> bytes:
    return json.dumps(row).encode() + b"\n"
