"""A remote endpoint that the policy keeps off the network: `offline: true`.

Owns that nothing is ever asked, whatever is missing. Does not own what is served meanwhile: what is
stored, tags of whatever age (`proxy/freshness.py`).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NoReturn

from routerd.endpoints.base import (
    BlobStream,
    Endpoint,
    EndpointError,
    Fetched,
    Resolved,
    TagPage,
    Via,
)
from routerd.oci.errors import Code
from routerd.oci.reference import Digest, Reference, Repository
from routerd.routing.policy import Fallback


class OfflineEndpoint:
    """An `Endpoint` with the identity of another one, which is never opened.

    What is missing is "unavailable", not "not found": whether it is there, nobody has asked. So a
    route goes on to its next endpoint only where its `fallback_on` says so.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self.private = endpoint.private
        self._endpoint = endpoint

    async def open(self) -> None:
        """Nothing to make ready."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def scope(self, repository: Repository) -> str:
        """As when it is online: what was stored then is its own."""
        return self._endpoint.scope(repository)

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        """Never asks."""
        self._refuse(str(reference))

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        """Never asks."""
        self._refuse(str(reference))

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        """Never asks."""
        self._refuse(f"{repository}@{digest}")

    def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Never asks."""
        self._refuse(f"{repository}@{digest}")

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        """Never asks: what is stored is not the whole list."""
        self._refuse(f"the list of tags of {repository}")

    def _refuse(self, what: str) -> NoReturn:
        raise EndpointError(
            Fallback.UNAVAILABLE,
            Code.UNAVAILABLE,
            f"{self.name} is offline by policy, and {what} is not stored",
        )
