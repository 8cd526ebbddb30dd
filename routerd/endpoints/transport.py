"""httpx over aiohttp: httpx's interface, aiohttp's sockets.

Owns the only use of aiohttp. httpx's own transport is half as fast for bodies and leaks pool slots
of cancelled requests; the published bridge rewrites signed URLs, keeps cookies and reads a lost
server as a slow one (docs/design/stack.md). Does not own redirects, logins or retries.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx
import yarl

from routerd.endpoints.addresses import Addresses, ForbiddenAddress, parse_ip
from routerd.endpoints.bulk import BulkReader

READ_BUFFER = 512 * 1024  # bytes that aiohttp reads ahead of us
BULK_BYTES = 1024 * 1024  # of a body still to come, from which on aiohttp's parser is passed by
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
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise translated(error, request) from error
        return httpx.Response(
            answer.status,
            headers=[(name, value) for name, value in answer.raw_headers],
            stream=_Body(answer, request, timeout.get("read")),
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
                    limit=0,  # a wait in here would pass for a silent upstream: `connections.py`
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
    """An answer's body. `stall` (seconds, None for ever) is how long nothing may come."""

    def __init__(
        self, answer: aiohttp.ClientResponse, request: httpx.Request, stall: float | None
    ) -> None:
        self._answer = answer
        self._request = request
        self._stall = stall
        self._reader: BulkReader | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._answer.content
        try:
            if self._is_bulk():
                async for chunk in self._bulk():
                    yield chunk
            else:
                # Not chunk by chunk as they were sent: an upstream may send a byte in each.
                async for chunk in content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise translated(error, self._request) from error

    async def aclose(self) -> None:
        if self._reader is not None:
            self._reader.give_back()  # whoever still holds the iterator keeps no descriptor with it
        # A body that was not read to its end makes its connection useless; one that was is reused.
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()

    def _is_bulk(self) -> bool:
        """Whether enough is still to come, and how much is known."""
        if self._answer.headers.get("Transfer-Encoding") is not None:
            return False
        if self._answer.content.is_eof():
            return False  # whole already; or a 204, which has no body whatever length it says
        length = self._answer.content_length
        return length is not None and length - self._answer.content.total_bytes >= BULK_BYTES

    async def _bulk(self) -> AsyncIterator[bytes]:
        answer, connection = self._answer, self._answer.connection
        assert connection is not None  # aiohttp lets go of it only at the body's end
        assert answer.content_length is not None
        # Nothing is awaited from here to the take-over, so no byte slips past between the two.
        # Reading makes room, into which the parser may put what it held back: so, until it is dry.
        begun: list[bytes] = []
        while chunk := answer.content.read_nowait():
            begun.append(chunk)
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            raise aiohttp.ServerDisconnectedError
        protocol.pause_reading()  # with it stops aiohttp's own clock of silence
        self._reader = reader = BulkReader(
            transport, answer.content_length - answer.content.total_bytes, self._stall
        )
        try:
            for chunk in begun:
                yield chunk
            while chunk := await reader.read():
                yield chunk
        finally:
            reader.give_back()
        if reader.remaining:
            raise aiohttp.ClientPayloadError(f"{reader.remaining} bytes of the body did not come")
        answer.content.feed_eof()  # which gives the connection back to the pool


def translated(error: Exception, request: httpx.Request) -> httpx.RequestError:
    """aiohttp's failure as httpx's: the reason in plain words, without the host."""
    text = _reason(error)
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
        case ValueError():  # of yarl, idna and aiohttp alike: no address at all
            kind = httpx.UnsupportedProtocol
        case _:
            kind = httpx.ReadError
    return kind(text, request=request)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error  # its own text is the host, told twice, and what TLS is like
    match error:
        case ssl.SSLCertVerificationError(verify_message=str(why)):
            return f"its certificate is not to be trusted ({why})"
        case ssl.SSLError(reason=str(why)):
            return f"no TLS with it ({why.lower().replace('_', ' ')})"
        case OSError(errno=int(number)) if number in errno.errorcode:
            # The event loops write the address into `strerror`.
            return os.strerror(number).lower()
        case OSError(strerror=str(why)):
            return why.lower()  # of the resolver, which has numbers of its own
    return str(error) or type(error).__name__
