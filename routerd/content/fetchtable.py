"""The downloads that run: single flight by what is fetched and from whom, and whose turn it is.

Owns that each digest is fetched once from an endpoint into a store, however many want it, and how
many downloads of an endpoint run at once. Does not own a download (`fetch.py`).
"""

from __future__ import annotations

import asyncio

from routerd.content.download import OpenSource
from routerd.content.fetch import Fetch
from routerd.content.links import Scope
from routerd.content.store import ContentStore
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.tasks import Tasks

FILLS_LIMIT = 16  # downloads of one endpoint that run at once; the others wait their turn
TURN_SECONDS = 30.0  # that one waits for its turn; then its clients are told that upstream is busy


class FetchTable:
    """The downloads that run, by what they fetch and from whom."""

    def __init__(self, tasks: Tasks) -> None:
        self.completed = 0  # downloads that ended, however: who sees it moved looks again
        self._tasks = tasks
        self._running: dict[tuple[ContentStore, str, Digest], Fetch] = {}
        # By endpoint, so that one that hangs keeps nobody from the others.
        self._slots: dict[str, asyncio.Semaphore] = {}

    def __len__(self) -> int:
        return len(self._running)

    def find(self, store: ContentStore, endpoint: str, digest: Digest) -> Fetch | None:
        """The download of this digest that runs, if one does."""
        fetch = self._running.get((store, endpoint, digest))
        return None if fetch is None or fetch.has_failed else fetch

    def join(
        self, store: ContentStore, digest: Digest, scope: Scope, open_source: OpenSource
    ) -> tuple[Fetch, bool]:
        """The download of `digest` from the scope's endpoint, and whether it is a new one.

        Who joins calls `Fetch.leave` once, in every case.

        Upstream is asked for it in that scope; whether another may see it, `Fetch.admits` tells.
        Nothing is awaited here, so no second download can slip in. Another
        endpoint's download of the same digest is one of its own: sight of content at one endpoint
        is no proof that another has it (config-language.md 3).
        """
        key = (store, scope.endpoint, digest)
        fetch = self._running.get(key)
        is_new = fetch is None or fetch.has_failed
        if fetch is None or fetch.has_failed:
            fetch = Fetch(store, digest, scope, open_source)
            self._tasks.spawn(f"fetch {digest}", self._run(key, fetch))
            self._running[key] = fetch
        fetch.enter()
        return fetch, is_new

    async def _run(self, key: tuple[ContentStore, str, Digest], fetch: Fetch) -> None:
        _, endpoint, _ = key
        slots = self._slots.setdefault(endpoint, asyncio.Semaphore(FILLS_LIMIT))
        try:
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    await slots.acquire()
            except TimeoutError:
                fetch.give_up(
                    RegistryError(
                        Code.UNAVAILABLE,
                        f"{endpoint} is busy: {FILLS_LIMIT} downloads have run for "
                        f"{TURN_SECONDS:g} s",
                        headers={"Retry-After": str(int(TURN_SECONDS))},
                    )
                )
                return
            try:
                await fetch.fill()
            finally:
                slots.release()
        finally:
            self.completed += 1
            if self._running.get(key) is fetch:
                del self._running[key]
