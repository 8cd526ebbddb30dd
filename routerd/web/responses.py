"""Answers as HTTP: manifest, blob, empty, error. The headers of protocol.md 2.

Owns every header of an answer. Does not own deciding what to answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from quart import Response
from quart.wrappers.response import ResponseBody

from routerd.oci.errors import RegistryError
from routerd.oci.ranges import ByteRange, content_range, parse_range
from routerd.oci.reference import Digest
from routerd.proxy.answers import BlobAnswer, BlobFacts, ManifestAnswer, Result, Source
from routerd.runtime.files import Part

# Every answer says these. Docker's clients look for the first before they speak the protocol.
COMMON = {
    "Docker-Distribution-Api-Version": "registry/2.0",
    "X-Content-Type-Options": "nosniff",
}
IMMUTABLE = "max-age=31536000, immutable"  # content by digest can never become another
# podman and containerd print it to the person who pulls.
_WARNINGS = {
    Result.STALE: "upstream could not be asked; this is the last known content",
    Result.GONE: "upstream no longer has this tag; this is the last known content",
    Result.REVALIDATING: "upstream is being asked again; this is the last known content",
}

# RFC 9211: what a cache says of one answer. `ttl` is appended where a tag has one.
_CACHE_STATUS = {
    Result.HIT: "routerd; hit",
    Result.REVALIDATED: "routerd; fwd=stale; fwd-status=304",
    Result.STALE: 'routerd; hit; detail="stale-if-error"',
    Result.GONE: 'routerd; hit; detail="stale-if-gone"',
    Result.REVALIDATING: 'routerd; hit; detail="stale-while-revalidate"',
    Result.MISS: "routerd; fwd=miss; stored",
    Result.COLLAPSED: "routerd; fwd=miss; collapsed",
    Result.BYPASS: "routerd; fwd=bypass",
}


def empty(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """An answer without a body."""
    response = Response(b"", status, headers={**COMMON, **(headers or {})})
    del response.headers["Content-Type"]  # Quart's default, of a body that is not there
    return response


def document(
    value: Any, headers: Mapping[str, str] | None = None, *, status: int = 200, head: bool
) -> Response:
    """A JSON answer."""
    return _whole(json.dumps(value).encode(), status, "application/json", headers or {}, head=head)


def error(problem: RegistryError, *, head: bool) -> Response:
    """An error, as distribution-spec 1.1 ("Error Codes") says. Nothing else renders one."""
    entry: dict[str, Any] = {"code": str(problem.code), "message": problem.message}
    if problem.detail is not None:
        entry["detail"] = problem.detail
    headers = {"Cache-Control": "no-store", **problem.headers}
    body = json.dumps({"errors": [entry]}).encode()
    return _whole(body, problem.status, "application/json", headers, head=head)


def manifest(answer: ManifestAnswer, if_none_match: str, *, head: bool) -> Response:
    """A manifest, byte for byte as it was received; 304 where the client has it."""
    descriptor = answer.manifest.descriptor
    headers = _content_headers(descriptor.digest, answer.source)
    if matches_etag(if_none_match, descriptor.digest):
        return empty(304, headers)
    return _whole(answer.manifest.body, 200, descriptor.media_type, headers, head=head)


def blob_facts(facts: BlobFacts, if_none_match: str) -> Response:
    """HEAD of a blob: what GET would say; 304, to GET as well, where the client has it."""
    if matches_etag(if_none_match, facts.digest):
        return empty(304, _content_headers(facts.digest, facts.source))
    headers = {**_blob_headers(facts.digest, facts.source), "Content-Length": str(facts.size)}
    return Response(None, 200, headers=headers)


async def blob(answer: BlobAnswer, range_header: str | None) -> Response:
    """A blob or the one range of it that was asked for, streamed; closes `answer` in every case."""
    headers = _blob_headers(answer.digest, answer.source)
    try:
        wanted = None if answer.size is None else parse_range(range_header, answer.size)
    except BaseException:
        await answer.aclose()
        raise
    status, part = 200, ByteRange(0, answer.size) if answer.size is not None else None
    if wanted is not None and answer.size is not None:
        status, part = 206, wanted
        headers["Content-Range"] = content_range(wanted, answer.size)
    if part is None:
        return Response(_BlobBody(answer, 0, None), status, headers=headers)
    headers["Content-Length"] = str(part.stop - part.start)
    return Response(_BlobBody(answer, part.start, part.stop), status, headers=headers)


def matches_etag(if_none_match: str, digest: Digest) -> bool:
    """If-None-Match (RFC 9110 13.1.2) against our ETag, also unquoted as some clients send it."""
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(","))
    return if_none_match.strip() == "*" or str(digest) in tags


class _BlobBody(ResponseBody):
    """The bytes of [start, stop) of a blob, closed when they are sent or the client has left.

    What is in a file is not read: `connection.py` knows how to send that.
    """

    def __init__(self, answer: BlobAnswer, start: int, stop: int | None) -> None:
        self._answer = answer
        self._parts = answer.read(start, stop)

    async def __aenter__(self) -> _BlobBody:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._answer.aclose()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts


def _whole(
    body: bytes, status: int, media_type: str, headers: Mapping[str, str], *, head: bool
) -> Response:
    every = {**COMMON, "Content-Type": media_type, "Content-Length": str(len(body)), **headers}
    # Response(None) keeps the Content-Length given, which HEAD must share with GET.
    return Response(None if head else body, status, headers=every)


def _blob_headers(digest: Digest, source: Source) -> dict[str, str]:
    return {
        **COMMON,
        **_content_headers(digest, source),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
    }


def _content_headers(digest: Digest, source: Source) -> dict[str, str]:
    if source.ttl is None:
        freshness, ttl = IMMUTABLE, ""
    else:
        # No Age beside it: a client would subtract that from what is already the rest.
        freshness = f"max-age={max(0, int(min(source.ttl, 31536000)))}"
        ttl = f"; ttl={int(max(min(source.ttl, 31536000), -31536000))}"
    headers = {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Cache-Control": f"private, {freshness}" if source.private else freshness,
        "Cache-Status": _CACHE_STATUS[source.result] + ttl,
    }
    if source.result in _WARNINGS:
        headers["Warning"] = f'299 - "routerd: {_WARNINGS[source.result]}"'
    return headers
