"""The sweep of one store: what `retention.py` decides, done in steps that nobody has to wait for.

Owns the order of removal: links first, in transactions of their own; then, for bytes that nobody
has a link to, the row and the file's place in one transaction; the file itself last. So a reader
finds a link and its bytes, or no link. Does not own the decision, or when a sweep begins.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from routerd.content import stock
from routerd.content.database import Database
from routerd.content.errors import StoreFull
from routerd.content.links import LinkKind
from routerd.content.pulls import Pulls
from routerd.content.retention import GRACE, Held, RetainOf, Verdict, decide
from routerd.content.retention import Removal as Decided
from routerd.runtime.blocking import finish_blocking, run_blocking

T = TypeVar("T")
R = TypeVar("R")
Act = Callable[[Connection, T], R | None]
Write = Callable[[Callable[[Connection], tuple[int, list[R]]]], Awaitable[tuple[int, list[R]]]]

log = logging.getLogger("routerd.sweep")

# Seconds. A transaction of the sweep ends after so long, and lets others write for as long again.
STEP_SECONDS = 0.01
# Rows of one transaction at most, so that on a full disk the index's log grows by little.
STEP_ROWS = 64


class Shelf(Protocol):
    """Where the bytes are, as far as a sweep takes them away. Every call blocks."""

    def claim(self) -> Callable[[], None] | None:
        """Sweep alone, until what is returned is called; None while somebody else sweeps."""
        ...

    def take(self, digest: str, before: float) -> bool:
        """Take bytes out of sight; False where they were put there after `before`."""
        ...

    def swept_at(self) -> float | None:
        """When a sweep last came to its end, in UTC seconds; None: never, as far as is known."""
        ...

    def note_swept(self, now: float) -> None:
        """One has come to its end."""
        ...

    def tidy(self) -> None:
        """Remove for good what was taken, and keep some space for the index where there is any."""
        ...

    def release_reserve(self) -> None:
        """Let the index use it."""
        ...


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep came to. `manifests` and `links` are what scopes no longer see, `blobs` are
    digests whose `size` bytes are free again; `pinned` links stayed for their pin alone.

    `skipped`: another process was sweeping, so nothing was done.
    """

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    size: int = 0
    pinned: int = 0
    skipped: bool = False


class Sweeper:
    """Sweeps one store, whose index is open."""

    def __init__(
        self, database: Database, pulls: Pulls, shelf: Shelf, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._pulls = pulls
        self._shelf = shelf
        self._clock = clock

    async def sweep(self, retain: RetainOf, need: int = 0) -> SweepReport:
        """Remove what is over its time and, if that is less than `need` bytes, what was pulled least
        recently. Raises StoreFull where not even that can be written down.
        """
        leave = await run_blocking(self._shelf.claim)
        if leave is None:
            return SweepReport(skipped=True)
        try:
            return await self._sweep(retain, need)
        finally:
            await finish_blocking(self._shelf.tidy)
            leave()

    async def swept_at(self) -> float | None:
        """When this store was last swept to the end, by any process; None: never."""
        return await run_blocking(self._shelf.swept_at)

    async def _sweep(self, retain: RetainOf, need: int) -> SweepReport:
        await run_blocking(self._shelf.tidy)
        await self._written(self._pulls.flush)
        now = self._clock()
        verdict = await self._database.read(lambda c: _verdict(c, retain, now, need))
        links: list[Held] = []
        sizes: list[int] = []
        forgotten = 0
        # By and by: on a full disk there is room in the index for what a few links free, not for all.
        for start in range(0, len(verdict.removals), STEP_ROWS):
            some = verdict.removals[start : start + STEP_ROWS]
            links += await self._unlink(some)
            sizes += await self._forget(verdict.unlinked[forgotten : some[-1].frees], now - GRACE)
            forgotten = some[-1].frees
        sizes += await self._forget(verdict.unlinked[forgotten:], now - GRACE)
        report = SweepReport(
            manifests=sum(link.kind is LinkKind.MANIFEST for link in links),
            links=len(links),
            blobs=len(sizes),
            size=sum(sizes),
            pinned=verdict.pinned,
        )
        await run_blocking(self._shelf.note_swept, now)
        if links or sizes:
            log.info(
                "swept %s manifests, %s bytes in %s files; pinned: %s",
                report.manifests,
                report.size,
                report.blobs,
                report.pinned,
            )
        return report

    async def _unlink(self, removals: Sequence[Decided]) -> list[Held]:
        """The links that are gone: all but those that somebody pulled, pinned or listed meanwhile."""

        def unlink(connection: Connection, removal: Decided) -> Decided | None:
            return removal if stock.unlink(connection, removal.link) else None

        done: list[Held] = []
        async for removed in self._in_steps(removals, unlink, self._database.write):
            for removal in removed:
                _log_removal(removal, self._clock())
                done.append(removal.link)
        return done

    async def _forget(self, digests: Sequence[str], before: float) -> list[int]:
        """The sizes of what is gone: the bytes that nobody wants, unless they are new again."""

        def forget(connection: Connection, digest: str) -> int | None:
            if stock.is_wanted(connection, digest) or not self._shelf.take(digest, before):
                return None
            return stock.forget(connection, digest)

        sizes: list[int] = []
        # Nobody has a link to these, so no answer that a process remembers changes with them.
        async for found in self._in_steps(digests, forget, self._database.write_quietly):
            sizes += found
            await run_blocking(self._shelf.tidy)
        return sizes

    async def _in_steps(
        self, items: Sequence[T], act: Act[T, R], write: Write[R]
    ) -> AsyncIterator[list[R]]:
        """`act` on each item, in short transactions; what came of each, but None."""
        position = 0
        while position < len(items):
            step = partial(_step, items=items, start=position, act=act)
            position, found = await self._written(partial(write, step))
            yield found
            await asyncio.sleep(STEP_SECONDS)

    async def _written(self, write: Callable[[], Awaitable[T]]) -> T:
        """`write`, a second time with the reserve where the disk is full."""
        try:
            return await write()
        except StoreFull:
            await run_blocking(self._shelf.release_reserve)
            return await write()


def _verdict(connection: Connection, retain: RetainOf, now: float, need: int) -> Verdict:
    """Read and decide without the garbage collector: among so many rows, none of them in a cycle, each
    of its full passes would stop the event loop for as long as a look at all of them takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return decide(stock.read_stock(connection), retain, now, need)
    finally:
        if was_enabled:
            gc.enable()


def _step(
    connection: Connection, items: Sequence[T], start: int, act: Act[T, R]
) -> tuple[int, list[R]]:
    """Where the next step goes on, and what came of this one."""
    until = time.monotonic() + STEP_SECONDS
    found: list[R] = []
    stop = min(start + STEP_ROWS, len(items))
    for position in range(start, stop):
        result = act(connection, items[position])
        if result is not None:
            found.append(result)
        if time.monotonic() >= until:
            return position + 1, found
    return stop, found


def _log_removal(removal: Decided, now: float) -> None:
    link = removal.link
    log.log(
        logging.INFO if link.kind is LinkKind.MANIFEST else logging.DEBUG,
        "swept %s %s@%s of %s, last pulled %.1f days ago: %s",
        link.kind,
        link.scope.repository,
        link.digest,
        link.scope.endpoint,
        (now - removal.pulled_at) / 86400,
        removal.why,
    )
