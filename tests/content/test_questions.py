"""questions: one process at a time asks an upstream the same. Two `Questions` are two processes."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerd.content.questions import Questions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "questions"


async def test_who_asks_the_same_waits_and_is_told_that_it_waited(path: Path) -> None:
    one, other = Questions(path), Questions(path)
    asked: list[str] = []

    async def ask() -> None:
        async with other.turn("hub library/app:1") as has_waited:
            assert has_waited
            asked.append("other")

    async with one.turn("hub library/app:1") as has_waited:
        assert not has_waited
        waiting = asyncio.ensure_future(ask())
        async with other.turn("hub library/app:2") as about_another:
            assert not about_another
        await asyncio.sleep(0.02)
        asked.append("one")
    await waiting
    assert asked == ["one", "other"]
    assert path.stat().st_size == 0
    one.close()
    other.close()


async def test_the_last_of_a_process_lets_go(path: Path) -> None:
    """A refresh and a pull of one tag ask the same beside each other."""
    one, other = Questions(path), Questions(path)
    async with one.turn("key"):
        async with one.turn("key") as has_waited:
            assert not has_waited
        waiting = asyncio.ensure_future(anext(aiter(asking(other))))
        await asyncio.sleep(0.02)
        assert not waiting.done()
    assert await waiting
    one.close()
    other.close()


async def asking(questions: Questions) -> AsyncIterator[bool]:
    async with questions.turn("key") as has_waited:
        yield has_waited


async def test_a_lock_dies_with_who_holds_it(path: Path) -> None:
    one, other = Questions(path), Questions(path)
    async with one.turn("key"):
        one.close()
        async with other.turn("key") as has_waited:
            assert not has_waited
    other.close()


async def test_who_hangs_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerd.content.questions.WAIT_SECONDS", 0.01)
    one, other = Questions(path), Questions(path)
    async with one.turn("key"):
        async with other.turn("key") as has_waited:
            assert has_waited
        async with Questions(path).turn("key") as still:
            assert still, "who gave up waiting has not let go of the lock of another"
    one.close()
    other.close()


async def test_where_nothing_can_be_locked_it_is_asked_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Questions(path / "nowhere").turn("key") as has_waited:
        assert not has_waited
    assert "cannot be locked" in caplog.text

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    questions = Questions(path)
    async with questions.turn("key") as has_waited:
        assert not has_waited
    assert "No locks available" in caplog.text
    questions.close()
