"""What happens where two routes meet: which one wins, and where a push would go.

Owns finding the pairs that can meet, out of many thousand routes, and the checks of them. Does not
own whether patterns meet (`routing/languages.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from routerd.config.context import Context
from routerd.config.diagnostics import Severity
from routerd.config.reference_checks import check_push_target
from routerd.config.route_checks import place
from routerd.routing.decision import Destination, Route
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action
from routerd.routing.table import RouteTable

PAIRS_LIMIT = 200_000  # pairs that are compared, some seconds; what is left is said in a note


@dataclass(slots=True)
class _Names:
    """All routes that have one pattern for the repository, with their tags' patterns."""

    pattern: Pattern
    head: str  # literal text that every name of it begins with
    routes: list[Route] = field(default_factory=list)
    destinations: set[Destination] = field(default_factory=set)
    has_tags: bool = False
    by_tag: dict[str, list[Route]] = field(default_factory=lambda: defaultdict(list))
    tags: list[str] = field(default_factory=list)  # the keys of by_tag, sorted

    def add(self, route: Route) -> None:
        self.routes.append(route)
        if route.destination is not None:
            self.destinations.add(route.destination)
        self.has_tags = self.has_tags or route.pattern.tag is not None
        tag = route.pattern.literal_tag
        if tag not in self.by_tag:
            insort(self.tags, tag)
        self.by_tag[tag].append(route)

    def meeting_tag(self, tag: str) -> Iterator[Route]:
        """Those whose tags may be tags that begin with `tag` too."""
        for length in range(len(tag)):
            yield from self.by_tag.get(tag[:length], ())
        for position in range(bisect_left(self.tags, tag), len(self.tags)):
            if not self.tags[position].startswith(tag):
                return
            yield from self.by_tag[self.tags[position]]


def check_pairs(context: Context, table: RouteTable) -> None:
    """Note the routes that overlap, and those that leave a push between them without one place."""
    compared = 0
    ambiguous: set[Route] = set()
    for one, other in _neighbours(table.routes):
        if len(one.destinations | other.destinations) < 2:
            continue
        compared += 1
        for first, second in _overlaps(one, other):
            compared += 1
            _check_overlap(context, first, second)
            if compared > PAIRS_LIMIT:
                break
        if one is not other:
            _check_push(context, one, other, table, ambiguous)
        if compared > PAIRS_LIMIT:
            context.note(
                Severity.NOTE,
                "overlapping-routes",
                f"the first {PAIRS_LIMIT} pairs of routes were compared, and no more",
                context.document.key(("routes",)),
            )
            return


def _overlaps(one: _Names, other: _Names) -> Iterator[tuple[Route, Route]]:
    for route in one.routes:
        for second in other.meeting_tag(route.pattern.literal_tag):
            if one is other and route.pattern.specificity >= second.pattern.specificity:
                continue  # each pair once
            if None not in (route.destination, second.destination) and (
                route.destination != second.destination
            ):
                yield route, second


def _check_overlap(context: Context, one: Route, other: Route) -> None:
    first, second = one.pattern, other.pattern
    if first.contains(second) or second.contains(first):
        return
    meeting = first.intersection(second)
    if meeting is None:
        return
    winner, loser = sorted((one, other), key=lambda route: route.pattern.specificity)
    context.warn(
        "overlapping-routes",
        f"'{loser.pattern.text}' and '{winner.pattern.text}' ({winner.origin}) both match "
        f"{meeting}; '{winner.pattern.text}' wins",
        context.document.key(place(loser)),
    )


def _check_push(
    context: Context, one: _Names, other: _Names, table: RouteTable, ambiguous: set[Route]
) -> None:
    """Only where a route of some tags leaves the repository to a second one can two count."""
    if not (one.has_tags or other.has_tags) or not _may_be_ambiguous(one, other, table):
        return
    route = other.routes[0]
    if route in ambiguous:
        return
    repository = one.pattern.common_repository(other.pattern)
    if repository is not None and not check_push_target(context, route, repository, table):
        ambiguous.add(route)


def _may_be_ambiguous(one: _Names, other: _Names, table: RouteTable) -> bool:
    places = set()
    for destination in one.destinations | other.destinations:
        if destination.push_to is not None:
            places.add(destination.push_to)
        else:
            places |= {
                name
                for name in destination.endpoints
                if Action.PUSH in table.endpoints[name].actions
            }
    return len(places) > 1


# Which may meet at all


def _neighbours(routes: Iterable[Route]) -> Iterator[tuple[_Names, _Names]]:
    """Pairs of repository patterns that may meet, each with itself too: the literal text that one
    begins with is where the other's begins.
    """
    exact: dict[str, dict[tuple[str, ...], _Names]] = defaultdict(dict)
    wild: dict[tuple[str, tuple[str, ...]], _Names] = {}
    for route in routes:
        pattern = route.pattern
        names = _Names(pattern, pattern.literal_text)
        if pattern.specificity.namespace_is_wild:
            names = wild.setdefault((pattern.namespace, pattern.segments), names)
        else:
            names = exact[pattern.namespace].setdefault(pattern.segments, names)
        names.add(route)
    everywhere = list(wild.values())
    for position, one in enumerate(everywhere):
        yield from ((one, other) for other in everywhere[position:])
    for own in exact.values():
        yield from _of_one_namespace(list(own.values()), everywhere)


def _of_one_namespace(
    own: Sequence[_Names], everywhere: Sequence[_Names]
) -> Iterator[tuple[_Names, _Names]]:
    guests = [names for names in everywhere if own[0].pattern.meets_namespace_of(names.pattern)]
    around: list[_Names] = []  # those whose text the following ones begin with, shortest first
    for names in sorted(own, key=lambda names: names.head):
        while around and not names.head.startswith(around[-1].head):
            around.pop()
        around.append(names)
        yield from ((other, names) for other in around)
        for guest in guests:
            if guest.head.startswith(names.head) or names.head.startswith(guest.head):
                yield guest, names
