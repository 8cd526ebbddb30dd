"""Why a reference goes where it goes: every route that was looked at, and what it came to.

Owns the values that `routerd explain` prints. Does not own deciding (`table.py`) or printing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from routerd.oci.reference import Reference
from routerd.routing.decision import Decision, Plan, Route, Step
from routerd.routing.order import in_order
from routerd.routing.policy import Action, Caller, Principal, Setting
from routerd.routing.table import RouteTable


@dataclass(frozen=True, slots=True)
class Row:
    """One route, and why it won or lost."""

    route: Route
    note: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one reference for one caller.

    `steps` are where the reference leads, whoever asks; `rows` every route that matches its
    repository, narrowest first; `by_digest` where digests of the repository are looked for.
    """

    reference: Reference
    action: Action
    caller: Caller
    decision: Decision
    push: Decision
    steps: tuple[Step, ...]
    allow: Mapping[Action, Setting[tuple[Principal, ...]]]
    rows: tuple[Row, ...]
    by_digest: tuple[Step, ...]


def explain_reference(
    table: RouteTable, reference: Reference, action: Action, caller: Caller
) -> Explanation:
    """Pure, like `RouteTable.decide`."""
    repository = reference.repository
    plan = table.plan(repository, reference.tag)
    counting = table.routes_of(repository)
    routes = in_order(table.matching(repository))
    rows = tuple(
        Row(route, _note(table, position, routes, counting, plan, reference))
        for position, route in enumerate(routes)
    )
    return Explanation(
        reference=reference,
        action=action,
        caller=caller,
        decision=table.decide(reference, action, caller),
        push=table.decide(reference, Action.PUSH, caller),
        steps=tuple(candidate.step for candidate in plan.candidates),
        allow=plan.candidates[0].allow if plan.candidates else {},
        rows=rows,
        by_digest=tuple(c.step for c in table.plan(repository, None).candidates),
    )


def _note(
    table: RouteTable,
    position: int,
    routes: tuple[Route, ...],
    counting: tuple[Route, ...],
    plan: Plan,
    reference: Reference,
) -> str:
    route = routes[position]
    if route is plan.winner:
        return "wins" if route.denies is None else f"wins: denies, {route.denies}"
    if route not in counting:
        above = next(
            number
            for number, other in enumerate(routes, start=1)
            if other.pattern.tag is None and other.destination is not None
        )
        verb = "contains" if route.pattern.contains(routes[above - 1].pattern) else "after"
        return f"{verb} {above}"
    if not route.pattern.matches_tag(reference.tag):
        return f"not for {reference.in_path}"
    if route.destination is None:
        return "settings only"
    if plan.winner is not None:
        return "after the one that wins"
    return _passed_over(table, route, reference)


def _passed_over(table: RouteTable, route: Route, reference: Reference) -> str:
    """Why the first destination for the reference is not where it goes."""
    if route.destination is None or route.denies is not None:
        return "denies, but not what the routes of tags above lead to"
    return ", ".join(
        f"{name} has only names of {table.endpoints[name].namespace}"
        for name in route.destination.endpoints
        if table.is_stranger(name, route, reference.repository)
    )
