"""Logins: tokens fetched and kept, credentials kept at home.

Owns the Docker token specification on the client's side. Does not own sending the request itself
(`client.py`) or how a challenge is written (`challenge.py`). Credentials go only to the registry's
own origin and to token servers of its domain or of `token_realms` (CVE-2026-33540).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from cachetools import LRUCache, TTLCache

from routerd.config.domains import same_domain
from routerd.config.secrets import SecretError
from routerd.endpoints.availability import Pause
from routerd.endpoints.base import EndpointError
from routerd.endpoints.challenge import Challenge, parse_challenges
from routerd.endpoints.ratelimit import retry_after
from routerd.endpoints.urls import parse_foreign
from routerd.oci.errors import Code, printable
from routerd.routing.policy import Fallback
from routerd.runtime.blocking import run_blocking
from routerd.runtime.flight import SingleFlight
from routerd.runtime.tasks import Tasks

TOKENS_IN_MEMORY = 1_000
REFUSALS_IN_MEMORY = 1_000
REFUSED_SECONDS = 30.0  # a login that was refused is not tried again so soon: Hub locks accounts
DEFAULT_LIFE = 60.0  # seconds; token specification: `expires_in` when it is absent
LIFE_LIMIT = 86400.0  # seconds that a token is believed to live, at most
MARGIN = 0.2  # of a token's life, before the end of which it is renewed


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What a token server answered: its status, its body, cut at a sane size, and Retry-After."""

    status: int
    body: bytes
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float


AskToken = Callable[[str, str | None], Awaitable[TokenAnswer]]  # URL, Authorization


class Login:
    """One endpoint's account, and the tokens it got. `pause` begins where too many were asked for."""

    def __init__(
        self,
        name: str,
        origin: str,
        auth: Mapping[str, Any],
        token_realms: Collection[str],
        ask: AskToken,
        pause: Pause,
        tasks: Tasks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._origin = urlsplit(origin)
        self._auth = auth
        self._realms = frozenset(realm.lower() for realm in token_realms)
        self._ask = ask
        self._pause = pause
        self._clock = clock
        self._known: Challenge | None = None  # what was challenged with last and could be answered
        self._tokens: LRUCache[str, _Token] = LRUCache(TOKENS_IN_MEMORY)
        self._refused: TTLCache[str, EndpointError] = TTLCache(
            REFUSALS_IN_MEMORY, REFUSED_SECONDS, timer=clock
        )
        self._flights: SingleFlight[str, _Token] = SingleFlight(tasks)

    @property
    def has_account(self) -> bool:
        """Whether there is a login to present."""
        return bool(self._auth["type"] != "anonymous")

    async def authorization(self, scope: str) -> str | None:
        """The Authorization for a first try: none before the registry has challenged.

        Raises EndpointError where a token cannot be had any more. The next challenge of the
        registry says where tokens come from now.
        """
        if self._auth["type"] == "bearer":
            return f"Bearer {await self._reveal('token')}"
        known = self._known
        if known is None:
            return None
        try:
            return await self._answer(known, scope)
        except EndpointError as error:
            self._unlearn(known, error)
            raise

    async def challenged(self, header: str, scope: str, used: str | None) -> str | None:
        """The Authorization for the second try, after a 401 to `used`; None: there is none."""
        challenges = parse_challenges(header)
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if self._auth["type"] == "bearer":
            return None  # a fixed token was refused
        if "bearer" in known:
            challenge = known["bearer"]
            self._forget(challenge, scope, used)
        elif "basic" in known and self._auth["type"] == "basic":
            if used is not None and used.startswith("Basic "):
                return None
            challenge = known["basic"]
        else:
            return None
        # Kept once it proved good: a bad one must not stand in the way of the next request.
        answer = await self._answer(challenge, scope)
        self._known = challenge
        return answer

    def _unlearn(self, challenge: Challenge, error: EndpointError) -> None:
        is_there = error.code is Code.TOOMANYREQUESTS  # only it wants to be asked later
        if self._known == challenge and not is_there:
            self._known = None

    async def _answer(self, challenge: Challenge, scope: str) -> str | None:
        if challenge.scheme == "basic":
            return await self._basic()
        url = self._token_url(challenge, scope)
        token = self._tokens.get(url)
        if token is None or token.renew_at <= self._clock():
            if url in self._refused:
                raise self._refused[url]
            self._pause.check()  # it may have begun after this request did
            token = await self._flights.do(url, lambda: self._fetch(challenge, url))
        return f"Bearer {token.value}"

    def _token_url(self, challenge: Challenge, scope: str) -> str:
        realm = challenge.parameters.get("realm", "")
        try:
            parts = parse_foreign(realm)
        except ValueError as error:
            why = printable(str(error))
            raise self._broken(f"challenges with a token server at {why}") from error
        if parts.scheme == "http" and self._origin.scheme != "http":
            raise self._broken(f"sends to a token server without TLS, {printable(parts.netloc)}")
        query = {"scope": scope}
        if service := challenge.parameters.get("service"):
            query = {"service": service, "scope": scope}
        joint = "&" if parts.query else "?"
        return f"{realm}{joint}{urlencode(query)}"

    def _forget(self, challenge: Challenge, scope: str, used: str | None) -> None:
        """A token that was refused before its time is not used again."""
        url = self._token_url(challenge, scope)
        token = self._tokens.get(url)
        if token is not None and used == f"Bearer {token.value}":
            del self._tokens[url]

    async def _fetch(self, challenge: Challenge, url: str) -> _Token:
        try:
            token = await self._exchange(url)
        except EndpointError as error:
            # Here as well: whoever waits for it may have a deadline that ends before.
            self._unlearn(challenge, error)
            raise
        self._tokens[url] = token
        return token

    async def _exchange(self, url: str) -> _Token:
        authorization = None
        if self._auth["type"] == "basic":
            self._check_realm(url)
            authorization = await self._basic()
        answer = await self._ask(url, authorization)
        if answer.status in (400, 401, 403):
            error = self._denied(f"its token server refused the login ({answer.status})")
            self._refused[url] = error
            raise error
        if answer.status == 429:
            raise self._pause.begin(retry_after(answer.retry_after, self._clock()))
        if answer.status >= 500:
            raise EndpointError(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"the token server of {self._name} answered {answer.status}",
            )
        if answer.status != 200:
            raise self._broken(f"has a token server that answered {answer.status}")
        return self._parse(answer.body)

    def _parse(self, body: bytes) -> _Token:
        try:
            document = json.loads(body)
            value = document.get("token") or document.get("access_token")
            life = float(document.get("expires_in") or DEFAULT_LIFE)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._broken("has a token server that does not send a token") from error
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise self._broken("has a token server that does not send a token")
        now = self._clock()
        # A token server's clock that is ahead of ours must not make a token live longer.
        issued = min(now, _timestamp(document.get("issued_at")) or now)
        life = max(0.0, min(life, LIFE_LIMIT))
        return _Token(value, issued + life * (1 - MARGIN))

    def _check_realm(self, url: str) -> None:
        host = (urlsplit(url).hostname or "").lower()
        own = (self._origin.hostname or "").lower()
        if host != own and host not in self._realms and not same_domain(host, own):
            raise self._denied(
                f"it wants the login sent to {printable(host)}, which is another domain; if that "
                "is right, list the host in 'token_realms'"
            )

    async def _basic(self) -> str:
        login = f"{self._auth['username']}:{await self._reveal('password')}"
        return f"Basic {base64.b64encode(login.encode()).decode()}"

    async def _reveal(self, key: str) -> str:
        try:
            return str(await run_blocking(self._auth[key].reveal))
        except SecretError as error:
            raise self._denied("its login cannot be read; see 'routerd config validate'") from error

    def _denied(self, why: str) -> EndpointError:
        if not self.has_account:
            # Docker Hub says 401 for what does not exist.
            return EndpointError(
                Fallback.NOT_FOUND, Code.NAME_UNKNOWN, f"{self._name} does not show it: {why}"
            )
        return EndpointError(Fallback.DENIED, Code.DENIED, f"{self._name} denies it: {why}")

    def _broken(self, what: str) -> EndpointError:
        return EndpointError(
            Fallback.UNAVAILABLE, Code.UNAVAILABLE, f"{self._name} {what}", status=502
        )


def _timestamp(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None
