"""The downloads that run: single flight by what is fetched and from whom, and whose turn it is.

Owns that each digest is fetched once from an endpoint into a store, however many want it, and how
long one waits for its turn. Does not own a download (`fetch.py`) or who is next (`turns.py`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from routerd.content.download import OpenSource
from routerd.content.fetch import Fetch
from routerd.content.links import Scope
from routerd.content.store import ContentStore
from routerd.content.turns import Turn, Turns
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.tasks import Tasks

log = logging.getLogger("routerd.fetch")

FILLS_LIMIT = 16  # downloads of one endpoint that run at once; the others wait their turn
CLIENT_LIMIT = 8  # of these, downloads for one client
# That one waits for its turn while none of those that have theirs receives anything; then its clients
# are told that upstream is busy.
TURN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Running:
    fetch: Fetch
    turn: Turn


class FetchTable:
    """The downloads that run, by what they fetch and from whom."""

    def __init__(self, tasks: Tasks) -> None:
        self.completed = 0  # downloads that ended, however: who sees it moved looks again
        self._tasks = tasks
        self._running: dict[tuple[ContentStore, str, Digest], _Running] = {}
        # By endpoint, so that one that hangs keeps nobody from the others.
        self._turns: dict[str, Turns] = {}

    def __len__(self) -> int:
        return len(self._running)

    def find(self, store: ContentStore, endpoint: str, digest: Digest) -> Fetch | None:
        """The download of this digest that runs, if one does."""
        running = self._running.get((store, endpoint, digest))
        return None if running is None or running.fetch.has_failed else running.fetch

    def join(
        self,
        store: ContentStore,
        digest: Digest,
        scope: Scope,
        open_source: OpenSource,
        *,
        client: str = "",
        ahead: bool = False,
    ) -> tuple[Fetch, bool]:
        """The download of `digest` from the scope's endpoint, and whether it is a new one.

        Who joins calls `Fetch.leave` once, in every case. `client`: the address of who waits for
        it. `ahead`: nobody does, so it has time; once somebody joins who does wait, it has none.

        Upstream is asked for it in that scope; whether another may see it, `Fetch.admits` tells.
        Nothing is awaited here, so no second download can slip in. Another
        endpoint's download of the same digest is one of its own: sight of content at one endpoint
        is no proof that another has it (config-language.md 3).
        """
        key = (store, scope.endpoint, digest)
        turns = self._turns.setdefault(scope.endpoint, Turns(FILLS_LIMIT, CLIENT_LIMIT))
        running = self._running.get(key)
        is_new = running is None or running.fetch.has_failed
        if running is None or running.fetch.has_failed:
            former = None if running is None else running.fetch
            fetch = Fetch(store, digest, scope, open_source)
            running = _Running(fetch, turns.enter(client, ahead=ahead))
            if not ahead and not running.turn.begun.is_set():
                log.info(
                    "%s for %s waits for its turn at %s, as one of %s",
                    digest,
                    client or "nobody in particular",
                    scope.endpoint,
                    turns.waiting,
                )
            self._tasks.spawn(f"fetch {digest}", self._run(key, running, turns, former))
            self._running[key] = running
        elif not ahead:
            turns.join(running.turn, client)
        running.fetch.enter()
        return running.fetch, is_new

    async def _run(
        self,
        key: tuple[ContentStore, str, Digest],
        running: _Running,
        turns: Turns,
        former: Fetch | None,
    ) -> None:
        _, endpoint, _ = key
        fetch = running.fetch
        try:
            try:
                await self._begin(endpoint, running.turn, turns)
                if former is not None:
                    await former.ended()  # else what it told would pass for another process's word
            except TimeoutError:
                fetch.give_up(
                    RegistryError(
                        Code.UNAVAILABLE,
                        f"{endpoint} is busy: {FILLS_LIMIT} downloads, or {CLIENT_LIMIT} of this client, "
                        f"have received nothing for {TURN_SECONDS:g} s",
                        headers={"Retry-After": str(int(TURN_SECONDS))},
                    )
                )
                return
            except asyncio.CancelledError:
                fetch.give_up(RegistryError(Code.UNAVAILABLE, "routerd is being stopped"))
                raise
            await fetch.fill()
        finally:
            turns.leave(running.turn)
            self.completed += 1
            if self._running.get(key) is running:
                del self._running[key]

    async def _begin(self, endpoint: str, turn: Turn, turns: Turns) -> None:
        """Wait for the turn. Raises TimeoutError where those that have theirs hang."""

        def progress() -> tuple[int, int]:
            fetches = (run.fetch for (_, name, _), run in self._running.items() if name == endpoint)
            return turns.ended, sum(fetch.position for fetch in fetches)

        while not turn.begun.is_set():
            before = progress()
            try:
                await turn.begin(TURN_SECONDS)
            except TimeoutError:
                if progress() == before:
                    raise
