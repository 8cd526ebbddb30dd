"""How fast large policies compile, and how long a first decision among 10,000 routes takes.

The thresholds stand here, not in the tests: a shared machine is no place to fail a build by time.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import cycle, islice
from pathlib import Path
from unittest.mock import patch

from routerd.config.compile import load_policy
from routerd.config.document import Document, load
from routerd.endpoints.registry import lookup_type
from routerd.oci.reference import DOCKER_HUB, Reference
from routerd.routing.decision import Destination, EndpointRule, Route
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action, CacheSettings, Caller, Origin
from routerd.routing.table import RouteTable

ROUTES = 10_000
DECISIONS = 5_000
TIMES = 3  # a policy is read so often; the best counts, since a shared machine only ever adds
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

# What else a policy may be large in: each a file's routes, with the endpoint of each.
SHAPES: Mapping[str, dict[str, str]] = {
    "2,000 tags of one repository": {f"mycorp/app:v{n}": "hub" for n in range(2000)},
    "300 wildcards that all meet": {f"mycorp/*x{n}*": ("hub", "store")[n % 2] for n in range(300)},
}


def texts() -> list[str]:
    """The patterns of ROUTES routes."""
    return ["*", *(form.format(n=i // len(FORMS)) for i, form in _forms())]


def policy_seconds(routes: Mapping[str, str]) -> tuple[float, float]:
    """Of a policy file, as `config validate` and `serve` read it: YAML, and all the rest."""
    both = [_read_policy(routes) for _ in range(TIMES)]
    return min(yaml for yaml, _ in both), min(rest for _, rest in both)


def _read_policy(routes: Mapping[str, str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy.yaml"
        path.write_text(
            "endpoints:\n  hub: {type: remote, url: 'https://registry-1.docker.io', namespace: "
            "docker.io}\n  store: {type: storage, actions: [pull]}\nroutes:\n"
            + "".join(f'  "{text}": {endpoint}\n' for text, endpoint in routes.items())
        )
        yaml = 0.0

        def timed_load(path: Path) -> Document:
            nonlocal yaml
            started = time.perf_counter()
            document = load(path)
            yaml = time.perf_counter() - started
            return document

        started = time.perf_counter()
        with patch("routerd.config.compile.load", timed_load):
            load_policy(path, environment={}, types=lookup_type)
        return yaml, time.perf_counter() - started - yaml


def compile_table() -> RouteTable:
    """A table of ROUTES routes, out of their texts."""
    origin = Origin("bench.yaml", 1)
    rule = EndpointRule("hub", frozenset({Action.PULL}), CacheSettings(), origin, origin)
    routes = [
        Route(Pattern.parse(text, DOCKER_HUB), origin, Destination(("hub",)), {}, CacheSettings())
        for text in texts()
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
    # The quietest of some passes, each over a table that has decided nothing yet.
    passes = [first_decisions(table), *(first_decisions(compile_table()) for _ in range(TIMES - 1))]
    taken = min(passes, key=statistics.median)
    median = statistics.median(taken) * 1e6
    worst = statistics.quantiles(taken, n=100)[98] * 1e6
    print(f"routing: {ROUTES} routes compiled in {compiled:.2f} s (below {COMPILE_SECONDS} s)")
    print(
        f"routing: first decision {median:.1f} us at the median, {worst:.0f} us at the 99th "
        f"percentile, of {len(taken)} (below {DECISION_MICROSECONDS} us at the median)"
    )
    missed = compiled > COMPILE_SECONDS or median > DECISION_MICROSECONDS
    # The registries of the form are storage here: one remote cannot have the names of several.
    teams = {text: "hub" if text.startswith("team") else "store" for text in texts()}
    for name, routes in {f"{ROUTES} routes of teams": teams, **SHAPES}.items():
        yaml, rest = policy_seconds(routes)
        missed = missed or rest > COMPILE_SECONDS
        print(
            f"routing: a policy of {name}: {rest:.2f} s of form, routing and checks (below "
            f"{COMPILE_SECONDS} s), {yaml:.2f} s of YAML"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
