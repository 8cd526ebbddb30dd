"""The slow check of everything stored, in the background, by one process of those on the store.

Owns who does it, how far it is, and when it begins again. Does not own a check (`verify.py`).

The file `verify` is the lock and the place at once: whoever holds its lock goes on where the last
one stopped, be that another process or this one before its restart.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from routerd.content.errors import StoreError
from routerd.content.layout import VERIFY
from routerd.content.verify import Damage, Verifier
from routerd.runtime.blocking import run_blocking
from routerd.runtime.pace import Pace, Sleep

PATROL_RATE = 8 * 1024 * 1024.0  # bytes a second: a terabyte in a day and a half
PATROL_EVERY = 7 * 86400.0  # seconds from the end of one round to the beginning of the next
PATROL_LOOK = 60.0  # seconds until it is looked again whether there is something to do
_STATE_BYTES = 4096  # of the file; what is longer is none of ours


@dataclass(frozen=True, slots=True)
class Round:
    """How far the check is. `after`: the last digest that was looked at; times in UTC seconds."""

    after: str = ""
    checked: int = 0
    damaged: int = 0
    begun_at: float | None = None
    ended_at: float | None = None

    @classmethod
    def parse(cls, data: bytes) -> Round:
        """What was written; a new round where that is not readable (a power cut, a stranger)."""
        try:
            found = cls(**json.loads(data))
        except (ValueError, TypeError):
            return cls()
        return found if isinstance(found.after, str) else cls()

    def is_due(self, now: float) -> bool:
        """Whether there is something to do. A round that ends in the future was ended before a
        clock was set back: of its age nothing is known.
        """
        return self.ended_at is None or not 0 <= now - self.ended_at < PATROL_EVERY


def read_round(root: Path) -> Round:
    """How far the check of a store is. Blocks."""
    try:
        return Round.parse((root / VERIFY).read_bytes()[:_STATE_BYTES])
    except FileNotFoundError:
        return Round()


class Patrol:
    """The background check of one store."""

    def __init__(
        self,
        root: Path,
        verifier: Verifier,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._root = root
        self._verifier = verifier
        self._clock = clock
        self._sleep = sleep

    async def run(self, on_damage: Callable[[Damage], None]) -> None:
        """Check for ever, whenever a round is due and no other process is at it.

        Raises StoreError, StoreFull and OSError, after which it can be begun again.
        """
        while True:
            await self._sleep(PATROL_LOOK)  # the first time as well: who starts has better to do
            fd = await run_blocking(_claim, self._root / VERIFY)
            if fd is not None:
                try:
                    await self._go_on(fd, on_damage)
                except DatabaseError as error:
                    raise StoreError(
                        f"the index in {self._root} cannot be used: {error}"
                    ) from error
                finally:
                    os.close(fd)

    async def _go_on(self, fd: int, on_damage: Callable[[Damage], None]) -> None:
        """One round, or the rest of one."""
        found = await run_blocking(os.pread, fd, _STATE_BYTES, 0)
        state = Round.parse(found)
        if not state.is_due(self._clock()):
            return
        if state.ended_at is not None or state.begun_at is None:
            state = Round(begun_at=self._clock())
        pace = Pace(PATROL_RATE, sleep=self._sleep)
        async for one in self._verifier.run(pace, state.after):
            if one.damage is not None:
                on_damage(one.damage)
            damaged = state.damaged + (one.damage is not None)
            state = Round(str(one.digest), state.checked + 1, damaged, state.begun_at)
            await run_blocking(_write, fd, state)
        ended = Round("", state.checked, state.damaged, state.begun_at, self._clock())
        await run_blocking(_write, fd, ended)


def _claim(path: Path) -> int | None:
    """The file, locked by this process; None while another one has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _write(fd: int, state: Round) -> None:
    # In place, for the lock is on this file. What a crash leaves half written begins a new round.
    data = json.dumps(asdict(state)).encode()
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))
