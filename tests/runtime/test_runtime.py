"""runtime: tasks with an owner, threads with a bound, calls that many share."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.runtime.blocking import finish_blocking, run_blocking
from routerd.runtime.files import CHUNK, FilePart, Part, as_bytes, write_all
from routerd.runtime.flight import SingleFlight
from routerd.runtime.tasks import Tasks


async def test_a_failed_task_is_logged_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("why")

    tasks = Tasks()
    with caplog.at_level(logging.ERROR):
        await asyncio.wait({tasks.spawn("sweeping", fail())})
    assert "sweeping" in caplog.text
    await tasks.aclose(grace=0)


async def test_closing_gives_grace_then_cancels_and_takes_nothing_new() -> None:
    tasks = Tasks()
    quick = tasks.spawn("quick", asyncio.sleep(0))
    endless = tasks.spawn("endless", asyncio.Event().wait())
    await tasks.aclose(grace=0.01)
    assert quick.done()
    assert endless.cancelled()
    assert len(tasks) == 0
    with pytest.raises(RuntimeError, match="closed"):
        tasks.spawn("late", asyncio.sleep(0))


async def test_one_call_serves_all_who_wait_and_is_then_forgotten() -> None:
    tasks, calls, gate = Tasks(), 0, asyncio.Event()
    flights: SingleFlight[str, int] = SingleFlight(tasks)

    async def work() -> int:
        nonlocal calls
        calls += 1
        await gate.wait()
        return calls

    waiting = [asyncio.ensure_future(flights.do("a", work)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # one who leaves takes nobody along
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 4
    assert len(flights) == 0
    assert await flights.do("a", work) == 2
    await tasks.aclose(grace=0)


async def test_a_failure_is_shared_and_the_next_call_is_new() -> None:
    tasks = Tasks()
    flights: SingleFlight[str, int] = SingleFlight(tasks)

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        *(flights.do("a", fail) for _ in range(3)), return_exceptions=True
    )
    assert [str(outcome) for outcome in outcomes] == ["no"] * 3

    async def succeed() -> int:
        return 1

    assert await flights.do("a", succeed) == 1
    await tasks.aclose(grace=0)


async def test_a_cancelled_caller_leaves_only_after_work_that_must_finish() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(5)
        ended.set()

    caller = asyncio.ensure_future(finish_blocking(work))
    await run_blocking(begun.wait, 5)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


async def test_chunks_are_written_whole_and_read_in_ranges(tmp_path: Path) -> None:
    chunks = [bytes([n]) * 1000 for n in range(250)] + [b""] + [b"x" * 3_000_000]
    data = b"".join(chunks)
    with (tmp_path / "f").open("wb+", buffering=0) as file:
        write_all(file.fileno(), chunks)
        for start, stop in ((0, len(data)), (5, 6), (999, 250_001), (7, 7)):
            part = FilePart(file.fileno(), start, stop)
            assert len(part) == stop - start
            await part.into_cache()
            found = [chunk async for chunk in part.read()]
            assert b"".join(found) == data[start:stop]
            assert all(len(chunk) <= CHUNK for chunk in found)
        with pytest.raises(EOFError):
            async for _ in FilePart(file.fileno(), 0, len(data) + 1).read():
                pass


_bound = st.none() | st.integers(-50, 50)


@given(
    ends=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted),
    wanted=st.builds(slice, _bound, _bound),
)
async def test_a_part_of_a_file_is_cut_like_bytes(ends: list[int], wanted: slice) -> None:
    start, stop = ends
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(bytes(range(40)))

        async def parts() -> AsyncIterator[Part]:
            yield FilePart(file.fileno(), start, stop)[wanted]

        cut = b"".join([chunk async for chunk in as_bytes(parts())])
    assert cut == bytes(range(40))[start:stop][wanted]
