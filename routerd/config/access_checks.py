"""Who may do what, as it comes out for a reference after the cascade of settings.

Owns the warnings about access that is wider than it looks. Does not own which references are looked
at (`reference_checks.py`) or the cascade (`routing/table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.route_checks import place
from routerd.config.settings import EndpointSpec
from routerd.oci.reference import Repository, Tag
from routerd.routing.decision import Candidate, Plan, Route
from routerd.routing.policy import Action, is_everyone
from routerd.routing.table import RouteTable


class AccessChecks:
    """Notes each finding once, where the policy says what leads to it."""

    def __init__(
        self, context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable
    ) -> None:
        self._context = context
        self._table = table
        self._asked: set[tuple[Repository, Tag | None]] = set()
        self._logins = {name for name, spec in specs.items() if _has_login(spec)}
        self._worth: dict[Repository, bool] = {}
        self._noted: set[tuple[str, KeyPath, str]] = set()

    def check(self, repository: Repository, tag: Tag | None) -> None:
        """Note what is doubtful about the reference, and about the digests beside it."""
        if not self._is_worth(repository):
            return
        for reference in {(repository, tag), (repository, None)} - self._asked:
            self._asked.add(reference)
            plan = self._table.plan(*reference)
            for candidate in plan.candidates:
                routes = (candidate.step.route, *plan.routes)
                self._check_push(candidate, routes)
                self._check_pull(candidate, routes)
            if reference[1] is None and plan.candidates:
                self._check_deny(plan)

    def _is_worth(self, repository: Repository) -> bool:
        """Whether some route of the repository lets in, keeps out or leads to a login."""
        known = self._worth.get(repository)
        if known is None:
            known = self._worth[repository] = any(
                route.allow
                or route.denies is not None
                or (route.destination and not self._logins.isdisjoint(route.destination.endpoints))
                for route in self._table.routes_of(repository)
            )
        return known

    def _check_push(self, candidate: Candidate, routes: Sequence[Route]) -> None:
        endpoint, destination = candidate.step.endpoint, candidate.step.route.destination
        push_to = None if destination is None else destination.push_to
        if Action.PUSH not in self._table.endpoints[endpoint].actions:
            return
        said = self._place_of(Action.PUSH, candidate, routes)
        if said is None or push_to not in (None, endpoint):
            return
        if is_everyone(candidate.allow[Action.PUSH].value):
            self._warn("open-push", f"anyone may push to '{endpoint}' here", said)
        elif self._place_of(Action.PULL, candidate, routes) is None:
            message = f"push to '{endpoint}' is limited, but anyone may pull: write 'pull' too"
            self._warn("public-storage", message, said)

    def _check_pull(self, candidate: Candidate, routes: Sequence[Route]) -> None:
        endpoint = candidate.step.endpoint
        if endpoint not in self._logins or not is_everyone(candidate.allow[Action.PULL].value):
            return
        path = self._place_of(Action.PULL, candidate, routes) or place(candidate.step.route)
        self._warn(
            "credentialed-endpoint-anonymous",
            f"anyone can pull through '{path[1]}' what the login of '{endpoint}' can read; limit "
            "it with 'allow: {pull: [...]}'",
            path,
            endpoint,
        )

    def _check_deny(self, plan: Plan) -> None:
        """A deny beside routes of tags leaves the digests to them."""
        first = next((route for route in plan.routes if route.destination is not None), None)
        if first is not None and first.denies is not None:
            tagged = plan.candidates[0].step.route.pattern.text
            message = f"what '{first.pattern.text}' denies can still be pulled by digest"
            where = f", from where '{tagged}' leads"
            self._warn("deny-by-tag-only", message + where, place(first))

    def _place_of(
        self, action: Action, candidate: Candidate, routes: Sequence[Route]
    ) -> KeyPath | None:
        """Where it is said who may do it; None where it is the default."""
        setting = candidate.allow[action]
        for route in routes:
            if route.allow.get(action) is setting:
                return (*place(route), "allow", str(action))
        return None

    def _warn(self, code: str, message: str, path: KeyPath, about: str = "") -> None:
        if (code, path, about) not in self._noted:
            self._noted.add((code, path, about))
            self._context.warn(code, message, self._context.document.key(path))


def _has_login(spec: EndpointSpec) -> bool:
    return spec.type == "remote" and any(
        account["type"] != "anonymous"
        for upstream in spec.options["url"]
        for account in upstream["auth"]
    )
