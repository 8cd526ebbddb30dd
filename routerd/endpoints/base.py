"""What an endpoint adapter is: small protocols, the values they exchange, and how types are found.

Owns the contract between `proxy/` and the adapters. Does not own any adapter. Each protocol has one
suite in `tests/contract/` that runs over every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from routerd.content.store import ContentStore
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import Descriptor, Manifest
from routerd.oci.reference import Digest, Reference, Repository, Tag
from routerd.routing.policy import Fallback
from routerd.runtime.files import Part
from routerd.runtime.tasks import Tasks


class EndpointError(RegistryError):
    """An endpoint could not answer. `reason` says whether a route may ask its next endpoint.

    `reached` is False where no answer came at all (network, DNS, timeout).
    """

    def __init__(
        self,
        reason: Fallback,
        code: Code,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        reached: bool = True,
    ) -> None:
        super().__init__(code, message, status=status, headers=headers)
        self.reason = reason
        self.reached = reached


@dataclass(frozen=True, slots=True)
class Via:
    """What is told onwards of the request that caused a call upstream.

    `chain` is the value of the incoming Via header(s), `forwarded_for` the addresses to put in
    X-Forwarded-For, the client last. Both are empty for work that no client caused.
    """

    chain: str = ""
    forwarded_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest as an endpoint sent it, its digest checked against its bytes."""

    manifest: Manifest
    cache_control: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag (or digest) is at an endpoint. Times are UTC seconds.

    `descriptor` is None where it is still what the ETag belongs to that was asked with. `fetched` is
    the manifest itself, where finding out took a GET. `cache_control` and `etag` are the endpoint's
    own headers, empty where it sent none.
    """

    descriptor: Descriptor | None
    cache_control: str = ""
    etag: str = ""
    fetched: Fetched | None = None


class BlobStream(Protocol):
    """A blob being read from an endpoint, from `start` on. Closed by its context manager."""

    @property
    def size(self) -> int | None:
        """Of the whole blob, in bytes; None where the endpoint does not say."""
        ...

    @property
    def start(self) -> int:
        """The offset of the first byte that `chunks` yields."""
        ...

    @property
    def verified(self) -> bool:
        """True: the bytes come from a content store. False: whoever reads verifies."""
        ...

    def chunks(self) -> AsyncIterator[Part]:
        """The bytes, in order. Raises EndpointError when they end early or stall."""
        ...


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a tag list. `last` is what to ask the next page with, None at the end."""

    tags: Sequence[Tag]
    more: bool


class Endpoint(Protocol):
    """A place that images come from. Opened once, closed once; every call may run concurrently.

    Every method raises EndpointError. `repository` is always the canonical name after the route's
    `strip`; how it is called there is the adapter's business (`scope`).
    """

    @property
    def name(self) -> str:
        """As in the policy."""
        ...

    @property
    def private(self) -> bool:
        """Whether a login is needed to read from it."""
        ...

    async def open(self) -> None:
        """Make ready. Never asks a network for anything: an offline start must work."""
        ...

    async def aclose(self) -> None:
        """Release what `open` took."""
        ...

    def scope(self, repository: Repository) -> str:
        """The repository's name there: the second half of the identity (endpoint, repository)."""
        ...

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        """HEAD: what the reference is now, `etag` being that of what is known of it. Raises not_found,
        unavailable or denied.
        """
        ...

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """GET, with the full Accept list whatever the client sent; verified."""
        ...

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        """HEAD of a blob: its size in bytes."""
        ...

    def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AbstractAsyncContextManager[BlobStream]:
        """GET of a blob, from `start` on."""
        ...

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """Up to `n` tags after `last`, sorted."""
        ...


class Quota(Protocol):
    """What one account may still ask of an upstream."""

    @property
    def remaining(self) -> int:
        """Requests that are left."""
        ...

    @property
    def limit(self) -> int | None:
        """Of how many; None where upstream does not say."""
        ...


@runtime_checkable
class RateLimited(Protocol):
    """An endpoint that can say how often its upstream may still be asked. Not every one can."""

    def rate_limits(self) -> Sequence[Quota]:
        """What upstream last said, an account each; what no longer counts is left out."""
        ...


class UploadSession(Protocol):
    """An upload on its way. Until `commit` its content is not visible and it can be resumed."""

    @property
    def id(self) -> str:
        """Not to be guessed."""
        ...

    @property
    def offset(self) -> int:
        """Bytes received so far."""
        ...

    async def append(self, chunks: AsyncIterator[bytes], length: int | None = None) -> None:
        """Add bytes at `offset`. What arrived stays when the iterator raises.

        `length`: how many will come, if that is known; where they do not fit, none is read.
        """
        ...

    async def commit(self, digest: Digest, created_by: str) -> None:
        """Verify, make durable, make visible. Raises 400 DIGEST_INVALID and keeps nothing."""
        ...

    async def cancel(self) -> None:
        """Forget the bytes."""
        ...


@runtime_checkable
class PushEndpoint(Endpoint, Protocol):
    """An endpoint that can be written to. What a method returns from is durable."""

    async def has_blob(self, repository: Repository, digest: Digest) -> bool:
        """Whether the repository has the blob."""
        ...

    async def has_manifest(self, repository: Repository, digest: Digest) -> bool:
        """Whether the repository has the manifest."""
        ...

    async def start_upload(self, repository: Repository) -> UploadSession:
        """A new, empty session."""
        ...

    async def upload(self, repository: Repository, session: str) -> UploadSession:
        """A session by its id. Raises 404 BLOB_UPLOAD_UNKNOWN, also for another repository's."""
        ...

    async def mount(self, repository: Repository, digest: Digest, source: Repository) -> bool:
        """Link a blob that `source` has at this endpoint; False where it has none."""
        ...

    async def put_manifest(
        self,
        reference: Reference,
        manifest: Manifest,
        created_by: str,
        *,
        immutable: bool = False,
    ) -> None:
        """Store, link and tag. Raises 404 MANIFEST_BLOB_UNKNOWN where a child is missing, and 403
        DENIED where the tag is `immutable` and another digest already.
        """
        ...

    async def delete(self, reference: Reference) -> None:
        """Remove a tag or a manifest, effective at once."""
        ...

    async def delete_blob(self, repository: Repository, digest: Digest) -> None:
        """Remove the blob's link from the repository."""
        ...


@dataclass(frozen=True, slots=True)
class EndpointContext:
    """What an adapter is made with.

    `options` are the plain values under the endpoint's key, validated. Of a type that a package
    brings: what keys named `password`, `token`, `secret` and the like hold is wrapped as
    `routerd.config.secrets.Secret`, under that key also where the policy has `password_file`;
    `path` and other `*_file` are absolute; variables are replaced in secrets, paths, `url`, `auth`,
    `tls` and `proxy`. `store` is the content store: of a storage endpoint
    its own, of another endpoint the one its `cache` names, else None.
    """

    name: str
    options: Mapping[str, Any]
    store: ContentStore | None
    server_name: str
    max_hops: int
    tasks: Tasks


class EndpointType(Protocol):
    """A kind of endpoint: what an entry point of the group `routerd.endpoints` loads to."""

    name: str
    options_schema: Mapping[str, Any]  # JSON Schema (draft-07) of the keys beyond the common ones
    default_actions: Sequence[str]
    needs_store: bool  # True: it is a storage, and gets a content store of its own

    def create(self, context: EndpointContext) -> Endpoint:
        """An endpoint, not opened yet."""
        ...
