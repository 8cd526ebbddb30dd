"""Whose turn it is to download from an endpoint: what a client waits for comes first.

Owns two classes of downloads and who of them may begin. Does not own what they download
(`fetchtable.py`).

Those that clients wait for (interactive) are counted by themselves: however many were begun ahead,
they keep none of them from beginning. Those ahead begin only while nobody waits, and only as far as
the limit leaves room beside the interactive ones. Among clients the one that has fewest running is
next, and none has more than its share, so one that asks for a hundred layers stops nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class Turn:
    """One download's place: it waits, it has begun, it is over. Made by `Turns.enter`.

    `clients` are the addresses of those who wait for it, each counted for itself.
    """

    def __init__(self, client: str, *, ahead: bool) -> None:
        self.ahead = ahead  # nobody waits for it
        self.clients = {client}
        self.begun = asyncio.Event()
        self.moved = asyncio.Event()  # begun, or no longer ahead

    async def begin(self, seconds: float) -> None:
        """Wait for the turn. Raises TimeoutError after so long, which is counted from when somebody
        waits for it: what is fetched ahead has time.
        """
        if self.ahead:
            await self.moved.wait()
        async with asyncio.timeout(seconds):
            await self.begun.wait()


class Turns:
    """The downloads of one endpoint: at most `limit` that clients wait for run at once, and at most
    as many in all where some are ahead; of one client at most `share`.
    """

    def __init__(self, limit: int, share: int) -> None:
        self.ended = 0  # so far
        self._limit = limit
        self._share = share
        # By `ahead`; dicts, as sets that know their order.
        self._waiting: dict[bool, dict[Turn, None]] = {False: {}, True: {}}
        self._running: dict[bool, dict[Turn, None]] = {False: {}, True: {}}

    @property
    def waiting(self) -> int:
        """Downloads that clients wait for and that have not begun."""
        return len(self._waiting[False])

    def enter(self, client: str = "", *, ahead: bool) -> Turn:
        """A place at the end of its class; begun at once where there is room."""
        turn = Turn(client, ahead=ahead)
        self._waiting[ahead][turn] = None
        self._admit()
        return turn

    def join(self, turn: Turn, client: str = "") -> None:
        """This client waits for it too, which may have been ahead. Nothing, where it is over."""
        if turn.ahead:
            turn.clients.clear()  # it was nobody's
        turn.clients.add(client)
        for places in (self._waiting, self._running):
            if turn in places[True]:
                del places[True][turn]
                places[False][turn] = None
                turn.ahead = False
                turn.moved.set()
        self._admit()

    def leave(self, turn: Turn) -> None:
        """It is over, begun or not."""
        self.ended += 1
        for places in (self._waiting, self._running):
            places[turn.ahead].pop(turn, None)
        self._admit()

    def _admit(self) -> None:
        waiting, running = self._waiting, self._running
        while len(running[False]) < self._limit and (turn := self._next()) is not None:
            self._begin(turn)
        while (
            waiting[True]
            and not waiting[False]
            and len(running[False]) + len(running[True]) < self._limit
        ):
            self._begin(next(iter(waiting[True])))

    def _next(self) -> Turn | None:
        """Of what clients wait for: of the client with the fewest running, in order among equals."""
        running = Counter(client for turn in self._running[False] for client in turn.clients)

        def served(turn: Turn) -> int:
            return min(running[client] for client in turn.clients)

        turn = min(self._waiting[False], key=served, default=None)
        return None if turn is None or served(turn) >= self._share else turn

    def _begin(self, turn: Turn) -> None:
        del self._waiting[turn.ahead][turn]
        self._running[turn.ahead][turn] = None
        turn.begun.set()
        turn.moved.set()
