"""`routerd cache` in both ways: asking a server that runs, and on a stopped one's data.

What it prints and how it ends is tested in `test_cache_program.py`, with real processes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest

from lab.client import Client
from routerd.content.errors import StoreError
from served import Served
from upstream import Script, Upstream, digest_of, image, upstream
from wire import Wire

LAYER = os.urandom(300_000)
TAG = "/v2/library/app/manifests/v1.0"


def policy(hub: Upstream) -> str:
    return f"""
server: {{admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: {hub.url}
    namespace: docker.io
    cache: {{store: local, ttl: 1h, immutable_tags: ["v*"]}}
  local: {{type: storage}}
routes:
  team/**: {{endpoints: local, cache: {{immutable_tags: ["v*"]}}}}
  bad/**: {{deny: "SEC-1"}}
  "**": hub
"""


@pytest.fixture
async def hub() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        server.blob("library/app", b"config")
        server.blob("library/app", LAYER)
        server.manifest("library/app", "v1.0", image(b"config", LAYER))
        yield server


@pytest.fixture
async def server(tmp_path: Path, hub: Upstream) -> AsyncIterator[Served]:
    """A server that has an image cached and one pushed."""
    started = Served(tmp_path, policy(hub))
    await started.start()
    await started.wire.get(TAG)
    for data in (b"config", LAYER):
        await kept(started.wire, data)
    await push(started, "v1", b"layer")
    yield started
    await started.stop()


async def push(server: Served, tag: str, layer: bytes) -> None:
    await asyncio.to_thread(Client(server.wire.port).push_image, "team/app", tag, layer)


async def kept(wire: Wire, data: bytes) -> None:
    path = f"/v2/library/app/blobs/{digest_of(data)}"
    assert (await wire.get(path)).body == data
    async with asyncio.timeout(20):
        while (await wire.head(path)).headers["cache-status"] != "routerd; hit":
            await asyncio.sleep(0.01)


@pytest.fixture(params=["running", "stopped"])
async def either(request: pytest.FixtureRequest, server: Served) -> Served:
    """The same, served or not."""
    if request.param == "stopped":
        await server.stop()
        assert not (server.data / "control.sock").exists()
    return server


async def refused(server: Served, name: str, **arguments: object) -> str:
    with pytest.raises(click.ClickException) as problem:
        await server.rows(name, **arguments)
    return problem.value.message


async def test_ls_and_stat_tell_what_a_team_wants_to_know(either: Served) -> None:
    manifest = image(b"config", LAYER)
    cached, pushed = await either.rows("ls")
    assert (cached["endpoint"], cached["repository"]) == ("hub", "library/app")
    assert (cached["reference"], cached["digest"]) == ("v1.0", digest_of(manifest))
    assert cached["bytes"] == len(manifest) + len(b"config") + len(LAYER)
    assert (cached["pushed_by"], cached["pinned"], cached["damaged"]) == (None, False, False)
    assert (pushed["endpoint"], pushed["repository"]) == ("local", "docker.io/team/app")
    assert (pushed["reference"], pushed["pushed_by"]) == ("v1", "127.0.0.1")
    assert await either.rows("ls", repository="library/*") == [cached]
    assert await either.rows("ls", repository="*/app") == [cached, pushed]
    assert await either.rows("ls", endpoint="local") == [pushed]
    [store] = await either.rows("stat")
    assert (store["store"], store["blobs"], store["damaged"]) == ("local", 6, 0)
    assert [(one["endpoint"], one["tags"], one["blobs"]) for one in store["endpoints"]] == [
        ("hub", 1, 2),
        ("local", 1, 2),
    ]
    # Both images have the same config, which is stored once.
    assert store["bytes"] == sum(one["size"] for one in store["endpoints"])
    assert 0 < store["free"] <= store["capacity"]


async def test_ls_refuses_a_name_that_is_no_endpoints(either: Served, hub: Upstream) -> None:
    said = await refused(either, "ls", endpoint="nope")
    assert said == "the policy has no endpoint 'nope', and nothing is stored of one"
    assert await either.rows("ls", endpoint="local", repository="nothing") == []
    assert await either.rows("ls", endpoint="~hub") == [], "it hides nothing"
    await either.stop()
    either.policy.write_text(either.policy.read_text().replace("hub", "docker"))
    [row] = await either.rows("ls", endpoint="hub")
    assert row["endpoint"] == "hub", "what the policy names no longer can be seen"
    assert await either.rows("ls", endpoint="docker") == []


async def test_a_purge_is_seen_by_the_next_request(server: Served, hub: Upstream) -> None:
    wire = server.wire
    assert (await wire.get(TAG)).headers["cache-status"].startswith("routerd; hit")
    [row] = await server.rows("purge", reference="app:v1.0")
    assert (row["tags"], row["manifests"], row["blobs"]) == (1, 1, 2)
    assert row["freed"] == len(image(b"config", LAYER)) + len(b"config") + len(LAYER)
    changed = image(b"config")
    hub.manifest("library/app", "v1.0", changed)
    again = await wire.get(TAG)
    assert again.body == changed
    assert again.headers["cache-status"].startswith("routerd; fwd=miss")
    blob = f"/v2/library/app/blobs/{digest_of(LAYER)}"
    assert (await wire.get(blob)).headers["cache-status"] == "routerd; fwd=miss; stored"


async def test_a_purge_on_stopped_data_counts_after_the_start(
    server: Served, hub: Upstream
) -> None:
    await server.stop()
    [row] = await server.rows("purge", reference="app:v1.0")
    assert (row["tags"], row["manifests"], row["blobs"]) == (1, 1, 2)
    assert [row["endpoint"] for row in await server.rows("ls")] == ["local"]
    before = hub.count("GET", TAG)
    await server.start()
    assert (await server.wire.get(TAG)).status == 200
    assert hub.count("GET", TAG) == before + 1


async def test_a_purge_leaves_what_another_tag_needs_and_what_was_pushed(
    server: Served, hub: Upstream
) -> None:
    other = image(b"config")
    hub.manifest("library/app", "other", other)
    await server.wire.get("/v2/library/app/manifests/other")
    [row] = await server.rows("purge", reference="app:v1.0")
    assert (row["tags"], row["manifests"], row["blobs"]) == (1, 1, 1)
    [row] = await server.rows("purge", reference=f"app@{digest_of(other)}")
    assert (row["tags"], row["manifests"], row["blobs"]) == (1, 1, 1)
    said = await refused(server, "purge", reference="app:v1.0")
    assert said == "nothing of docker.io/library/app:v1.0 is cached at hub"
    assert "nothing is cached" in await refused(server, "purge", reference="team/app:v1")
    assert (await server.wire.get("/v2/team/app/manifests/v1")).status == 200


async def test_a_purge_makes_sight_be_proven_anew(server: Served, hub: Upstream) -> None:
    """What a HEAD told before a purge does not show another repository's copy after it."""
    wire, digest = server.wire, hub.blob("library/other", LAYER)
    path = f"/v2/library/other/blobs/{digest}"
    manifest = image(LAYER)
    hub.manifest("library/other", "1", manifest)
    await wire.get("/v2/library/other/manifests/1")
    assert (await wire.get(path)).status == 200
    await server.rows("purge", reference="other:1")
    hub.paths[path] = Script(status=404)
    assert (await wire.get(path)).status == 404
    assert (await wire.get(f"/v2/library/app/blobs/{digest}")).body == LAYER


async def test_what_a_route_denies_is_purged_by_its_endpoint(server: Served) -> None:
    assert "--endpoint" in await refused(server, "purge", reference="bad/app:1")
    said = await refused(server, "purge", reference="bad/app:1", endpoint="hub")
    assert said == "nothing of docker.io/bad/app:1 is cached at hub"
    said = await refused(server, "purge", reference="bad/app:1", endpoint="none")
    assert "no endpoint 'none' with a cache" in said


LOGIN = "auth: {type: bearer, token: t}\n    namespace:"


async def test_what_an_endpoint_hides_is_purged_by_its_name(tmp_path: Path, hub: Upstream) -> None:
    server = Served(tmp_path, policy(hub).replace("namespace:", LOGIN))
    await server.start()
    assert (await server.wire.get(TAG)).status == 200
    await server.stop()
    server.policy.write_text(server.policy.read_text().replace(LOGIN, "namespace:"))
    await server.start()
    assert [row["endpoint"] for row in await server.rows("ls")] == ["~hub"]
    assert "is cached at hub" in await refused(server, "purge", reference="app:v1.0")
    said = await refused(server, "refresh", reference="app:v1.0", endpoint="~hub")
    assert "no route leads" in said
    for nobody in ("~none", "~~hub", "~local"):
        assert await refused(server, "purge", reference="app:v1.0", endpoint=nobody)
    await server.rows("pin", reference="app:v1.0", endpoint="~hub")
    said = await refused(server, "purge", reference="app:v1.0", endpoint="~hub")
    assert "pinned at ~hub as v1.0" in said
    await server.rows("unpin", reference="app:v1.0", endpoint="~hub")
    [row] = await server.rows("purge", reference="app:v1.0", endpoint="~hub")
    assert (row["endpoint"], row["tags"], row["manifests"]) == ("~hub", 1, 1)
    assert await server.rows("ls") == []
    await server.stop()


LOOKS = ("ls", "stat", "verify", "gc")


async def test_a_look_with_a_draft_leaves_the_stores_as_they_lie(
    tmp_path: Path, hub: Upstream
) -> None:
    server = Served(tmp_path, policy(hub).replace("namespace:", LOGIN))
    await server.start()
    assert (await server.wire.get(TAG)).status == 200
    await push(server, "v1", b"layer")
    await server.stop()
    text = server.policy.read_text()
    draft = text.replace(LOGIN, "namespace:").replace("local", "kept")
    draft = draft.replace("type: storage", "type: storage, previous_names: [local]")
    server.policy.write_text(draft)
    for name in LOOKS:
        await server.rows(name)
    assert [row["endpoint"] for row in await server.rows("ls")] == ["hub", "local"]
    assert not (server.data / "kept").exists()
    asked = len(hub.asked)
    server.policy.write_text(text)
    await server.start()
    assert (await server.wire.get(TAG)).headers["cache-status"].startswith("routerd; hit")
    assert (await server.wire.get("/v2/team/app/manifests/v1")).status == 200
    await server.stop()
    assert len(hub.asked) == asked
    server.policy.write_text(draft)
    await server.rows("refresh", reference="app:v1.0")
    listed = [row["endpoint"] for row in await server.rows("ls")]
    assert listed == ["hub", "kept", "~hub"], "what is asked in its name is not the former one's"


async def test_a_pin_is_shown_keeps_from_purging_and_goes(either: Served) -> None:
    [row] = await either.rows("pin", reference="app:v1.0")
    assert (row["pinned"], row["stored"]) == (True, True)
    [row] = await either.rows("pin", reference="app:v9")
    assert row["stored"] is False
    assert [row["pinned"] for row in await either.rows("ls")] == [True, False]
    assert "unpin it first" in await refused(either, "purge", reference="app:v1.0")
    [row] = await either.rows("unpin", reference="app:v1.0")
    assert row["pinned"] is False
    assert "is not pinned" in await refused(either, "unpin", reference="app:v1.0")
    await either.rows("purge", reference="app:v1.0")


async def test_an_immutable_tag_changes_by_a_refresh_only(either: Served, hub: Upstream) -> None:
    first, second = image(b"config", LAYER), image(b"config")
    [row] = await either.rows("refresh", reference="app:v1.0")
    assert row["before"] == row["after"] == digest_of(first)
    hub.manifest("library/app", "v1.0", second)
    if either.is_running:
        assert (await either.wire.get(TAG)).body == first
    [row] = await either.rows("refresh", reference="app:v1.0")
    assert (row["before"], row["after"]) == (digest_of(first), digest_of(second))
    if either.is_running:
        assert (await either.wire.get(TAG)).body == second
    hub.paths[TAG] = Script(status=503)
    [row] = await either.rows("refresh", reference="app:v1.0")
    assert (row["before"], row["after"]) == (digest_of(second), None)
    assert "503" in row["error"]
    assert "v1.0" in [row["reference"] for row in await either.rows("ls")]


async def test_a_refresh_brings_what_was_never_pulled(either: Served, hub: Upstream) -> None:
    hub.manifest("library/new", "1", image(b"new"))
    [row] = await either.rows("refresh", reference="new:1")
    assert (row["before"], row["after"]) == (None, digest_of(image(b"new")))
    [row] = await either.rows("refresh", reference="none:1")
    assert row["error"]


async def test_a_push_that_would_change_an_immutable_tag_is_denied(server: Served) -> None:
    before = (await server.wire.get("/v2/team/app/manifests/v1")).body
    with pytest.raises(AssertionError, match="immutable by policy"):
        await push(server, "v1", b"another layer")
    assert (await server.wire.get("/v2/team/app/manifests/v1")).body == before
    await push(server, "v1", b"layer")
    await push(server, "latest", b"another layer")
    await push(server, "latest", b"layer")


def spoil(server: Served, data: bytes) -> None:
    """Other bytes of the same length."""
    encoded = digest_of(data).removeprefix("sha256:")
    path = server.data / "local" / "blobs" / "sha256" / encoded[:2] / encoded
    path.write_bytes(bytes(len(data)))


async def test_damage_is_found_told_and_fetched_again(either: Served, hub: Upstream) -> None:
    spoil(either, LAYER)
    spoil(either, b"layer")
    (either.data / "local" / "notes.txt").write_text("mine")
    blob = f"/v2/library/app/blobs/{digest_of(LAYER)}"
    before = hub.count("GET", blob)
    *rows, end = await either.rows("verify", rate=1e9)
    by_digest = {row["digest"]: row for row in rows if row["kind"] == "damaged"}
    [again] = [row for row in rows if row["kind"] == "refetched"]
    assert (again["digest"], again["error"]) == (digest_of(LAYER), "")
    assert hub.count("GET", blob) == before + 1
    cached, pushed = by_digest[digest_of(LAYER)], by_digest[digest_of(b"layer")]
    assert (cached["pushed"], cached["listed_by"]) == (False, ["library/app:v1.0"])
    assert (pushed["pushed"], pushed["pushed_by"]) == (True, ["127.0.0.1"])
    assert pushed["listed_by"] == ["docker.io/team/app:v1"]
    assert end["foreign"] == ["notes.txt"]
    assert (end["blobs"], end["damaged"], end["index"]) == (6, 2, "")
    if not either.is_running:
        await either.start()
    wire = either.wire
    assert (await wire.get(f"/v2/team/app/blobs/{digest_of(b'layer')}")).status == 404
    pulled = await wire.get(blob)
    assert (pulled.body, pulled.headers["cache-status"]) == (LAYER, "routerd; hit")
    await push(either, "v1", b"layer")
    [end] = await either.rows("verify")
    assert end["damaged"] == 0
    [store] = await either.rows("stat")
    assert (store["damaged"], store["quarantined"]) == (0, 2)


async def test_what_cannot_be_fetched_again_now_is_by_the_next_pull(
    either: Served, hub: Upstream
) -> None:
    spoil(either, LAYER)
    await hub.stop()
    _, again, end = await either.rows("verify", rate=1e9)
    assert (again["kind"], again["digest"]) == ("refetched", digest_of(LAYER))
    assert "hub" in again["error"]
    assert end["damaged"] == 1
    await hub.start()
    if not either.is_running:
        await either.start()
    await kept(either.wire, LAYER)


async def test_a_damaged_manifest_is_fetched_again(server: Served, hub: Upstream) -> None:
    """It is in memory, parsed, and would be right; but what is on disk is what is kept."""
    manifest = image(b"config", LAYER)
    assert (await server.wire.get(TAG)).body == manifest
    spoil(server, manifest)
    path = f"/v2/library/app/manifests/{digest_of(manifest)}"
    before = hub.count("GET", path)
    await server.rows("verify")
    assert hub.count("GET", path) == before + 1
    again = await server.wire.get(TAG)
    assert again.body == manifest
    [end] = await server.rows("verify")
    assert end["damaged"] == 0


async def test_the_socket_works_in_a_directory_with_a_long_name(
    tmp_path: Path, hub: Upstream
) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    server = Served(deep, policy(hub))
    await server.start()
    try:
        assert await server.rows("ls") == []
        assert (await server.rows("stat"))[0]["blobs"] == 0
    finally:
        await server.stop()


async def test_a_second_server_on_a_data_directory_without_stores_is_refused(
    tmp_path: Path, hub: Upstream
) -> None:
    """Stores have locks of their own; a policy without one has the control socket."""
    text = f"""
server: {{admin: null, data: "@DATA@"}}
endpoints: {{hub: {{type: remote, url: '{hub.url}', namespace: docker.io}}}}
routes: {{"**": hub}}
"""
    first, second = Served(tmp_path, text), Served(tmp_path, text)
    await first.start()
    try:
        with pytest.raises(StoreError, match="in use by another server"):
            await second.start()
        assert await first.rows("stat") == []
    finally:
        await first.stop()


@pytest.mark.parametrize(
    ("request_line", "body", "status", "word"),
    [
        ("GET /v1/ls", b"", 404, "takes POST"),
        ("POST /v1/nonsense", b"{}", 404, "no operation"),
        ("POST /v1/ls", b"[]", 400, "not an object"),
        ("POST /v1/ls", b"{", 400, "not JSON"),
        ("POST /v1/ls", b'{"x": 1}', 400, "does not take x"),
        ("POST /v1/pin", b"{}", 400, "needs reference"),
        ("POST /v1/pin", b'{"reference": 5}', 400, "cannot use reference"),
        ("POST /v1/verify", b'{"rate": 0}', 400, "more than 0"),
        ("POST /v1/verify", b'{"store": "x"}', 404, "no storage endpoint"),
    ],
)
async def test_the_control_socket_refuses_what_it_does_not_know(
    server: Served, request_line: str, body: bytes, status: int, word: str
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(server.data / "control.sock"))
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert word.encode() in answer


async def test_gc_frees_what_a_purge_has_left_and_nothing_else(
    either: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("retention", "sweep"):
        monkeypatch.setattr(f"routerd.content.{module}.GRACE", -10.0)  # nothing is too young
    swept = {"kind": "swept", "store": "local", "manifests": 0, "links": 0, "blobs": 0, "bytes": 0}
    swept |= {"pinned": 0, "skipped": False}
    assert await either.rows("gc") == [swept]
    await either.rows("purge", reference="app:v1.0")
    freed = len(image(b"config", LAYER)) + len(b"config") + len(LAYER)
    assert await either.rows("gc") == [swept | {"blobs": 3, "bytes": freed}]
    assert [row["reference"] for row in await either.rows("ls")] == ["v1"]
