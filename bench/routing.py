"""How fast 10,000 routes compile, and how long a first decision among them takes.

The thresholds stand here, not in the tests: a shared machine is no place to fail a build by time.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from ipaddress import ip_address
from itertools import cycle, islice

from routerd.oci.reference import DOCKER_HUB, Reference
from routerd.routing.decision import Destination, EndpointRule, Route
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action, CacheSettings, Caller, Origin
from routerd.routing.table import RouteTable

ROUTES = 10_000
DECISIONS = 5_000
COMPILE_SECONDS = 2.0
DECISION_MICROSECONDS = 50.0

# As a large company's file looks: teams, their images, some tags, a few wildcards over all.
FORMS = (
    "team-{n}/app",
    "team-{n}/**",
    "team-{n}/app:v[0-9]*",
    "team-{n}/app:latest",
    "team-{n}/web-*",
    "registry-{n}.corp.example/**",
    "registry-{n}.corp.example/base/*:stable",
    "team-{n}/**/debug",
)
ASKED = (
    "team-{n}/app:v1.2",
    "team-{n}/app:latest",
    "team-{n}/tools/x/debug:1",
    "registry-{n}.corp.example/base/os:stable",
    "team-{n}/web-shop:3",
    "elsewhere/{n}:1",
)


def compile_table() -> RouteTable:
    """A table of ROUTES routes, out of their texts."""
    origin = Origin("bench.yaml", 1)
    rule = EndpointRule("hub", frozenset({Action.PULL}), CacheSettings(), origin, origin)
    texts = ["*", *(form.format(n=i // len(FORMS)) for i, form in _forms())]
    routes = [
        Route(Pattern.parse(text, DOCKER_HUB), origin, Destination(("hub",)), {}, CacheSettings())
        for text in texts
    ]
    return RouteTable(routes, {"hub": rule})


def _forms() -> list[tuple[int, str]]:
    return list(enumerate(islice(cycle(FORMS), ROUTES - 1)))


def first_decisions(table: RouteTable) -> list[float]:
    """Seconds of each decision about a name that was not asked for before."""
    teams = list(range(ROUTES // len(FORMS)))
    random.Random(1).shuffle(teams)
    names = [
        Reference.parse(ASKED[i % len(ASKED)].format(n=teams[i % len(teams)]))
        for i in range(DECISIONS)
    ]
    caller = Caller(ip_address("192.0.2.1"))
    taken = []
    for name in dict.fromkeys(names):
        started = time.perf_counter()
        table.decide(name, Action.PULL, caller)
        taken.append(time.perf_counter() - started)
    return taken


def main() -> int:
    """Print the figures; 1 where one is missed."""
    started = time.perf_counter()
    table = compile_table()
    compiled = time.perf_counter() - started
    taken = first_decisions(table)
    median = statistics.median(taken) * 1e6
    worst = statistics.quantiles(taken, n=100)[98] * 1e6
    print(f"routing: {ROUTES} routes compiled in {compiled:.2f} s (below {COMPILE_SECONDS} s)")
    print(
        f"routing: first decision {median:.1f} us at the median, {worst:.0f} us at the 99th "
        f"percentile, of {len(taken)} (below {DECISION_MICROSECONDS} us at the median)"
    )
    return int(compiled > COMPILE_SECONDS or median > DECISION_MICROSECONDS)


if __name__ == "__main__":
    sys.exit(main())
