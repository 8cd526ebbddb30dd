"""Why nothing may be done, as sentences for the person who typed the command.

Owns the words of each refusal. Does not own deciding it (`table.py`).
"""

from __future__ import annotations

from routerd.oci.errors import Code
from routerd.oci.reference import Reference, Repository
from routerd.routing.decision import Candidate, Plan, Refusal, Route
from routerd.routing.policy import Action, Caller, Principal, Setting


def no_route(repository: Repository) -> Refusal:
    """404: no route, no service."""
    return Refusal(Code.NAME_UNKNOWN, f"no route matches {repository}")


def denied(repository: Repository, route: Route) -> Refusal:
    """403: the route's own reason."""
    return Refusal(Code.DENIED, f"{repository} is denied by the policy: {route.denies}")


def tag_elsewhere(reference: Reference, plan: Plan, target: Candidate) -> Refusal:
    """403: the push target is not where this tag's route leads."""
    route = plan.winner
    where = "no route" if route is None else f"route '{route.pattern.text}' ({route.origin})"
    return Refusal(
        Code.DENIED,
        f"{reference} cannot be pushed to {target.step.endpoint}: {where} leads this tag elsewhere",
    )


def forbidden(
    action: Action,
    caller: Caller,
    route: Route,
    allowed: Setting[tuple[Principal, ...]],
) -> Refusal:
    """403: `allow` does not name the caller; the message has the line that would."""
    who = "an unknown address" if caller.address is None else str(caller.address)
    said = ", ".join(principal.text for principal in allowed.value) or "nobody"
    line = "" if caller.address is None else f'  allow: {{{action}: ["net:{caller.address}"]}}'
    return Refusal(
        Code.DENIED,
        f"{action} from {who} is not allowed here, only for {said} ({allowed.origin}); to allow "
        f"it, write at route '{route.pattern.text}' ({route.origin}):{line}",
    )
