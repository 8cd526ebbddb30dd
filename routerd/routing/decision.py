"""The values of routing: routes, steps, decisions.

Owns what goes into the route table and what comes out of it. Does not own deciding (`table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Namespace, Repository
from routerd.routing.pattern import Pattern
from routerd.routing.policy import (
    Action,
    CachePolicy,
    CacheSettings,
    Fallback,
    Origin,
    Principal,
    Setting,
)


@dataclass(frozen=True, slots=True)
class EndpointRule:
    """What routing needs to know of an endpoint."""

    name: str
    actions: frozenset[Action]
    cache: CacheSettings
    origin: Origin
    actions_origin: Origin
    namespace: Namespace | None = None  # whose names it has; None: those of every namespace


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a route leads: endpoints in order, or nowhere with a reason. It comes whole from one
    route. `strip` is the literal prefix that the name loses on its way to the endpoints.
    """

    endpoints: tuple[str, ...] = ()
    fallback_on: frozenset[Fallback] = frozenset({Fallback.NOT_FOUND})
    push_to: str | None = None
    strip: str = ""
    deny: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One line of `routes`. Without a destination it carries settings only."""

    pattern: Pattern
    origin: Origin
    destination: Destination | None
    allow: Mapping[Action, Setting[tuple[Principal, ...]]]
    cache: CacheSettings

    @property
    def denies(self) -> str | None:
        """The reason, where the route leads nowhere."""
        return None if self.destination is None else self.destination.deny


@dataclass(frozen=True, slots=True)
class Step:
    """One endpoint to ask: its name, the repository's name there, the route that leads to it, and
    the effective cache policy.
    """

    endpoint: str
    repository: Repository
    route: Route
    cache: CachePolicy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A step before it is known who asks, with who may do what there."""

    step: Step
    allow: Mapping[Action, Setting[tuple[Principal, ...]]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing may be done: an error code and a sentence for who typed the command."""

    code: Code
    message: str

    def error(self) -> RegistryError:
        """To be raised."""
        return RegistryError(self.code, self.message)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided about a name before the caller is known.

    `routes` are those of the reference, narrowest first; `winner` the one whose destination counts.
    """

    routes: tuple[Route, ...]
    winner: Route | None
    candidates: tuple[Candidate, ...]
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one caller may do: the steps to try in order, or why there are none.

    Exactly one of `steps` and `refusal` is there. For a write, the one step is the push target.
    """

    steps: tuple[Step, ...]
    refusal: Refusal | None
    route: Route | None
