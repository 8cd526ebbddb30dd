"""Which route comes first: narrower before wider (config-language.md 2).

Owns the order of routes. Does not own whether one pattern contains another (`pattern.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from routerd.routing.decision import Route


def in_order(routes: Sequence[Route]) -> tuple[Route, ...]:
    """Narrowest first: of those left, the ones that contain none of the others, and of these the
    first by the list of config-language.md 2; then again.
    """
    if len(routes) < 2:
        return tuple(routes)
    left = sorted(routes, key=lambda route: route.pattern.specificity)
    order: list[Route] = []
    while left:
        following = next(route for route in left if not _contains_another(route, left))
        left.remove(following)
        order.append(following)
    return tuple(order)


def _contains_another(route: Route, left: Sequence[Route]) -> bool:
    """Whether the route properly contains one of those left. Two that are equal contain neither."""
    return any(
        route.pattern.contains(other.pattern) and not other.pattern.contains(route.pattern)
        for other in left
        if other is not route
    )


def until_the_last_word(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes down to and including the first without a tag part that names a destination."""
    for position, route in enumerate(routes):
        if route.pattern.tag is None and route.destination is not None:
            return tuple(routes[: position + 1])
    return tuple(routes)
