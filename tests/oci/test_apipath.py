"""apipath: how a request names an image (protocol.md 1), and what is no path at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.oci.apipath import (
    BlobCall,
    Catalog,
    ManifestCall,
    NameRules,
    Ping,
    Referrers,
    TagList,
    UploadCall,
    allow,
    parse,
)
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import DOCKER_HUB, Digest

DIGEST = "sha256:" + "a" * 64
RULES = NameRules(DOCKER_HUB, lambda namespace: namespace in {"docker.io", "ghcr.io"})


def call(path: str, query: str = "") -> object:
    return parse(path.encode(), query.encode(), RULES)


@pytest.mark.parametrize(
    ("path", "query", "repository"),
    [
        # S1: ns says the namespace
        ("library/alpine", "ns=docker.io", "docker.io/library/alpine"),
        ("alpine", "ns=docker.io", "docker.io/library/alpine"),
        ("alpine", "ns=registry-1.docker.io", "docker.io/library/alpine"),
        ("a/b", "ns=ghcr.io", "ghcr.io/a/b"),
        ("a/b", "ns=GHCR.io:443", "ghcr.io/a/b"),
        ("a", "ns=quay.io", "quay.io/a"),
        ("ghcr.io/a/b", "ns=ghcr.io", "ghcr.io/a/b"),  # a segment that repeats it is dropped
        ("index.docker.io/a", "ns=docker.io", "docker.io/library/a"),
        ("my.project/app", "ns=harbor.corp", "harbor.corp/my.project/app"),
        # S2: a configured namespace as the first segment
        ("docker.io/library/alpine", "", "docker.io/library/alpine"),
        ("docker.io/alpine", "", "docker.io/library/alpine"),
        ("ghcr.io/a/b", "", "ghcr.io/a/b"),
        ("ghcr.io", "", "docker.io/library/ghcr.io"),  # nothing behind it: a name
        # S5: bare
        ("alpine", "", "docker.io/library/alpine"),
        ("a/b/c", "", "docker.io/a/b/c"),
        ("my.project/app", "", "docker.io/my.project/app"),
        ("quay.io/a", "", "docker.io/quay.io/a"),  # not configured
        # names of segments that mean something elsewhere
        ("a/manifests", "", "docker.io/a/manifests"),
        ("blobs/uploads/x", "", "docker.io/blobs/uploads/x"),
        ("tags/list", "", "docker.io/tags/list"),
        ("a/manifests/b/blobs/c", "", "docker.io/a/manifests/b/blobs/c"),
    ],
)
def test_five_styles_are_one_name(path: str, query: str, repository: str) -> None:
    found = call(f"/v2/{path}/manifests/3", query)
    assert isinstance(found, ManifestCall)
    assert str(found.repository) == repository
    assert found.reference.tag == "3"
    assert found.location("tags/list").startswith(f"/v2/{path}/tags/list")
    for suffix, kind in (
        (f"manifests/{DIGEST}", ManifestCall),
        (f"blobs/{DIGEST}", BlobCall),
        ("blobs/uploads/", UploadCall),
        ("blobs/uploads", UploadCall),
        ("blobs/uploads/some-id_1", UploadCall),
        ("tags/list", TagList),
        (f"referrers/{DIGEST}", Referrers),
    ):
        other = call(f"/v2/{path}/{suffix}", query)
        assert isinstance(other, kind), suffix
        assert str(other.repository) == repository  # type: ignore[attr-defined]


def test_the_base_the_catalog_and_their_methods() -> None:
    assert call("/v2") == call("/v2/") == Ping()
    assert call("/v2/_catalog") == Catalog()
    assert allow(Ping()) == ("GET", "HEAD")
    assert "PUT" in allow(call(f"/v2/a/manifests/{DIGEST}"))  # type: ignore[arg-type]
    assert allow(call("/v2/a/blobs/uploads/")) == ("POST",)  # type: ignore[arg-type]


def test_an_upload_has_its_query() -> None:
    found = call("/v2/a/b/blobs/uploads/", f"mount={DIGEST}&from=ghcr.io/c/d&digest={DIGEST}")
    assert isinstance(found, UploadCall)
    assert found.mount == found.digest == Digest.parse(DIGEST)
    assert str(found.source) == "ghcr.io/c/d"
    assert found.session is None


def test_a_tag_list_has_its_page() -> None:
    found = call("/v2/a/tags/list", "n=5&last=1.2&ns=docker.io")
    assert isinstance(found, TagList)
    assert (found.n, found.last, found.ns) == (5, "1.2", "docker.io")
    assert call("/v2/a/tags/list", "n=0").n == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "query", "code", "status"),
    [
        ("/", "", Code.UNSUPPORTED, 404),
        ("/v1/_ping", "", Code.UNSUPPORTED, 404),
        ("/v2x", "", Code.UNSUPPORTED, 404),
        ("/v2/a", "", Code.UNSUPPORTED, 404),
        ("/v2/_oci/ext", "", Code.UNSUPPORTED, 404),
        ("/v2/manifests/1", "", Code.UNSUPPORTED, 404),
        ("/v2//manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a//b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a/../b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/%2e%2e/b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/./b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a%2Fb/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a%00/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a%0d%0a/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a%ff/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a%zz/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/A/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a_/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/a___b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/" + "a/" * 130 + "b/manifests/1", "", Code.NAME_INVALID, 400),
        ("/v2/" + "a" * 5000, "", Code.NAME_INVALID, 400),
        ("/v2/a/manifests/" + "t" * 129, "", Code.MANIFEST_INVALID, 400),
        ("/v2/a/manifests/-x", "", Code.MANIFEST_INVALID, 400),
        ("/v2/a/manifests/sha256:zz", "", Code.DIGEST_INVALID, 400),
        ("/v2/a/manifests/sha999:" + "a" * 64, "", Code.DIGEST_INVALID, 400),
        ("/v2/a/manifests/sha256:" + "A" * 64, "", Code.DIGEST_INVALID, 400),
        ("/v2/a/blobs/latest", "", Code.DIGEST_INVALID, 400),
        ("/v2/a/blobs/uploads/" + "x" * 65, "", Code.BLOB_UPLOAD_UNKNOWN, 404),
        ("/v2/a/blobs/uploads/a.b", "", Code.BLOB_UPLOAD_UNKNOWN, 404),
        ("/v2/a/blobs/uploads/", "digest=x", Code.DIGEST_INVALID, 400),
        ("/v2/a/blobs/uploads/", f"mount={DIGEST}&from=../x", Code.NAME_INVALID, 400),
        ("/v2/a/tags/list", "n=-1", Code.UNSUPPORTED, 400),
        ("/v2/a/tags/list", "n=1e3", Code.UNSUPPORTED, 400),
        ("/v2/a/tags/list", "n=" + "9" * 10, Code.UNSUPPORTED, 400),
        ("/v2/a/manifests/1", "ns=ghcr.io&ns=docker.io", Code.NAME_INVALID, 400),
        ("/v2/a/manifests/1", "ns=http://x/", Code.NAME_INVALID, 400),
        ("/v2/a/manifests/1", "ns=", Code.NAME_INVALID, 400),
        ("/v2/", "ns=a%0d%0ab", Code.NAME_INVALID, 400),
        ("/v2/", "ns=../", Code.NAME_INVALID, 400),
        ("/v2/_catalog", "ns=a%00", Code.NAME_INVALID, 400),
        ("/v2/a/tags/list", "last=%00", Code.MANIFEST_INVALID, 400),
        ("/v2/a/tags/list", "last=a%2Fb", Code.MANIFEST_INVALID, 400),
        ("/v2/a/tags/list", "last=" + "a" * 129, Code.MANIFEST_INVALID, 400),
        ("/v2/ghcr.io/a/manifests/1", "ns=docker.io", Code.NAME_INVALID, 400),
        ("/v2/a/manifests/1", "&".join(f"a{n}=1" for n in range(100)), Code.NAME_INVALID, 400),
    ],
)
def test_what_is_no_call(path: str, query: str, code: Code, status: int) -> None:
    with pytest.raises(RegistryError) as refused:
        call(path, query)
    assert (refused.value.code, refused.value.status) == (code, status)


WORDS = "a b.c .. %2F %00 manifests blobs uploads tags list _catalog ghcr.io referrers x:y"
SEGMENTS = [b"", b"\xff", DIGEST.encode(), *(word.encode() for word in WORDS.split())]
NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.sampled_from(SEGMENTS),
            max_size=8,
        ).map(b"/".join),
    ),
    st.binary(max_size=40),
)
def test_any_path_is_a_call_or_a_4xx(tail: bytes, query: bytes) -> None:
    try:
        found = parse(b"/v2/" + tail, query, RULES)
    except RegistryError as refused:
        assert 400 <= refused.status < 500
        return
    repository = getattr(found, "repository", None)
    if repository is not None:
        assert NAME.fullmatch(repository.name)
        assert len(str(repository)) <= 255
