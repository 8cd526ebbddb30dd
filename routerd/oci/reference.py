"""Names of the field: namespace, repository, tag, digest, reference. Grammar, parse, str.

Owns the grammars of distribution-spec 1.1 ("Pulling manifests", "Digests") and Docker's rules for
familiar names. Does not own how a request names an image (`apipath.py`) or what a pattern matches.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NewType

from routerd.oci.errors import Code, RegistryError, printable

Namespace = NewType("Namespace", str)
Tag = NewType("Tag", str)

DOCKER_HUB = Namespace("docker.io")

# protocol.md 1: other hosts by which Docker Hub is known.
_HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

# distribution-spec 1.1, "Pulling manifests": <name>; its length with the host is at most 255.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_NAMESPACE = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])"
    r"(?::[0-9]{1,5})?",
    re.ASCII,
)
NAME_LIMIT = 255  # characters of NAMESPACE/REPOSITORY
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+", re.ASCII)


def parse_namespace(text: str) -> Namespace:
    """The canonical namespace: lower case, no alias, no `:443`. Raises 400 NAME_INVALID."""
    name = text.lower().removesuffix(":443")
    if len(name) > NAME_LIMIT or not _NAMESPACE.fullmatch(name):
        raise RegistryError(
            Code.NAME_INVALID, f"'{printable(text)}' is not a registry name such as docker.io"
        )
    return DOCKER_HUB if name in _HUB_ALIASES else Namespace(name)


def looks_like_namespace(segment: str) -> bool:
    """Docker's rule for the first segment of a name: it has a `.` or `:`, or is `localhost`."""
    return "." in segment or ":" in segment or segment == "localhost"


def parse_tag(text: str) -> Tag:
    """A tag. Raises 400 MANIFEST_INVALID, the spec's code for a reference that cannot be one."""
    if not _TAG.fullmatch(text):
        raise RegistryError(
            Code.MANIFEST_INVALID,
            f"'{printable(text)}' is not a tag: letters, digits, '_', '.', '-', at most 128",
        )
    return Tag(text)


@dataclass(frozen=True, slots=True)
class Digest:
    """`ALGORITHM:HEX`, sha256 or sha512 (no other exists here)."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises 400 DIGEST_INVALID for an unknown algorithm, wrong length or upper-case hex."""
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None or len(encoded) != length or not _HEX.fullmatch(encoded):
            raise RegistryError(
                Code.DIGEST_INVALID, f"'{printable(text)}' is not a sha256 or sha512 digest"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """One canonical name: `NAMESPACE/NAME`, for example docker.io/library/alpine."""

    namespace: Namespace
    name: str

    @classmethod
    def parse(cls, namespace: str, name: str) -> Repository:
        """Raises 400 NAME_INVALID. `library/` is put before one-segment names of docker.io only."""
        space = parse_namespace(namespace)
        if not _NAME.fullmatch(name) or len(space) + 1 + len(name) > NAME_LIMIT:
            raise RegistryError(
                Code.NAME_INVALID,
                f"'{printable(name)}' is not a repository name: lower-case segments of letters and "
                f"digits, separated inside by '.', '_', '__' or '-', at most {NAME_LIMIT} in all",
            )
        if space == DOCKER_HUB and "/" not in name:
            name = f"library/{name}"
        return cls(space, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a manifest or blob request names: a repository and exactly one of tag and digest."""

    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if (self.tag is None) == (self.digest is None):
            raise ValueError("a reference has exactly one of tag and digest")

    @classmethod
    def parse(cls, text: str, default_namespace: str = DOCKER_HUB) -> Reference:
        """A reference as people type it: `nginx`, `ghcr.io/a/b:1`, `a@sha256:...`.

        No tag and no digest means `latest`; with both, the digest counts. Raises RegistryError 400.
        """
        rest, at, digest = text.partition("@")
        head, slash, tail = rest.partition("/")
        if slash and looks_like_namespace(head):
            namespace, rest = head, tail
        else:
            namespace = default_namespace
        name, _, tag = rest.partition(":")
        repository = Repository.parse(namespace, name)
        if at:
            return cls(repository, digest=Digest.parse(digest))
        if rest.endswith(":"):
            raise RegistryError(Code.MANIFEST_INVALID, f"'{printable(text)}' has an empty tag")
        return cls(repository, tag=parse_tag(tag or "latest"))

    @property
    def in_path(self) -> str:
        """The tag or digest, as it stands in a request path."""
        return self.tag if self.tag is not None else str(self.digest)

    def __str__(self) -> str:
        if self.tag is not None:
            return f"{self.repository}:{self.tag}"
        return f"{self.repository}@{self.digest}"
