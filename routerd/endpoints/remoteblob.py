"""A blob being read from upstream.

Owns that a body which ends early is told from a whole one, and whom that is told. Does not own the
request (`upstream.py`) or verifying: whoever reads does that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx

from routerd.content.download import WrongContent
from routerd.endpoints.base import EndpointError
from routerd.endpoints.client import RegistryClient
from routerd.oci.errors import Code
from routerd.routing.policy import Fallback

# Bytes of a blob whose length is not said, which no registry does for one so large: what goes on
# beyond would go on until the disk is full.
UNSAID_LIMIT = 32 * 1024 * 1024 * 1024

OnBreak = Callable[[int], None]  # told how many bytes of the body came


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
        on_break: OnBreak,
    ) -> None:
        self.start = start
        self.size = size
        self._client = client
        self._raw = response.aiter_raw()
        self._length = length
        self._on_break = on_break
        self._received = 0
        self._first = b""

    async def begin(self) -> None:
        """Have the first bytes in hand. Raises EndpointError where none come, though some should.

        A body that fails here can be asked for elsewhere, and nobody has seen anything of it.
        """
        self._first = await self._next()
        if not self._first:
            self._check_whole()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes from `start` on. Raises EndpointError when they end early or stall, and
        WrongContent when they never end.
        """
        chunk, self._first = self._first, b""
        while chunk:
            yield chunk
            chunk = await self._next()
        self._check_whole()

    async def _next(self) -> bytes:
        """The next bytes of the body; none at its end."""
        try:
            chunk = await anext(self._raw, b"")
        except httpx.HTTPError as error:
            self._on_break(self._received)
            raise self._client.unreachable(error) from error
        self._received += len(chunk)
        if self._length is None and self._received > UNSAID_LIMIT:
            raise WrongContent(
                f"{self._client.where} sends a blob without an end: {UNSAID_LIMIT} bytes came"
            )
        return chunk

    def _check_whole(self) -> None:
        if self._length is not None and self._received != self._length:
            self._on_break(self._received)
            raise EndpointError(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"{self._client.where} ended a blob after {self._received} of {self._length} bytes",
            )
