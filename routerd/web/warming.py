"""`POST /v1/warm` of the control socket: fetch images ahead, and tell what moves, a JSON line an event.

Owns the request's form and the stream. Does not own who may ask (the socket's mode), fetching
(`proxy/warm.py`) or what a line says (`proxy/warmfeed.py`). Who hangs up stops the fetching.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from quart import Response
from quart.wrappers.response import ResponseBody

from routerd.oci.errors import Code, RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Namespace, Reference
from routerd.proxy.service import Service
from routerd.proxy.warmfeed import Row, feed, plain
from routerd.web.connection import RegistryRequest

PATH = "/v1/warm"
BODY_LIMIT = 1024 * 1024  # bytes; some ten thousand references


async def warm(request: RegistryRequest, service: Service) -> Response:
    """Body: `{"references": [...], "platforms": [...]}`. Raises RegistryError 400."""
    body = await request.body.read(BODY_LIMIT)
    references, platforms = _parse(body, service.policy.server.default_namespace)
    lines = _Lines(feed(service.warm, references, platforms))
    headers = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"}
    return Response(lines, 200, headers=headers)


class _Lines(ResponseBody):
    """The rows as lines, sent as they come."""

    def __init__(self, rows: AsyncGenerator[Row, None]) -> None:
        self._rows = rows

    async def __aenter__(self) -> _Lines:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._rows.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for row in self._rows:
            yield json.dumps(plain(row)).encode() + b"\n"


def _parse(body: bytes, default: Namespace) -> tuple[list[Reference], list[Platform]]:
    try:
        asked = json.loads(body)
        references = [Reference.parse(text, default) for text in _texts(asked, "references")]
        platforms = [Platform.parse(text) for text in _texts(asked, "platforms")]
    except RegistryError as error:
        raise _invalid(error.message) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(str(error)) from error
    if not references:
        raise _invalid("'references' names none")
    return references, platforms


def _texts(asked: Any, key: str) -> Sequence[str]:
    found = asked.get(key, []) if isinstance(asked, dict) else None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"'{key}' is not a list of texts")
    return found


def _invalid(message: str) -> RegistryError:
    return RegistryError(Code.UNSUPPORTED, f"not a request to warm: {message}", status=400)
