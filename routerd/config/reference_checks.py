"""What the policy comes to for one reference of each route: who may do what, where pushes go, what
is never reached.

Owns choosing those references, and the checks that ask the table about them. Does not own what
happens where two routes meet (`pair_checks.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from routerd.config.access_checks import AccessChecks
from routerd.config.context import Context
from routerd.config.route_checks import place
from routerd.config.settings import EndpointSpec
from routerd.oci.reference import Namespace, Repository, Tag
from routerd.routing.automaton import counterexample
from routerd.routing.decision import Route
from routerd.routing.languages import FILLER, contains, glob_contains
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action
from routerd.routing.table import RouteTable

_NAMED = 3  # hiding routes that a message names
_TRIED = 20  # hiding routes of which it is asked whether the others hide without them


def check_references(
    context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    """Note what is doubtful about a reference of each route."""
    access = AccessChecks(context, specs, table)
    by_head = _ByHead(table.routes)
    filler = _unused_filler(table)
    asked: set[Repository] = set()
    pushable = [rule for rule in table.endpoints.values() if Action.PUSH in rule.actions]
    for route in table.routes:
        repository, tag = route.pattern.sample(filler)
        if not _counts(table, route, repository, tag):
            above = _above(route, by_head.beginning_like(route.pattern))
            left = _left_by(route.pattern, above)
            if left is None:
                _warn_hidden(context, route, above)
            else:
                repository, tag = left
        access.check(repository, tag)
        if len(pushable) > 1 and repository not in asked:
            asked.add(repository)
            check_push_target(context, route, repository, table)


def check_push_target(
    context: Context, route: Route, repository: Repository, table: RouteTable
) -> bool:
    """Whether pushes to the repository, which is one of the route's, have one place at most."""
    targets = table.push_targets(repository, Action.PUSH)
    if len(targets) < 2:
        return True
    names = " and ".join(sorted(f"'{c.step.endpoint}'" for c in targets))
    message = f"a push to {repository} could go to {names}: say which with 'push_to'"
    context.error("ambiguous-push-target", message, context.document.key(place(route)))
    return False


def _unused_filler(table: RouteTable) -> str:
    """A word for what wildcards take in a sample that no other route says."""
    texts = "\n".join(route.pattern.text for route in table.routes)
    numbered = (f"{FILLER}{number}" for number in count())
    return next(word for word in (FILLER, "any", *_first(numbered, texts)) if word not in texts)


def _first(words: Iterator[str], texts: str) -> Iterator[str]:
    yield next(word for word in words if word not in texts)


# What is never reached


def _counts(table: RouteTable, route: Route, repository: Repository, tag: Tag | None) -> bool:
    routes = table.routes_taking(repository, tag)
    if route.destination is None:
        return route in routes
    return next((r for r in routes if r.destination is not None), None) is route


class _ByHead:
    """The routes by the literal text that their repository begins with."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes: dict[str, list[tuple[str, int, str, Route]]] = defaultdict(list)
        for number, route in enumerate(routes):
            pattern = route.pattern
            entry = (pattern.literal_text, number, pattern.literal_tag, route)
            self._routes[pattern.namespace].append(entry)
        for found in self._routes.values():
            found.sort(key=lambda entry: entry[:2])

    def beginning_like(self, pattern: Pattern) -> Iterator[Route]:
        """Those that may match only what the pattern does too, tags aside where they have none."""
        head, tag = pattern.literal_text, pattern.literal_tag
        for namespace, routes in self._routes.items():
            if not glob_contains(pattern.namespace, namespace):
                continue
            for position in range(bisect_left(routes, (head, -1)), len(routes)):
                text, _, their_tag, route = routes[position]
                if not text.startswith(head):
                    break
                if their_tag.startswith(tag) or not their_tag:
                    yield route


def _above(route: Route, others: Iterator[Route]) -> list[Route]:
    """Those that come before the route wherever both match, and leave nothing to it there."""
    found = []
    mine = route.pattern
    for other in others:
        theirs = other.pattern
        if other is route or other.destination is None:
            continue
        if mine.contains(theirs):
            settles = route.destination is not None or theirs.tag is None
            if settles and (not theirs.contains(mine) or theirs.specificity < mine.specificity):
                found.append(other)
        elif (
            # A tag's route for several repositories comes after the exact name of one of them.
            theirs.tag is None
            and not mine.specificity.namespace_is_wild
            and theirs.exact_repository is not None
            and mine.matches_repository(theirs.exact_repository)
        ):
            found.append(other)
    return found


def _left_by(pattern: Pattern, above: Sequence[Route]) -> tuple[Repository, Tag | None] | None:
    """A reference that the pattern matches and none of `above` does; None where there is none.

    What is looked for is a name that none of them has at all, then a tag that none of them has.
    """
    repository, tag = pattern.sample()
    others = [
        route.pattern
        for route in above
        if glob_contains(route.pattern.namespace, pattern.namespace)
    ]
    # Those that take every tag that the pattern does, and those that take every repository.
    by_name = [other.segments for other in others if _takes_tags(other, pattern)]
    name = counterexample(by_name, pattern.segments)
    if name is None:
        return None
    if pattern.tag is not None:
        by_tag = [
            (other.tag,)
            for other in others
            if other.tag and contains(other.segments, pattern.segments)
        ]
        text = counterexample(by_tag, (pattern.tag,))
        if text is None:
            return None
        tag = Tag(text)
    return Repository(Namespace(repository.namespace), name), tag


def _takes_tags(other: Pattern, pattern: Pattern) -> bool:
    return other.tag is None or (pattern.tag is not None and glob_contains(other.tag, pattern.tag))


def _warn_hidden(context: Context, route: Route, above: Sequence[Route]) -> None:
    hiding = _needed(route.pattern, above)
    names = [f"'{other.pattern.text}' ({other.origin})" for other in hiding[:_NAMED]]
    more = f" and {len(hiding) - _NAMED} more" if len(hiding) > _NAMED else ""
    takes = "takes" if len(hiding) == 1 else "take"
    context.warn(
        "unreachable-route",
        f"'{route.pattern.text}' is never used: {', '.join(names)}{more} {takes} all that it "
        "matches",
        context.document.key(place(route)),
    )


def _needed(pattern: Pattern, above: Sequence[Route]) -> list[Route]:
    """Those that hide the pattern, without those that the others make no difference to."""
    alone = next((other for other in above if other.pattern.contains(pattern)), None)
    if alone is not None:
        return [alone]
    needed = list(above)
    for other in above[:_TRIED]:
        without = [one for one in needed if one is not other]
        if _left_by(pattern, without) is None:
            needed = without
    return needed
