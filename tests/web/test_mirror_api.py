"""Pull-through over real sockets, against an upstream that is scripted to misbehave."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from routerd.proxy.ahead import AHEAD_BYTES
from upstream import Asked, Script, Upstream, digest_of, image, upstream
from wire import Wire, read_reply

from .conftest import Serving

LAYER = os.urandom(3_000_000)


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


def policy(hub: Upstream, ttl: str = "1h", extra: str = "", routes: str = "") -> str:
    return f"""
endpoints:
  hub:
    type: remote
    url: {hub.url}
    namespace: docker.io
    cache: {{store: local, ttl: {ttl}{extra}}}
    timeouts: {{connect: 2s, response: 3s, stall: 10s}}
  direct: {{type: remote, url: '{hub.url}', namespace: docker.io}}
  local: {{type: storage}}
routes:
  direct/**: direct
  team/**: local
  "**": hub
{routes}
"""


def serve_image(hub: Upstream, name: str = "library/app", tag: str = "1", **extra: object) -> str:
    body = image(b"config", LAYER, **extra)
    hub.blob(name, b"config")
    hub.blob(name, LAYER)
    return hub.manifest(name, tag, body)


async def until_kept(wire: Wire, path: str) -> None:
    """A client has its last byte before what it read is durable and linked."""
    async with asyncio.timeout(20):
        while (await wire.head(path)).headers["cache-status"] != "routerd; hit":
            await asyncio.sleep(0.01)


async def test_a_pull_stores_and_the_next_needs_no_upstream(
    serving: Serving, hub: Upstream
) -> None:
    digest = serve_image(hub)
    async with serving(policy(hub)) as wire:
        first = await wire.get("/v2/library/app/manifests/1")
        blob = await wire.get(f"/v2/library/app/blobs/{digest_of(LAYER)}")
        assert (first.status, blob.body == LAYER) == (200, True)
        assert first.headers["cache-status"].startswith("routerd; fwd=miss; stored; ttl=")
        assert first.headers["cache-control"] == "max-age=3600"
        assert blob.headers["cache-status"] == "routerd; fwd=miss; stored"
        assert blob.headers["cache-control"] == "max-age=31536000, immutable"
        await until_kept(wire, f"/v2/library/app/blobs/{digest_of(LAYER)}")
        await hub.stop()
        again = await wire.get("/v2/library/app/manifests/1")
        by_digest = await wire.get(f"/v2/library/app/manifests/{digest}")
        cached = await wire.get(f"/v2/library/app/blobs/{digest_of(LAYER)}")
        assert again.body == first.body == by_digest.body
        assert again.headers["cache-status"].startswith("routerd; hit; ttl=")
        assert cached.body == LAYER
        assert cached.headers["cache-status"] == "routerd; hit"


async def test_upstream_is_asked_with_our_own_headers_only(serving: Serving, hub: Upstream) -> None:
    serve_image(hub)
    async with serving(policy(hub)) as wire:
        await wire.get(
            "/v2/library/app/manifests/1",
            Authorization="Basic Y2xpZW50OnNlY3JldA==",
            Cookie="session=1",
            Accept="application/vnd.oci.image.manifest.v1+json",
            Via="1.1 before",
            X_Forwarded_For="203.0.113.9",
        )
        [asked] = [one for one in hub.asked if one.path == "/v2/library/app/manifests/1"]
        assert "authorization" not in asked.headers
        assert "cookie" not in asked.headers
        assert asked.headers["user-agent"].startswith("routerd/")
        assert asked.headers["via"].startswith("1.1 before, 1.1 ")
        assert asked.headers["x-forwarded-for"] == "127.0.0.1"  # the peer is no trusted proxy
        for kind in ("oci.image.index", "manifest.list.v2", "oci.image.manifest", "manifest.v2"):
            assert kind in asked.headers["accept"]


async def test_many_clients_make_one_download(serving: Serving, hub: Upstream) -> None:
    gate = asyncio.Event()
    digest = hub.blob("library/app", LAYER, gate=gate, before_gate=1000)
    path = f"/v2/library/app/blobs/{digest}"
    async with serving(policy(hub)) as wire:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        clients = []
        for extra in [""] * 20 + ["Range: bytes=2000000-2000099\r\n"]:
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(f"{request}{extra}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not extra:
                # Each one follows with the first byte, while upstream holds back the rest.
                assert await reader.readexactly(900) == LAYER[:900]
            clients.append((reader, writer, head))
        gate.set()
        bodies = [await reader.read() for reader, _, _ in clients]
        assert all(body == LAYER[900:] for body in bodies[:-1])
        assert bodies[-1] == LAYER[2_000_000:2_000_100]
        assert b" 206 " in clients[-1][2]
        assert b"fwd=miss; stored" in clients[0][2]
        assert b"fwd=miss; collapsed" in clients[1][2]
        assert hub.count("GET", path) == 1
        for _, writer, _ in clients:
            writer.close()
            await writer.wait_closed()


async def test_a_client_that_hangs_up_does_not_stop_the_fill(
    serving: Serving, hub: Upstream
) -> None:
    gate = asyncio.Event()
    digest = hub.blob("library/app", LAYER, gate=gate, before_gate=100_000)
    path = f"/v2/library/app/blobs/{digest}"
    async with serving(policy(hub)) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readexactly(1000)
        writer.transport.abort()
        gate.set()
        reply = await wire.get(path)
        assert reply.body == LAYER
        assert hub.count("GET", path) == 1


async def test_a_head_never_downloads_and_is_remembered(serving: Serving, hub: Upstream) -> None:
    digest = hub.blob("library/app", LAYER)
    path = f"/v2/library/app/blobs/{digest}"
    async with serving(policy(hub)) as wire:
        for _ in range(3):
            reply = await wire.head(path)
            assert (reply.status, reply.headers["content-length"]) == (200, str(len(LAYER)))
        assert (hub.count("HEAD", path), hub.count("GET", path)) == (1, 0)


async def test_heads_of_many_at_once_are_one(serving: Serving, hub: Upstream) -> None:
    digest, missing = hub.blob("library/app", LAYER), digest_of(b"missing")
    path, nowhere = (f"/v2/library/app/blobs/{one}" for one in (digest, missing))
    async with serving(policy(hub)) as wire:
        replies = await asyncio.gather(*(wire.head(path) for _ in range(40)))
        assert {reply.headers["content-length"] for reply in replies} == {str(len(LAYER))}
        replies = await asyncio.gather(*(wire.head(nowhere) for _ in range(40)))
        assert {reply.status for reply in replies} == {404}
        assert (await wire.head(nowhere)).status == 404
    assert (hub.count("HEAD", path), hub.count("HEAD", nowhere)) == (1, 1)


async def test_a_head_knows_the_size_of_what_is_coming_in(serving: Serving, hub: Upstream) -> None:
    path = f"/v2/library/app/blobs/{digest_of(LAYER)}"
    gate = asyncio.Event()
    hub.paths[path] = Script(LAYER, gate=gate, before_gate=1_500_000)
    async with serving(policy(hub)) as wire:
        pulling = asyncio.ensure_future(wire.get(path))
        async with asyncio.timeout(10):
            while hub.count("GET", path) == 0 or (await wire.head(path)).status != 200:
                await asyncio.sleep(0.005)
        before = hub.count("HEAD", path)
        reply = await wire.head(path)
        assert reply.headers["content-length"] == str(len(LAYER))
        assert hub.count("HEAD", path) == before
        gate.set()
        assert (await pulling).body == LAYER


async def test_an_expired_tag_is_revalidated_with_a_head(serving: Serving, hub: Upstream) -> None:
    serve_image(hub)
    path = "/v2/library/app/manifests/1"
    async with serving(policy(hub, ttl="0s")) as wire:
        await wire.get(path)
        again = await wire.get(path)
        assert again.headers["cache-status"].startswith("routerd; fwd=stale; fwd-status=304")
        assert (hub.count("GET", path), hub.count("HEAD", path)) == (1, 1)
        moved = serve_image(hub, annotations={"moved": "yes"})
        after = await wire.get(path)
        assert after.headers["docker-content-digest"] == moved
        assert digest_of(after.body) == moved


async def test_a_tag_is_stale_if_error_marked_and_not_for_ever(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub)
    path = "/v2/library/app/manifests/1"
    async with serving(policy(hub, ttl="0s")) as wire:
        await wire.get(path)
        for broken in (Script(status=500), Script(status=429, headers={"Retry-After": "7"})):
            hub.paths[path] = broken
            stale = await wire.get(path)
            assert stale.status == 200
            assert 'detail="stale-if-error"' in stale.headers["cache-status"]
            assert stale.headers["warning"].startswith("299 - ")
        await hub.stop()
        assert (await wire.get(path)).status == 200


async def test_without_stale_if_error_an_outage_is_an_outage(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub)
    path = "/v2/library/app/manifests/1"
    async with serving(policy(hub, ttl="0s", extra=", stale_if_error: 0s")) as wire:
        await wire.get(path)
        hub.paths[path] = Script(status=429, headers={"Retry-After": "7"})
        limited = await wire.get(path)
        assert (limited.status, limited.code) == (429, "TOOMANYREQUESTS")
        assert limited.headers["retry-after"] == "7"
        await hub.stop()
        down = await wire.get(path)
        assert (down.status, down.code) == (503, "UNAVAILABLE")
        assert "hub" in down.message


async def test_what_upstream_lacks_is_404(serving: Serving, hub: Upstream) -> None:
    async with serving(policy(hub)) as wire:
        manifest = await wire.get("/v2/library/none/manifests/1")
        assert (manifest.status, manifest.code) == (404, "MANIFEST_UNKNOWN")
        blob = await wire.get(f"/v2/library/none/blobs/{digest_of(b'x')}")
        assert (blob.status, blob.code) == (404, "BLOB_UNKNOWN")
        tags = await wire.get("/v2/library/none/tags/list")
        assert (tags.status, tags.code) == (404, "NAME_UNKNOWN")
        hub.paths["/v2/library/closed/manifests/1"] = Script(status=401)
        assert (await wire.get("/v2/library/closed/manifests/1")).status == 404


@pytest.mark.parametrize("name", ["library/app", "direct/app"])
@pytest.mark.parametrize(
    "changes",
    [
        {"body": b"x" * 2_999_999 + b"y"},  # the wrong bytes
        {"cut": 2_000_000, "ranges": False},  # truncated, every time
        {"length": 3_000_000 + 10, "cut": 3_000_000},  # shorter than it says
    ],
)
async def test_a_broken_body_ends_short_and_nothing_is_kept(
    serving: Serving, hub: Upstream, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    digest = digest_of(LAYER)
    script = {"body": LAYER, "headers": {"Content-Type": "application/octet-stream"}, **changes}
    hub.paths[f"/v2/{name}/blobs/{digest}"] = Script(**script)  # type: ignore[arg-type]
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/{name}/blobs/{digest}")
        if reply.status < 500:
            assert not reply.complete
            assert len(reply.body) < int(reply.headers["content-length"])
        hub.paths.clear()
        assert (await wire.get(f"/v2/{name}/blobs/{digest}")).status == 404
        store = tmp_path / "data" / "local"
        if "body" in changes:  # of what only broke off, the bytes are for the next download
            async with asyncio.timeout(10):
                while list((store / "spool").iterdir()):  # it goes right after the client's answer
                    await asyncio.sleep(0.01)
        assert not list((store / "blobs").rglob(digest[7:]))
        hub.paths[f"/v2/{name}/blobs/{digest}"] = Script(LAYER)
        replies = [await wire.get(f"/v2/{name}/blobs/{digest}") for _ in range(2)]
        assert replies[-1].body == LAYER
        assert all(reply.status == 502 or reply.body == LAYER for reply in replies)


async def test_a_download_that_breaks_is_resumed(serving: Serving, hub: Upstream) -> None:
    digest = digest_of(LAYER)
    path = f"/v2/library/app/blobs/{digest}"
    headers = {"Content-Type": "application/octet-stream"}
    scripts = [Script(LAYER, headers=headers, cut=1_000_000), Script(LAYER, headers=headers)]
    hub.paths[path] = lambda asked: scripts.pop(0)
    async with serving(policy(hub)) as wire:
        reply = await wire.get(path)
        assert reply.body == LAYER
        assert [one.headers.get("range") for one in hub.asked if one.path == path][1] is not None


@pytest.mark.parametrize("name", ["library/app", "direct/app"])
async def test_a_body_longer_than_it_says_is_not_passed_on(
    serving: Serving, hub: Upstream, name: str
) -> None:
    digest = hub.blob(name, LAYER, length=len(LAYER) - 5)
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/{name}/blobs/{digest}")
        assert len(reply.body) < len(LAYER)
        assert not reply.complete or reply.status >= 500


@pytest.mark.parametrize("name", ["library/app", "direct/app"])
async def test_a_web_page_instead_of_content_is_502(
    serving: Serving, hub: Upstream, name: str
) -> None:
    page = Script(b"<html>log in", headers={"Content-Type": "text/html; charset=utf-8"})
    digest = digest_of(LAYER)
    for path in (f"/v2/{name}/blobs/{digest}", f"/v2/{name}/manifests/1"):
        hub.paths[path] = page
    async with serving(policy(hub)) as wire:
        for path in (f"/v2/{name}/blobs/{digest}", f"/v2/{name}/manifests/1"):
            reply = await wire.get(path)
            assert (reply.status, reply.code) == (502, "UNAVAILABLE")
            assert "web page" in reply.message


async def test_a_manifest_that_is_not_its_digest_is_502_and_not_kept(
    serving: Serving, hub: Upstream
) -> None:
    digest = serve_image(hub)
    other = image(b"other")
    headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    hub.paths[f"/v2/library/app/manifests/{digest}"] = Script(other, headers=headers)
    hub.paths["/v2/library/app/manifests/lies"] = Script(
        other, headers={**headers, "Docker-Content-Digest": digest}
    )
    async with serving(policy(hub)) as wire:
        for reference in (digest, "lies"):
            assert (await wire.get(f"/v2/library/app/manifests/{reference}")).status == 502
            hub.paths.pop(f"/v2/library/app/manifests/{reference}")
            assert (await wire.get(f"/v2/library/app/manifests/{reference}")).status == 404


async def test_a_blob_whose_length_upstream_does_not_say_comes_whole(
    serving: Serving, hub: Upstream
) -> None:
    path = f"/v2/library/app/blobs/{digest_of(LAYER)}"
    hub.paths[path] = Script(LAYER, length=None)
    async with serving(policy(hub)) as wire:
        reply = await wire.get(path)
        assert (reply.status, reply.headers["transfer-encoding"]) == (200, "chunked")
        assert (reply.complete, reply.body == LAYER) == (True, True)


async def test_an_endless_manifest_is_cut_off(serving: Serving, hub: Upstream) -> None:
    hub.paths["/v2/library/app/manifests/1"] = Script(
        b" " * 6_000_000, headers={"Content-Type": "application/json"}, length=None
    )
    async with serving(policy(hub)) as wire:
        assert (await wire.get("/v2/library/app/manifests/1")).status == 502


async def test_an_upstream_that_says_nothing_is_503_after_its_deadline(
    serving: Serving, hub: Upstream
) -> None:
    never = asyncio.Event()

    async def silent(asked: object) -> Script:
        await never.wait()
        return Script()

    hub.paths["/v2/library/app/manifests/1"] = silent
    async with serving(policy(hub)) as wire:
        reply = await wire.get("/v2/library/app/manifests/1")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        assert "within 3 s" in reply.message
        never.set()


async def test_a_blob_of_one_repository_is_not_seen_from_another(
    serving: Serving, hub: Upstream
) -> None:
    digest = hub.blob("library/app", LAYER)
    async with serving(policy(hub)) as wire:
        assert (await wire.get(f"/v2/library/app/blobs/{digest}")).body == LAYER
        assert (await wire.get(f"/v2/library/other/blobs/{digest}")).status == 404
        assert (await wire.head(f"/v2/library/other/blobs/{digest}")).status == 404
        assert (await wire.get(f"/v2/team/app/blobs/{digest}")).status == 404
        # Once upstream says that the other repository has it too, its bytes need not come again.
        hub.blob("library/other", LAYER)
        assert (await wire.get(f"/v2/library/other/blobs/{digest}")).body == LAYER
        assert hub.count("GET", f"/v2/library/other/blobs/{digest}") == 0


async def test_tags_pass_through(serving: Serving, hub: Upstream) -> None:
    hub.paths["/v2/library/app/tags/list"] = Script(b'{"name":"x","tags":["b","a","not a tag"]}')
    async with serving(policy(hub)) as wire:
        assert (await wire.get("/v2/library/app/tags/list")).json == {
            "name": "library/app",
            "tags": ["a", "b"],
        }
        hub.paths["/v2/library/app/tags/list"] = Script(status=500)
        assert (await wire.get("/v2/library/app/tags/list")).status == 503


async def test_ranges_of_an_uncached_endpoint(serving: Serving, hub: Upstream) -> None:
    digest = hub.blob("direct/app", LAYER)
    async with serving(policy(hub)) as wire:
        path = f"/v2/direct/app/blobs/{digest}"
        for ranges in (True, False):
            hub.blob("direct/app", LAYER, ranges=ranges)
            reply = await wire.get(path, Range="bytes=1000000-1000099")
            assert (reply.status, reply.body) == (206, LAYER[1_000_000:1_000_100])
        whole = await wire.get(path)
        assert whole.body == LAYER
        assert whole.headers["cache-status"] == "routerd; fwd=bypass"


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=100-200"}])
@pytest.mark.parametrize("name", ["library/app", "direct/app"])
async def test_no_200_before_the_first_byte_is_in_hand(
    serving: Serving, hub: Upstream, name: str, asked: dict[str, str]
) -> None:
    digest = hub.blob(name, LAYER, cut=0)
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/{name}/blobs/{digest}", **asked)
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")


async def test_a_range_that_upstream_does_not_send_is_503(serving: Serving, hub: Upstream) -> None:
    digest = digest_of(LAYER)
    hub.paths[f"/v2/direct/app/blobs/{digest}"] = lambda asked: (
        Script(LAYER) if asked.method == "HEAD" else Script(status=500)
    )
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/direct/app/blobs/{digest}", Range="bytes=100-200")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")
        past = await wire.get(f"/v2/direct/app/blobs/{digest}", Range="bytes=9000000-")
        assert (past.status, past.headers["content-range"]) == (416, f"bytes */{len(LAYER)}")


async def test_a_small_blob_with_the_wrong_digest_is_502(serving: Serving, hub: Upstream) -> None:
    digest = digest_of(b"right")
    hub.paths[f"/v2/direct/app/blobs/{digest}"] = Script(b"wrong")
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/direct/app/blobs/{digest}")
        assert (reply.status, reply.code) == (502, "UNAVAILABLE")


async def test_a_range_that_cannot_be_read_is_the_whole_verified(
    serving: Serving, hub: Upstream
) -> None:
    digest = digest_of(LAYER)
    hub.paths[f"/v2/direct/app/blobs/{digest}"] = Script(LAYER[:-1] + bytes([LAYER[-1] ^ 1]))
    async with serving(policy(hub)) as wire:
        reply = await wire.get(f"/v2/direct/app/blobs/{digest}", Range="bytes=0-1,5-6")
        assert (reply.status, reply.complete) == (200, False)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blob_that_the_client_has_is_304_and_not_downloaded(
    serving: Serving, hub: Upstream, method: str
) -> None:
    digest = hub.blob("library/app", LAYER)
    path, has_it = f"/v2/library/app/blobs/{digest}", {"If-None-Match": f'"{digest}"'}
    async with serving(policy(hub)) as wire:
        reply = await wire.send(method, path, headers=has_it)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", f'"{digest}"')
        assert hub.count("GET", path) == 0
        assert (await wire.send(method, path, headers={"If-None-Match": '"x"'})).status == 200
        # That it has the bytes does not let it see where they are.
        elsewhere = path.replace("library/app", "library/other")
        assert (await wire.send(method, elsewhere, headers=has_it)).status == 404


async def test_any_byte_in_a_via_comment_does_no_harm(serving: Serving, hub: Upstream) -> None:
    digest = serve_image(hub)
    async with serving(policy(hub)) as wire:
        reply = await wire.get("/v2/library/app/manifests/1", Via="1.1 before (caf\xe9)")
        assert (reply.status, reply.headers["docker-content-digest"]) == (200, digest)
        assert hub.asked[-1].headers["via"].startswith("1.1 before (caf?), 1.1 ")


async def test_half_a_character_in_a_manifest_from_upstream_is_502(
    serving: Serving, hub: Upstream
) -> None:
    body = image(b"config", artifactType="\ud800")
    hub.manifest("library/app", "1", body)
    async with serving(policy(hub)) as wire:
        reply = await wire.get("/v2/library/app/manifests/1")
        assert (reply.status, reply.code) == (502, "UNAVAILABLE")


async def test_few_tags_at_a_time_where_most_lead_elsewhere(
    serving: Serving, hub: Upstream
) -> None:
    listed = sorted([*(f"a{number:02}" for number in range(60)), "latest", "newest"])

    def tags(asked: Asked) -> Script:
        query = parse_qs(asked.target.partition("?")[2])
        rest = [tag for tag in listed if tag > query.get("last", [""])[0]]
        n = int(query["n"][0])
        link = {"Link": '<x>; rel="next"'} if len(rest) > n else {}
        return Script(json.dumps({"tags": rest[:n]}).encode(), headers=link)

    hub.paths["/v2/library/app/tags/list"] = tags
    async with serving(policy(hub, routes="  library/app:a*: local\n")) as wire:
        whole = await wire.get("/v2/library/app/tags/list")
        assert whole.json["tags"] == ["latest", "newest"]
        first = await wire.get("/v2/library/app/tags/list?n=1&ns=docker.io")
        assert first.json["tags"] == ["latest"]
        where = first.headers["link"].partition(">")[0].removeprefix("<")
        assert where == "/v2/library/app/tags/list?n=1&last=latest&ns=docker.io"
        assert (await wire.get(where)).json["tags"] == ["newest"]


async def test_a_mirror_that_asks_itself_is_refused(serving: Serving, hub: Upstream) -> None:
    async with serving(policy(hub)) as wire:
        serve_image(hub)
        await wire.get("/v2/library/app/manifests/1")
        chain = hub.asked[-1].headers["via"]
        reply = await wire.get("/v2/library/app/manifests/1", Via=chain)
        assert reply.status == 508


async def test_what_a_client_needs_is_brought_to_the_push_target(
    serving: Serving, hub: Upstream
) -> None:
    serve_image(hub, "mycorp/app", "base")
    text = policy(hub, routes="  mycorp/**: {endpoints: [hub, local], push_to: local}\n")
    async with serving(text) as wire:
        body = image(b"config", LAYER, annotations={"ours": "yes"})
        for blob in (b"config", LAYER):
            assert (await wire.head(f"/v2/mycorp/app/blobs/{digest_of(blob)}")).status == 200
        pushed = await wire.send(
            "PUT",
            "/v2/mycorp/app/manifests/ours",
            body,
            {"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
        )
        assert pushed.status == 201, pushed.body
        await hub.stop()
        assert (await wire.get(f"/v2/mycorp/app/manifests/{digest_of(body)}")).body == body


async def test_a_cut_connection_leaves_the_server_sound(serving: Serving, hub: Upstream) -> None:
    digest = hub.blob("library/app", LAYER)
    async with serving(policy(hub)) as wire:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(f"GET /v2/library/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await reader.read(10)
            writer.transport.abort()
        assert (await wire.get(f"/v2/library/app/blobs/{digest}")).body == LAYER
        assert hub.count("GET", f"/v2/library/app/blobs/{digest}") == 1


async def test_a_connection_is_kept_for_the_next_request(serving: Serving, hub: Upstream) -> None:
    serve_image(hub)
    async with serving(policy(hub)) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        for _ in range(3):
            writer.write(b"GET /v2/library/app/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_reply(reader)).status == 200
        writer.close()
        await writer.wait_closed()


async def test_one_repositorys_404_is_not_the_answer_for_another(
    serving: Serving, hub: Upstream
) -> None:
    """Who guesses a digest in the wrong repository must not spoil the pull of who knows it."""
    digest = hub.blob("library/b", LAYER)
    gate = asyncio.Event()

    async def slow_404(asked: Asked) -> Script:
        await gate.wait()
        return Script(status=404)

    hub.paths[f"/v2/library/a/blobs/{digest}"] = slow_404
    async with serving(policy(hub)) as wire:
        guess = asyncio.ensure_future(wire.get(f"/v2/library/a/blobs/{digest}"))
        while not hub.count("GET", f"/v2/library/a/blobs/{digest}"):
            await asyncio.sleep(0.01)
        pull = asyncio.ensure_future(wire.get(f"/v2/library/b/blobs/{digest}"))
        while not hub.count("HEAD", f"/v2/library/b/blobs/{digest}"):
            await asyncio.sleep(0.01)
        gate.set()
        assert (await guess).status == 404
        right = await pull
        assert (right.status, right.body == LAYER) == (200, True)


async def test_a_blob_whose_file_is_gone_is_fetched_anew(
    serving: Serving, hub: Upstream, tmp_path: Path
) -> None:
    digest = hub.blob("library/app", LAYER)
    path = f"/v2/library/app/blobs/{digest}"
    async with serving(policy(hub)) as wire:
        await wire.get(path)
        await until_kept(wire, path)
        [file] = (tmp_path / "data" / "local" / "blobs").rglob(digest[7:])
        file.unlink()
        assert (await wire.head(path)).headers["cache-status"] == "routerd; fwd=miss; stored"
        assert (await wire.get(path)).body == LAYER
        assert hub.count("GET", path) == 2


async def test_a_range_far_ahead_of_the_download_does_not_wait_for_it(
    serving: Serving, hub: Upstream
) -> None:
    """A client that pulls lazily reads the footer of a layer first."""
    large = os.urandom(AHEAD_BYTES + 2_000_000)
    digest = hub.blob("library/app", large)
    path = f"/v2/library/app/blobs/{digest}"
    gate = asyncio.Event()

    def answer(asked: Asked) -> Script:
        if asked.headers.get("range") == "bytes=0-" or "range" not in asked.headers:
            return Script(large, gate=gate, before_gate=1000)
        return Script(large)

    hub.paths[path] = answer
    async with serving(policy(hub)) as wire:
        begun = asyncio.Event()
        whole = asyncio.ensure_future(wire.send("GET", path, begun=begun))
        async with asyncio.timeout(20):
            await begun.wait()
        footer = await wire.get(path, Range="bytes=-100")
        assert (footer.status, footer.body) == (206, large[-100:])
        start = AHEAD_BYTES + 5000
        middle = await wire.get(path, Range=f"bytes={start}-{start + 99}")
        assert middle.body == large[start : start + 100]
        near = asyncio.ensure_future(wire.get(path, Range="bytes=2000-2099"))
        hub.paths[path] = Script(status=500)
        broken = asyncio.ensure_future(wire.get(path, Range="bytes=-50"))
        while hub.asked[-1].headers.get("range") != f"bytes={len(large) - 50}-":
            await asyncio.sleep(0.01)
        assert not near.done()
        assert not broken.done()
        gate.set()
        assert (await near).body == large[2000:2100]
        assert (await broken).body == large[-50:], "it waits for the download after all"
        assert (await whole).body == large
    assert sum("range" not in one.headers for one in hub.asked) == 1
