"""reference, ranges, manifest, errors: the grammar of each, both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.oci.errors import DEFAULTS, Code, RegistryError, printable
from routerd.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_LIMIT,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    acceptable,
)
from routerd.oci.ranges import (
    ByteRange,
    content_range,
    parse_range,
    parse_response_range,
    parse_upload_range,
)
from routerd.oci.reference import Digest, Reference, Repository, parse_namespace, parse_tag
from upstream import digest_of, image

# Names

components = st.from_regex(r"[a-z0-9]{1,5}(?:(?:\.|_|__|-)[a-z0-9]{1,4})?", fullmatch=True)
repositories = st.builds(
    lambda namespace, parts: Repository.parse(namespace, "/".join(parts)),
    st.sampled_from(["docker.io", "ghcr.io", "localhost:5000", "a-b.example"]),
    st.lists(components, min_size=1, max_size=4),
)
references = st.one_of(
    st.builds(
        lambda repository, tag: Reference(repository, tag=parse_tag(tag)),
        repositories,
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    ),
    st.builds(
        lambda repository, data: Reference(repository, digest=Digest.of(data)),
        repositories,
        st.binary(max_size=5),
    ),
)


@given(references)
def test_a_reference_is_what_its_text_parses_to(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_a_400(text: str) -> None:
    try:
        Reference.parse(text)
    except RegistryError as refused:
        assert refused.status == 400


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1", "docker.io/library/nginx:1"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("registry.hub.docker.com/a/b", "docker.io/a/b:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a:b", "localhost:5000/a:b"),
        ("GHCR.io:443/a/b", "ghcr.io/a/b:latest"),
        ("a/b:c@" + digest_of(b""), "docker.io/a/b@" + digest_of(b"")),
    ],
)
def test_a_reference_as_people_type_it(text: str, canonical: str) -> None:
    assert str(Reference.parse(text)) == canonical


def test_a_reference_has_one_of_tag_and_digest() -> None:
    repository = Repository.parse("docker.io", "a")
    with pytest.raises(ValueError, match="exactly one"):
        Reference(repository)
    with pytest.raises(ValueError, match="exactly one"):
        Reference(repository, parse_tag("1"), Digest.of(b""))


@pytest.mark.parametrize(
    "text", ["", "a b", "-a", "a..b", "a/b", "[::1", "x:123456", "ä.example", "a\n"]
)
def test_what_is_no_namespace(text: str) -> None:
    with pytest.raises(RegistryError):
        parse_namespace(text)


def test_every_code_has_a_status_and_a_sentence() -> None:
    assert set(DEFAULTS) == set(Code)
    for code, (status, sentence) in DEFAULTS.items():
        assert 400 <= status < 600
        assert sentence
        assert RegistryError(code).status == status


@given(st.text(max_size=600))
def test_a_strangers_text_is_safe_to_show(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 256
    assert shown.isprintable()


# Ranges


@pytest.mark.parametrize(
    ("header", "size", "found"),
    [
        (None, 10, None),
        ("bytes=0-0", 10, ByteRange(0, 1)),
        ("bytes=0-99", 10, ByteRange(0, 10)),
        ("bytes=3-", 10, ByteRange(3, 10)),
        ("bytes=-3", 10, ByteRange(7, 10)),
        ("bytes=-99", 10, ByteRange(0, 10)),
        ("Bytes = 1-2", 10, ByteRange(1, 3)),
        ("bytes=1-2,4-5", 10, None),
        ("bytes=2-1", 10, None),
        ("bytes=-", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=1", 10, None),
        ("items=1-2", 10, None),
        ("bytes=²-3", 10, None),
        ("bytes=0-" + "9" * 400, 10, ByteRange(0, 10)),
        ("bytes=-" + "9" * 400, 10, ByteRange(0, 10)),
    ],
)
def test_a_range_is_clamped_or_ignored(
    header: str | None, size: int, found: ByteRange | None
) -> None:
    assert parse_range(header, size) == found


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 400 + "-"]
)
def test_a_range_past_the_end_is_416_with_the_size(header: str) -> None:
    with pytest.raises(RegistryError) as refused:
        parse_range(header, 10)
    assert refused.value.status == 416
    assert refused.value.headers["Content-Range"] == "bytes */10"


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_content_range_is_read_back(start: int, length: int) -> None:
    part = ByteRange(start, start + length)
    assert parse_response_range(content_range(part, start + length)) == (part, start + length)
    assert parse_upload_range(f"{start}-{start + length - 1}") == part


@given(st.text(max_size=30), st.integers(0, 100))
def test_any_range_header_is_a_part_the_whole_or_416(header: str, size: int) -> None:
    try:
        part = parse_range(header, size)
    except RegistryError as refused:
        assert refused.status == 416
        return
    assert part is None or 0 <= part.start < part.stop <= size


@pytest.mark.parametrize(
    "header", ["bytes 5-4/10", "bytes 0-10/10", "bytes 0-5", "0-5/10", "", "bytes a-b/c"]
)
def test_a_response_range_that_makes_no_sense_is_none(header: str) -> None:
    assert parse_response_range(header) is None


@pytest.mark.parametrize("header", ["5-4", "a-b", "", "5", "-5", "5-", "9" * 30 + "-" + "9" * 31])
def test_an_upload_range_that_makes_no_sense_is_400(header: str) -> None:
    with pytest.raises(RegistryError) as refused:
        parse_upload_range(header)
    assert (refused.value.status, refused.value.code) == (400, Code.BLOB_UPLOAD_INVALID)


# Manifests


def document(**changes: Any) -> bytes:
    return json.dumps({**json.loads(image(b"config", b"layer")), **changes}).encode()


def test_a_manifest_says_what_it_lists_and_keeps_its_bytes() -> None:
    body = image(b"config", b"layer")
    manifest = Manifest.parse(body, OCI_MANIFEST)
    assert manifest.body is body
    assert str(manifest.descriptor.digest) == digest_of(body)
    assert [str(blob.digest) for blob in manifest.blobs] == [
        digest_of(b"config"),
        digest_of(b"layer"),
    ]
    assert manifest.children == ()


def test_an_index_says_its_children_and_their_platforms() -> None:
    child = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"x"), "size": 1}
    arm = {**child, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child, arm]})
    manifest = Manifest.parse(body.encode(), OCI_INDEX + "; charset=utf-8")
    assert [c.platform for c in manifest.children] == ["", "linux/arm/v7"]


def test_foreign_layers_need_not_be_here() -> None:
    layers = [
        {"mediaType": kind, "digest": digest_of(b"x"), "size": 1}
        for kind in (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.v1.tar",
        )
    ]
    manifest = Manifest.parse(document(layers=layers), OCI_MANIFEST)
    assert len(manifest.blobs) == 4
    assert len(manifest.required_blobs) == 2


SUBJECT = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"x"), "size": 1}


@pytest.mark.parametrize(
    "body",
    [
        document(artifactType="\ud800"),
        document(artifactType="\ud800").replace(b"\\ud800", b"\xed\xa0\x80"),
        document(subject={**SUBJECT, "platform": {"os": "linux", "architecture": "\udfff"}}),
        document(subject={**SUBJECT, "mediaType": "a/\u212a"}),  # the Kelvin sign, a k to `re`
    ],
)
def test_half_a_character_is_no_part_of_a_manifest(body: bytes) -> None:
    with pytest.raises(RegistryError) as refused:
        Manifest.parse(body, "")
    assert refused.value.code is Code.MANIFEST_INVALID


def test_a_subject_and_an_artifact_type_are_kept() -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"s"), "size": 1}
    manifest = Manifest.parse(document(subject=subject, artifactType="a/b"), OCI_MANIFEST)
    assert manifest.subject is not None
    assert str(manifest.subject.digest) == digest_of(b"s")
    assert manifest.artifact_type == "a/b"


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", OCI_MANIFEST, "not JSON"),
        (b"[]", OCI_MANIFEST, "object"),
        (b"[" * 100_000, OCI_MANIFEST, "not JSON|nested"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, OCI_MANIFEST, "nested"),
        (b"\xff\xfe", OCI_MANIFEST, "not JSON"),
        (document(schemaVersion=1), OCI_MANIFEST, "schema 1"),
        (document(schemaVersion=3), OCI_MANIFEST, "schemaVersion"),
        (document(schemaVersion="2"), OCI_MANIFEST, "schemaVersion"),
        (document(manifests=[]), OCI_MANIFEST, "at once"),
        (document(), DOCKER_MANIFEST, "Content-Type"),
        (document(mediaType=5), OCI_MANIFEST, "mediaType"),
        (document(mediaType=OCI_INDEX), OCI_INDEX, "members"),
        (document(mediaType="text/html"), "text/html", "not the media type"),
        (document(mediaType=""), "application/json", "which kind"),
        (document(layers=5), OCI_MANIFEST, "layers"),
        (document(layers=[5]), OCI_MANIFEST, r"layers\[0\]"),
        (document(config={"mediaType": "a/b", "digest": "x", "size": 1}), OCI_MANIFEST, "config"),
        (document(config={"mediaType": "a/b", "digest": digest_of(b""), "size": -1}), OCI_MANIFEST, "size"),
        (document(config={"mediaType": "a/b", "digest": digest_of(b""), "size": True}), OCI_MANIFEST, "size"),
        (document(config={"mediaType": "ab", "digest": digest_of(b""), "size": 1}), OCI_MANIFEST, "mediaType"),  # noqa: E501
        (b'{"schemaVersion":2,"mediaType":"' + OCI_MANIFEST.encode() + b'"}', OCI_MANIFEST, "members|neither"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_no_manifest(body: bytes, content_type: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words) as refused:
        Manifest.parse(body, content_type)
    assert (refused.value.code, refused.value.status) == (Code.MANIFEST_INVALID, 400)


def test_a_manifest_that_is_not_its_digest_is_refused() -> None:
    body = image(b"c")
    assert (
        Manifest.parse(body, OCI_MANIFEST, Digest.of(body, "sha512")).descriptor.digest.algorithm
        == "sha512"
    )
    with pytest.raises(RegistryError) as refused:
        Manifest.parse(body, OCI_MANIFEST, Digest.of(b"other"))
    assert refused.value.code is Code.DIGEST_INVALID


def test_a_manifest_over_the_limit_is_413() -> None:
    with pytest.raises(RegistryError) as refused:
        Manifest.parse(b" " * (MANIFEST_LIMIT + 1), OCI_MANIFEST)
    assert refused.value.status == 413


def test_a_type_that_only_the_document_says_counts() -> None:
    assert Manifest.parse(document(), "").descriptor.media_type == OCI_MANIFEST
    assert (
        Manifest.parse(document(), "application/octet-stream").descriptor.media_type == OCI_MANIFEST
    )


MEMBERS = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "digest",
    "size",
    "subject",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.sampled_from(MEMBERS), children),
    max_leaves=8,
)


@given(anything)
def test_any_json_is_a_manifest_or_a_400(value: Any) -> None:
    try:
        Manifest.parse(json.dumps(value).encode(), OCI_MANIFEST)
    except RegistryError as refused:
        assert refused.status == 400


@pytest.mark.parametrize(
    ("accept", "allowed"),
    [
        ([], True),
        (["*/*"], True),
        (["application/*"], True),
        ([OCI_MANIFEST], True),
        ([OCI_INDEX, OCI_MANIFEST], True),
        ([f"{OCI_INDEX}, {OCI_MANIFEST};q=0.5"], True),
        ([f"{OCI_INDEX}"], False),
        ([DOCKER_LIST], False),
        (["text/*"], False),
        ([f"{OCI_MANIFEST};q=0"], False),
        ([f"{OCI_MANIFEST};q=0.000"], False),
        ([f"{OCI_MANIFEST};q=0.001"], True),
        ([""], True),
        ([OCI_MANIFEST.upper()], True),
    ],
)
def test_accept(accept: list[str], allowed: bool) -> None:
    assert acceptable(OCI_MANIFEST, accept) is allowed
