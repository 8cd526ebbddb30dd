"""turns: what a client waits for never waits for what is fetched ahead."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.content.turns import Turn, Turns


def begun(turns: list[Turn]) -> list[bool]:
    return [turn.begun.is_set() for turn in turns]


def test_a_limited_number_runs_and_the_next_follows() -> None:
    turns = Turns(2, 2)
    taken = [turns.enter(ahead=False) for _ in range(4)]
    assert begun(taken) == [True, True, False, False]
    turns.leave(taken[1])
    assert begun(taken) == [True, True, True, False]


def test_who_has_fewest_running_is_next_and_nobody_has_more_than_a_share() -> None:
    turns = Turns(4, 3)
    greedy = [turns.enter("10.0.0.1", ahead=False) for _ in range(6)]
    assert begun(greedy) == [True, True, True, False, False, False]
    modest = [turns.enter("10.0.0.2", ahead=False) for _ in range(2)]
    assert begun(modest) == [True, False]
    turns.leave(greedy[0])
    assert begun(modest) == [True, True], "it has one running, the other two"
    turns.leave(greedy[1])
    assert begun(greedy) == [True, True, True, True, False, False]
    assert turns.waiting == 2


def test_who_joins_a_download_that_waits_brings_its_own_turn() -> None:
    turns = Turns(4, 2)
    greedy = [turns.enter("10.0.0.1", ahead=False) for _ in range(4)]
    assert begun(greedy) == [True, True, False, False]
    turns.join(greedy[3], "10.0.0.2")
    assert begun(greedy) == [True, True, False, True]


def test_what_was_ahead_counts_for_who_waits_for_it() -> None:
    turns = Turns(2, 1)
    ahead = turns.enter("10.0.0.9", ahead=True)
    turns.join(ahead, "10.0.0.1")
    assert not turns.enter("10.0.0.1", ahead=False).begun.is_set()
    assert turns.enter("10.0.0.9", ahead=False).begun.is_set()


def test_what_is_ahead_keeps_no_client_waiting() -> None:
    turns = Turns(2, 2)
    ahead = [turns.enter(ahead=True) for _ in range(4)]
    assert begun(ahead) == [True, True, False, False]
    clients = [turns.enter(ahead=False) for _ in range(3)]
    assert begun(clients) == [True, True, False]
    for turn in ahead[:2]:
        turns.leave(turn)
    assert begun(ahead[2:]) == [False, False], "a client waits"
    turns.leave(clients[0])
    assert begun(clients) == [True, True, True]
    assert begun(ahead[2:]) == [False, False], "clients take all there is"
    turns.leave(clients[1])
    assert begun(ahead[2:]) == [True, False]


def test_who_is_joined_by_a_client_comes_before_the_others() -> None:
    turns = Turns(1, 1)
    first, second, third = (turns.enter(ahead=True) for _ in range(3))
    turns.join(third)
    assert begun([first, second, third]) == [True, False, True]
    turns.join(first)  # runs already
    turns.join(first)
    turns.leave(first)
    assert begun([second]) == [False]
    turns.leave(third)
    assert begun([second]) == [True]


async def test_what_is_ahead_has_time_until_somebody_waits_for_it() -> None:
    turns = Turns(1, 1)
    busy = turns.enter(ahead=False)
    ahead = turns.enter(ahead=True)
    waiting = asyncio.ensure_future(ahead.begin(0.01))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    turns.join(ahead)
    with pytest.raises(TimeoutError):
        await waiting
    turns.leave(ahead)
    turns.leave(busy)
    await turns.enter(ahead=True).begin(0.01)


@given(
    st.lists(
        st.tuples(st.sampled_from(["client", "ahead", "promote", "leave"]), st.integers(0, 20))
    ),
    st.integers(1, 4),
)
def test_whatever_happens_clients_come_first_and_nobody_is_forgotten(
    steps: list[tuple[str, int]], limit: int
) -> None:
    turns, here = Turns(limit, limit), list[Turn]()
    for step, number in steps:
        if step in ("client", "ahead"):
            here.append(turns.enter(ahead=step == "ahead"))
        elif here and step == "promote":
            turns.join(here[number % len(here)])
        elif here:
            turns.leave(here.pop(number % len(here)))
        running = [turn for turn in here if turn.begun.is_set()]
        clients = [turn for turn in here if not turn.ahead]
        waiting = [turn for turn in here if not turn.begun.is_set()]
        if any(not turn.ahead for turn in waiting):
            assert sum(not turn.ahead for turn in running) >= limit
        if waiting:
            assert len(running) >= limit
        assert sum(turn.ahead for turn in running) <= limit
        assert len(clients) + sum(turn.ahead for turn in here) == len(here)
    for turn in list(here):
        turns.leave(turn)
    assert turns.enter(ahead=True).begun.is_set()
