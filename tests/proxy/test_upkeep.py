"""upkeep: one failure of the disk or the index does not end the looking after of a store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreFull
from routerd.content.pulls import Pulls
from routerd.proxy import upkeep
from routerd.proxy.upkeep import Upkeep

FAILURES = [
    OperationalError("UPDATE", {}, Exception("database is locked")),
    OSError(24, "Too many open files"),
    StoreFull(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_what_fails_once_is_done_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(upkeep, "FLUSH_SECONDS", 0.001)
    flush, calls, done = Pulls.flush, 0, asyncio.Event()

    async def failing(pulls: Pulls) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise failure
        await flush(pulls)
        done.set()

    store = DirectoryStore(tmp_path)
    await store.start()
    with monkeypatch.context() as patch:
        patch.setattr(Pulls, "flush", failing)
        with capture_logs() as logs:
            running = asyncio.ensure_future(Upkeep(store, lambda: 0.0).run())
            async with asyncio.timeout(10):
                await done.wait()
            running.cancel()
            await asyncio.wait({running})
    await store.aclose()
    [line] = [one for one in logs if one["event"] == "a store could not be looked after"]
    assert line["log_level"] == "error"
    assert line["why"]
