"""Requests to one URL of a registry: signed with a login, redirects followed by hand.

Owns what every request upstream has in common (protocol.md 3). Does not own what is asked for
(`remote.py`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx

from routerd import __version__
from routerd.endpoints.accounts import Account, account_name
from routerd.endpoints.addresses import Addresses
from routerd.endpoints.availability import Pause
from routerd.endpoints.base import EndpointContext, EndpointError, Via
from routerd.endpoints.login import Login, TokenAnswer
from routerd.endpoints.transport import Transport
from routerd.endpoints.urls import origin_of, parse_foreign, split_url
from routerd.oci.errors import Code, printable
from routerd.routing.policy import Fallback
from routerd.runtime.blocking import run_blocking

REDIRECTS_LIMIT = 5
TOKEN_LIMIT = 1024 * 1024  # bytes of a token server's answer
USER_AGENT = f"routerd/{__version__}"
# What a registry answers to a stranger need not be so for the account: some say 404 to hide.
_HIDING = frozenset({401, 403, 404, 410})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class RegistryClient:
    """The connections, accounts and deadlines of one URL. Made anywhere, opened on the event loop.

    `upstream` is one entry of the endpoint's `url`, as `config/upstreams.py` makes it.
    """

    def __init__(
        self,
        context: EndpointContext,
        upstream: Mapping[str, Any],
        addresses: Addresses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = context.name
        self.timeouts: Mapping[str, float] = context.options["timeouts"]
        self.base, self.prefix = split_url(upstream["url"])
        parts = urlsplit(upstream["url"])
        self.where = f"{self.name} ({parts.netloc.rpartition('@')[2]})"
        self.clock = clock
        self._context = context
        self._tls: Mapping[str, Any] = upstream["tls"]
        realms = context.options["token_realms"]
        self._addresses = addresses or Addresses(parts.hostname or "", realms)
        self.accounts = [
            self._account(auth, account_name(auth, position, len(upstream["auth"])))
            for position, auth in enumerate(upstream["auth"])
        ]
        self._http: httpx.AsyncClient | None = None

    def _account(self, auth: Mapping[str, Any], name: str) -> Account:
        realms, tasks = self._context.options["token_realms"], self._context.tasks
        pause = Pause(self.where, self.clock)
        login = Login(self.name, self.base, auth, realms, self._ask_token, pause, tasks)
        return Account(name, self.base, login, pause)

    async def open(self) -> None:
        """Make ready, without a word on the network."""
        tls = await run_blocking(_tls_context, self._tls)
        self._http = httpx.AsyncClient(
            transport=Transport(self._addresses, tls),
            headers={"User-Agent": USER_AGENT},
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.aclose()

    @asynccontextmanager
    async def request(
        self,
        account: Account,
        method: str,
        name: str,
        path: str,
        headers: Mapping[str, str],
        via: Via,
    ) -> AsyncIterator[httpx.Response]:
        """The answer to `/v2/<name>/<path>`, its body not read yet, whatever its status but 401.

        Logs in where that is asked for, once; follows redirects. Raises EndpointError.
        """
        scope = f"repository:{name}:pull"
        url = f"{self.base}/v2/{name}/{path}"
        own = {**headers, **await self._origin_headers(via)}
        authorization, problem = None, None
        try:
            authorization = await account.login.authorization(scope)
        except EndpointError as error:
            if error.code is Code.TOOMANYREQUESTS:
                raise  # a challenge would lead to the same token server
            problem = error  # maybe the token server moved: the registry's challenge says where to
        response = await self._follow(method, url, own, authorization)
        try:
            if response.status_code == 401:
                challenge = ", ".join(response.headers.get_list("WWW-Authenticate"))
                retry = await account.login.challenged(challenge, scope, authorization)
                if retry is not None:
                    await response.aclose()
                    response, problem = await self._follow(method, url, own, retry), None
            account.note(response.headers)
            if problem is not None and response.status_code in _HIDING:
                raise problem
            yield response
        finally:
            await response.aclose()

    async def _origin_headers(self, via: Via) -> dict[str, str]:
        chain = f"{via.chain}, " if via.chain else ""
        headers = {"Via": f"{chain}1.1 {self._context.server_name}"}
        if via.forwarded_for and await self._addresses.endpoint_is_private():
            headers["X-Forwarded-For"] = ", ".join(via.forwarded_for)
        return headers

    async def _follow(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> httpx.Response:
        for _ in range(REDIRECTS_LIMIT + 1):
            sent = dict(headers)
            if authorization is not None:
                sent["Authorization"] = authorization
            response = await self._send(method, url, sent)
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            await response.aclose()
            following = self._redirect(url, location)
            if origin_of(following) != origin_of(url):
                # Neither the login nor the client's address is another origin's business.
                authorization = None
                headers = {
                    name: value for name, value in headers.items() if name != "X-Forwarded-For"
                }
            url = following
        raise self.broken(f"redirects more than {REDIRECTS_LIMIT} times")

    async def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
        assert self._http is not None, "the endpoint is not open"
        timeout = httpx.Timeout(None, connect=self.timeouts["connect"], read=self.timeouts["stall"])
        try:
            request = self._http.build_request(method, url, headers=headers, timeout=timeout)
            return await self._http.send(request, stream=True)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            # httpx, yarl and idna each refuse some of what the others let pass as a host.
            raise self.broken("is, or sends to, an address that is none") from error
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error

    def _redirect(self, url: str, location: str) -> str:
        """The URL to go on with. Joined by hand: a library would write a signed URL anew."""
        if not location:
            raise self.broken("redirects to nowhere")
        old = urlsplit(url)
        if location.startswith("//"):
            following = f"{old.scheme}:{location}"
        elif location.startswith("/"):
            following = f"{old.scheme}://{old.netloc}{location}"
        elif "://" not in location.partition("?")[0]:
            raise self.broken("redirects to a relative path")
        else:
            following = location
        try:
            parts = parse_foreign(following)
        except ValueError as error:
            raise self.broken(f"redirects to {printable(str(error))}") from error
        if old.scheme == "https" and parts.scheme == "http":
            raise self.broken("redirects from https to http")
        return following

    async def _ask_token(self, url: str, authorization: str | None) -> TokenAnswer:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if authorization is not None:
            headers["Authorization"] = authorization
        seconds = self.timeouts["response"]
        try:
            # Of the whole answer: everyone who needs a token joins this one call, and a server that
            # sends a byte now and then must not keep them all.
            async with asyncio.timeout(seconds):
                response = await self._send("GET", url, headers)
                try:
                    body = await self.read(response, TOKEN_LIMIT)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise EndpointError(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"the token server of {self.where} did not answer within {seconds:g} s",
                reached=False,
            ) from error
        return TokenAnswer(response.status_code, body, response.headers.get("Retry-After", ""))

    async def read(self, response: httpx.Response, limit: int) -> bytes:
        """The whole body, decoded. Raises EndpointError for one over `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > limit:
                    raise self.broken(f"sends more than {limit} bytes where fewer belong")
                parts.append(chunk)
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error
        return b"".join(parts)

    def unreachable(self, error: httpx.HTTPError) -> EndpointError:
        """No answer, or none to its end: network, DNS, a deadline."""
        place, url = self.where, error.request.url
        if origin_of(str(url)) != origin_of(self.base):
            # A token server, or where the registry keeps its blobs.
            place = f"{printable(url.netloc.decode())}, where {self.where} sends to,"
        match error:
            case httpx.ConnectTimeout():
                what = f"did not accept a connection within {self.timeouts['connect']:g} s"
            case httpx.ReadTimeout():
                what = f"sent nothing for {self.timeouts['stall']:g} s"
            case httpx.ConnectError():
                what = f"cannot be connected to: {printable(str(error))}"
            case _:
                what = f"broke the connection: {printable(str(error))}"
        return EndpointError(
            Fallback.UNAVAILABLE,
            Code.UNAVAILABLE,
            f"{place} {what}",
            reached=False,
        )

    def broken(self, what: str) -> EndpointError:
        """An answer that makes no sense."""
        return EndpointError(
            Fallback.UNAVAILABLE,
            Code.UNAVAILABLE,
            f"{self.where} {what}",
            status=502,
        )


def _tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options["ca"])
    if options["insecure"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
