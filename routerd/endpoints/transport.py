"""httpx over aiohttp: httpx's interface, aiohttp's sockets.

Owns the only use of aiohttp. httpx's own transport is half as fast for bodies and leaks pool slots
of cancelled requests; the published bridge rewrites signed URLs, keeps cookies and reads a lost
server as a slow one (docs/design/stack.md). Does not own redirects, logins or retries.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx
import yarl

from routerd.endpoints.addresses import Addresses, ForbiddenAddress, parse_ip

CONNECTIONS = 100  # of one endpoint at once
READ_BUFFER = 512 * 1024  # bytes that aiohttp reads ahead of us
KEEP_ALIVE_SECONDS = 30.0
HEADER_LIMIT = 64 * 1024  # bytes of one header line or field; presigned URLs are long


class Transport(httpx.AsyncBaseTransport):
    """One endpoint's connections. Redirects are answers like others, cookies are forgotten."""

    def __init__(self, addresses: Addresses, tls: ssl.SSLContext | bool = True) -> None:
        self._addresses = addresses
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises the httpx exceptions for what went wrong on the way."""
        timeout = request.extensions.get("timeout", {})
        try:
            literal = parse_ip(request.url.host)
            if literal is not None:
                await self._addresses.check(request.url.host, literal)
            answer = await self._open().request(
                request.method,
                # Encoded as it is: a signature is over these bytes.
                yarl.URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=timeout.get("connect"),
                    sock_read=timeout.get("read"),
                ),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise translated(error, request) from error
        return httpx.Response(
            answer.status,
            headers=[(name, value) for name, value in answer.raw_headers],
            stream=_Body(answer, request),
            request=request,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    resolver=self._addresses.resolver(),
                    ssl=self._tls,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=READ_BUFFER,
                max_line_size=HEADER_LIMIT,
                max_field_size=HEADER_LIMIT,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk, _ in self._answer.content.iter_chunks():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise translated(error, self._request) from error

    async def aclose(self) -> None:
        # A body that was not read to its end makes its connection useless; one that was is reused.
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()


def translated(error: Exception, request: httpx.Request) -> httpx.RequestError:
    """aiohttp's failure as httpx's."""
    text = str(error) or type(error).__name__
    kind: type[httpx.RequestError]
    match error:
        case aiohttp.ConnectionTimeoutError():
            kind = httpx.ConnectTimeout
        case TimeoutError() | asyncio.TimeoutError():
            kind = httpx.ReadTimeout
        case ForbiddenAddress() | aiohttp.ClientConnectorError():
            kind = httpx.ConnectError
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            kind = httpx.RemoteProtocolError
        case aiohttp.InvalidURL():
            kind = httpx.UnsupportedProtocol
        case _:
            kind = httpx.ReadError
    return kind(text, request=request)
