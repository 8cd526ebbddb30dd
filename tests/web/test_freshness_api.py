"""The freshness of tags over real sockets, with a clock that the test sets (config-language.md 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from upstream import OCI_MANIFEST, Asked, Script, Upstream, digest_of, image, upstream
from wire import Reply, Wire

from .conftest import Serving

PATH = "/v2/library/app/manifests/v1.0"
START = 1_800_000_000.0


class Clock:
    """UTC seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.manifest("library/app", "v1.0", image(b"one"))
        yield server


def policy(hub: Upstream, keys: str = "ttl: 60s", routes: str = "") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: {hub.url}
    namespace: docker.io
    cache: {{store: local, {keys}}}
    timeouts: {{connect: 2s, response: 3s, stall: 10s}}
  local: {{type: storage}}
routes:
  team/**: local
  "**": hub
{routes}
"""


def asked(hub: Upstream) -> int:
    """How often upstream was asked about the tag, in whatever way."""
    return sum(one.path == PATH for one in hub.asked)


def answer(status: int) -> Callable[[Asked], Script]:
    return lambda _: Script(status=status)


def detail(reply: Reply) -> str:
    return reply.headers["cache-status"].partition('detail="')[2].rstrip('"; ').partition('"')[0]


async def test_a_failed_check_waits_for_the_next_window(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub), clock) as wire:
        assert (await wire.get(PATH)).status == 200
        clock.now += 61
        hub.paths[PATH] = answer(503)
        before = asked(hub)
        for _ in range(5):
            stale = await wire.get(PATH)
            assert (stale.status, detail(stale)) == (200, "stale-if-error")
            assert stale.headers["warning"].startswith("299 - ")
            assert stale.headers["cache-control"] == "max-age=0"
        assert asked(hub) == before + 1
        clock.now += 31
        assert (await wire.get(PATH)).status == 200
        assert asked(hub) == before + 2
        hub.manifest("library/app", "v1.0", image(b"one"))
        clock.now += 31
        fresh = await wire.get(PATH)
        assert fresh.headers["cache-status"].startswith("routerd; fwd=stale; fwd-status=304")
        assert "warning" not in fresh.headers


async def test_what_is_too_old_is_not_served_and_not_asked_for_again_and_again(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub, "ttl: 60s, stale_if_error: 60s"), clock) as wire:
        await wire.get(PATH)
        clock.now += 121
        hub.paths[PATH] = answer(503)
        before = asked(hub)
        assert (await wire.get(PATH)).status == 503
        again = await wire.get(PATH)
        assert (again.status, again.code) == (503, "UNAVAILABLE")
        assert again.headers["retry-after"] == "30"
        assert asked(hub) == before + 1


async def test_a_tag_that_is_gone_is_served_for_a_while_and_then_not(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub, "ttl: 60s, stale_if_gone: 1h"), clock) as wire:
        await wire.get(PATH)
        hub.paths[PATH] = answer(404)
        clock.now += 61
        gone = await wire.get(PATH)
        assert (gone.status, detail(gone)) == (200, "stale-if-gone")
        assert "no longer has" in gone.headers["warning"]
        before = asked(hub)
        assert detail(await wire.get(PATH)) == "stale-if-gone"
        assert asked(hub) == before
        clock.now += 3601
        assert (await wire.get(PATH)).status == 404
        clock.now += 11
        hub.manifest("library/app", "v1.0", image(b"two"))
        assert (await wire.get(PATH)).body == image(b"two")


async def test_with_stale_if_gone_zero_it_is_404_at_once(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub, "ttl: 60s, stale_if_gone: 0s"), clock) as wire:
        await wire.get(PATH)
        hub.paths[PATH] = answer(404)
        clock.now += 61
        assert (await wire.get(PATH)).status == 404


async def test_a_404_is_remembered_for_negative_ttl(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    missing = "/v2/library/none/manifests/1"
    digest = "/v2/library/none/manifests/sha256:" + "0" * 64
    async with serving(policy(hub), clock) as wire:
        for path, seconds in ((missing, 10), (digest, 2)):
            for _ in range(3):
                refused = await wire.get(path)
                assert (refused.status, refused.code) == (404, "MANIFEST_UNKNOWN")
            assert hub.count("GET", path) == 1
            clock.now += seconds
            await wire.get(path)
            assert hub.count("GET", path) == 2


async def test_stale_while_revalidate_serves_at_once_and_checks_behind(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub, "ttl: 60s, stale_while_revalidate: 1h"), clock) as wire:
        await wire.get(PATH)
        gate = asyncio.Event()

        async def slow(_: Asked) -> Script:
            await gate.wait()
            return Script(image(b"two"), headers={"Content-Type": OCI_MANIFEST})

        hub.paths[PATH] = slow
        clock.now += 61
        for _ in range(3):  # upstream does not answer, and nobody waits for it
            old = await wire.get(PATH)
            assert (old.body, detail(old)) == (image(b"one"), "stale-while-revalidate")
        gate.set()
        async with asyncio.timeout(5):
            while (await wire.get(PATH)).body != image(b"two"):
                await asyncio.sleep(0.01)
        assert hub.count("HEAD", PATH) == 1


async def test_an_immutable_tag_is_never_asked_for_again(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub, 'ttl: 60s, immutable_tags: ["v*.*"]'), clock) as wire:
        await wire.get(PATH)
        hub.manifest("library/app", "v1.0", image(b"two"))
        clock.now += 10_000_000
        before = asked(hub)
        kept = await wire.get(PATH)
        assert kept.body == image(b"one")
        assert kept.headers["cache-control"] == "max-age=31536000"
        assert asked(hub) == before


async def test_each_key_comes_from_the_narrowest_route_that_says_it(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    routes = '  "library/**:v*": {cache: {ttl: 1h}}\n  library/app: {cache: {recheck: 5s}}\n'
    async with serving(policy(hub, "ttl: 60s, recheck: 10m", routes), clock) as wire:
        first = await wire.get(PATH)
        assert first.headers["cache-control"] == "max-age=3600"
        hub.paths[PATH] = answer(500)
        clock.now += 3601
        await wire.get(PATH)
        before = asked(hub)
        clock.now += 6
        await wire.get(PATH)
        assert asked(hub) == before + 1


async def test_upstreams_cache_control_counts_where_no_ttl_is_written(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    hub.manifest("library/app", "v1.0", image(b"one"), **{"Cache-Control": "max-age=20"})
    async with serving(policy(hub, "recheck: 1s"), clock) as wire:
        assert (await wire.get(PATH)).headers["cache-control"] == "max-age=20"
        clock.now += 15
        assert (await wire.get(PATH)).headers["cache-control"] == "max-age=5"
        before = asked(hub)
        clock.now += 5
        await wire.get(PATH)
        assert asked(hub) == before + 1


async def test_a_clock_that_was_set_back_makes_no_tag_fresh_for_ever(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub), clock) as wire:
        await wire.get(PATH)
        clock.now -= 86_400
        before = asked(hub)
        assert (await wire.get(PATH)).status == 200
        assert asked(hub) == before + 1
        await wire.get(PATH)
        assert asked(hub) == before + 1, "the check has set the time right"


async def test_a_login_that_is_refused_is_not_an_outage(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    text = policy(hub).replace(
        "    namespace: docker.io\n",
        "    namespace: docker.io\n    auth: {type: bearer, token: t}\n",
    )
    async with serving(text, clock) as wire:
        await wire.get(PATH)
        clock.now += 61
        hub.paths[PATH] = answer(403)
        denied = await wire.get(PATH)
        assert (denied.status, denied.code) == (403, "DENIED")


async def test_a_broken_connection_is_an_outage_like_a_503(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    async with serving(policy(hub), clock) as wire:
        await wire.get(PATH)
        clock.now += 61
        await hub.stop()
        assert detail(await wire.get(PATH)) == "stale-if-error"


async def test_a_new_digest_never_comes_with_an_old_body(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    """HEAD and GET of upstream disagree, as they do while a tag is being moved."""

    def moving(one: Asked) -> Script:
        body = image(b"two") if one.method == "HEAD" else image(b"three")
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest_of(body)}
        return Script(body, headers=headers)

    async def consistent(wire: Wire) -> Reply:
        reply = await wire.get(PATH)
        head = await wire.head(PATH)
        assert head.headers["docker-content-digest"] == reply.headers["docker-content-digest"]
        assert head.headers["content-length"] == str(len(reply.body))
        return reply

    async with serving(policy(hub), clock) as wire:
        assert (await consistent(wire)).body == image(b"one")
        hub.paths[PATH] = moving
        clock.now += 61
        assert (await consistent(wire)).body == image(b"three")


async def test_a_404_outlives_a_restart(serving: Serving, hub: Upstream, clock: Clock) -> None:
    missing = "/v2/library/none/manifests/1"
    async with serving(policy(hub), clock) as wire:
        assert (await wire.get(missing)).status == 404
    hub.manifest("library/none", "1", image(b"new"))
    async with serving(policy(hub), clock) as wire:
        assert (await wire.get(missing)).status == 404
        assert hub.count("GET", missing) == 1
        clock.now += 11
        assert (await wire.get(missing)).status == 200


async def test_a_clock_that_jumps_back_asks_again_and_serves_the_right_thing(
    serving: Serving, hub: Upstream, clock: Clock
) -> None:
    missing = "/v2/library/none/manifests/1"
    async with serving(policy(hub), clock) as wire:
        await wire.get(PATH)
        await wire.get(missing)
        clock.now -= 30 * 86400
        before = asked(hub)
        again = await wire.get(PATH)
        assert (again.status, again.body, asked(hub)) == (200, image(b"one"), before + 1)
        assert (await wire.get(PATH)).headers["cache-status"].startswith("routerd; hit")
        hub.manifest("library/none", "1", image(b"new"))
        assert (await wire.get(missing)).status == 200, "a 404 of the future is not believed"
        hub.paths[PATH] = answer(503)
        clock.now -= 86400
        assert (await wire.get(PATH)).status == 200


def no_heads(refusal: int, body: bytes, etag: str) -> Callable[[Asked], Script]:
    """An upstream that answers manifests to GETs only, and conditional ones as they should be."""

    def answered(one: Asked) -> Script:
        headers = {"ETag": etag, "Content-Type": OCI_MANIFEST}
        if one.method == "HEAD":
            return Script(status=refusal)
        if one.headers.get("if-none-match") == etag:
            return Script(status=304, headers={"ETag": etag})
        return Script(body, headers=headers)

    return answered


@pytest.mark.parametrize("refusal", [400, 404, 405, 501])
async def test_what_is_not_known_by_a_head_is_asked_for_by_a_conditional_get(
    serving: Serving, hub: Upstream, clock: Clock, refusal: int
) -> None:
    hub.paths[PATH] = no_heads(refusal, image(b"one"), '"1"')
    async with serving(policy(hub), clock) as wire:
        assert (await wire.get(PATH)).body == image(b"one")
        for _ in range(2):
            clock.now += 61
            again = await wire.get(PATH)
            assert again.body == image(b"one")
            assert again.headers["cache-status"] == "routerd; fwd=stale; fwd-status=304; ttl=60"
        hub.paths[PATH] = no_heads(refusal, image(b"two"), '"2"')
        clock.now += 61
        assert (await wire.get(PATH)).body == image(b"two")
    conditions = [
        one.headers.get("if-none-match")
        for one in hub.asked
        if one.method == "GET" and one.path == PATH
    ]
    assert conditions == [None, '"1"', '"1"', '"1"'], (
        "a GET that brought the new one is not repeated"
    )
