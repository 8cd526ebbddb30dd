"""A registry over HTTP: the endpoint type `remote`.

Owns what is asked of an upstream and what its answers mean (protocol.md 3). Does not own
connections, logins or redirects (`client.py`), nor keeping anything.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import httpx

from routerd.endpoints.availability import Availability
from routerd.endpoints.base import (
    Endpoint,
    EndpointContext,
    EndpointError,
    Fetched,
    Resolved,
    TagPage,
    Via,
)
from routerd.endpoints.client import RegistryClient
from routerd.oci.errors import Code, RegistryError, printable
from routerd.oci.manifest import ACCEPT_ALL, MANIFEST_LIMIT, Descriptor, Manifest
from routerd.oci.ranges import parse_response_range
from routerd.oci.reference import Digest, Reference, Repository, Tag, parse_tag
from routerd.routing.policy import Fallback

TAGS_LIMIT = 8 * 1024 * 1024  # bytes of one page of a tag list
RETRY_AFTER_LIMIT = 3600  # seconds; upstreams have asked for more by mistake
_RETRY_AFTER_DEFAULT = 10
_EPOCH = 1_000_000_000  # a Retry-After above is a time, not a duration: Hub's API has sent those


class RemoteEndpoint:
    """An `Endpoint` over HTTP."""

    def __init__(self, client: RegistryClient) -> None:
        self.name = client.name
        self.private = client.login.has_account
        self._client = client
        self._where = f"{client.name} ({client.host})"
        self._availability = Availability(self._where)

    async def open(self) -> None:
        """Make ready, without a word on the network."""
        await self._client.open()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def scope(self, repository: Repository) -> str:
        """The repository's name upstream: the URL's prefix and the name, without its namespace."""
        return f"{self._client.prefix}{repository.name}"

    async def resolve(self, reference: Reference, via: Via) -> Resolved:
        """HEAD, or GET where upstream's HEAD does not say the digest."""
        async with self._asking(), self._manifest("HEAD", reference, via) as response:
            digest = self._said_digest(response)
            length = response.headers.get("Content-Length", "")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if digest is not None and length.isdecimal():
                descriptor = Descriptor(media_type, digest, int(length))
                return Resolved(descriptor, *_freshness(response))
        fetched = await self.manifest(reference, via)
        return Resolved(fetched.manifest.descriptor, fetched.cache_control, fetched.etag)

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """GET, with the full Accept list; checked against every digest that was said."""
        async with self._asking(), self._manifest("GET", reference, via) as response:
            said = self._said_digest(response)
            body = await self._client.read(response, MANIFEST_LIMIT)
            try:
                manifest = Manifest.parse(
                    body, response.headers.get("Content-Type", ""), reference.digest or said
                )
            except RegistryError as error:
                raise self._client.broken(f"sent no manifest: {error.message}") from error
            return Fetched(manifest, *_freshness(response))

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        """HEAD of a blob."""
        async with self._asking(), self._blob("HEAD", repository, digest, {}, via) as response:
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise self._client.broken("does not say how large a blob is")
            return int(length)

    @asynccontextmanager
    async def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AsyncIterator[RemoteBlob]:
        """GET of a blob, from `start` on where upstream can do that, else from its beginning."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with AsyncExitStack() as stack:
            # The deadline is for the answer's head; the body has one for each silence.
            async with self._asking():
                request = self._blob("GET", repository, digest, headers, via)
                response = await stack.enter_async_context(request)
            yield self._stream(response, start)

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """One page of upstream's list, sorted. What is no tag is left out: nobody could ask."""
        query = {"n": str(n), **({"last": last} if last else {})}
        path = f"tags/list?{urlencode(query)}"
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        name = self.scope(repository)
        async with self._asking(), self._client.request("GET", name, path, headers, via) as got:
            self._check(got, Code.NAME_UNKNOWN, str(repository))
            body = await self._client.read(got, TAGS_LIMIT)
            linked = 'rel="next"' in got.headers.get("Link", "").replace("rel=next", 'rel="next"')
        found = self._parse_tags(body)
        page = [tag for tag in found if tag > last]  # some registries do not know `last`
        return TagPage(page[:n], more=len(page) > n or (linked and bool(page)))

    def _parse_tags(self, body: bytes) -> list[Tag]:
        try:
            listed = json.loads(body)["tags"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._client.broken("sent no list of tags") from error
        if listed is None:
            return []
        if not isinstance(listed, list):
            raise self._client.broken("sent no list of tags")
        tags: set[Tag] = set()
        for text in listed:
            try:
                tags.add(parse_tag(text))
            except (RegistryError, TypeError):
                continue
        return sorted(tags)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Around one question: where the upstream may be asked now, and until its deadline."""
        seconds = self._client.timeouts["response"]
        with self._availability.attempt():
            try:
                async with asyncio.timeout(seconds):
                    yield
            except TimeoutError as error:
                raise EndpointError(
                    Fallback.UNAVAILABLE,
                    Code.UNAVAILABLE,
                    f"{self._where} did not answer within {seconds:g} s",
                    reached=False,
                ) from error

    @asynccontextmanager
    async def _manifest(
        self, method: str, reference: Reference, via: Via
    ) -> AsyncIterator[httpx.Response]:
        headers = {"Accept": ACCEPT_ALL, "Accept-Encoding": "gzip"}
        if method == "HEAD":
            headers["Accept-Encoding"] = "identity"  # so that Content-Length is the manifest's
        path = f"manifests/{reference.in_path}"
        name = self.scope(reference.repository)
        async with self._client.request(method, name, path, headers, via) as response:
            self._check(response, Code.MANIFEST_UNKNOWN, str(reference))
            self._refuse_html(response)
            yield response

    @asynccontextmanager
    async def _blob(
        self,
        method: str,
        repository: Repository,
        digest: Digest,
        headers: Mapping[str, str],
        via: Via,
    ) -> AsyncIterator[httpx.Response]:
        wanted = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        name = self.scope(repository)
        async with self._client.request(method, name, f"blobs/{digest}", wanted, via) as response:
            self._check(response, Code.BLOB_UNKNOWN, f"{repository}@{digest}")
            self._refuse_html(response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise self._client.broken("sent a blob encoded, though it was not asked to")
            yield response

    def _stream(self, response: httpx.Response, start: int) -> RemoteBlob:
        length = response.headers.get("Content-Length", "")
        body = int(length) if length.isdecimal() else None
        if response.status_code == 200:
            return RemoteBlob(self._client, response, 0, body, body)
        found = parse_response_range(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or found is None or found[0].start != start:
            raise self._client.broken("answered a range with something else")
        part, size = found
        return RemoteBlob(self._client, response, start, size, part.stop - part.start)

    def _check(self, response: httpx.Response, missing: Code, what: str) -> None:
        """Raises EndpointError for every status that is not the content."""
        status = response.status_code
        if status in (200, 206):
            return
        where = self._where
        if status in (404, 410):
            raise EndpointError(Fallback.NOT_FOUND, missing, f"{where} has no {what}")
        if status in (401, 403):
            if self.private:
                raise EndpointError(
                    Fallback.DENIED, Code.DENIED, f"{where} does not let its login read {what}"
                )
            # Docker Hub says 401 for what does not exist (config-language.md 3).
            raise EndpointError(Fallback.NOT_FOUND, missing, f"{where} shows no {what}")
        if status == 429:
            wait = retry_after(response.headers.get("Retry-After", ""), time.time())
            raise self._availability.pause(wait)
        if status >= 500:
            raise EndpointError(
                Fallback.UNAVAILABLE, Code.UNAVAILABLE, f"{where} answered {status}"
            )
        raise self._client.broken(f"answered {status} where content or 404 belongs")

    def _refuse_html(self, response: httpx.Response) -> None:
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            # A proxy's error page or a captive portal, with 200.
            raise self._client.broken("sent a web page instead of content")

    def _said_digest(self, response: httpx.Response) -> Digest | None:
        text = response.headers.get("Docker-Content-Digest", "")
        try:
            return Digest.parse(text) if text else None
        except RegistryError as error:
            raise self._client.broken(f"says the digest is '{printable(text)}'") from error


class RemoteBlob:
    """A `BlobStream` from upstream. `length` is of the body, None where it does not say."""

    verified = False

    def __init__(
        self,
        client: RegistryClient,
        response: httpx.Response,
        start: int,
        size: int | None,
        length: int | None,
    ) -> None:
        self.start = start
        self.size = size
        self._client = client
        self._response = response
        self._length = length

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from `start` on. Raises EndpointError when they end early or stall."""
        received = 0
        try:
            async for chunk in self._response.aiter_raw():
                received += len(chunk)
                yield chunk
        except httpx.HTTPError as error:
            raise self._client.unreachable(error) from error
        if self._length is not None and received != self._length:
            raise EndpointError(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"{self._client.name} ended a blob after {received} of {self._length} bytes",
            )


class RemoteType:
    """The endpoint type `remote`."""

    name = "remote"
    options_schema: Mapping[str, Any] = {}  # it stands in schemas/routerd.schema.json
    default_actions: Sequence[str] = ("pull",)
    needs_store = False

    def create(self, context: EndpointContext) -> Endpoint:
        """A remote endpoint, not opened yet."""
        return RemoteEndpoint(RegistryClient(context))


REMOTE = RemoteType()


def retry_after(text: str, now: float) -> int:
    """Seconds to wait: Retry-After as seconds, as a date (RFC 9110 10.2.3), or as a unix time."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 12:
        seconds = float(text) - now if int(text) > _EPOCH else float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except ValueError:
            seconds = _RETRY_AFTER_DEFAULT
    return int(min(max(seconds, 1), RETRY_AFTER_LIMIT))


def _freshness(response: httpx.Response) -> tuple[str, str]:
    headers = response.headers
    return headers.get("Cache-Control", ""), headers.get("ETag", "")
