"""remote: an endpoint over HTTP, towards an upstream that is scripted (protocol.md 3)."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st

from routerd.config.secrets import Secret
from routerd.endpoints.addresses import Addresses, ForbiddenAddress
from routerd.endpoints.base import EndpointError, PushEndpoint, Via
from routerd.endpoints.ratelimit import RETRY_AFTER_LIMIT, retry_after
from routerd.endpoints.remote import RemoteEndpoint
from routerd.endpoints.urls import origin_of, parse_foreign, split_url
from routerd.endpoints.via import check_loop
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback
from upstream import OCI_MANIFEST, Asked, Script, Upstream, digest_of, image, upstream

from .conftest import MakeRemote

APP = Repository.parse("docker.io", "library/app")
TAGGED = Reference.parse("library/app:1")
BASIC = {"type": "basic", "username": "u", "password": Secret("auth.password", value="p")}
LAYER = bytes(range(256)) * 4000


async def read(endpoint: RemoteEndpoint, digest: str, start: int = 0) -> bytes:
    async with endpoint.blob(APP, Digest.parse(digest), Via(), start) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])[max(0, start - stream.start) :]


@pytest.mark.parametrize(
    ("url", "base", "prefix"),
    [
        ("https://r.example", "https://r.example", ""),
        ("https://r.example/", "https://r.example", ""),
        ("https://r.example/v2", "https://r.example", ""),
        ("https://r.example/v2/", "https://r.example", ""),
        ("https://r.example:8443/base/v2/team/x", "https://r.example:8443/base", "team/x/"),
        ("https://r.example/artifactory", "https://r.example/artifactory", ""),
    ],
)
def test_a_url_is_a_base_and_a_prefix(url: str, base: str, prefix: str) -> None:
    assert split_url(url) == (base, prefix)


async def test_the_prefix_stands_before_every_name(remote: MakeRemote, hub: Upstream) -> None:
    endpoint = await remote(f"{hub.url}/x/v2/team")
    assert endpoint.scope(APP) == "team/library/app"
    hub.paths["/x/v2/team/library/app/manifests/1"] = Script(
        image(b"c"), headers={"Content-Type": OCI_MANIFEST}
    )
    assert (await endpoint.manifest(TAGGED, Via())).manifest.body == image(b"c")


async def test_a_redirect_is_followed_byte_for_byte_without_the_login(
    remote: MakeRemote, hub: Upstream
) -> None:
    signed = "/data/a%2Fb%3Ac%7Ed+e?X-Amz-Signature=%2B%2f%3D&q=~"
    async with upstream() as other:
        other.paths[signed.partition("?")[0]] = Script(LAYER)
        path = f"/v2/library/app/blobs/{digest_of(LAYER)}"

        def guarded(asked: Asked) -> Script:
            if "authorization" not in asked.headers:
                return Script(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return Script(status=307, headers={"Location": other.url + signed, "Set-Cookie": "a=1"})

        hub.paths[path] = guarded
        endpoint = await remote(auth=BASIC)
        assert await read(endpoint, digest_of(LAYER)) == LAYER
        [asked] = other.asked
        assert asked.target == signed
        for name in ("authorization", "cookie", "x-forwarded-for"):
            assert name not in asked.headers
        assert [one.headers.get("cookie") for one in hub.asked] == [None, None]


async def test_a_redirect_within_the_origin_keeps_the_login(
    remote: MakeRemote, hub: Upstream
) -> None:
    auth = {"type": "bearer", "token": Secret("auth.token", value="t")}
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = Script(
        status=302, headers={"Location": "/elsewhere"}
    )
    hub.paths["/elsewhere"] = Script(LAYER)
    assert await read(await remote(auth=auth), digest_of(LAYER)) == LAYER
    assert hub.asked[-1].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("ftp://x/y", "ftp"),
        ("", "nowhere"),
        ("relative", "relative"),
        ("http://[bad/", "no URL"),
        ("http://127.0.0.1:99999/x", "no URL"),
        ("http://127.0.0.1:-1/x", "no URL"),
        (f"http://{'a' * 64}/x", "no URL"),
        ("http://user:pw@127.0.0.1/", "login in it"),
        ("//user:pw@127.0.0.1/", "login in it"),
        ("http://xn--/", "address that is none"),
        ("http://169.254.169.254/latest/meta-data", "never connected"),
        ("http://[fe80::1]/", "never connected"),
        ("http://0.0.0.0:1/", "never connected"),
    ],
)
async def test_a_redirect_to_nonsense_or_metadata_is_refused(
    remote: MakeRemote, hub: Upstream, location: str, why: str
) -> None:
    digest = digest_of(LAYER)
    hub.paths[f"/v2/library/app/blobs/{digest}"] = Script(
        status=307, headers={"Location": location}
    )
    with pytest.raises(EndpointError, match=why) as refused:
        await read(await remote(), digest)
    assert refused.value.status == (503 if why.startswith("never") else 502)


@given(st.text(max_size=60))
def test_any_foreign_url_is_one_or_none(text: str) -> None:
    for url in (text, f"http://{text}", f"http://host{text}"):
        try:
            parts = parse_foreign(url)
        except ValueError:
            continue
        assert parts.scheme in ("http", "https")
        assert parts.hostname


async def test_redirects_in_a_circle_end(remote: MakeRemote, hub: Upstream) -> None:
    path = "/v2/library/app/manifests/1"
    hub.paths[path] = Script(status=307, headers={"Location": path})
    with pytest.raises(EndpointError, match="more than 5"):
        await (await remote()).manifest(TAGGED, Via())
    assert len(hub.asked) == 6


class Names(AbstractResolver):
    """Names as the test says; `public.example` is this machine's address all the same."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list:  # type: ignore[type-arg,override]
        return [
            {"hostname": host, "host": a, "port": port, "family": 2, "proto": 6, "flags": 0}
            for a in self.names[host.partition(".")[0]]
        ]

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("own", "other", "allowed"),
    [
        ("8.8.8.8", "8.8.4.4", True),
        ("8.8.8.8", "127.0.0.1", False),
        ("8.8.8.8", "10.0.0.1", False),
        ("8.8.8.8", "::ffff:10.0.0.1", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "169.254.169.254", False),
        ("10.0.0.1", "fd00:ec2::254", False),
        ("10.0.0.1", "::ffff:169.254.169.254", False),
    ],
)
async def test_a_public_registry_does_not_lead_into_the_private_network(
    own: str, other: str, allowed: bool
) -> None:
    addresses = Addresses("own.example", resolver=Names(own=[own], other=[other]))
    await addresses.check("own.example", ip_address(own))
    if allowed:
        await addresses.resolver().resolve("other.example")
    else:
        with pytest.raises(ForbiddenAddress):
            await addresses.resolver().resolve("other.example")


async def test_a_public_upstream_is_not_told_the_clients_address(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.manifest("library/app", "1", image(b"c"))
    via = Via("1.1 before", ("192.0.2.1",))
    await (await remote()).manifest(TAGGED, via)
    assert hub.asked[-1].headers["x-forwarded-for"] == "192.0.2.1"
    assert hub.asked[-1].headers["via"] == "1.1 before, 1.1 mirror-1"
    public = Addresses("hub.example", ("127.0.0.1",), Names(hub=["8.8.8.8"]))
    await (await remote(addresses=public)).manifest(TAGGED, via)
    assert "x-forwarded-for" not in hub.asked[-1].headers


async def test_a_head_without_a_digest_becomes_a_get(remote: MakeRemote, hub: Upstream) -> None:
    body = image(b"c")
    hub.paths["/v2/library/app/manifests/1"] = Script(body, headers={"Content-Type": OCI_MANIFEST})
    resolved = await (await remote()).resolve(TAGGED, Via())
    assert str(resolved.descriptor.digest) == digest_of(body)
    assert [one.method for one in hub.asked] == ["HEAD", "GET"]


async def test_a_compressed_manifest_is_decoded_before_it_is_hashed(
    remote: MakeRemote, hub: Upstream
) -> None:
    body = image(b"c")
    hub.paths["/v2/library/app/manifests/1"] = Script(
        gzip.compress(body),
        headers={
            "Content-Type": OCI_MANIFEST,
            "Content-Encoding": "gzip",
            "Docker-Content-Digest": digest_of(body),
        },
    )
    assert (await (await remote()).manifest(TAGGED, Via())).manifest.body == body


async def test_a_compressed_bomb_is_cut_off(remote: MakeRemote, hub: Upstream) -> None:
    hub.paths["/v2/library/app/manifests/1"] = Script(
        gzip.compress(b" " * 50_000_000),
        headers={"Content-Type": OCI_MANIFEST, "Content-Encoding": "gzip"},
    )
    with pytest.raises(EndpointError, match="more than"):
        await (await remote()).manifest(TAGGED, Via())


async def test_an_encoded_blob_is_refused(remote: MakeRemote, hub: Upstream) -> None:
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = Script(
        gzip.compress(LAYER), headers={"Content-Encoding": "gzip"}
    )
    with pytest.raises(EndpointError, match="encoded"):
        await read(await remote(), digest_of(LAYER))


async def test_a_blob_is_read_from_where_it_is_wanted(remote: MakeRemote, hub: Upstream) -> None:
    digest = hub.blob("library/app", LAYER)
    endpoint = await remote()
    assert await read(endpoint, digest, 1000) == LAYER[1000:]
    hub.blob("library/app", LAYER, ranges=False)
    assert await read(endpoint, digest, 1000) == LAYER[1000:]


@pytest.mark.parametrize("said", ["bytes 0-9/10", "bytes 1001-1010/5000", "lines 1-2/3", ""])
async def test_a_206_of_something_else_is_refused(
    remote: MakeRemote, hub: Upstream, said: str
) -> None:
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = Script(
        LAYER[:10], status=206, headers={"Content-Range": said}
    )
    with pytest.raises(EndpointError, match="something else"):
        await read(await remote(), digest_of(LAYER), 1000)


@pytest.mark.parametrize(
    ("status", "auth", "reason", "answered"),
    [
        (404, None, Fallback.NOT_FOUND, 404),
        (401, None, Fallback.NOT_FOUND, 404),
        (403, None, Fallback.NOT_FOUND, 404),
        (401, BASIC, Fallback.DENIED, 403),
        (403, BASIC, Fallback.DENIED, 403),
        (429, None, Fallback.UNAVAILABLE, 429),
        (500, None, Fallback.UNAVAILABLE, 503),
        (503, None, Fallback.UNAVAILABLE, 503),
        (418, None, Fallback.UNAVAILABLE, 502),
        (204, None, Fallback.UNAVAILABLE, 502),
    ],
)
async def test_a_status_is_why_the_next_endpoint_may_be_asked(
    remote: MakeRemote, hub: Upstream, status: int, auth: object, reason: Fallback, answered: int
) -> None:
    hub.paths["/v2/library/app/manifests/1"] = Script(status=status)
    endpoint = await remote(**({"auth": auth} if auth else {}))
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert (failed.value.reason, failed.value.status) == (reason, answered)


async def test_an_upstream_that_is_not_there_is_unavailable(
    remote: MakeRemote, hub: Upstream
) -> None:
    endpoint = await remote()
    await hub.stop()
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert (failed.value.reason, failed.value.reached) == (Fallback.UNAVAILABLE, False)
    nowhere = await remote("http://does-not-exist.invalid")
    with pytest.raises(EndpointError, match="cannot be connected"):
        await nowhere.manifest(TAGGED, Via())


async def test_who_cannot_be_connected_to_and_why_is_said_once_in_plain_words(
    remote: MakeRemote, hub: Upstream
) -> None:
    path = "/v2/library/app/manifests/1"
    own = f"hub (127.0.0.1:{hub.port})"
    async with upstream() as other:
        there = f"127.0.0.1:{other.port}"
        hub.paths[path] = Script(status=307, headers={"Location": f"{other.url}{path}"})
    endpoint = await remote()
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert failed.value.message == (
        f"{there}, where {own} sends to, cannot be connected to: connection refused"
    )
    await hub.stop()
    with pytest.raises(EndpointError) as failed:
        await endpoint.manifest(TAGGED, Via())
    assert failed.value.message == f"{own} cannot be connected to: connection refused"


async def test_a_blob_that_stalls_ends_with_its_deadline(remote: MakeRemote, hub: Upstream) -> None:
    gate = asyncio.Event()
    digest = hub.blob("library/app", LAYER, gate=gate, before_gate=10)
    timeouts = {"connect": 1.0, "response": 1.0, "stall": 0.2}
    with pytest.raises(EndpointError, match="sent nothing"):
        await read(await remote(timeouts=timeouts), digest)
    gate.set()


async def test_a_reader_that_is_cancelled_leaves_the_pool_usable(
    remote: MakeRemote, hub: Upstream
) -> None:
    gate = asyncio.Event()
    digest = hub.blob("library/app", LAYER, gate=gate, before_gate=10)
    endpoint = await remote()
    for _ in range(150):  # more than the pool has connections
        begun = asyncio.Event()

        async def first_bytes(begun: asyncio.Event = begun) -> None:
            async with endpoint.blob(APP, Digest.parse(digest), Via()) as stream:
                async for _ in stream.chunks():
                    begun.set()

        task = asyncio.ensure_future(first_bytes())
        await begun.wait()
        task.cancel()
        await asyncio.wait({task})
    gate.set()
    assert await read(endpoint, digest) == LAYER


async def test_a_token_is_fetched_once_for_many(remote: MakeRemote, hub: Upstream) -> None:
    tokens = 0

    def token(asked: Asked) -> Script:
        nonlocal tokens
        tokens += 1
        return Script(json.dumps({"token": f"t{tokens}", "expires_in": 300}).encode())

    def guarded(asked: Asked) -> Script:
        if not asked.headers.get("authorization", "").startswith("Bearer t"):
            challenge = f'Bearer realm="{hub.url}/token",service="hub"'
            return Script(status=401, headers={"WWW-Authenticate": challenge})
        return Script(LAYER)

    hub.paths["/token"] = token
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = guarded
    endpoint = await remote(auth=BASIC)
    bodies = await asyncio.gather(*(read(endpoint, digest_of(LAYER)) for _ in range(10)))
    assert bodies == [LAYER] * 10
    assert tokens == 1
    [asked] = [one for one in hub.asked if one.path == "/token"]
    assert asked.headers["authorization"].startswith("Basic ")


def challenging(hub: Upstream, realm: Callable[[], str]) -> None:
    """The registry wants a token `good` for its blob, and says where to have one."""

    def guarded(asked: Asked) -> Script:
        if asked.headers.get("authorization") == "Bearer good":
            return Script(LAYER)
        challenge = f'Bearer realm="{realm()}",service="hub"'
        return Script(status=401, headers={"WWW-Authenticate": challenge})

    hub.paths["/token"] = Script(b'{"token":"good","expires_in":0.0001}')  # fetched each time
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = guarded


@pytest.mark.parametrize(
    "realm", ["/token", "http://[bad", "http://u:p@127.0.0.1/t", "http://xn--/"]
)
async def test_an_odd_challenge_fails_its_own_request_only(
    remote: MakeRemote, hub: Upstream, realm: str
) -> None:
    said = [realm]
    challenging(hub, lambda: said[0])
    endpoint = await remote()
    with pytest.raises(EndpointError) as failed:
        await read(endpoint, digest_of(LAYER))
    assert failed.value.status == 502
    said[0] = f"{hub.url}/token"
    assert await read(endpoint, digest_of(LAYER)) == LAYER


async def test_a_token_server_that_moved_is_found_without_a_restart(
    remote: MakeRemote, hub: Upstream
) -> None:
    async with upstream() as old:
        old.paths["/token"] = Script(b'{"token":"good","expires_in":0.0001}')
        said = [f"{old.url}/token"]
        challenging(hub, lambda: said[0])
        endpoint = await remote()
        assert await read(endpoint, digest_of(LAYER)) == LAYER
        said[0] = f"{hub.url}/token"
    assert await read(endpoint, digest_of(LAYER)) == LAYER
    assert hub.count("GET", "/token") == 1


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_a_registry_hides_from_strangers_is_not_gone_while_tokens_cannot_be_had(
    remote: MakeRemote, hub: Upstream, status: int
) -> None:
    challenging(hub, lambda: f"{hub.url}/token")
    endpoint = await remote(auth=BASIC)
    assert await read(endpoint, digest_of(LAYER)) == LAYER
    hub.paths["/token"] = Script(status=503)
    hub.paths[f"/v2/library/app/blobs/{digest_of(LAYER)}"] = Script(status=status)
    with pytest.raises(EndpointError) as failed:
        await read(endpoint, digest_of(LAYER))
    assert (failed.value.reason, failed.value.status) == (Fallback.UNAVAILABLE, 503)


async def test_a_token_server_that_sends_nothing_but_a_length_is_502(
    remote: MakeRemote, hub: Upstream
) -> None:
    challenging(hub, lambda: f"{hub.url}/token")
    hub.paths["/token"] = Script(status=204, length=2_000_000)
    with pytest.raises(EndpointError) as failed:
        await read(await remote(), digest_of(LAYER))
    assert failed.value.status == 502


async def test_a_trickling_token_server_keeps_nobody_past_the_deadline(
    remote: MakeRemote, hub: Upstream
) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        try:
            writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000000\r\n\r\n")
            while not gone.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            gone.set()
            writer.close()

    asked, gone = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    said = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"]
    challenging(hub, lambda: said[0])
    endpoint = await remote(timeouts={"connect": 1.0, "response": 0.2, "stall": 5.0})
    with pytest.raises(EndpointError, match=r"within 0\.2 s"):
        await read(endpoint, digest_of(LAYER))
    async with asyncio.timeout(5):
        await gone.wait()  # the call itself has ended, so nobody joins it any more
    said[0] = f"{hub.url}/token"
    assert await read(endpoint, digest_of(LAYER)) == LAYER
    server.close()
    await server.wait_closed()


async def test_tags_in_pages_and_from_registries_that_know_no_pages(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.paths["/v2/library/app/tags/list"] = Script(
        b'{"tags":["b","a"]}', headers={"Link": '</v2/library/app/tags/list?last=b>; rel="next"'}
    )
    endpoint = await remote()
    page = await endpoint.tags(APP, Via(), "", 100)
    assert (page.tags, page.more) == (["a", "b"], True)
    assert hub.asked[-1].target.endswith("?n=100")
    hub.paths["/v2/library/app/tags/list"] = Script(b'{"tags":["c","b","a"]}')
    page = await endpoint.tags(APP, Via(), "a", 1)
    assert (page.tags, page.more) == (["b"], True)
    hub.paths["/v2/library/app/tags/list"] = Script(b'{"tags":null}')
    assert (await endpoint.tags(APP, Via(), "", 5)).tags == []
    for nonsense in (b"[]", b"{}", b"x", b'{"tags":5}', b"[" * 100_000):
        hub.paths["/v2/library/app/tags/list"] = Script(nonsense)
        with pytest.raises(EndpointError, match="no list of tags"):
            await endpoint.tags(APP, Via(), "", 5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("999999", RETRY_AFTER_LIMIT),
        ("2000000030", 30),
        ("Wed, 18 May 2033 03:33:40 GMT", 20),
        ("Wed, 18 May 2003 03:33:40 GMT", 1),
        ("soon", 10),
        ("", 10),
        ("²", 10),
        ("-5", 10),
    ],
)
def test_retry_after_as_seconds_date_and_unix_time(text: str, seconds: int) -> None:
    assert retry_after(text, 2_000_000_000.0) == seconds


@given(st.text())
def test_any_retry_after_is_a_bounded_wait(text: str) -> None:
    assert 1 <= retry_after(text, 1e9) <= RETRY_AFTER_LIMIT


@pytest.mark.parametrize(
    ("via", "refused"),
    [
        ("", False),
        ("1.1 other", False),
        ("1.1 mirror", True),
        ("1.1 a, 1.0 mirror (routerd)", True),
        ("1.1 mirror-2", False),
        (", ".join(["1.1 x"] * 5), False),
        (", ".join(["1.1 x"] * 6), True),
    ],
)
def test_a_circle_is_refused(via: str, refused: bool) -> None:
    if not refused:
        check_loop(via, "mirror", 5)
        return
    with pytest.raises(RegistryError) as found:
        check_loop(via, "mirror", 5)
    assert found.value.status == 508


def test_origins_are_scheme_host_and_port() -> None:
    assert origin_of("https://A.example/x") == origin_of("https://a.example:443/y")
    assert origin_of("http://a.example") != origin_of("https://a.example")


async def test_a_remote_takes_no_pushes(remote: MakeRemote) -> None:
    assert not isinstance(await remote(), PushEndpoint)
