"""One URL of a registry: what is asked there, and what its answers mean (protocol.md 3).

Owns the questions, and that they go on with the next account where the first may not ask. Does not
own connections, tokens or redirects (`client.py`), nor the endpoint's other URLs (`remote.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from urllib.parse import urlencode

import httpx

from routerd.endpoints.accounts import Account, in_turn
from routerd.endpoints.availability import Availability
from routerd.endpoints.base import EndpointError, Fetched, Resolved, TagPage, Via
from routerd.endpoints.client import RegistryClient
from routerd.endpoints.connections import Connections
from routerd.endpoints.failover import first_answer
from routerd.endpoints.ratelimit import RateLimit, retry_after
from routerd.endpoints.remoteblob import OnBreak, RemoteBlob
from routerd.endpoints.taglist import parse_tag_list
from routerd.oci.errors import Code, RegistryError, printable
from routerd.oci.manifest import ACCEPT_ALL, MANIFEST_LIMIT, Descriptor, Manifest
from routerd.oci.ranges import parse_response_range
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback

T = TypeVar("T")

TAGS_LIMIT = 8 * 1024 * 1024  # bytes of one page of a tag list


# Statuses of a HEAD that some registries have for what they give to a GET.
DOUBTFUL_HEADS = frozenset({400, 404, 405, 501})
NOT_MODIFIED = 304


class Upstream:
    """One URL, asked with the account whose turn it is. Every method raises EndpointError."""

    def __init__(self, client: RegistryClient, connections: Connections | None = None) -> None:
        self._client = client
        self._where = client.where
        self._availability = Availability(self._where, client.clock)
        self._connections = connections or Connections(self._where)
        self.prefix = client.prefix
        self.has_login = any(account.login.has_account for account in client.accounts)

    async def open(self) -> None:
        """Make ready, without a word on the network."""
        await self._client.open()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def rate_limits(self) -> Sequence[RateLimit]:
        """What the registry last said of each account, where that still counts."""
        said = (account.rate_limit for account in self._client.accounts)
        return [limit for limit in said if limit is not None]

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        """HEAD; GET, with If-None-Match, where its HEAD does not say the digest or is not to be believed."""
        return await self._ask(lambda account: self._resolve(account, reference, via, etag))

    async def _resolve(
        self, account: Account, reference: Reference, via: Via, etag: str
    ) -> Resolved:
        async with self._manifest(account, "HEAD", reference, via) as response:
            digest = None if response.is_error else self._said_digest(response)
            length = response.headers.get("Content-Length", "")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if digest is not None and length.isdecimal():
                descriptor = Descriptor(media_type, digest, int(length))
                return Resolved(descriptor, *_freshness(response))
        async with self._manifest(account, "GET", reference, via, etag) as response:
            if response.status_code == NOT_MODIFIED:
                return Resolved(None, *_freshness(response))
            fetched = await self._read(response, reference)
        return Resolved(fetched.manifest.descriptor, fetched.cache_control, fetched.etag, fetched)

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """GET, with the full Accept list; checked against every digest that was said."""
        return await self._ask(lambda account: self._fetch(account, reference, via))

    async def _fetch(self, account: Account, reference: Reference, via: Via) -> Fetched:
        async with self._manifest(account, "GET", reference, via) as response:
            return await self._read(response, reference)

    async def _read(self, response: httpx.Response, reference: Reference) -> Fetched:
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

        async def ask(account: Account) -> int:
            async with self._blob(account, "HEAD", repository, digest, {}, via) as response:
                length = response.headers.get("Content-Length", "")
                if not length.isdecimal():
                    raise self._client.broken("does not say how large a blob is")
                return int(length)

        return await self._ask(ask)

    async def open_blob(
        self,
        stack: AsyncExitStack,
        repository: Repository,
        digest: Digest,
        via: Via,
        start: int,
        on_break: OnBreak,
    ) -> RemoteBlob:
        """GET of a blob, from `start` on where upstream can do that, else from its beginning.

        Its first bytes are in hand, within the deadline for an answer; it is open as long as
        `stack` is.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}

        async def ask(account: Account) -> RemoteBlob:
            async with AsyncExitStack() as own:
                response = await own.enter_async_context(
                    self._blob(account, "GET", repository, digest, headers, via)
                )
                blob = self._stream(response, start, on_break)
                await blob.begin()
                stack.push_async_callback(own.pop_all().aclose)
                return blob

        return await self._ask(ask, stack)

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """One page of upstream's list, sorted. What is no tag is left out: nobody could ask."""
        query = {"n": str(n), **({"last": last} if last else {})}
        path = f"tags/list?{urlencode(query)}"
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        name = self._name(repository)

        async def ask(account: Account) -> tuple[bytes, bool]:
            async with self._client.request(account, "GET", name, path, headers, via) as got:
                self._check(account, got, Code.NAME_UNKNOWN, str(repository))
                link = got.headers.get("Link", "").replace("rel=next", 'rel="next"')
                return await self._client.read(got, TAGS_LIMIT), 'rel="next"' in link

        body, linked = await self._ask(ask)
        try:
            found = parse_tag_list(body)
        except ValueError as error:
            raise self._client.broken("sent no list of tags") from error
        page = [tag for tag in found if tag > last]  # some registries do not know `last`
        return TagPage(page[:n], more=len(page) > n or (linked and bool(page)))

    async def _ask(
        self, question: Callable[[Account], Awaitable[T]], stack: AsyncExitStack | None = None
    ) -> T:
        """The question, with one account after the other where the next may do better.

        What is read on after the answer keeps its connection for as long as `stack` is open.
        """
        return await first_answer(
            in_turn(self._client.accounts),
            lambda account: self._in_turn(account, question, stack),
            self._another_account_may,
        )

    async def _in_turn(
        self,
        account: Account,
        question: Callable[[Account], Awaitable[T]],
        stack: AsyncExitStack | None,
    ) -> T:
        """One question, once a connection is free for it."""
        # Nobody waits for a connection only to hear that nothing is to be asked.
        account.pause.check()
        self._availability.check()
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._connections.one())
            answer = await self._attempt(account, question)
            if stack is not None:
                stack.push_async_exit(turn.pop_all())
            return answer

    async def _attempt(self, account: Account, question: Callable[[Account], Awaitable[T]]) -> T:
        """One question: where the upstream may be asked now, and until its deadline."""
        account.pause.check()
        seconds = self._client.timeouts["response"]
        with self._availability.attempt():
            try:
                async with asyncio.timeout(seconds):
                    return await question(account)
            except TimeoutError as error:
                raise EndpointError(
                    Fallback.UNAVAILABLE,
                    Code.UNAVAILABLE,
                    f"{self._where} did not answer within {seconds:g} s",
                    reached=False,
                ) from error

    def _another_account_may(self, account: Account, error: EndpointError) -> bool:
        """Too many requests and refused logins are an account's own, as is what a stranger sees."""
        if error.reason is Fallback.UNAVAILABLE:
            return error.code is Code.TOOMANYREQUESTS
        hidden = self.has_login and not account.login.has_account
        return hidden or error.reason is Fallback.DENIED

    def _name(self, repository: Repository) -> str:
        return f"{self.prefix}{repository.name}"

    @asynccontextmanager
    async def _manifest(
        self, account: Account, method: str, reference: Reference, via: Via, etag: str = ""
    ) -> AsyncIterator[httpx.Response]:
        """The answer, if it is the content; or, to a HEAD, that it is not known by one; or, with an
        ETag, that it is still what that belongs to.
        """
        headers = {"Accept": ACCEPT_ALL, "Accept-Encoding": "gzip"}
        if method == "HEAD":
            headers["Accept-Encoding"] = "identity"  # so that Content-Length is the manifest's
        if etag:
            headers["If-None-Match"] = etag
        path = f"manifests/{reference.in_path}"
        name = self._name(reference.repository)
        async with self._client.request(account, method, name, path, headers, via) as response:
            status = response.status_code
            is_doubtful = method == "HEAD" and status in DOUBTFUL_HEADS
            if not (is_doubtful or (etag and status == NOT_MODIFIED)):
                self._check(account, response, Code.MANIFEST_UNKNOWN, str(reference))
                self._refuse_html(response)
            yield response

    @asynccontextmanager
    async def _blob(
        self,
        account: Account,
        method: str,
        repository: Repository,
        digest: Digest,
        headers: Mapping[str, str],
        via: Via,
    ) -> AsyncIterator[httpx.Response]:
        wanted = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        name, path = self._name(repository), f"blobs/{digest}"
        async with self._client.request(account, method, name, path, wanted, via) as response:
            self._check(account, response, Code.BLOB_UNKNOWN, f"{repository}@{digest}")
            self._refuse_html(response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise self._client.broken("sent a blob encoded, though it was not asked to")
            yield response

    def _stream(self, response: httpx.Response, start: int, on_break: OnBreak) -> RemoteBlob:
        length = response.headers.get("Content-Length", "")
        body = int(length) if length.isdecimal() else None
        if response.status_code == 200:
            return RemoteBlob(self._client, response, 0, body, body, on_break)
        found = parse_response_range(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or found is None or found[0].start != start:
            raise self._client.broken("answered a range with something else")
        part, size = found
        return RemoteBlob(self._client, response, start, size, part.stop - part.start, on_break)

    def _check(self, account: Account, response: httpx.Response, missing: Code, what: str) -> None:
        """Raises EndpointError for every status that is not the content."""
        status = response.status_code
        if status in (200, 206):
            return
        where = self._where
        if status in (404, 410):
            raise EndpointError(Fallback.NOT_FOUND, missing, f"{where} has no {what}")
        if status in (401, 403):
            if account.login.has_account:
                raise EndpointError(
                    Fallback.DENIED, Code.DENIED, f"{where} does not let its login read {what}"
                )
            # Docker Hub says 401 for what does not exist (config-language.md 3).
            raise EndpointError(Fallback.NOT_FOUND, missing, f"{where} shows no {what}")
        if status == 429:
            wait = retry_after(response.headers.get("Retry-After", ""), time.time())
            raise account.pause.begin(wait)
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


def _freshness(response: httpx.Response) -> tuple[str, str]:
    headers = response.headers
    return headers.get("Cache-Control", ""), headers.get("ETag", "")
