"""The bounded threads for work that blocks: files, SQL, hashing; and others for what downloads write.

Owns the threads. Does not own what runs on them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 16  # more only wait for the same disk

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="routerd-blocking")
# A download keeps its thread while its upstream sends and its disk is slow, which may be long: so it
# takes none of those that a request waits for.
_writers = ThreadPoolExecutor(THREADS, thread_name_prefix="routerd-writing")


def start_blocking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """Begin `work` on a thread of the pool and go on. Its outcome must be awaited by somebody."""
    return asyncio.get_running_loop().run_in_executor(_pool, partial(work, *args, **kwargs))


def start_writing(work: Callable[[], None]) -> asyncio.Future[None]:
    """As `start_blocking`, for a download's bytes, which may go on coming for a while."""
    return asyncio.get_running_loop().run_in_executor(_writers, work)


async def run_blocking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args, **kwargs)` on a thread of the pool.

    A caller that is cancelled waits no longer, but work that has begun goes on to its end: it must
    leave a sound state whether or not somebody looks at its result.
    """
    return await start_blocking(work, *args, **kwargs)


async def finish_blocking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run_blocking`, but a caller that is cancelled leaves only after the work has ended.

    For work that nothing may overtake, such as a write to a file that others go on to use.
    """
    outcome = start_blocking(work, *args, **kwargs)
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        await asyncio.wait({outcome})
        if not outcome.cancelled():
            outcome.exception()  # the cancellation is what the caller hears of
        raise
