"""Warming as somebody watches it: what moved, image after image, as values to print or to send.

Owns their order, their form in JSON, and that a watcher that is slow costs nothing: of each piece of
content only the latest word waits. Does not own fetching (`warm.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from routerd.oci.errors import RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference
from routerd.proxy.warm import Warm, Warmed, WarmEvent
from routerd.runtime.tasks import Tasks

EMIT_SECONDS = 0.1  # between two words about the same content; eyes are no faster


@dataclass(frozen=True, slots=True)
class NotWarmed:
    """An image of which nothing could be had, and why."""

    reference: Reference
    error: str


Word = WarmEvent | Warmed | NotWarmed


async def feed(
    warm: Warm, references: Sequence[Reference], platforms: Sequence[Platform]
) -> AsyncIterator[Word]:
    """Fetch the images one after the other; of each, what moves and then what came of it.

    Who stops listening (`aclose`) stops the fetching; downloads that run go on by themselves.
    """
    waiting: dict[tuple[Reference, str], Word] = {}
    more = asyncio.Event()

    def say(word: Word) -> None:
        content = word.content if isinstance(word, WarmEvent) else ""
        waiting[word.reference, content] = word
        more.set()

    async def fetch() -> None:
        for reference in dict.fromkeys(references):
            try:
                say(await warm.warm(reference, platforms, say))
            except RegistryError as error:
                say(NotWarmed(reference, error.message))

    tasks = Tasks()
    fetching = tasks.spawn("warm", fetch())
    fetching.add_done_callback(lambda _: more.set())
    try:
        while not fetching.done() or waiting:
            await more.wait()
            more.clear()
            words, waiting = waiting, {}
            for word in words.values():
                yield word
            if not fetching.done():
                await asyncio.wait({fetching}, timeout=EMIT_SECONDS)
        fetching.result()  # raises what nobody expected
    finally:
        await tasks.aclose(grace=0)


def to_json(word: Word) -> dict[str, Any]:
    """One line of `routerd cache warm --format json`, and of the control socket."""
    about = {"reference": str(word.reference)}
    match word:
        case WarmEvent():
            said = {"kind": word.kind, "content": word.content, "stage": str(word.stage)}
            moved: dict[str, Any] = {"done": word.done, "size": word.size}
            return about | said | moved | ({"error": word.error} if word.error else {})
        case Warmed():
            return about | {
                "result": "incomplete" if word.failed else "warm",
                "digest": str(word.digest),
                "manifests": word.manifests,
                "blobs": word.blobs,
                "bytes": word.size,
                "failed": list(word.failed),
            }
        case NotWarmed():
            return about | {"result": "failed", "failed": [word.error]}
