"""The one bounded thread pool for work that blocks: files, SQL, hashing.

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


async def run_blocking(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args, **kwargs)` on a thread of the pool.

    A caller that is cancelled waits no longer, but the work goes on to its end: it must leave a
    sound state whoever still looks at its result.
    """
    return await asyncio.get_running_loop().run_in_executor(_pool, partial(work, *args, **kwargs))
