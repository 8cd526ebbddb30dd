"""The route table: which routes a name has, in which order, and what follows for one caller.

Owns precedence, the routes of a repository, the cascade of settings and the push target
(config-language.md 2 and 3). Pure: no I/O, total (no match is a Decision too). Does not own what a
pattern matches (`pattern.py`) or carrying a decision out (`proxy/`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from routerd.oci.errors import Code
from routerd.oci.reference import Namespace, Reference, Repository, Tag
from routerd.routing.decision import (
    Candidate,
    Decision,
    EndpointRule,
    Plan,
    Refusal,
    Route,
    Step,
)
from routerd.routing.order import RepositoryRoutes
from routerd.routing.pattern import Pattern
from routerd.routing.policy import (
    DEFAULT_ALLOW,
    NOTHING_SAID,
    Action,
    CachePolicy,
    Caller,
    Principal,
    Setting,
    cascade,
)
from routerd.routing.refusals import denied, forbidden, no_route, tag_elsewhere

PLANS_IN_MEMORY = 10_000  # names whose routes are remembered, in order; some hundred bytes each
_WILD = ""  # the index's namespace for patterns whose own is a wildcard


class RouteTable:
    """All routes and what routing needs to know of the endpoints. Immutable."""

    def __init__(self, routes: Iterable[Route], endpoints: Mapping[str, EndpointRule]) -> None:
        self.routes: tuple[Route, ...] = tuple(routes)
        self.endpoints = dict(endpoints)
        self._policies = {
            name: cascade([rule.cache], CachePolicy()) for name, rule in self.endpoints.items()
        }
        self._exact: dict[Repository, list[Route]] = defaultdict(list)
        # Namespace, then leading segments without wildcards, to the routes that have them.
        self._heads: dict[str, dict[tuple[str, ...], list[Route]]] = {}
        self._namespaces: set[str] = set()
        self._wild_namespaces: list[Pattern] = []
        for route in self.routes:
            self._add(route)
        # The standard library's cache, in C: a look-up in one of Python's costs as much as a match.
        self._of = lru_cache(PLANS_IN_MEMORY)(self._find_routes)
        self._planned = lru_cache(PLANS_IN_MEMORY)(self._make_plan)

    def _add(self, route: Route) -> None:
        pattern = route.pattern
        repository = pattern.exact_repository
        if repository is not None:
            self._exact[repository].append(route)
        else:
            wild = pattern.specificity.namespace_is_wild
            heads = self._heads.setdefault(_WILD if wild else pattern.namespace, {})
            heads.setdefault(pattern.literal_head, []).append(route)
        if pattern.specificity.namespace_is_wild and not pattern.is_everything:
            self._wild_namespaces.append(pattern)
        elif not pattern.is_everything:
            self._namespaces.add(pattern.namespace)

    def is_configured(self, namespace: Namespace) -> bool:
        """Whether some route names the namespace, or a wildcard of it (protocol.md 1)."""
        return namespace in self._namespaces or any(
            pattern.matches_namespace(namespace) for pattern in self._wild_namespaces
        )

    def policy_of(self, endpoint: str) -> CachePolicy:
        """The endpoint's own cache policy, where no route says otherwise."""
        return self._policies[endpoint]

    # Deciding

    def decide(self, reference: Reference, action: Action, caller: Caller) -> Decision:
        """What may be done with a tag or a digest, and where."""
        plan = self.plan(reference.repository, reference.tag)
        if action is not Action.PULL:
            return self._decide_write(reference.repository, plan, action, caller, reference)
        if plan.refusal is not None:
            return Decision((), plan.refusal, plan.winner)
        return self._permitted(plan.candidates, reference.repository, action, caller, plan.winner)

    def decide_repository(self, repository: Repository, action: Action, caller: Caller) -> Decision:
        """For what has neither tag nor digest: the push target of uploads; for `pull` every step
        that a reference of the repository may lead to (tag lists, mounts).
        """
        if action is not Action.PULL:
            plan = self.plan(repository, None)
            return self._decide_write(repository, plan, action, caller, None)
        routes = self.routes_of(repository)
        candidates = self._every_candidate(repository, routes)
        if candidates:
            return self._permitted(candidates, repository, action, caller, None)
        plan = self.plan(repository, None)
        return Decision((), plan.refusal or no_route(repository), plan.winner)

    def routes_of(self, repository: Repository) -> tuple[Route, ...]:
        """The routes of a repository, narrowest first, down to and including the first without a
        tag part that names a destination. What is below does not count, for anything.
        """
        return self._of(repository).ordered

    def routes_taking(self, repository: Repository, tag: Tag | None) -> tuple[Route, ...]:
        """Of the routes of a repository those for the tag, or for any digest (None), in order."""
        return self._of(repository).taking(tag)

    def _find_routes(self, repository: Repository) -> RepositoryRoutes:
        return RepositoryRoutes(self.matching(repository))

    def matching(self, repository: Repository) -> Sequence[Route]:
        """Every route that matches some reference of the repository, in no order."""
        found = list(self._exact.get(repository, ()))
        segments = tuple(repository.name.split("/"))
        namespace = repository.namespace
        for key in (namespace, _WILD):
            heads = self._heads.get(key)
            if heads is None:
                continue
            for length in range(len(segments) + 1):
                routes = heads.get(segments[:length])
                if routes is None:
                    continue
                for route in routes:
                    pattern = route.pattern
                    if (key or pattern.matches_namespace(namespace)) and pattern.matches_segments(
                        segments
                    ):
                        found.append(route)
        return found

    def plan(self, repository: Repository, tag: Tag | None) -> Plan:
        """What a pull of the tag, or of any digest (None), may ask, whoever the caller is."""
        return self._planned(repository, tag)

    def _make_plan(self, repository: Repository, tag: Tag | None) -> Plan:
        of_repository = self._of(repository)
        routes = of_repository.taking(tag)
        winner = next((r for r in routes if r.destination is not None), None)
        candidates: list[Candidate] = []
        if winner is not None and winner.denies is None:
            candidates += self._candidates(repository, winner, routes)
        decides = bool(candidates)
        if tag is None:
            # A digest may belong to any tag: after the tagless destination come the others. A
            # deny beside them is for the other tags; a tag that is allowed is pulled whole.
            for route in of_repository.ordered:
                if route.pattern.tag is not None and route.denies is None:
                    candidates += self._candidates(repository, route, (route, *routes))
        if candidates:
            return Plan(routes, winner if decides else None, _once(candidates), None)
        if winner is not None and winner.denies is not None:
            return Plan(routes, winner, (), denied(repository, winner))
        return Plan(routes, None, (), no_route(repository))

    def _every_candidate(
        self, repository: Repository, routes: Sequence[Route]
    ) -> tuple[Candidate, ...]:
        """Of every route of the repository, each with the settings that hold for its references."""
        tagless = [route for route in routes if route.pattern.tag is None]
        candidates: list[Candidate] = []
        for route in routes:
            if route.denies is None:
                above = tagless if route.pattern.tag is None else [route, *tagless]
                candidates += self._candidates(repository, route, above)
        return tuple(candidates)

    def _candidates(
        self, repository: Repository, route: Route, settings: Sequence[Route]
    ) -> list[Candidate]:
        if route.destination is None:
            return []
        there = repository
        if strip := route.destination.strip:
            there = Repository(repository.namespace, repository.name.removeprefix(strip))
        allow = _allow(settings)
        return [
            Candidate(Step(name, there, route, self._cache(name, settings)), allow)
            for name in route.destination.endpoints
            if not self.is_stranger(name, route, repository)
        ]

    def is_stranger(self, endpoint: str, route: Route, repository: Repository) -> bool:
        """Whether the key `*`, which is for every namespace, would ask a remote for another
        registry's names: it would answer with its own image of that name.
        """
        if not route.pattern.is_everything:
            return False
        return self.endpoints[endpoint].namespace not in (None, repository.namespace)

    def _cache(self, endpoint: str, settings: Sequence[Route]) -> CachePolicy:
        """Each key from the first route that says it, else from the endpoint, else the default."""
        said = [route.cache for route in settings if route.cache != NOTHING_SAID]
        return cascade(said, self._policies[endpoint]) if said else self._policies[endpoint]

    def _permitted(
        self,
        candidates: Sequence[Candidate],
        repository: Repository,
        action: Action,
        caller: Caller,
        winner: Route | None,
    ) -> Decision:
        steps: dict[tuple[str, Repository], Step] = {}
        refusal: Refusal | None = None
        for candidate in candidates:
            problem = self._objection(candidate, repository, action, caller)
            if problem is None:
                step = candidate.step
                steps.setdefault((step.endpoint, step.repository), step)
            else:
                refusal = refusal or problem
        if winner is None:
            winner = candidates[0].step.route
        return Decision(tuple(steps.values()), None if steps else refusal, winner)

    def _objection(
        self, candidate: Candidate, repository: Repository, action: Action, caller: Caller
    ) -> Refusal | None:
        """Why this caller may not do this there; None where it may."""
        endpoint = self.endpoints[candidate.step.endpoint]
        if action not in endpoint.actions:
            return Refusal(
                Code.UNSUPPORTED,
                f"{action} is not possible for {repository}: endpoint {endpoint.name} allows "
                f"[{', '.join(sorted(endpoint.actions))}] ({endpoint.actions_origin})",
            )
        allowed = candidate.allow[action]
        if any(principal.matches(caller) for principal in allowed.value):
            return None
        return forbidden(action, caller, candidate.step.route, allowed)

    # Writing

    def push_targets(self, repository: Repository, action: Action) -> tuple[Candidate, ...]:
        """Where writes to the repository may go: one, or a policy error (`ambiguous-push-target`).

        A `push_to` decides; without one, it is the only endpoint of the routes that allows it.
        """
        candidates = self._every_candidate(repository, self.routes_of(repository))
        chosen = {
            c.step.route.destination.push_to
            for c in candidates
            if c.step.route.destination is not None and c.step.route.destination.push_to
        }
        found: dict[str, Candidate] = {}
        for candidate in candidates:
            name = candidate.step.endpoint
            if chosen and name not in chosen:
                continue
            if chosen or action in self.endpoints[name].actions:
                found.setdefault(name, candidate)
        return tuple(found.values())

    def _decide_write(
        self,
        repository: Repository,
        plan: Plan,
        action: Action,
        caller: Caller,
        reference: Reference | None,
    ) -> Decision:
        if plan.winner is not None and plan.refusal is not None:
            return Decision((), plan.refusal, plan.winner)
        targets = self.push_targets(repository, action)
        if len(targets) > 1:
            names = " and ".join(sorted(c.step.endpoint for c in targets))
            refusal = Refusal(Code.DENIED, f"{repository} could be pushed to {names}: say push_to")
            return Decision((), refusal, plan.winner)
        if not targets:
            return self._nowhere(repository, plan, action, caller)
        target = targets[0]
        if reference is not None and reference.tag is not None:
            at_tag = [c for c in plan.candidates if c.step.endpoint == target.step.endpoint]
            if not at_tag:
                return Decision((), tag_elsewhere(reference, plan, target), plan.winner)
            target = at_tag[0]
            problem = self._objection(target, repository, action, caller)
        else:
            # A blob carries no tag, so it is enough that some reference may go to the target.
            ways = [
                candidate
                for candidate in self._every_candidate(repository, self.routes_of(repository))
                if candidate.step.endpoint == target.step.endpoint
            ]
            problems = [self._objection(way, repository, action, caller) for way in ways]
            problem = None if None in problems else problems[0]
        if problem is not None:
            return Decision((), problem, target.step.route)
        return Decision((target.step,), None, target.step.route)

    def _nowhere(
        self, repository: Repository, plan: Plan, action: Action, caller: Caller
    ) -> Decision:
        for candidate in self._every_candidate(repository, self.routes_of(repository)):
            problem = self._objection(candidate, repository, action, caller)
            if problem is not None:
                return Decision((), problem, candidate.step.route)
        return Decision((), plan.refusal or no_route(repository), plan.winner)


def _once(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Each (endpoint, name there) once, where it comes first."""
    if len(candidates) == 1:
        return tuple(candidates)
    found: dict[tuple[str, Repository], Candidate] = {}
    for candidate in candidates:
        found.setdefault((candidate.step.endpoint, candidate.step.repository), candidate)
    return tuple(found.values())


def _allow(settings: Sequence[Route]) -> Mapping[Action, Setting[tuple[Principal, ...]]]:
    """For each action what the first route that says it says, else the default."""
    said = [route.allow for route in settings if route.allow]
    if not said:
        return DEFAULT_ALLOW
    allow = dict(DEFAULT_ALLOW)
    for one in reversed(said):
        allow.update(one)
    return allow
