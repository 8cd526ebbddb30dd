"""How many questions one URL is asked at once.

Owns waiting for one's turn. A wait for ourselves says nothing of the upstream: it is no part of the
deadline for an answer, and no failure (protocol.md 3). Does not own sockets (`transport.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code
from routerd.routing.policy import Fallback

CONNECTIONS = 100  # of one URL at once, for questions and the bodies that answer them
LONGEST_WAIT = 10.0  # seconds; another URL, or the client's next registry, may be free meanwhile
_RETRY_AFTER = 5  # seconds; nobody knows when a client has read its body


class Busy(EndpointError):
    """Nothing was asked: as much as may be is under way already."""


class Connections:
    """Turns of one URL, in the order in which they were asked for. `name` is for the refusal."""

    def __init__(self, name: str, limit: int = CONNECTIONS, wait: float = LONGEST_WAIT) -> None:
        self._name = name
        self._limit = limit
        self._wait = wait
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A turn, given back at the end. Raises Busy where none is free for too long."""
        try:
            async with asyncio.timeout(self._wait):
                await self._free.acquire()
        except TimeoutError as error:
            raise Busy(
                Fallback.UNAVAILABLE,
                Code.UNAVAILABLE,
                f"{self._name} is busy: {self._limit} requests to it are under way from here",
                headers={"Retry-After": str(_RETRY_AFTER)},
            ) from error
        try:
            yield
        finally:
            self._free.release()
