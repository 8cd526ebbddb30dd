"""Asking one after the other until one answers.

Owns what several failures come to, and what is remembered of bodies that broke. Does not own who is
asked in which order (`remote.py` has the URLs, `accounts.py` the accounts).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from cachetools import TTLCache

from routerd.endpoints.availability import LeftAlone
from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code
from routerd.oci.reference import Digest
from routerd.routing.policy import Fallback

P = TypeVar("P")
T = TypeVar("T")

log = structlog.get_logger("routerd.upstream")

BODIES_IN_MEMORY = 1_000  # blobs whose body broke or was wrong
BODIES_SECONDS = 600.0  # for how long that counts
_BROKE = 1  # once may be chance: it is resumed where it broke
_USELESS = 2  # nothing came, or something else than was asked for
_MISTRUSTED = 2  # from which sum on the others are asked first

# "Down" tells more than "not allowed", which tells more than "not there" (as in `proxy/pull.py`).
_SEVERITY = {Fallback.NOT_FOUND: 0, Fallback.DENIED: 1, Fallback.UNAVAILABLE: 2}


async def first_answer(
    places: Sequence[P],
    question: Callable[[P], Awaitable[T]],
    goes_on: Callable[[P, EndpointError], bool],
) -> T:
    """The answer of the first place that has one. `goes_on`: another may do better than that.

    Raises EndpointError: the failure that no other place can better, or what all of them come to.
    """
    problems: list[EndpointError] = []
    for position, place in enumerate(places, start=1):
        try:
            return await question(place)
        except EndpointError as error:
            if not goes_on(place, error):
                raise
            problems.append(error)
            if position < len(places) and not isinstance(error, LeftAlone):
                log.warning("asking elsewhere", why=error.message)
    raise combined(problems)


def combined(problems: Sequence[EndpointError]) -> EndpointError:
    """What failures at several places come to, in the words of the worst of them."""
    worst = max(_SEVERITY[problem.reason] for problem in problems)
    telling = [problem for problem in problems if _SEVERITY[problem.reason] == worst]
    first = telling[0]
    if len(telling) == 1:
        return first
    is_alike = all(problem.code is first.code for problem in telling)
    code = first.code if is_alike else Code.UNAVAILABLE
    waits = [int(p.headers["Retry-After"]) for p in telling if "Retry-After" in p.headers]
    return EndpointError(
        first.reason,
        code,
        "; ".join(dict.fromkeys(problem.message for problem in telling)),
        status=first.status if len({problem.status for problem in telling}) == 1 else None,
        # One that says nothing may be back at any moment: no reason to wait for the others.
        headers={"Retry-After": str(min(waits))} if len(waits) == len(telling) else None,
        reached=any(problem.reached for problem in telling),
    )


class Bodies:
    """Blobs whose body broke or was wrong at a URL, so that another is asked first for them.

    A URL is known by its position. Once broken it is resumed at the same; a second time, or where
    not a byte came, or where the bytes were wrong, the others come first for some minutes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: TTLCache[tuple[Digest, int], int] = TTLCache(
            BODIES_IN_MEMORY, BODIES_SECONDS, timer=clock
        )

    def broke(self, digest: Digest, position: int, received: int) -> None:
        """The body ended before its end, after so many bytes."""
        self._add(digest, position, _BROKE if received else _USELESS)

    def was_wrong(self, digest: Digest, position: int) -> None:
        """What came is not what the digest says."""
        self._add(digest, position, _USELESS)

    def in_order(self, digest: Digest, count: int) -> Sequence[int]:
        """The positions of `count` URLs, those that are trusted with this blob first."""
        return sorted(range(count), key=lambda at: self._known.get((digest, at), 0) // _MISTRUSTED)

    def _add(self, digest: Digest, position: int, weight: int) -> None:
        key = (digest, position)
        self._known[key] = self._known.get(key, 0) + weight
