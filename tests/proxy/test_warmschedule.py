"""The schedule of `warm:` with a clock of its own: when, in which order, and when rather not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from routerd.config.compile import load_policy
from routerd.config.settings import Policy, WarmRule
from routerd.endpoints.base import RateLimited
from routerd.endpoints.registry import lookup_type
from routerd.oci.errors import Code, RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Digest, Reference
from routerd.proxy.warm import Report, Warmed
from routerd.proxy.warmschedule import (
    FIRST_SECONDS,
    JITTER,
    LOCK_SECONDS,
    WarmSchedule,
    is_above_floor,
)
from routerd.runtime.lockfile import LockFile
from routerd.runtime.tasks import Tasks

POLICY = """
endpoints:
  hub: {type: remote, url: 'https://registry-1.docker.io', cache: local}
  ghcr: {type: remote, url: 'https://ghcr.io', cache: local}
  local: {type: storage}
routes: {'library/*': hub, 'ghcr.io/**': ghcr}
"""
ALPINE, NGINX, GHCR = (Reference.parse(text) for text in ("alpine:3", "nginx:1", "ghcr.io/a/b:1"))


@dataclass(frozen=True)
class Left:
    remaining: int
    limit: int | None


class Limited:
    """An endpoint as far as the schedule looks at it: nearly spent until a time."""

    def __init__(self, world: World, until: float) -> None:
        self.world, self.until = world, until

    def rate_limits(self) -> Sequence[Left]:
        return [Left(10 if self.world.now < self.until else 90, 100)]


@dataclass
class World:
    """A clock that jumps from sleep to sleep, and an upstream that notes when it was asked."""

    now: float = 1000.0
    chance: float = 0.5
    takes: float = 0.0  # seconds of each image
    slept: list[float] = field(default_factory=list)
    warmed: list[tuple[float, str]] = field(default_factory=list)
    down: set[Reference] = field(default_factory=set)
    sleeps_left: int = 20

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.sleeps_left -= 1
        if self.sleeps_left < 0:
            await asyncio.Event().wait()
        self.now += seconds
        await asyncio.sleep(0)

    async def warm(
        self, reference: Reference, platforms: Sequence[Platform], report: Report
    ) -> Warmed:
        self.warmed.append((self.now, f"{reference} {' '.join(map(str, platforms))}".strip()))
        self.now += self.takes
        if reference in self.down:
            raise RegistryError(Code.UNAVAILABLE, "the upstream is down")
        failed = ("a layer is missing",) if reference == NGINX else ()
        return Warmed(reference, Digest.of(b"x"), 1, 2, 3, failed)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    found = load_policy(path, environment={}, types=lookup_type).policy
    assert found is not None
    return found


@asynccontextmanager
async def running(
    world: World, policy: Policy, lock: LockFile, *rules: WarmRule, **endpoints: Any
) -> AsyncIterator[asyncio.Task[None]]:
    schedule = WarmSchedule(
        rules,
        world,  # type: ignore[arg-type]
        policy.table,
        {"hub": object(), "ghcr": object(), **endpoints},
        lock,
        clock=lambda: world.now,
        sleep=world.sleep,
        chance=lambda: world.chance,
    )
    tasks = Tasks()
    try:
        yield tasks.spawn("schedule", schedule.run())
    finally:
        await tasks.aclose(grace=0)


async def rounds(world: World, count: int) -> None:
    async with asyncio.timeout(20):
        while len(world.warmed) < count:
            await asyncio.sleep(0.001)


def rule(*references: Reference, every: float = 3600.0, platforms: str = "") -> WarmRule:
    return WarmRule(references, tuple(map(Platform.parse, platforms.split())), every)


async def test_each_rule_is_kept_in_its_time(policy: Policy, tmp_path: Path) -> None:
    world = World()
    rules = rule(ALPINE, platforms="linux/amd64"), rule(GHCR, every=5400.0)
    async with running(world, policy, LockFile(tmp_path / "lock"), *rules):
        await rounds(world, 6)
    start = 1000.0 + FIRST_SECONDS / 2
    alpine, ghcr = "docker.io/library/alpine:3 linux/amd64", "ghcr.io/a/b:1"
    assert world.warmed[:6] == [
        (start, alpine),
        (start, ghcr),
        (start + 3600, alpine),
        (start + 5400, ghcr),
        (start + 7200, alpine),
        (start + 10800, alpine),
    ]


@pytest.mark.parametrize("chance", [0.0, 0.999])
async def test_servers_with_one_policy_do_not_ask_in_step(
    policy: Policy, tmp_path: Path, chance: float
) -> None:
    world = World(chance=chance)
    async with running(world, policy, LockFile(tmp_path / "lock"), rule(ALPINE)):
        await rounds(world, 2)
    first, second = (at for at, _ in world.warmed[:2])
    assert first - 1000.0 == pytest.approx(FIRST_SECONDS * chance)
    assert second - first == pytest.approx(3600 * (1 + JITTER * (2 * chance - 1)))


async def test_an_image_that_fails_stops_no_other_and_waits_for_its_next_round(
    policy: Policy, tmp_path: Path
) -> None:
    world = World(down={ALPINE, GHCR})
    with capture_logs() as logs:
        async with running(world, policy, LockFile(tmp_path / "lock"), rule(ALPINE, NGINX, GHCR)):
            await rounds(world, 6)
    assert [name.split(":")[0] for _, name in world.warmed[:3]] == [
        "docker.io/library/alpine", "docker.io/library/nginx", "ghcr.io/a/b"
    ]  # fmt: skip
    assert world.warmed[3][0] - world.warmed[0][0] == 3600, "no tight loop"
    said = [(line["event"], line["why"]) for line in logs[:3]]
    assert said == [
        ("not fetched ahead", "the upstream is down"),
        ("not all of it was fetched ahead", "a layer is missing"),
        ("not fetched ahead", "the upstream is down"),
    ]


async def test_a_round_that_takes_longer_than_its_time_leaves_room_before_the_next(
    policy: Policy, tmp_path: Path
) -> None:
    world = World(takes=5000.0)
    async with running(world, policy, LockFile(tmp_path / "lock"), rule(ALPINE)):
        await rounds(world, 3)
    assert [round(b[0] - a[0]) for a, b in zip(world.warmed, world.warmed[1:2], strict=False)] == [
        8600
    ]


async def test_what_is_never_repeated_is_fetched_once(policy: Policy, tmp_path: Path) -> None:
    world = World()
    async with running(
        world, policy, LockFile(tmp_path / "lock"), rule(ALPINE, every=math.inf)
    ) as task:
        async with asyncio.timeout(10):
            await task
    assert len(world.warmed) == 1


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([], True),
        ([Left(51, 200)], True),
        ([Left(50, 200)], False),
        ([Left(0, 200), Left(199, 200)], True),
        ([Left(0, 200), Left(10, 100)], False),
        ([Left(21, None)], True),
        ([Left(20, None)], False),
    ],
)
def test_the_floor_is_what_is_left_to_clients(left: list[Left], expected: bool) -> None:
    assert is_above_floor(left) is expected


async def test_an_upstream_that_is_nearly_spent_is_spared_and_the_others_are_not(
    policy: Policy, tmp_path: Path
) -> None:
    world = World()
    hub = Limited(world, until=world.now + 3600)
    assert isinstance(hub, RateLimited)
    with capture_logs() as logs:
        async with running(world, policy, LockFile(tmp_path / "lock"), rule(ALPINE, GHCR), hub=hub):
            await rounds(world, 3)
    names = [name for _, name in world.warmed[:3]]
    assert names == ["ghcr.io/a/b:1", "docker.io/library/alpine:3", "ghcr.io/a/b:1"]
    assert logs[0]["endpoint"] == "hub"
    assert "left to clients" in logs[0]["event"]


async def test_of_several_processes_one_keeps_the_schedule_and_another_takes_over(
    policy: Policy, tmp_path: Path
) -> None:
    one, two = World(), World(sleeps_left=10**6)
    async with running(two, policy, held := LockFile(tmp_path / "lock"), rule(ALPINE)) as second:
        second.cancel()
        await asyncio.wait({second})
        assert held.acquire(), "who is cancelled lets it go"
        async with running(one, policy, LockFile(tmp_path / "lock"), rule(ALPINE)):
            async with asyncio.timeout(10):
                while one.slept.count(LOCK_SECONDS) < 3:
                    await asyncio.sleep(0.001)
            assert not one.warmed
            held.release()
            await rounds(one, 1)
