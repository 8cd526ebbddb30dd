"""The rows of a warming: in order, and only the latest word about each piece of content."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from routerd.oci.errors import Code, RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Digest, Reference
from routerd.proxy.warm import Report, Stage, Warmed, WarmEvent
from routerd.proxy.warmfeed import Ended, Moved, feed

ONE, TWO = Reference.parse("one:1"), Reference.parse("two:1")
DIGEST = Digest.of(b"x")


class Scripted:
    """Reports a thousand steps at once, then ends as its image does."""

    def __init__(self) -> None:
        self.begun: list[Reference] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def warm(
        self, reference: Reference, platforms: Sequence[Platform], report: Report
    ) -> Warmed:
        self.begun.append(reference)
        for done in range(1000):
            report(WarmEvent(reference, str(DIGEST), "blob", Stage.FETCHING, done, 999))
        await self.gate.wait()
        if reference == TWO:
            raise RegistryError(Code.UNAVAILABLE, "the upstream is down")
        return Warmed(reference, DIGEST, 1, 2, 3, ("a layer",))


async def test_each_image_ends_with_what_came_of_it_and_steps_are_joined() -> None:
    rows = [row async for row in feed(Scripted(), [ONE, TWO, ONE], ())]  # type: ignore[arg-type]
    ended = [row for row in rows if isinstance(row, Ended)]
    assert [(row.reference, row.result, row.failed) for row in ended] == [
        (str(ONE), "incomplete", ("a layer",)),
        (str(TWO), "failed", ("the upstream is down",)),
    ]
    moved = [row for row in rows if isinstance(row, Moved)]
    assert len(moved) <= 4, "a watcher hears the latest, not all"
    assert {row.done for row in moved} <= {999}


async def test_who_stops_listening_stops_the_fetching() -> None:
    scripted = Scripted()
    scripted.gate.clear()
    async with aclosing(feed(scripted, [ONE, TWO], ())) as rows:  # type: ignore[arg-type]
        await anext(rows)
    scripted.gate.set()
    await asyncio.sleep(0)
    assert scripted.begun == [ONE]
