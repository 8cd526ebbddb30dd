"""Route tables out of a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from routerd.oci.reference import DOCKER_HUB
from routerd.routing.decision import Destination, EndpointRule, Route
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action, CacheSettings, Origin, Setting
from routerd.routing.table import RouteTable

ENDPOINTS: Mapping[str, tuple[Action, ...]] = {
    "hub": (Action.PULL,),
    "production": (Action.PULL,),
    "local": (Action.PULL, Action.PUSH),
    "other": (Action.PULL, Action.PUSH, Action.DELETE),
}

MakeTable = Callable[..., RouteTable]


def rule(name: str, actions: tuple[Action, ...], **more: Any) -> EndpointRule:
    origin = Origin("p.yaml", 100)
    settings = {"cache": CacheSettings(), "origin": origin, "actions_origin": origin, **more}
    return EndpointRule(name, frozenset(actions), **settings)


@pytest.fixture
def table() -> MakeTable:
    """`table({"library/*": "hub", "a/**": ["local", "hub"], "x": Destination(...)}, ...)`."""

    def make(
        routes: Mapping[str, Any],
        *,
        allow: Mapping[str, Any] | None = None,
        cache: Mapping[str, CacheSettings] | None = None,
        endpoints: Mapping[str, EndpointRule] | None = None,
    ) -> RouteTable:
        made = []
        for line, (text, where) in enumerate(routes.items(), start=1):
            if isinstance(where, str):
                where = Destination((where,))
            elif isinstance(where, list):
                where = Destination(tuple(where))
            origin = Origin("p.yaml", line)
            said = {
                action: Setting(tuple(who), origin)
                for action, who in ((allow or {}).get(text) or {}).items()
            }
            settings = (cache or {}).get(text, CacheSettings())
            made.append(Route(Pattern.parse(text, DOCKER_HUB), origin, where, said, settings))
        rules = {name: rule(name, actions) for name, actions in ENDPOINTS.items()}
        return RouteTable(made, {**rules, **(endpoints or {})})

    return make
