"""The registry API on a storage endpoint, over real sockets: distribution-spec 1.1, protocol.md 2."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from upstream import OCI_MANIFEST, digest_of, image
from wire import Reply, Wire

from .conftest import Serving

POLICY = """
endpoints:
  local: {type: storage, actions: [pull, push, delete]}
  shelf: {type: storage, actions: [pull]}
routes:
  team/**: local
  other/**: local
  shelf/**: shelf
  gone/**: {deny: "moved to elsewhere.example"}
  team/app:frozen: shelf
"""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
BLOB = b"some layer " * 1000


async def push_blob(wire: Wire, name: str, data: bytes) -> Reply:
    return await wire.send("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(data)}", body=data)


async def push_manifest(wire: Wire, name: str, reference: str, body: bytes) -> Reply:
    return await wire.send(
        "PUT", f"/v2/{name}/manifests/{reference}", body, {"Content-Type": OCI_MANIFEST}
    )


async def push_image(wire: Wire, name: str, tag: str, *blobs: bytes) -> str:
    for data in blobs:
        assert (await push_blob(wire, name, data)).status == 201
    body = image(*blobs)
    assert (await push_manifest(wire, name, tag, body)).status == 201
    return digest_of(body)


async def test_the_base_answers_without_a_redirect(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        for path in ("/v2", "/v2/"):
            reply = await wire.get(path)
            assert (reply.status, reply.json) == (200, {})
            assert reply.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_a_pushed_image_is_pulled_back_byte_for_byte(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        by_tag = await wire.get("/v2/team/app/manifests/1")
        by_digest = await wire.get(f"/v2/team/app/manifests/{digest}")
        blob = await wire.get(f"/v2/team/app/blobs/{digest_of(BLOB)}")

        assert by_tag.body == by_digest.body == image(b"config", BLOB)
        assert by_tag.headers["content-type"] == OCI_MANIFEST
        assert by_tag.headers["docker-content-digest"] == digest
        assert by_tag.headers["etag"] == f'"{digest}"'
        assert by_tag.headers["cache-control"] == "max-age=0"
        assert by_digest.headers["cache-control"] == "max-age=31536000, immutable"
        assert blob.body == BLOB
        assert blob.headers["content-type"] == "application/octet-stream"
        assert blob.headers["accept-ranges"] == "bytes"


async def test_head_says_what_get_says(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        for path in (
            "/v2/team/app/manifests/1",
            f"/v2/team/app/manifests/{digest}",
            f"/v2/team/app/blobs/{digest_of(BLOB)}",
        ):
            get, head = await wire.get(path), await wire.head(path)
            for name in ("content-type", "content-length", "docker-content-digest", "etag"):
                assert head.headers[name] == get.headers[name], (path, name)


@pytest.mark.parametrize("form", ['"{}"', "{}", 'W/"{}"', '"sha256:00", "{}"', "*"])
async def test_a_client_that_has_it_gets_304(serving: Serving, form: str) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        reply = await wire.get("/v2/team/app/manifests/1", If_None_Match=form.format(digest))
        assert (reply.status, reply.body) == (304, b"")
        assert (await wire.get("/v2/team/app/manifests/1", If_None_Match='"x"')).status == 200


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        ("bytes=0-9", 206, BLOB[:10], f"bytes 0-9/{len(BLOB)}"),
        ("bytes=10-", 206, BLOB[10:], f"bytes 10-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=-5", 206, BLOB[-5:], f"bytes {len(BLOB) - 5}-{len(BLOB) - 1}/{len(BLOB)}"),
        (f"bytes=5-{10**30}", 206, BLOB[5:], f"bytes 5-{len(BLOB) - 1}/{len(BLOB)}"),
        ("bytes=0-1,5-6", 200, BLOB, None),
        ("lines=0-1", 200, BLOB, None),
        ("bytes=9-2", 200, BLOB, None),
        (f"bytes={len(BLOB)}-", 416, None, f"bytes */{len(BLOB)}"),
    ],
)
async def test_ranges_of_a_blob(
    serving: Serving, asked: str, status: int, part: bytes | None, content_range: str | None
) -> None:
    async with serving(POLICY) as wire:
        await push_blob(wire, "team/app", BLOB)
        reply = await wire.get(f"/v2/team/app/blobs/{digest_of(BLOB)}", Range=asked)
        assert reply.status == status
        assert reply.headers.get("content-range") == content_range
        if part is not None:
            assert reply.body == part


async def test_a_chunked_upload_with_status_and_order(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        start = await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")
        assert start.status == 202
        where = start.headers["location"]
        assert where.startswith("/v2/team/app/blobs/uploads/")

        first = await wire.send("PATCH", where, b"abc", {"Content-Range": "0-2"})
        assert (first.status, first.headers["range"]) == (202, "0-2")
        status = await wire.get(where)
        assert (status.status, status.headers["range"]) == (204, "0-2")
        again = await wire.send("PATCH", where, b"abc", {"Content-Range": "0-2"})
        assert (again.status, again.headers["range"]) == (416, "0-2")
        streamed = await wire.send("PATCH", where, b"def")
        assert (streamed.status, streamed.headers["range"]) == (202, "0-5")
        late = await wire.send(
            "PUT", f"{where}?digest={digest_of(b'abcdefghi')}", b"ghi", {"Content-Range": "9-11"}
        )
        assert late.status == 416
        last = await wire.send(
            "PUT", f"{where}?digest={digest_of(b'abcdefghi')}", b"ghi", {"Content-Range": "6-8"}
        )
        assert last.status == 201
        assert (await wire.get(last.headers["location"])).body == b"abcdefghi"
        assert (await wire.get(where)).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize(("body", "kept"), [(b"abc", b"abc"), (b"a" * 101, b"")])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_chunk_that_is_not_as_long_as_its_content_range_is_refused(
    serving: Serving, method: str, body: bytes, kept: bytes
) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        query = f"?digest={digest_of(body)}" if method == "PUT" else ""
        head = f"{method} {where}{query} HTTP/1.1\r\nHost: x\r\nContent-Range: 0-99\r\n"
        chunked = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        reply = await wire.raw(head.encode() + chunked + body + b"\r\n0\r\n\r\n")
        assert (reply.status, reply.code) == (400, "SIZE_INVALID")
        assert reply.headers["range"] == f"0-{max(0, len(kept) - 1)}"
        done = await wire.send("PUT", f"{where}?digest={digest_of(kept)}", b"")
        assert done.status == 201


async def test_a_cancelled_upload_is_gone(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        await wire.send("PATCH", where, b"abc")
        assert (await wire.send("DELETE", where)).status == 204
        assert (await wire.send("PATCH", where, b"abc")).status == 404


async def test_a_session_of_another_repository_is_unknown(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        reply = await wire.get(where.replace("team/app", "other/app"))
        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_wrong_digest_is_refused_and_nothing_kept(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        wrong = digest_of(b"something else")
        mono = await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={wrong}", BLOB)
        assert (mono.status, mono.code) == (400, "DIGEST_INVALID")
        for digest in (wrong, digest_of(BLOB)):
            assert (await wire.get(f"/v2/team/app/blobs/{digest}")).status == 404
        manifest = await push_manifest(wire, "team/app", wrong, image(b""))
        assert (manifest.status, manifest.code) == (400, "DIGEST_INVALID")


async def test_a_manifest_whose_children_are_missing_is_refused(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        await push_blob(wire, "team/app", b"config")
        reply = await push_manifest(wire, "team/app", "1", image(b"config", BLOB))
        assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")
        assert digest_of(BLOB) in reply.message


async def test_sha512_is_pushed_and_pulled(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = digest_of(BLOB, "sha512")
        reply = await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={digest}", BLOB)
        assert reply.status == 201
        assert (await wire.get(f"/v2/team/app/blobs/{digest}")).body == BLOB
        assert (await wire.get(f"/v2/team/app/blobs/{digest_of(BLOB)}")).status == 404


async def test_an_empty_blob_is_a_blob(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        assert (await wire.send("PUT", f"{where}?digest={digest_of(b'')}", b"")).status == 201
        reply = await wire.get(f"/v2/team/app/blobs/{digest_of(b'')}")
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")


async def test_a_digest_guessed_through_another_repository_is_404(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        for path in (f"manifests/{digest}", f"blobs/{digest_of(BLOB)}"):
            assert (await wire.get(f"/v2/other/app/{path}")).status == 404
            assert (await wire.head(f"/v2/other/app/{path}")).status == 404
        mention = await push_manifest(wire, "other/app", "1", image(b"config", BLOB))
        assert mention.status == 404
        assert (await wire.get(f"/v2/other/app/blobs/{digest_of(BLOB)}")).status == 404


async def test_a_manifest_is_not_read_as_a_blob_nor_a_blob_as_a_manifest(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        assert (await wire.get(f"/v2/team/app/blobs/{digest}")).code == "BLOB_UNKNOWN"
        reply = await wire.get(f"/v2/team/app/manifests/{digest_of(BLOB)}")
        assert reply.code == "MANIFEST_UNKNOWN"


async def test_a_blob_is_mounted_from_where_the_caller_sees_it(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        await push_blob(wire, "team/app", BLOB)
        digest = digest_of(BLOB)
        mounted = await wire.send(
            "POST", f"/v2/other/app/blobs/uploads/?mount={digest}&from=team/app", b""
        )
        assert mounted.status == 201
        assert (await wire.get(f"/v2/other/app/blobs/{digest}")).body == BLOB
        nowhere = await wire.send(
            "POST", f"/v2/team/new/blobs/uploads/?mount={digest}&from=team/nothing", b""
        )
        assert nowhere.status == 202
        unnamed = await wire.send("POST", f"/v2/team/new/blobs/uploads/?mount={digest}", b"")
        assert unnamed.status == 202


async def test_tags_are_listed_sorted_in_pages(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        for tag in ("b", "a", "c"):
            await push_image(wire, "team/app", tag, b"config")
        everything = await wire.get("/v2/team/app/tags/list")
        assert everything.json == {"name": "team/app", "tags": ["a", "b", "c"]}
        first = await wire.get("/v2/team/app/tags/list?n=2")
        assert first.json["tags"] == ["a", "b"]
        assert first.headers["link"] == '</v2/team/app/tags/list?n=2&last=b>; rel="next"'
        second = await wire.get("/v2/team/app/tags/list?n=2&last=b")
        assert second.json["tags"] == ["c"]
        assert "link" not in second.headers
        assert (await wire.get("/v2/team/app/tags/list?n=0")).json["tags"] == []
        assert (await wire.get("/v2/team/nothing/tags/list")).code == "NAME_UNKNOWN"


async def test_what_is_deleted_is_gone_at_once(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config", BLOB)
        await push_manifest(wire, "team/app", "2", image(b"config", BLOB))
        assert (await wire.send("DELETE", "/v2/team/app/manifests/1")).status == 202
        assert (await wire.get("/v2/team/app/manifests/1")).status == 404
        assert (await wire.get("/v2/team/app/manifests/2")).status == 200
        assert (await wire.send("DELETE", f"/v2/team/app/manifests/{digest}")).status == 202
        assert (await wire.get("/v2/team/app/manifests/2")).status == 404
        assert (await wire.send("DELETE", f"/v2/team/app/blobs/{digest_of(BLOB)}")).status == 202
        assert (await wire.get(f"/v2/team/app/blobs/{digest_of(BLOB)}")).status == 404


async def test_a_write_on_a_read_only_route_is_405_and_its_body_is_read(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        body = b"x" * (2 * 1024 * 1024)
        reply = await wire.send("POST", "/v2/shelf/app/blobs/uploads/", body)
        assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert "shelf" in reply.message
        reply = await wire.send("PUT", "/v2/shelf/app/manifests/1", body)
        assert (reply.status, reply.code) == (405, "UNSUPPORTED")


async def test_a_manifest_whose_tag_goes_elsewhere_is_refused_naming_the_route(
    serving: Serving,
) -> None:
    async with serving(POLICY) as wire:
        await push_blob(wire, "team/app", b"config")
        reply = await push_manifest(wire, "team/app", "frozen", image(b"config"))
        assert (reply.status, reply.code) == (403, "DENIED")
        assert "team/app:frozen" in reply.message


async def test_names_that_no_route_matches_and_routes_that_deny(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        unknown = await wire.get("/v2/foo/bar/manifests/1")
        assert (unknown.status, unknown.code) == (404, "NAME_UNKNOWN")
        assert unknown.message == "no route matches docker.io/foo/bar"
        assert unknown.headers["cache-control"] == "no-store"
        denied = await wire.get("/v2/gone/app/manifests/1")
        assert (denied.status, denied.code) == (403, "DENIED")
        assert "moved to elsewhere.example" in denied.message


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/team/../etc/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team%2Fapp/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/a%00b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team//app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/Team/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/" + "a" * 300 + "/manifests/1", 400, "NAME_INVALID"),
        ("/v2/team/app/manifests/" + "t" * 129, 400, "MANIFEST_INVALID"),
        ("/v2/team/app/manifests/sha256:abc", 400, "DIGEST_INVALID"),
        ("/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/team/app/blobs/latest", 400, "DIGEST_INVALID"),
    ],
)
async def test_names_outside_the_grammar_are_400(
    serving: Serving, path: str, status: int, code: str
) -> None:
    async with serving(POLICY) as wire:
        reply = await wire.get(path)
        assert (reply.status, reply.code) == (status, code), reply.body


async def test_the_old_api_and_other_paths_are_json_404(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        for path in ("/v1/_ping", "/", "/favicon.ico", "/v3/"):
            reply = await wire.get(path)
            assert reply.status == 404
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_method_that_a_noun_lacks_is_405_with_allow(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        reply = await wire.send("PATCH", "/v2/team/app/manifests/1", b"")
        assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert "GET" in reply.headers["allow"]
        assert (await wire.send("BREW", "/v2/team/app/manifests/1")).status == 405


async def test_ns_and_path_prefix_name_the_same_image(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        await push_image(wire, "team/app", "1", b"config")
        bare = await wire.get("/v2/team/app/manifests/1")
        with_ns = await wire.get("/v2/team/app/manifests/1?ns=docker.io")
        prefixed = await wire.get("/v2/docker.io/team/app/manifests/1")
        assert bare.body == with_ns.body == prefixed.body
        assert with_ns.headers["oci-namespace"] == "docker.io"
        assert "oci-namespace" not in bare.headers
        assert (await wire.get("/v2/team/app/manifests/1?ns=ghcr.io")).code == "NAME_UNKNOWN"


async def test_where_pushed_content_is_names_it_as_the_client_did(serving: Serving) -> None:
    policy = POLICY.replace("  team/**: local", "  team/**: local\n  ghcr.io/team/**: local")
    async with serving(policy) as wire:
        query = f"?ns=ghcr.io&digest={digest_of(b'config')}"
        blob = await wire.send("POST", f"/v2/team/app/blobs/uploads/{query}", b"config")
        pushed = await push_manifest(wire, "team/app", "1?ns=ghcr.io", image(b"config"))
        assert (blob.status, pushed.status) == (201, 201)
        for reply in (blob, pushed):
            assert (await wire.get(reply.headers["location"])).status == 200
            assert reply.headers["location"].endswith("?ns=ghcr.io")


@pytest.mark.parametrize("ns", ["a%0d%0ab", "../", "caf%c3%a9", "%00"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/v2/team/app/tags/list"])
async def test_an_ns_that_is_no_registry_name_is_400(serving: Serving, path: str, ns: str) -> None:
    async with serving(POLICY) as wire:
        reply = await wire.get(f"{path}?ns={ns}")
        assert (reply.status, reply.code) == (400, "NAME_INVALID")
        assert "oci-namespace" not in reply.headers


async def test_a_last_that_no_tag_can_be_is_400(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        assert (await wire.get("/v2/team/app/tags/list?last=%00")).status == 400


async def test_half_a_character_in_a_pushed_manifest_is_400(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        digest = await push_image(wire, "team/app", "1", b"config")
        subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}
        odd = image(b"config", subject=subject, artifactType="\ud800")
        reply = await push_manifest(wire, "team/app", "2", odd)
        assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")


async def test_a_manifest_whose_type_the_client_leaves_out_is_404_naming_it(
    serving: Serving,
) -> None:
    async with serving(POLICY) as wire:
        await push_image(wire, "team/app", "1", b"config")
        reply = await wire.get("/v2/team/app/manifests/1", Accept=OCI_INDEX)
        assert (reply.status, reply.code) == (404, "MANIFEST_UNKNOWN")
        assert OCI_MANIFEST in reply.message
        assert (await wire.get("/v2/team/app/manifests/1", Accept="*/*")).status == 200


async def test_a_manifest_over_the_limit_is_413(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        huge = image(b"", annotations={"x": "y" * (4 * 1024 * 1024)})
        assert (await push_manifest(wire, "team/app", "1", huge)).status == 413


async def test_an_upload_that_is_cut_keeps_what_came_and_goes_on(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        where = (await wire.send("POST", "/v2/team/app/blobs/uploads/", b"")).headers["location"]
        _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode() + b"a" * 300)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(10):
            while (reply := await wire.get(where)).headers["range"] != "0-299":
                assert reply.headers["range"] == "0-0"
        rest = await wire.send("PATCH", where, b"b" * 3, {"Content-Range": "300-302"})
        assert rest.status == 202
        data = b"a" * 300 + b"bbb"
        done = await wire.send("PUT", f"{where}?digest={digest_of(data)}", b"")
        assert done.status == 201


async def test_a_request_that_came_through_here_before_is_508(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        reply = await wire.get("/v2/team/app/manifests/1", Via=", ".join(["1.1 a"] * 9))
        assert reply.status == 508
        assert "1.1 a" in reply.message


async def test_health_is_answered_beside_the_api(serving: Serving) -> None:
    async with serving(POLICY) as wire:
        assert (await wire.get("/healthz")).status == 200
        assert (await wire.get("/readyz")).json == {"status": "ready"}


async def test_an_upload_in_one_request_that_breaks_off_leaves_nothing(
    serving: Serving, tmp_path: Path
) -> None:
    """Nobody was told the id of its session, so nobody could go on with it."""
    uploads = tmp_path / "data" / "local" / "uploads"
    start = f"POST /v2/team/app/blobs/uploads/?digest={digest_of(BLOB)} HTTP/1.1\r\nHost: x\r\n"
    async with serving(POLICY) as wire:
        wrong = await wire.send(
            "POST", f"/v2/team/app/blobs/uploads/?digest={digest_of(BLOB)}", b"something else"
        )
        assert (wrong.status, wrong.code) == (400, "DIGEST_INVALID")
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            writer.write(f"{start}Content-Length: {len(BLOB)}\r\n\r\n".encode() + BLOB[:100])
            await writer.drain()
            async with asyncio.timeout(5):
                while not list(uploads.iterdir()):
                    await asyncio.sleep(0.01)
            writer.close()
            async with asyncio.timeout(5):
                while list(uploads.iterdir()):
                    await asyncio.sleep(0.01)


async def test_a_layer_whose_file_is_gone_is_pushed_again(serving: Serving, tmp_path: Path) -> None:
    async with serving(POLICY) as wire:
        await push_image(wire, "team/app", "1", b"config", BLOB)
        digest = digest_of(BLOB)
        [file] = (tmp_path / "data" / "local" / "blobs").rglob(digest[7:])
        file.unlink()
        assert (await wire.head(f"/v2/team/app/blobs/{digest}")).status == 404
        refused = await push_manifest(wire, "team/app", "2", image(b"config", BLOB))
        assert (refused.status, refused.code) == (404, "MANIFEST_BLOB_UNKNOWN")
        await push_image(wire, "team/app", "2", b"config", BLOB)
        assert (await wire.get(f"/v2/team/app/blobs/{digest}")).body == BLOB
