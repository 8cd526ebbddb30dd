"""Which route comes first: narrower before wider (config-language.md 2).

Owns the order of routes, and a repository's routes by tag. Does not own whether one pattern
contains another (`pattern.py`) or what follows from the order (`table.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import combinations

from routerd.oci.reference import Tag
from routerd.routing.decision import Route
from routerd.routing.globs import compiled

_FEW = 8  # routes of which every pair is looked at; more are looked up by the ends of their tags


def in_order(routes: Sequence[Route]) -> tuple[Route, ...]:
    """Narrowest first: of those left, the ones that contain none of the others, and of these the
    first by the list of config-language.md 2; then again.
    """
    if len(routes) < 2:
        return tuple(routes)
    ranked = sorted(routes, key=lambda route: route.pattern.specificity)
    if len(ranked) <= _FEW and not any(_holds(*pair) for pair in combinations(ranked, 2)):
        return tuple(ranked)  # nobody has to wait for a later one
    waits_for = [0] * len(ranked)
    wider: list[list[int]] = [[] for _ in ranked]
    for outer, inner in _possible_pairs(ranked):
        if outer != inner and _holds(ranked[outer], ranked[inner]):
            waits_for[outer] += 1
            wider[inner].append(outer)
    ready = [position for position, count in enumerate(waits_for) if not count]
    order: list[Route] = []
    while ready:
        following = heappop(ready)
        order.append(ranked[following])
        for outer in wider[following]:
            waits_for[outer] -= 1
            if not waits_for[outer]:
                heappush(ready, outer)
    return tuple(order)


def _holds(outer: Route, inner: Route) -> bool:
    """Whether one properly contains the other. Two that are equal contain neither."""
    one, other = outer.pattern, inner.pattern
    return one.contains(other) and not other.contains(one)


def _possible_pairs(routes: Sequence[Route]) -> Iterator[tuple[int, int]]:
    """Positions of an outer and an inner route, without most pairs that their tags keep apart."""
    if len(routes) <= _FEW:
        yield from ((outer, inner) for outer in range(len(routes)) for inner in range(len(routes)))
        return
    by_ends: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, route in enumerate(routes):
        by_ends[_ends(route)].append(position)
    prefixes = {len(prefix) for prefix, _ in by_ends}
    suffixes = {len(suffix) for _, suffix in by_ends}
    for inner, route in enumerate(routes):
        prefix, suffix = _ends(route)
        for start in (prefix[:length] for length in prefixes if length <= len(prefix)):
            for length in suffixes:
                if length <= len(suffix):
                    end = suffix[len(suffix) - length :]
                    yield from ((outer, inner) for outer in by_ends.get((start, end), ()))


def _ends(route: Route) -> tuple[str, str]:
    """What every tag of the route begins and ends with."""
    if route.pattern.tag is None:
        return "", ""
    tag = compiled(route.pattern.tag)
    return tag.prefix, tag.suffix


class RepositoryRoutes:
    """The routes that count for one repository, in order, and which of them take a tag."""

    __slots__ = ("_by_tag", "_lengths", "_others", "ordered")

    def __init__(self, matching: Sequence[Route]) -> None:
        self.ordered = _until_the_last_word(in_order(matching))
        # What the tags of a route begin with: for an exact tag, all of it.
        self._by_tag: dict[str, list[Route]] = {}
        self._others: list[Route] = []
        for route in self.ordered:
            if route.pattern.tag is None:
                self._others.append(route)
            else:
                self._by_tag.setdefault(_ends(route)[0], []).append(route)
        self._lengths = sorted({len(beginning) for beginning in self._by_tag})

    def taking(self, tag: Tag | None) -> tuple[Route, ...]:
        """Those for `tag`, or for a digest (None), narrowest first."""
        found = list(self._others)
        if tag is not None:
            for length in self._lengths:
                for route in self._by_tag.get(tag[:length], ()):
                    if route.pattern.matches_tag(tag):
                        found.append(route)
        return self.ordered if len(found) == len(self.ordered) else in_order(found)


def _until_the_last_word(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes down to and including the first without a tag part that names a destination."""
    for position, route in enumerate(routes):
        if route.pattern.tag is None and route.destination is not None:
            return tuple(routes[: position + 1])
    return tuple(routes)
