"""A remote at several URLs, with several accounts: who is asked, in which order, and until when."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from routerd.config.secrets import Secret
from routerd.content.download import WrongContent
from routerd.endpoints.availability import FAILURES, FIRST_WAIT
from routerd.endpoints.base import EndpointError, Via
from routerd.endpoints.failover import BODIES_SECONDS, Bodies, combined
from routerd.endpoints.ratelimit import RateLimit, RateLimited, read_rate_limit
from routerd.endpoints.remote import RemoteEndpoint
from routerd.oci.errors import Code
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback
from upstream import Asked, Script, Upstream, digest_of, image, upstream

from .conftest import MakeRemote

APP = Repository.parse("docker.io", "library/app")
TAGGED = Reference.parse("library/app:1")
PATH = "/v2/library/app/manifests/1"
LAYER = bytes(range(256)) * 4000
DIGEST = Digest.parse(digest_of(LAYER))
BLOB = f"/v2/library/app/blobs/{DIGEST}"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def second() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.manifest("library/app", "1", image(b"c"))
        server.blob("library/app", LAYER)
        yield server


async def read(endpoint: RemoteEndpoint, start: int = 0) -> bytes:
    async with endpoint.blob(APP, DIGEST, Via(), start) as stream:
        assert stream.start == start
        return b"".join([chunk async for chunk in stream.chunks()])


async def test_the_first_url_is_asked_as_long_as_it_answers(
    remote: MakeRemote, hub: Upstream, second: Upstream
) -> None:
    hub.manifest("library/app", "1", image(b"c"))
    endpoint = await remote([hub.url, second.url])
    for _ in range(3):
        await endpoint.manifest(TAGGED, Via())
    assert (len(hub.asked), len(second.asked)) == (3, 0)


@pytest.mark.parametrize("status", [404, 401, 403])
async def test_not_there_and_not_allowed_are_answers_for_every_url(
    remote: MakeRemote, hub: Upstream, second: Upstream, status: int
) -> None:
    hub.paths[PATH] = Script(status=status)
    endpoint = await remote([hub.url, second.url])
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert (failed.value.reason, len(second.asked)) == (Fallback.NOT_FOUND, 0)


async def test_a_url_that_is_down_costs_some_calls_and_is_the_first_again_when_it_is_back(
    remote: MakeRemote, hub: Upstream, second: Upstream, clock: Clock
) -> None:
    endpoint = await remote([hub.url, second.url], clock=clock)
    await hub.stop()
    for _ in range(FAILURES + 2):
        assert (await endpoint.manifest(TAGGED, Via())).manifest.body == image(b"c")
    await hub.start()
    hub.manifest("library/app", "1", image(b"c"))
    await endpoint.manifest(TAGGED, Via())
    assert len(hub.asked) == 0, "it is left alone"
    clock.now += FIRST_WAIT
    await endpoint.manifest(TAGGED, Via())
    assert len(hub.asked) == 1


async def test_a_429_pauses_its_url_only(
    remote: MakeRemote, hub: Upstream, second: Upstream, clock: Clock
) -> None:
    hub.paths[PATH] = Script(status=429, headers={"Retry-After": "20"})
    endpoint = await remote([hub.url, second.url], clock=clock)
    for _ in range(3):
        await endpoint.manifest(TAGGED, Via())
    assert (hub.count("GET", PATH), second.count("GET", PATH)) == (1, 3)
    clock.now += 20
    await endpoint.manifest(TAGGED, Via())
    assert hub.count("GET", PATH) == 2


async def test_when_every_url_fails_the_message_has_all_of_them(
    remote: MakeRemote, hub: Upstream, second: Upstream
) -> None:
    hub.paths[PATH] = Script(status=429, headers={"Retry-After": "20"})
    second.paths[PATH] = Script(status=503)
    endpoint = await remote([hub.url, second.url])
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert f":{hub.port}) has had too many requests" in failed.value.message
    assert f":{second.port}) answered 503" in failed.value.message
    assert (failed.value.status, dict(failed.value.headers)) == (503, {})
    second.paths[PATH] = Script(status=429, headers={"Retry-After": "7"})
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert (failed.value.status, failed.value.headers["Retry-After"]) == (429, "7")


async def test_a_download_goes_on_where_it_broke_at_the_url_that_is_up(
    remote: MakeRemote, hub: Upstream, second: Upstream
) -> None:
    hub.blob("library/app", LAYER, cut=300_000)
    endpoint = await remote([hub.url, second.url])
    received = b""
    with pytest.raises(EndpointError, match="broke the connection"):
        async with endpoint.blob(APP, DIGEST, Via()) as stream:
            async for chunk in stream.chunks():
                received += chunk
    hub.blob("library/app", LAYER)
    await read(endpoint, len(received))
    assert second.asked == [], "the same URL first"
    await hub.stop()
    assert received + await read(endpoint, len(received)) == LAYER
    assert second.asked[-1].headers["range"] == f"bytes={len(received)}-"


async def test_a_url_whose_body_breaks_again_is_asked_last_for_it(
    remote: MakeRemote, hub: Upstream, second: Upstream
) -> None:
    hub.blob("library/app", LAYER, cut=1000)
    endpoint = await remote([hub.url, second.url])
    for _ in range(2):
        with pytest.raises(EndpointError):
            await read(endpoint)
    assert await read(endpoint) == LAYER
    hub.manifest("library/app", "1", image(b"c"))
    asked = len(second.asked)
    await endpoint.manifest(TAGGED, Via())
    assert len(second.asked) == asked, "other content is asked for as before"


@pytest.mark.parametrize("resets", [False, True])
async def test_a_body_that_never_begins_is_had_elsewhere_at_once(
    remote: MakeRemote, hub: Upstream, second: Upstream, resets: bool
) -> None:
    hub.blob("library/app", LAYER, cut=0, resets=resets)
    assert await read(await remote([hub.url, second.url])) == LAYER


async def test_a_url_that_sent_wrong_content_is_asked_last_for_it(
    remote: MakeRemote, hub: Upstream, second: Upstream
) -> None:
    hub.paths[BLOB] = Script(bytes(len(LAYER)))
    endpoint = await remote([hub.url, second.url])
    with pytest.raises(WrongContent):
        async with endpoint.blob(APP, DIGEST, Via()) as stream:
            assert b"".join([chunk async for chunk in stream.chunks()]) != LAYER
            raise WrongContent("as the download says once it has hashed it")
    assert await read(endpoint) == LAYER
    assert hub.count("GET", BLOB) == 1


def test_a_broken_body_is_forgotten_after_a_while() -> None:
    clock = Clock()
    bodies = Bodies(clock)
    bodies.broke(DIGEST, 0, 5)
    assert bodies.in_order(DIGEST, 2) == [0, 1]
    bodies.broke(DIGEST, 0, 5)
    assert bodies.in_order(DIGEST, 2) == [1, 0]
    bodies.was_wrong(DIGEST, 1)
    assert bodies.in_order(DIGEST, 2) == [0, 1], "none is better than the other"
    clock.now += BODIES_SECONDS + 1
    bodies.was_wrong(DIGEST, 0)
    assert bodies.in_order(DIGEST, 2) == [1, 0]


def test_of_several_failures_the_worst_is_told() -> None:
    gone = EndpointError(Fallback.NOT_FOUND, Code.MANIFEST_UNKNOWN, "gone")
    denied = EndpointError(Fallback.DENIED, Code.DENIED, "denied")
    down = EndpointError(Fallback.UNAVAILABLE, Code.UNAVAILABLE, "down", reached=False)
    odd = EndpointError(Fallback.UNAVAILABLE, Code.UNAVAILABLE, "odd", status=502)
    assert combined([gone, denied]) is denied
    assert combined([gone, down, denied]) is down
    both = combined([down, odd])
    assert (both.message, both.status, both.reached) == ("down; odd", 503, True)
    assert combined([odd, odd]).status == 502


# Accounts


def login(name: str) -> dict[str, object]:
    return {"type": "basic", "username": name, "password": Secret("password", value=f"pw-{name}")}


def account_of(asked: Asked) -> str:
    scheme, _, value = asked.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer":
        return value.partition("-")[2]
    return base64.b64decode(value).decode().partition(":")[0] if scheme else "anonymous"


class Counting:
    """A registry that counts each account's requests, behind a token server as Docker Hub is."""

    def __init__(self, server: Upstream, **limits: int) -> None:
        self.left = Counter(limits)
        self.limits = limits
        self.tokens: Counter[str] = Counter()
        self.served: list[str] = []
        self.refused: set[str] = set()
        self.throttled: set[str] = set()  # at the token server
        self.lifetime = 300.0  # seconds, of a token
        self.hides = False  # from whom has no account, as GitLab does
        self._server = server
        server.paths["/token"] = self.token
        server.paths[PATH] = self.manifest

    def token(self, asked: Asked) -> Script:
        name = account_of(asked)
        self.tokens[name] += 1
        if name in self.refused:
            return Script(status=401)
        if name in self.throttled:
            return Script(status=429, headers={"Retry-After": "60"})
        return Script(json.dumps({"token": f"t-{name}", "expires_in": self.lifetime}).encode())

    def manifest(self, asked: Asked) -> Script:
        if "authorization" not in asked.headers:
            challenge = f'Bearer realm="{self._server.url}/token",service="hub"'
            return Script(status=401, headers={"WWW-Authenticate": challenge})
        name = account_of(asked)
        if self.hides and name == "anonymous":
            return Script(status=404)
        if self.left[name] <= 0:
            return Script(status=429, headers={"Retry-After": "60"})
        self.left[name] -= 1
        self.served.append(name)
        headers = {
            "Content-Type": "application/vnd.oci.image.manifest.v1+json",
            "RateLimit-Limit": f"{self.limits[name]};w=21600",
            "RateLimit-Remaining": f"{self.left[name]};w=21600",
        }
        return Script(image(b"c"), headers=headers)


async def test_accounts_take_turns_by_what_they_have_left(
    remote: MakeRemote, hub: Upstream
) -> None:
    counting = Counting(hub, a=20, b=12)
    endpoint = await remote(auth=[login("a"), login("b")])
    for _ in range(30):
        await endpoint.manifest(TAGGED, Via())
    assert counting.served[:2] == ["a", "b"], "nothing is known of either"
    assert counting.served[2:9] == ["a"] * 7, "until both have as much left"
    assert Counter(counting.served) == {"a": 19, "b": 11}
    assert counting.tokens == {"a": 1, "b": 1}
    assert isinstance(endpoint, RateLimited)
    limits = {limit.account: limit for limit in endpoint.rate_limits()}
    assert (limits["a"].remaining, limits["a"].limit, limits["a"].window) == (1, 20, 21600)
    assert (limits["b"].url, limits["b"].remaining) == (hub.url, 1)


async def test_a_429_pauses_an_account_and_only_when_all_are_paused_the_upstream(
    remote: MakeRemote, hub: Upstream, second: Upstream, clock: Clock
) -> None:
    counting = Counting(hub, a=0, b=2)
    endpoint = await remote([hub.url, second.url], auth=[login("a"), login("b")], clock=clock)
    for _ in range(2):
        await endpoint.manifest(TAGGED, Via())
    assert (counting.served, len(second.asked)) == (["b", "b"], 0)
    asked = hub.count("GET", PATH)
    await endpoint.manifest(TAGGED, Via())
    assert hub.count("GET", PATH) == asked + 1, "of a nothing is asked while it is paused"
    for _ in range(2):
        await endpoint.manifest(TAGGED, Via())
    assert hub.count("GET", PATH) == asked + 1
    assert second.count("GET", PATH) == 3
    counting.left["a"] = 5
    clock.now += 60
    await endpoint.manifest(TAGGED, Via())
    assert counting.served[-1] == "a"


async def test_a_429_of_the_token_server_pauses_an_account_as_one_of_the_registry_does(
    remote: MakeRemote, hub: Upstream, clock: Clock
) -> None:
    counting = Counting(hub, a=9, b=9)
    counting.throttled = {"a"}
    endpoint = await remote(auth=[login("a"), login("b")], clock=clock)
    for _ in range(3):
        await endpoint.manifest(TAGGED, Via())
    assert (counting.served, counting.tokens) == (["b"] * 3, {"a": 1, "b": 1})
    clock.now += 60
    counting.throttled = set()
    await endpoint.manifest(TAGGED, Via())
    assert counting.served[-1] == "a"


async def test_when_no_account_gets_a_token_the_client_is_told_until_when_without_a_call(
    remote: MakeRemote, hub: Upstream, clock: Clock
) -> None:
    counting = Counting(hub, a=9, b=9)
    counting.throttled = {"a", "b"}
    endpoint = await remote(auth=[login("a"), login("b")], clock=clock)
    for _ in range(5):
        with pytest.raises(EndpointError) as failed:
            await endpoint.manifest(TAGGED, Via())
        assert (failed.value.status, failed.value.headers["Retry-After"]) == (429, "60")
    assert counting.tokens == {"a": 1, "b": 1}
    assert hub.count("GET", PATH) == 2


async def test_a_429_to_a_renewal_costs_one_call(
    remote: MakeRemote, hub: Upstream, clock: Clock
) -> None:
    counting = Counting(hub, a=9)
    counting.lifetime = 0.0001
    endpoint = await remote(auth=login("a"), clock=clock)
    await endpoint.manifest(TAGGED, Via())
    asked = len(hub.asked)
    counting.throttled = {"a"}
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert failed.value.status == 429
    assert [one.path for one in hub.asked[asked:]] == ["/token"]


async def test_a_login_that_is_refused_leaves_it_to_the_others(
    remote: MakeRemote, hub: Upstream
) -> None:
    counting = Counting(hub, a=9, b=9)
    counting.refused = {"a"}
    endpoint = await remote(auth=[login("a"), login("b")])
    for _ in range(4):
        await endpoint.manifest(TAGGED, Via())
    assert (counting.served, counting.tokens["a"]) == (["b"] * 4, 1)
    counting.refused = {"a", "b"}
    hub.paths[PATH] = Script(status=403)
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert failed.value.reason is Fallback.DENIED


async def test_what_is_hidden_from_strangers_is_asked_for_with_a_login(
    remote: MakeRemote, hub: Upstream
) -> None:
    counting = Counting(hub, anonymous=9, a=9)
    counting.hides = True
    endpoint = await remote(auth=[{"type": "anonymous"}, login("a")])
    assert endpoint.private
    await endpoint.manifest(TAGGED, Via())
    assert counting.served == ["a"]


async def test_what_one_account_does_not_find_is_not_asked_for_with_the_next(
    remote: MakeRemote, hub: Upstream
) -> None:
    Counting(hub, a=9, b=9)
    endpoint = await remote(auth=[login("a"), login("b")])
    hub.paths[PATH] = Script(status=404)
    with pytest.raises(EndpointError):
        await endpoint.manifest(TAGGED, Via())
    assert hub.count("GET", PATH) == 1


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"ratelimit-remaining": "76;w=21600", "ratelimit-limit": "100;w=21600"}, (76, 100, 21600)),
        ({"ratelimit-remaining": "76", "ratelimit-limit": "100, 100;w=60"}, (76, 100, None)),
        ({"ratelimit-remaining": " 5 ; w = 60 "}, (5, None, 60)),
        ({"ratelimit-limit": "100;w=21600"}, None),
        ({"ratelimit-remaining": "many"}, None),
        ({"ratelimit-remaining": "-1"}, None),
        ({}, None),
    ],
)
def test_a_rate_limit_is_read(headers: dict[str, str], found: tuple[int, ...] | None) -> None:
    limit = read_rate_limit(headers, "https://r", "a", 5.0)
    assert (None if limit is None else (limit.remaining, limit.limit, limit.window)) == found


def test_after_its_window_a_rate_limit_says_nothing() -> None:
    limit = RateLimit("https://r", "a", 0, 100, 60, 1000.0)
    assert [limit.counts(now) for now in (1000.0, 1059.0, 1060.0, 900.0)] == [
        True,
        True,
        False,
        False,
    ]
    assert RateLimit("https://r", "a", 0, 100, None, 1000.0).counts(9e9)
