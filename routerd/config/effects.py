"""Routes that say something which nothing comes of, or something else than they seem to.

Owns settings that no destination ever takes (`no-effect`) and patterns that read as a registry's
name but are not (hints). Does not own doubts about what a route does (`checks.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from routerd.config.context import Context
from routerd.config.diagnostics import Severity
from routerd.config.document import KeyPath
from routerd.oci.reference import looks_like_namespace
from routerd.routing.decision import Route
from routerd.routing.globs import is_literal
from routerd.routing.pattern import Pattern

PAIRS_LIMIT = 100_000  # pairs of routes that are compared; beyond it a route is taken to count


def check_effects(context: Context, routes: Sequence[Route]) -> None:
    """Note every route that has settings for nothing, and every one that may be misread."""
    destinations = _Destinations(routes)
    wholes = {r.pattern.namespace for r in routes if r.pattern.repository == "**"}
    for route in routes:
        _check_settings(context, route, destinations)
        _check_reading(context, route.pattern, wholes)


class _Destinations:
    """The routes that lead to endpoints, by the literal start of their patterns."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_start: dict[tuple[str, str], list[Route]] = defaultdict(list)
        self._compared = 0
        for route in routes:
            if route.destination is not None and route.denies is None:
                self._by_start[_start(route.pattern)].append(route)

    def take_settings_of(self, route: Route) -> bool:
        """Whether some reference that `route` matches may be served, with its settings."""
        for other in self._near(route.pattern):
            self._compared += 1
            if self._compared > PAIRS_LIMIT:
                return True
            if route.denies is not None and other.pattern.tag is None:
                # Where the narrower one is the last word, a deny above it is not looked at; where
                # the deny is narrower, nothing is served.
                continue
            if other.pattern.intersection(route.pattern) is not None:
                return True
        return False

    def _near(self, pattern: Pattern) -> Iterator[Route]:
        """Those that the literal start of a pattern lets meet it."""
        namespace, head = _start(pattern)
        if namespace and head:
            for start in ((namespace, head), (namespace, ""), ("", head), ("", "")):
                yield from self._by_start.get(start, ())
            return
        for (other_namespace, other_head), routes in self._by_start.items():
            if _may_be_one(namespace, other_namespace) and _may_be_one(head, other_head):
                yield from routes


def _may_be_one(literal: str, other: str) -> bool:
    return not literal or not other or literal == other


def _start(pattern: Pattern) -> tuple[str, str]:
    """The literal namespace and first segment; empty where there are wildcards."""
    namespace = "" if pattern.specificity.namespace_is_wild else pattern.namespace
    return namespace, next(iter(pattern.literal_head), "")


def _check_settings(context: Context, route: Route, destinations: _Destinations) -> None:
    path: KeyPath = ("routes", route.pattern.text)
    if route.denies is None and route.destination is not None:
        return
    written = context.get(path)
    keys = [key for key in ("allow", "cache") if isinstance(written, dict) and key in written]
    if not keys or destinations.take_settings_of(route):
        return
    why = "no route leads its names to an endpoint"
    if route.denies is not None:
        why = "what a route denies has no settings"
    for key in keys:
        message = f"'{key}' has no effect: {why}"
        context.warn("no-effect", message, context.document.key((*path, key)))


def _check_reading(context: Context, pattern: Pattern, wholes: set[str]) -> None:
    text = pattern.text
    name = text.partition(":")[0]
    if "/" not in text and looks_like_namespace(name) and is_literal(name):
        said = f"'{text}' is the image {pattern}, not the registry {name}"
    elif text.endswith("/*") and looks_like_namespace(text[:-2]) and "/" not in text[:-2]:
        name = text[:-2]
        if pattern.namespace in wholes:
            return
        said = f"'{text}' has only those names of {name} that are one segment"
    else:
        return
    mark = context.document.key(("routes", text))
    context.note(Severity.NOTE, "hint", f"{said}; for all of it write '{name}/**'", mark)
