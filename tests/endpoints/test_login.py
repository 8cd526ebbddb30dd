"""login: what a registry that challenges gets. Docker token specification, protocol.md 3."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from routerd.config.secrets import Secret
from routerd.endpoints.availability import Pause
from routerd.endpoints.base import EndpointError
from routerd.endpoints.login import Login, TokenAnswer
from routerd.routing.policy import Fallback
from routerd.runtime.tasks import Tasks

BEARER = 'Bearer realm="https://auth.example.com/token",service="registry.example.com"'
SCOPE = "repository:a/b:pull"
BASIC = {"type": "basic", "username": "u", "password": Secret("auth.password", value="p")}
BASIC_HEADER = "Basic " + base64.b64encode(b"u:p").decode()


class Server:
    """A token server that answers as it is told, and the time."""

    def __init__(self, **answer: Any) -> None:
        self.answer = {"token": "t1", "expires_in": 100, **answer}
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []
        self.now = 1000.0

    async def ask(self, url: str, authorization: str | None) -> TokenAnswer:
        self.asked.append((url, authorization))
        return TokenAnswer(self.status, json.dumps(self.answer).encode(), "30")

    def login(
        self,
        tasks: Tasks,
        auth: Mapping[str, Any] = BASIC,
        origin: str = "https://registry.example.com",
        realms: tuple[str, ...] = (),
    ) -> Login:
        pause = Pause("hub", lambda: self.now)
        return Login("hub", origin, auth, realms, self.ask, pause, tasks, lambda: self.now)


async def test_nothing_is_sent_before_a_challenge(tasks: Tasks) -> None:
    assert await Server().login(tasks).authorization(SCOPE) is None


async def test_a_bearer_challenge_gets_a_token_that_is_kept(tasks: Tasks) -> None:
    server = Server()
    login = server.login(tasks)
    assert await login.challenged(BEARER, SCOPE, None) == "Bearer t1"
    assert await login.authorization(SCOPE) == "Bearer t1"
    assert server.asked == [
        (
            "https://auth.example.com/token?service=registry.example.com"
            "&scope=repository%3Aa%2Fb%3Apull",
            BASIC_HEADER,
        )
    ]
    server.answer["token"] = "t2"
    assert await login.authorization("repository:c/d:pull") == "Bearer t2"  # no new challenge
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "life"),
    [
        ({"expires_in": 100}, 80),
        ({"expires_in": None}, 48),
        ({"expires_in": 100, "issued_at": "1970-01-01T00:16:30Z"}, 70),
        ({"expires_in": 100, "issued_at": "2970-01-01T00:00:00Z"}, 80),
        ({"expires_in": 100, "issued_at": "yesterday"}, 80),
    ],
)
async def test_a_token_is_renewed_before_it_ends(
    tasks: Tasks, answer: dict[str, Any], life: float
) -> None:
    server = Server(**answer)
    login = server.login(tasks)
    await login.challenged(BEARER, SCOPE, None)
    server.now += life - 0.5
    await login.authorization(SCOPE)
    assert len(server.asked) == 1
    server.now += 1
    await login.authorization(SCOPE)
    assert len(server.asked) == 2


async def test_access_token_is_a_token_too(tasks: Tasks) -> None:
    server = Server(token=None, access_token="t9")
    assert await server.login(tasks).challenged(BEARER, SCOPE, None) == "Bearer t9"


async def test_a_refused_token_is_fetched_anew_once(tasks: Tasks) -> None:
    server = Server()
    login = server.login(tasks)
    first = await login.challenged(BEARER, SCOPE, None)
    server.answer["token"] = "t2"
    assert await login.challenged(BEARER, SCOPE, first) == "Bearer t2"


async def test_a_login_that_is_refused_is_not_tried_again_soon(tasks: Tasks) -> None:
    server = Server()
    server.status = 401
    login = server.login(tasks)
    for _ in range(3):
        with pytest.raises(EndpointError) as refused:
            await login.challenged(BEARER, SCOPE, None)
        assert refused.value.reason is Fallback.DENIED
    assert len(server.asked) == 1
    server.now += 60
    server.status = 200
    assert await login.challenged(BEARER, SCOPE, None) == "Bearer t1"


async def test_a_token_server_that_had_too_many_requests_is_not_asked_until_it_says(
    tasks: Tasks,
) -> None:
    server = Server()
    login = server.login(tasks)
    await login.challenged(BEARER, SCOPE, None)
    server.now += 100
    server.status = 429
    for name in ("a/b", "c/d", "a/b"):
        with pytest.raises(EndpointError) as refused:
            await login.authorization(f"repository:{name}:pull")
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "30")
    assert len(server.asked) == 2
    server.now += 30
    server.status = 200
    assert await login.authorization(SCOPE) == "Bearer t1", "where it is was not forgotten"


async def test_without_a_login_a_refusal_means_not_found(tasks: Tasks) -> None:
    server = Server()
    server.status = 401
    with pytest.raises(EndpointError) as refused:
        await server.login(tasks, {"type": "anonymous"}).challenged(BEARER, SCOPE, None)
    assert refused.value.reason is Fallback.NOT_FOUND
    assert server.asked[0][1] is None


@pytest.mark.parametrize(
    ("realm", "realms", "allowed"),
    [
        ("https://registry.example.com/t", (), True),
        ("https://auth.example.com/t", (), True),
        ("https://example.com/t", (), True),
        ("https://example.org/t", (), False),
        ("https://evil-example.com/t", (), False),
        ("https://example.com.evil.net/t", (), False),
        ("https://auth.elsewhere.net/t", ("auth.elsewhere.net",), True),
        ("https://sub.auth.elsewhere.net/t", ("auth.elsewhere.net",), False),
    ],
)
async def test_credentials_go_to_the_registrys_own_domain_only(
    tasks: Tasks, realm: str, realms: tuple[str, ...], allowed: bool
) -> None:
    server = Server()
    login = server.login(tasks, realms=realms)
    if allowed:
        assert await login.challenged(f'Bearer realm="{realm}"', SCOPE, None) == "Bearer t1"
        return
    with pytest.raises(EndpointError, match="token_realms") as refused:
        await login.challenged(f'Bearer realm="{realm}"', SCOPE, None)
    assert refused.value.reason is Fallback.DENIED
    assert server.asked == []


async def test_two_sites_under_one_public_suffix_are_strangers(tasks: Tasks) -> None:
    server = Server()
    login = server.login(tasks, origin="https://one.github.io")
    with pytest.raises(EndpointError, match="token_realms"):
        await login.challenged('Bearer realm="https://two.github.io/t"', SCOPE, None)


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="http://auth.example.com/t"',
        'Bearer service="x"',
        'Bearer realm="ftp://x/t"',
        'Bearer realm="/token"',
        'Bearer realm="https://[bad"',
        'Bearer realm="https://u:p@auth.example.com/t"',
        'Bearer realm="https://auth.example.com:99999/t"',
        f'Bearer realm="https://{"a" * 64}.example.com/t"',
    ],
)
async def test_a_token_server_without_tls_or_address_is_refused(
    tasks: Tasks, challenge: str
) -> None:
    with pytest.raises(EndpointError) as refused:
        await Server().login(tasks).challenged(challenge, SCOPE, None)
    assert refused.value.status == 502


@pytest.mark.parametrize(
    "answer",
    [{"token": None}, {"token": 5}, {"token": "a\r\nX: y"}, {"token": "é"}, {"expires_in": "x"}],
)
async def test_a_token_server_that_sends_no_token_is_502(
    tasks: Tasks, answer: dict[str, Any]
) -> None:
    with pytest.raises(EndpointError) as refused:
        await Server(**answer).login(tasks).challenged(BEARER, SCOPE, None)
    assert refused.value.status == 502


async def test_a_challenge_that_cannot_be_answered_is_not_kept(tasks: Tasks) -> None:
    server = Server()
    login = server.login(tasks)
    with pytest.raises(EndpointError):
        await login.challenged('Bearer realm="/token"', SCOPE, None)
    assert await login.authorization(SCOPE) is None  # so the registry is asked again
    assert await login.challenged(BEARER, SCOPE, None) == "Bearer t1"


@pytest.mark.parametrize("status", [401, 404, 503])
async def test_a_token_server_that_moved_is_found_by_a_new_challenge(
    tasks: Tasks, status: int
) -> None:
    server = Server()
    login = server.login(tasks)
    await login.challenged(BEARER, SCOPE, None)
    server.now += 100
    server.status = status
    with pytest.raises(EndpointError):
        await login.authorization(SCOPE)
    assert await login.authorization(SCOPE) is None  # so the registry is asked again
    server.status = 200
    moved = BEARER.replace("auth.", "login.")
    assert await login.challenged(moved, SCOPE, None) == "Bearer t1"
    assert server.asked[-1][0].startswith("https://login.example.com/token?")
    asked = len(server.asked)
    assert await login.authorization(SCOPE) == "Bearer t1"
    assert len(server.asked) == asked


async def test_basic_is_sent_once_it_was_asked_for(tasks: Tasks) -> None:
    login = Server().login(tasks)
    assert await login.challenged('Basic realm="x"', SCOPE, None) == BASIC_HEADER
    assert await login.authorization(SCOPE) == BASIC_HEADER
    assert await login.challenged('Basic realm="x"', SCOPE, BASIC_HEADER) is None  # refused


async def test_a_fixed_token_is_sent_as_it_is(tasks: Tasks) -> None:
    auth = {"type": "bearer", "token": Secret("auth.token", value="fixed")}
    login = Server().login(tasks, auth)
    assert await login.authorization(SCOPE) == "Bearer fixed"
    assert await login.challenged(BEARER, SCOPE, "Bearer fixed") is None
