"""Manifests: descriptor, raw bytes, what they list, media types, negotiation by Accept.

Owns what a manifest says about other content. Does not own storing or fetching it. The body is what
came in, never re-serialised: a digest is over bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.oci.errors import Code, RegistryError, printable
from routerd.oci.reference import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_KNOWN = frozenset({OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST})

# What upstream is asked with, whatever the client sent: a narrow list would store a narrow answer.
ACCEPT_ALL = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))

MANIFEST_LIMIT = 4 * 1024 * 1024  # bytes; distribution-spec: at least this much is to be accepted
DESCRIPTORS_LIMIT = 10_000  # of one manifest; the largest real indexes list a few hundred

_MEDIA_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.I | re.A
)
# Media types of content that is not the registry's to have (image-spec, "Non-distributable").
_FOREIGN = ("nondistributable", "foreign")
_UNSPECIFIC = frozenset({"", "application/json", "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """image-spec's descriptor: what some content is, by digest and size in bytes.

    `platform` is `os/architecture[/variant]` for the children of an index, else empty.
    """

    media_type: str
    digest: Digest
    size: int
    platform: str = ""

    @property
    def foreign(self) -> bool:
        """Whether the content may live elsewhere and need not be in this registry."""
        return any(word in self.media_type for word in _FOREIGN)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index: its raw bytes, and what it lists."""

    descriptor: Descriptor
    body: bytes
    children: tuple[Descriptor, ...] = ()  # manifests of an index
    blobs: tuple[Descriptor, ...] = ()  # config and layers
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def required_blobs(self) -> tuple[Descriptor, ...]:
        """The blobs that must be in the repository: all but foreign layers."""
        return tuple(blob for blob in self.blobs if not blob.foreign)

    @classmethod
    def parse(cls, body: bytes, content_type: str, digest: Digest | None = None) -> Manifest:
        """Validate what came in as `content_type`, expected to be `digest` if one is given.

        Raises 400 MANIFEST_INVALID, 400 DIGEST_INVALID, 413 MANIFEST_INVALID.
        """
        if len(body) > MANIFEST_LIMIT:
            raise RegistryError(
                Code.MANIFEST_INVALID,
                f"the manifest is larger than {MANIFEST_LIMIT} bytes",
                status=413,
            )
        found = Digest.of(body, "sha256" if digest is None else digest.algorithm)
        if digest is not None and found != digest:
            raise RegistryError(
                Code.DIGEST_INVALID, f"the manifest is {found}, not {digest} as was said"
            )
        document = _document(body)
        media_type = _media_type(document, content_type)
        children, blobs = _listed(document, media_type)
        subject = document.get("subject")
        config = document.get("config")
        artifact_type = document.get("artifactType") or (
            config.get("mediaType") if isinstance(config, dict) else ""
        )
        return cls(
            descriptor=Descriptor(media_type, found, len(body)),
            body=body,
            children=children,
            blobs=blobs,
            subject=None if subject is None else _descriptor(subject, "subject"),
            artifact_type=_text(artifact_type, "artifactType"),
        )


def acceptable(media_type: str, accept: Sequence[str]) -> bool:
    """Whether a client's Accept headers allow `media_type` (RFC 9110 12.5.1); none allow all."""
    ranges = [part.strip() for header in accept for part in header.split(",") if part.strip()]
    if not ranges:
        return True
    group = media_type.partition("/")[0] + "/*"
    for part in ranges:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name in ("*/*", group, media_type) and not any(_is_zero(p) for p in parameters):
            return True
    return False


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", ".", "0.")


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
        raise _invalid(f"the manifest is {why}") from error
    if not isinstance(document, dict):
        raise _invalid("the manifest is not a JSON object")
    if document.get("schemaVersion") == 1:
        raise _invalid("image manifests of schema 1 are not supported: push the image anew")
    if document.get("schemaVersion") != 2 or isinstance(document["schemaVersion"], float):
        raise _invalid("the manifest's schemaVersion is not 2")
    return document


def _media_type(document: Mapping[str, Any], content_type: str) -> str:
    said = content_type.partition(";")[0].strip().lower()
    inside = document.get("mediaType")
    if inside is not None and not isinstance(inside, str):
        raise _invalid("the manifest's mediaType is not a text")
    if inside and said not in _UNSPECIFIC and said != inside.lower():
        raise _invalid(
            f"the manifest says it is {printable(inside)}, its Content-Type {printable(said)}"
        )
    media_type = inside.lower() if inside else said
    if media_type in _UNSPECIFIC:
        raise _invalid("neither the manifest nor its Content-Type says which kind it is")
    if media_type not in _KNOWN and not (
        _MEDIA_TYPE.fullmatch(media_type) and "+json" in media_type and "vnd." in media_type
    ):
        raise _invalid(f"{printable(media_type)} is not the media type of a manifest")
    return media_type


def _listed(
    document: Mapping[str, Any], media_type: str
) -> tuple[tuple[Descriptor, ...], tuple[Descriptor, ...]]:
    is_index = "manifests" in document
    is_image = "layers" in document or "config" in document
    if is_index and is_image:
        # CVE-2021-41190: two readers would see two different images in it.
        raise _invalid("the manifest is an image and an index at once")
    if is_index is not (media_type in _INDEXES) and media_type in _KNOWN:
        raise _invalid(f"the manifest does not have the members of a {media_type}")
    if is_index:
        return _descriptors(document["manifests"], "manifests"), ()
    if not is_image:
        raise _invalid("the manifest lists neither layers nor manifests")
    blobs = _descriptors(document.get("layers", []), "layers")
    config = document.get("config")
    if config is not None:
        blobs = (_descriptor(config, "config"), *blobs)
    return (), blobs


def _descriptors(value: Any, where: str) -> tuple[Descriptor, ...]:
    if not isinstance(value, list) or len(value) > DESCRIPTORS_LIMIT:
        raise _invalid(f"{where} is not a list of at most {DESCRIPTORS_LIMIT} descriptors")
    return tuple(_descriptor(item, f"{where}[{i}]") for i, item in enumerate(value))


def _descriptor(value: Any, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise _invalid(f"{where} is not a descriptor")
    size, media_type, digest = value.get("size"), value.get("mediaType"), value.get("digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise _invalid(f"{where} has no valid size")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise _invalid(f"{where} has no valid mediaType")
    if not isinstance(digest, str):
        raise _invalid(f"{where} has no digest")
    try:
        parsed = Digest.parse(digest)
    except RegistryError as error:
        raise _invalid(f"{where}: {error.message}") from error
    return Descriptor(media_type, parsed, size, _platform(value.get("platform")))


def _platform(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    parts = (value.get(key) for key in ("os", "architecture", "variant"))
    return "/".join(text for part in parts if (text := _text(part, "platform")))


def _text(value: Any, where: str) -> str:
    """A text that can be stored and sent; none for what is no text at all."""
    if not isinstance(value, str):
        return ""
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON's "\ud800" is half of a character (RFC 8259 8.2)
        raise _invalid(f"{where} is not Unicode") from error
    return value


def _invalid(message: str) -> RegistryError:
    return RegistryError(Code.MANIFEST_INVALID, message)
