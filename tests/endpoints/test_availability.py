"""availability.Availability: when an upstream is left alone, for how long, and who finds it back."""

from __future__ import annotations

import asyncio

import pytest

from routerd.endpoints.availability import (
    FAILURES,
    FIRST_WAIT,
    LONGEST_WAIT,
    Availability,
    LeftAlone,
    Pause,
)
from routerd.endpoints.base import EndpointError, Via
from routerd.oci.errors import Code
from routerd.oci.reference import Reference
from routerd.routing.policy import Fallback
from upstream import Asked, Script, Upstream, image

from .conftest import MakeRemote

TAGGED = Reference.parse("library/app:1")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub_state(clock: Clock) -> Availability:
    return Availability("hub", clock)


def down() -> EndpointError:
    return EndpointError(Fallback.UNAVAILABLE, Code.UNAVAILABLE, "no answer", reached=False)


def fail(state: Availability) -> str:
    """The message of one attempt that reaches nobody, or of its refusal."""
    with pytest.raises(EndpointError) as failed, state.attempt():
        raise down()
    return failed.value.message


def test_some_failures_in_a_row_close_it_for_a_short_and_growing_time(
    hub_state: Availability, clock: Clock
) -> None:
    for _ in range(FAILURES):
        assert fail(hub_state) == "no answer"
    waits = []
    for _ in range(8):
        refused = fail(hub_state)
        assert refused.startswith(f"hub did not answer {FAILURES + len(waits)} times in a row")
        started = clock.now
        while fail(hub_state) != "no answer":
            clock.now += 0.5
        waits.append(clock.now - started)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert (waits[0], waits[-1]) == (FIRST_WAIT, LONGEST_WAIT)


def test_one_request_finds_out_whether_it_is_back(hub_state: Availability, clock: Clock) -> None:
    for _ in range(FAILURES):
        fail(hub_state)
    clock.now += FIRST_WAIT
    with hub_state.attempt():
        assert "left alone" in fail(hub_state), "the others wait for that one"
    with hub_state.attempt(), hub_state.attempt():
        pass


def test_a_probe_that_is_cancelled_leaves_the_next_one_free(
    hub_state: Availability, clock: Clock
) -> None:
    for _ in range(FAILURES):
        fail(hub_state)
    clock.now += FIRST_WAIT
    with pytest.raises(asyncio.CancelledError), hub_state.attempt():
        raise asyncio.CancelledError
    with hub_state.attempt():
        pass


def test_one_blip_costs_the_shortest_wait_whatever_was_in_flight(
    hub_state: Availability, clock: Clock
) -> None:
    attempts = [hub_state.attempt() for _ in range(20)]
    for attempt in attempts:
        attempt.__enter__()
    for attempt in attempts[:-1]:
        assert not attempt.__exit__(EndpointError, down(), None)
        clock.now += 0.01
    clock.now += FIRST_WAIT
    with hub_state.attempt():  # the probe may begin, and what fails late does not count
        assert not attempts[-1].__exit__(EndpointError, down(), None)
        raised = fail(hub_state)
    assert f"did not answer {FAILURES} times" in raised
    assert fail(hub_state) == "no answer", "and it is back"


def test_what_fails_after_the_probe_failed_is_not_counted_either(
    hub_state: Availability, clock: Clock
) -> None:
    late = hub_state.attempt()
    late.__enter__()
    for _ in range(FAILURES):
        fail(hub_state)
    clock.now += FIRST_WAIT
    assert fail(hub_state) == "no answer", "the probe"
    assert not late.__exit__(EndpointError, down(), None)
    clock.now += 2 * FIRST_WAIT
    with hub_state.attempt():
        pass


def test_an_answer_of_any_kind_counts_for_it(hub_state: Availability) -> None:
    for _ in range(10):
        for _ in range(FAILURES - 1):
            assert fail(hub_state) == "no answer"
        with pytest.raises(EndpointError), hub_state.attempt():
            raise EndpointError(Fallback.UNAVAILABLE, Code.UNAVAILABLE, "503")


def test_a_pause_is_kept_and_said(clock: Clock) -> None:
    pause = Pause("hub", clock)
    raised = pause.begin(20.0)
    assert (str(raised.code), raised.headers["Retry-After"]) == ("TOOMANYREQUESTS", "20")
    pause.begin(5.0)
    clock.now += 19.0
    with pytest.raises(LeftAlone) as refused:
        pause.check()
    assert refused.value.headers["Retry-After"] == "1"
    clock.now += 1.0
    pause.check()


async def test_the_repeats_of_a_429_are_answered_without_a_call(
    remote: MakeRemote, hub: Upstream
) -> None:
    hub.paths["/v2/library/app/manifests/1"] = Script(status=429, headers={"Retry-After": "30"})
    endpoint = await remote()
    for _ in range(5):  # as containerd does, at once
        with pytest.raises(EndpointError) as refused:
            await endpoint.manifest(TAGGED, Via())
        assert refused.value.status == 429
        assert 28 <= int(refused.value.headers["Retry-After"]) <= 30
    assert len(hub.asked) == 1


async def test_an_upstream_that_is_silent_costs_a_few_timeouts_and_then_none(
    remote: MakeRemote, hub: Upstream
) -> None:
    silent = asyncio.Event()

    async def silence(_: Asked) -> Script:
        await silent.wait()
        return Script(image(b"c"))

    hub.paths["/v2/library/app/manifests/1"] = silence
    endpoint = await remote(timeouts={"connect": 2.0, "response": 0.05, "stall": 5.0})
    for _ in range(10):
        with pytest.raises(EndpointError):
            await endpoint.manifest(TAGGED, Via())
    assert len(hub.asked) == FAILURES
    silent.set()
