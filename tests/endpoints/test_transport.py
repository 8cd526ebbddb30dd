"""transport: what httpx is told of aiohttp's failures."""

from __future__ import annotations

import socket
import ssl

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from routerd.endpoints.addresses import ForbiddenAddress
from routerd.endpoints.transport import translated

KEY = ConnectionKey("auth.example.com", 443, True, True, None, None, None)
UNTRUSTED = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ... (_ssl.c:1006)")
UNTRUSTED.verify_code, UNTRUSTED.verify_message = 18, "self-signed certificate"
NO_TLS = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
NO_TLS.library, NO_TLS.reason = "SSL", "WRONG_VERSION_NUMBER"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            aiohttp.ClientConnectorError(KEY, OSError(111, "Connect call failed ('::1', 443)")),
            "connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")),
            "name or service not known",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, ForbiddenAddress("x is at 10.0.0.1, a private")),
            "x is at 10.0.0.1, a private",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, UNTRUSTED),
            "its certificate is not to be trusted (self-signed certificate)",
        ),
        (aiohttp.ClientConnectorSSLError(KEY, NO_TLS), "no TLS with it (wrong version number)"),
        (aiohttp.ClientConnectorError(KEY, OSError()), "OSError"),
    ],
)
def test_the_reason_of_a_failed_connection(error: Exception, text: str) -> None:
    raised = translated(error, httpx.Request("GET", "https://auth.example.com/"))
    assert (type(raised), str(raised)) == (httpx.ConnectError, text)
