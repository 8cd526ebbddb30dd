"""Platforms: their grammar, and which child of an index is for one."""

from __future__ import annotations

import pytest

from routerd.oci.manifest import OCI_MANIFEST, Descriptor
from routerd.oci.platform import Platform, of_platforms
from routerd.oci.reference import Digest


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7", "windows/amd64", "wasip1/wasm"])
def test_a_platform_is_printed_as_it_is_written(text: str) -> None:
    assert str(Platform.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "Linux/amd64", "a/b/c/d", "linux/amd64\n"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("platform", "child", "expected"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v3", True),
        ("linux/amd64/v2", "linux/amd64/v3", False),
        ("linux/amd64/v2", "linux/amd64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/amd64", "linux/386", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v9", False),
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm", "linux/arm/v6", False),
        ("linux/arm/v6", "linux/arm/v6", True),
        ("linux/amd64", "unknown/unknown", False),
        ("linux/amd64", "", False),
    ],
)  # fmt: skip
def test_a_platform_takes_its_children(platform: str, child: str, expected: bool) -> None:
    digest = Digest.of(b"x")
    children = [Descriptor(OCI_MANIFEST, digest, 1, child)]
    assert (
        bool(of_platforms(children, [Platform.parse("a/b"), Platform.parse(platform)])) is expected
    )
    assert of_platforms(children, []) == ()
