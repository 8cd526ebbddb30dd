"""A request's path as a call of the registry API, read from the right.

Owns the grammar of `/v2/` paths and how a request names an image (protocol.md 1, styles S1, S2 and
S5). Does not own methods' meaning or routes. Works on the raw path: once unquoted, `%2F` is a `/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_to_bytes, urlencode

from routerd.oci.errors import Code, RegistryError, printable
from routerd.oci.reference import (
    Digest,
    Namespace,
    Reference,
    Repository,
    looks_like_namespace,
    parse_namespace,
    parse_tag,
)

PATH_LIMIT = 4096  # bytes; names are at most 255 and the rest of a path is short
FIELDS_LIMIT = 32  # of one query
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class NameRules:
    """What the policy says about names: what a bare one means, and which namespaces it knows."""

    default_namespace: Namespace
    is_configured: Callable[[Namespace], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """The repository of a call, and how the client wrote it.

    `name` is as in the path, `ns` as in the query (None: not used), a valid namespace.
    """

    repository: Repository
    name: str
    ns: str | None

    def location(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """A relative URL below this repository, named as the client did, its `ns` included."""
        fields = {**(query or {}), **({} if self.ns is None else {"ns": self.ns})}
        url = f"/v2/{self.name}/{path}"
        return f"{url}?{urlencode(fields)}" if fields else url


@dataclass(frozen=True, slots=True)
class _Naming:
    """How the names of one request are read: `ns` as written, what it means, and the rules."""

    ns: str | None
    namespace: Namespace | None
    rules: NameRules


@dataclass(frozen=True, slots=True)
class Ping:
    """`/v2/`."""

    ns: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """`/v2/_catalog`."""

    ns: str | None = None


@dataclass(frozen=True, slots=True)
class ManifestCall(Named):
    """`/v2/<name>/manifests/<tag or digest>`."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class BlobCall(Named):
    """`/v2/<name>/blobs/<digest>`."""

    digest: Digest

    @property
    def reference(self) -> Reference:
        """The blob, as something to decide about."""
        return Reference(self.repository, digest=self.digest)


@dataclass(frozen=True, slots=True)
class UploadCall(Named):
    """`/v2/<name>/blobs/uploads/[<session>]`. `mount` and `source` are `?mount=` and `?from=`."""

    session: str | None
    digest: Digest | None = None
    mount: Digest | None = None
    source: Repository | None = None


@dataclass(frozen=True, slots=True)
class TagList(Named):
    """`/v2/<name>/tags/list?n=&last=`."""

    n: int | None
    last: str


@dataclass(frozen=True, slots=True)
class Referrers(Named):
    """`/v2/<name>/referrers/<digest>?artifactType=`."""

    digest: Digest
    artifact_type: str


ApiCall = Ping | Catalog | ManifestCall | BlobCall | UploadCall | TagList | Referrers

_READ = ("GET", "HEAD")


def allow(call: ApiCall) -> Sequence[str]:
    """The methods of the call's resource (distribution-spec, "API")."""
    match call:
        case ManifestCall():
            return (*_READ, "PUT", "DELETE")
        case BlobCall():
            return (*_READ, "DELETE")
        case UploadCall(session=None):
            return ("POST",)
        case UploadCall():
            return ("GET", "PATCH", "PUT", "DELETE")
        case _:
            return _READ


def parse(raw_path: bytes, query_string: bytes, rules: NameRules) -> ApiCall:
    """The call that a request's raw path and query make. Raises RegistryError 400 or 404."""
    segments = _segments(raw_path)
    query = _query(query_string)
    ns = query.get("ns")
    # Once for every call: it comes back in a header, also of those that name no repository.
    naming = _Naming(ns, None if ns is None else parse_namespace(ns), rules)
    if segments == [""]:
        return Ping(ns)
    if segments[0] == "_catalog" and len(segments) == 1:
        return Catalog(ns)
    if segments[0].startswith("_"):
        raise _unknown("this extension of the registry API is not supported")
    # From the right: `blobs`, `manifests` and `tags` may be segments of a name (protocol.md 2).
    match segments:
        case [*name, "manifests", reference] if name:
            named = _named(name, naming)
            return ManifestCall(*named, _reference(named[0], reference))
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""] if name:
            return _upload(name, None, query, naming)
        case [*name, "blobs", "uploads", session] if name:
            return _upload(name, session, query, naming)
        case [*name, "blobs", digest] if name:
            return BlobCall(*_named(name, naming), Digest.parse(digest))
        case [*name, "tags", "list"] if name:
            n, last = _count(query.get("n")), query.get("last", "")
            # What goes upstream in a query is a tag, as `last` is wherever it comes from a Link.
            return TagList(*_named(name, naming), n, parse_tag(last) if last else "")
        case [*name, "referrers", digest] if name:
            kind = query.get("artifactType", "")
            return Referrers(*_named(name, naming), Digest.parse(digest), kind)
    if any(segment == "" for segment in segments):
        raise _invalid("a repository name has no empty segment")
    raise _unknown("the registry API has no such resource")


def _segments(raw_path: bytes) -> list[str]:
    """The decoded segments after `/v2/`; [""] for the base."""
    if len(raw_path) > PATH_LIMIT:
        raise _invalid(f"the path is longer than {PATH_LIMIT} bytes")
    if raw_path not in (b"/v2", b"/v2/") and not raw_path.startswith(b"/v2/"):
        raise _unknown("this is a registry: its API is below /v2/")
    segments = [_decoded(segment) for segment in raw_path[len(b"/v2/") :].split(b"/")]
    if any(segment == "" for segment in segments[:-1]):
        raise _invalid("a repository name has no empty segment")
    return segments


def _decoded(segment: bytes) -> str:
    if b"%" in segment:
        if _ESCAPE.search(segment):
            raise _invalid("the path has a '%' that escapes nothing")
        segment = unquote_to_bytes(segment)
    try:
        text = segment.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid("the path is not UTF-8") from error
    if text in (".", "..") or "/" in text or not text.isprintable():
        raise _invalid(f"'{printable(text)}' cannot be part of a name")
    return text


def _query(query_string: bytes) -> Mapping[str, str]:
    try:
        fields = parse_qsl(
            query_string.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_LIMIT
        )
    except ValueError as error:
        raise _invalid("the query cannot be read") from error
    query: dict[str, str] = {}
    for name, value in fields:
        if name == "ns" and query.get("ns", value) != value:
            raise _invalid("the query says two different ns")
        query.setdefault(name, value)
    return query


def _named(segments: Sequence[str], naming: _Naming) -> tuple[Repository, str, str | None]:
    return _repository(segments, naming), "/".join(segments), naming.ns


def _repository(segments: Sequence[str], naming: _Naming) -> Repository:
    """The canonical name (protocol.md 1): by `ns`, by a configured first segment, or bare."""
    first, rest = segments[0], segments[1:]
    leading = _leading_namespace(first) if rest else None
    namespace, rules = naming.namespace, naming.rules
    if namespace is not None:
        if leading == namespace:
            return Repository.parse(namespace, "/".join(rest))
        if leading is not None and rules.is_configured(leading):
            raise _invalid(f"the path names {leading}, but ns says {namespace}")
        return Repository.parse(namespace, "/".join(segments))
    if leading is not None and rules.is_configured(leading):
        return Repository.parse(leading, "/".join(rest))
    return Repository.parse(rules.default_namespace, "/".join(segments))


def _leading_namespace(segment: str) -> Namespace | None:
    if not looks_like_namespace(segment):
        return None
    try:
        return parse_namespace(segment)
    except RegistryError:
        return None  # `my__project.x` is no registry's name, but may be part of a repository's


def _reference(repository: Repository, text: str) -> Reference:
    if ":" in text:
        return Reference(repository, digest=Digest.parse(text))
    return Reference(repository, tag=parse_tag(text))


def _upload(
    name: Sequence[str],
    session: str | None,
    query: Mapping[str, str],
    naming: _Naming,
) -> UploadCall:
    if session is not None and not _SESSION.fullmatch(session):
        raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN, "no upload session has such an id")
    digest, mount, source = query.get("digest"), query.get("mount"), query.get("from")
    return UploadCall(
        *_named(name, naming),
        session,
        digest=None if digest is None else Digest.parse(digest),
        mount=None if mount is None else Digest.parse(mount),
        source=None if source is None else _repository(source.split("/"), naming),
    )


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        # The specification has no code for a bad page size; distribution answers 400 as well.
        raise RegistryError(
            Code.UNSUPPORTED, f"n is '{printable(text)}', which is not a count", status=400
        )
    return int(text)


def _invalid(message: str) -> RegistryError:
    return RegistryError(Code.NAME_INVALID, message)


def _unknown(message: str) -> RegistryError:
    return RegistryError(Code.UNSUPPORTED, message, status=404)
