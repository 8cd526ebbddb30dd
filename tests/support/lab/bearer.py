"""A registry that demands Bearer tokens from a token server: a scripted front before an open one.

Owns the 401 dance of the Docker token specification, from the server's side, and a record of what
was asked of it. It reads only; pushes go to the registry behind it.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lab.registry import PASSWORD, USER

COPY_BYTES = 1 << 20
REPOSITORY = re.compile(r"^/v2/(?P<name>.+)/(?:manifests|blobs|tags|referrers)/")
PASSED_ON = ("Content-Type", "Content-Length", "Docker-Content-Digest", "Content-Range", "ETag")


class BearerFront:
    """Listens on a free port of loopback from construction until `close`.

    `tokens` lists the scopes that tokens were given for, `refused` counts wrong logins, and
    `authorized` counts the requests that came with a good token.
    """

    def __init__(self, registry_port: int) -> None:
        self.registry_port = registry_port
        self.tokens: dict[str, str] = {}
        self.refused = 0
        self.authorized = 0
        front = self

        class Handler(_Handler):
            owner = front

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        """What an endpoint's `url` says."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: BearerFront

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token(parse_qs(parts.query).get("scope", [""])[0])
            return
        name = REPOSITORY.match(parts.path)
        scope = f"repository:{name['name']}:pull" if name else ""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or self.owner.tokens.get(token) != scope:
            realm = f'Bearer realm="{self.owner.url}/token",service="lab",scope="{scope}"'
            self._json(401, {"errors": [{"code": "UNAUTHORIZED"}]}, realm)
            return
        self.owner.authorized += 1
        self._pass_on()

    do_HEAD = do_GET

    def _token(self, scope: str) -> None:
        login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != login:
            self.owner.refused += 1
            self._json(401, {"errors": [{"code": "UNAUTHORIZED"}]}, 'Basic realm="lab"')
            return
        token = secrets.token_urlsafe(16)
        self.owner.tokens[token] = scope
        self._json(200, {"token": token, "expires_in": 300})

    def _pass_on(self) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.owner.registry_port, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            # One by one: clients send several Accept headers.
            for key, value in self.headers.items():
                if key != "Authorization":
                    upstream.putheader(key, value)
            upstream.endheaders()
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for key in PASSED_ON:
                copied = answer.getheader(key)
                if copied is not None:
                    self.send_header(key, copied)
            self.end_headers()
            while chunk := answer.read(COPY_BYTES):
                self.wfile.write(chunk)
        finally:
            upstream.close()

    def _json(self, status: int, value: dict[str, Any], challenge: str = "") -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what was asked stands in the counters."""
