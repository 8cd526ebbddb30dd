"""Ranges that start far ahead of the download that runs.

Owns when such a range is asked for upstream on its own instead of being waited for: clients that
pull lazily read a layer's footer first (protocol.md 2). Does not own the download
(`content/fetch.py`). These bytes are stored nowhere, and a part cannot be verified.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import structlog

from routerd.content.download import OpenSource
from routerd.content.fetch import Fetch
from routerd.endpoints.base import EndpointError
from routerd.runtime.files import Part

log = structlog.get_logger("routerd.cache")

AHEAD_BYTES = 16 * 1024 * 1024  # a range that starts closer to the download waits for it
AHEAD_LIMIT = 4  # such ranges at once beside one download; more wait for it


def reading(
    fetch: Fetch, open_source: OpenSource
) -> Callable[[int, int | None], AsyncIterator[Part]]:
    """`read(start, stop)` of the download, which asks `open_source` for what is far ahead of it."""

    async def read(start: int, stop: int | None) -> AsyncIterator[Part]:
        if start - fetch.position > AHEAD_BYTES and fetch.ahead < AHEAD_LIMIT:
            fetch.ahead += 1
            try:
                async for chunk in _part(open_source, start, stop):
                    start += len(chunk)
                    yield chunk
            except EndpointError as error:
                log.warning("a range is waited for", digest=str(fetch.digest), why=error.message)
            finally:
                fetch.ahead -= 1
        async for part in fetch.read(start, stop):  # nothing, where that was all
            yield part

    return read


async def _part(open_source: OpenSource, start: int, stop: int | None) -> AsyncIterator[Part]:
    async with open_source(start) as source:
        if source.start != start:
            return  # it does not know ranges
        position = start
        async for chunk in source.chunks():
            part = chunk if stop is None else chunk[: stop - position]
            position += len(part)
            yield part
            if position == stop:
                return
