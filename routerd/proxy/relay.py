"""Where a download goes on when its endpoint breaks: at the next endpoint of the route.

Owns which source is asked for the bytes from an offset on. Does not own when a broken download is
resumed or given up (`content/download.py`), or who may be asked at all (`pull.py`). Content is what
its digest says wherever it comes from; who may see it is proven by the first endpoint's answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from routerd.content.download import OpenSource, Source
from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code
from routerd.routing.policy import Fallback

# What to open by the name of its endpoint, in the order of the route.
Sources = Mapping[str, OpenSource]

log = structlog.get_logger("routerd.cache")


class Relay:
    """An `OpenSource` made of several, by the names of their endpoints, in the order of the route.

    The first one begins. A source whose bytes ended where they began is left for the next one; one
    that gave some is asked first for what follows.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = list(sources.items())
        self._current = 0
        self._opened_at: int | None = None  # the last time
        self._size: int | None = None  # of the whole, as the first one said

    @asynccontextmanager
    async def open(self, start: int) -> AsyncGenerator[Source]:
        """The bytes from `start` on. Raises the EndpointError of the first source that was asked."""
        async with AsyncExitStack() as stack:
            yield await self._enter(stack, start)

    async def _enter(self, stack: AsyncExitStack, start: int) -> Source:
        count = len(self._sources)
        # What the first one says at the beginning is for whoever decides about fallback.
        candidates = 1 if self._opened_at is None else count
        if start == self._opened_at:
            self._current = (self._current + 1) % count
        problem: EndpointError | None = None
        for number in range(self._current, self._current + candidates):
            name, open_source = self._sources[number % count]
            try:
                source = await self._open(stack, open_source, start, is_other=number % count > 0)
            except EndpointError as error:
                problem = problem or error
                continue
            if number % count:
                log.warning("a download goes on elsewhere", endpoint=name, position=start)
            self._current, self._opened_at = number % count, start
            return source
        assert problem is not None  # there is at least one candidate
        raise problem

    async def _open(
        self, stack: AsyncExitStack, open_source: OpenSource, start: int, *, is_other: bool
    ) -> Source:
        async with AsyncExitStack() as opening:
            source = await opening.enter_async_context(open_source(start))
            # What does not fit to what was received is not to spoil that.
            if is_other and source.size not in (None, self._size) and self._size is not None:
                raise EndpointError(
                    Fallback.UNAVAILABLE,
                    Code.UNAVAILABLE,
                    f"it says {source.size} bytes where the first said {self._size}",
                )
            self._size = self._size or source.size
            stack.push_async_exit(opening.pop_all())
            return source
