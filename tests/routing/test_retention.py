"""retention.Retention: how long cached content stays, by every route that may lead to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from routerd.oci.reference import DOCKER_HUB, Repository
from routerd.routing.decision import Destination, EndpointRule
from routerd.routing.policy import Action, CacheSettings, Origin, Setting
from routerd.routing.retention import Retention

from .conftest import MakeTable, rule

DAY = 86400.0
DEFAULT = 14 * DAY
STRIPPED = Destination(("hub",), strip="mirror/")


def days(number: float) -> CacheSettings:
    return CacheSettings(retain=Setting(number * DAY, Origin("p.yaml", 1)))


def hub(cache: CacheSettings | None = None) -> EndpointRule:
    return rule("hub", (Action.PULL,), namespace=DOCKER_HUB, cache=cache or CacheSettings())


@pytest.mark.parametrize(
    ("routes", "retain", "there", "expected"),
    [
        # nothing is said
        ({"**": "hub"}, {}, "library/app", DEFAULT),
        # the route says it; a narrower one says otherwise; a wider one does not count
        ({"**": "hub"}, {"**": 3}, "library/app", 3 * DAY),
        ({"**": "hub", "a/**": None}, {"**": 30, "a/**": 1}, "a/b", 1 * DAY),
        ({"**": "hub", "a/**": None}, {"**": 30, "a/**": 1}, "b/c", 30 * DAY),
        ({"**": "hub", "a/**": "hub"}, {"**": 30}, "a/b", DEFAULT),
        # for some tags it is longer or shorter: the longest counts
        ({"**": "hub", "a/b:v*": None}, {"**": 3, "a/b:v*": 30}, "a/b", 30 * DAY),
        ({"**": "hub", "a/b:v*": None}, {"**": 3, "a/b:v*": 1}, "a/b", 3 * DAY),
        ({"**": "hub", "a/b:v*": None}, {"a/b:v*": 1}, "a/b", DEFAULT),
        ({"**": "hub", "a/b:v*": None}, {"a/b:v*": math.inf}, "a/b", math.inf),
        # a setting without a tag hides what is wider, tags of it as well
        (
            {"**": "hub", "a/b": None, "a/**:v*": None},
            {"**": 5, "a/b": 1, "a/**:v*": 30},
            "a/b",
            DAY,
        ),
        # what leads elsewhere does not count
        ({"**": "hub", "a/b:v*": "production"}, {"**": 3, "a/b:v*": 30}, "a/b", 3 * DAY),
        ({"a/b": "production", "a/b:v*": "hub"}, {"a/b:v*": 2}, "a/b", DEFAULT),
        ({"a/b": "production", "a/b:v*": "hub"}, {"a/b": 3, "a/b:v*": 2}, "a/b", 3 * DAY),
        # several names lead to one scope: by strip, and from another namespace
        ({"**": "hub", "mirror/**": STRIPPED}, {"**": 2, "mirror/**": 9}, "a/b", 9 * DAY),
        ({"**": "hub", "mirror/**": STRIPPED}, {"**": 9, "mirror/**": 2}, "a/b", 9 * DAY),
        ({"**": "hub", "q.io/**": "hub"}, {"**": 2, "q.io/**": 9}, "a/b", 9 * DAY),
        ({"**": "hub", "*.io/**": "hub"}, {"**": 2, "*.io/**": 9}, "a/b", 9 * DAY),
        ({"**": "hub", "q.io/x/**": "hub"}, {"**": 2, "q.io/x/**": 9}, "a/b", 2 * DAY),
        # the key for every namespace asks a remote for its own names only
        ({"*": "hub", "q.io/**": None}, {"*": 2, "q.io/**": 9}, "a/b", 2 * DAY),
        # no route leads there any more
        ({"z/**": "hub"}, {"z/**": 2}, "a/b", DEFAULT),
        ({"a/**": Destination(deny="no")}, {}, "a/b", DEFAULT),
    ],
)
def test_the_longest_of_what_may_lead_to_a_scope(
    table: MakeTable,
    routes: Mapping[str, Any],
    retain: Mapping[str, float],
    there: str,
    expected: float,
) -> None:
    cache = {text: days(number) for text, number in retain.items()}
    made = table(routes, cache=cache, endpoints={"hub": hub()})
    assert Retention(made, "hub", lambda repository: repository.name).of(there) == expected


def test_what_the_endpoint_says_counts_where_no_route_does(table: MakeTable) -> None:
    made = table(
        {"**": "hub", "a/b": "hub"}, cache={"a/b": days(1)}, endpoints={"hub": hub(cache=days(4))}
    )
    retention = Retention(made, "hub", lambda repository: repository.name)
    assert (retention.of("library/app"), retention.of("a/b")) == (4 * DAY, DAY)


@pytest.mark.parametrize(
    ("scope_of", "there"),
    [
        (lambda repository: f"prefix/of/url/{repository.name}", "prefix/of/url/a/b"),
        (str, "docker.io/a/b"),
    ],
)
def test_names_are_found_behind_what_an_endpoint_puts_before_them(
    table: MakeTable, scope_of: Any, there: str
) -> None:
    made = table({"**": "hub", "a/*": "hub"}, cache={"a/*": days(5)}, endpoints={"hub": hub()})
    assert scope_of(Repository(DOCKER_HUB, "a/b")) == there
    assert Retention(made, "hub", scope_of).of(there) == 5 * DAY
