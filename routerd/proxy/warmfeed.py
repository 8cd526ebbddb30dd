"""Warming as somebody watches it: plain rows of what moved, image after image.

Owns their form, their order, and that a watcher that is slow costs nothing: of each piece of content
only the latest row waits. Does not own fetching (`warm.py`) or who watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from routerd.oci.errors import RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference
from routerd.proxy.warm import Warm, Warmed, WarmEvent
from routerd.runtime.tasks import Tasks

EMIT_SECONDS = 0.1  # between two rows about the same content; eyes are no faster


@dataclass(frozen=True, slots=True)
class Moved:
    """So much of some content is here: `done` of `size` bytes. `stage`: fetching, kept, failed."""

    kind: ClassVar[str] = "content"

    reference: str
    content: str  # a digest, or the tag that was asked for
    part: str  # manifest or blob
    stage: str
    done: int
    size: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of an image. `result`: warm, incomplete, or failed; `failed`: why, each."""

    kind: ClassVar[str] = "image"

    reference: str
    result: str
    digest: str | None
    manifests: int
    blobs: int
    bytes: int
    failed: tuple[str, ...]


Row = Moved | Ended


async def feed(
    warm: Warm, references: Sequence[Reference], platforms: Sequence[Platform]
) -> AsyncGenerator[Row, None]:
    """Fetch the images one after the other; of each, what moves and then what came of it.

    Who stops listening (`aclose`) stops the fetching; downloads that run go on by themselves.
    """
    waiting: dict[tuple[str, str], Row] = {}
    more = asyncio.Event()

    def say(row: Row) -> None:
        waiting[row.reference, row.content if isinstance(row, Moved) else ""] = row
        more.set()

    async def fetch() -> None:
        for reference in dict.fromkeys(references):
            try:
                say(_ended(await warm.warm(reference, platforms, lambda e: say(_moved(e)))))
            except RegistryError as error:
                say(Ended(str(reference), "failed", None, 0, 0, 0, (error.message,)))

    tasks = Tasks()
    fetching = tasks.spawn("warm", fetch())
    fetching.add_done_callback(lambda _: more.set())
    try:
        while not fetching.done() or waiting:
            await more.wait()
            more.clear()
            rows = list(waiting.values())
            waiting.clear()
            for row in rows:
                yield row
            if not fetching.done():
                await asyncio.wait({fetching}, timeout=EMIT_SECONDS)
        fetching.result()  # raises what nobody expected
    finally:
        await tasks.aclose(grace=0)


def _moved(event: WarmEvent) -> Moved:
    return Moved(
        str(event.reference),
        event.content,
        event.kind,
        str(event.stage),
        event.done,
        event.size,
        event.error or None,
    )


def _ended(warmed: Warmed) -> Ended:
    return Ended(
        str(warmed.reference),
        "incomplete" if warmed.failed else "warm",
        str(warmed.digest),
        warmed.manifests,
        warmed.blobs,
        warmed.size,
        warmed.failed,
    )
