"""What is doubtful about one route by itself: names that no image has, settings without effect.

Owns the checks that one route and its endpoints are enough for. Does not own what it comes to beside
other routes (`pair_checks.py`) or for one reference (`reference_checks.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.settings import EndpointSpec
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Repository, parse_tag
from routerd.routing.decision import Route
from routerd.routing.policy import Action
from routerd.routing.table import RouteTable

# No tag begins so, and no segment of a repository's name begins or ends so.
_NO_TAG = re.compile(r"[.-]")
_NO_NAME = re.compile(r"(?:^|/)[._-]|[._-](?:/|$)")


def place(route: Route) -> KeyPath:
    """Where the route stands in the file."""
    return ("routes", route.pattern.text)


def check_route(
    context: Context, route: Route, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    """Note what is doubtful about the route."""
    mark = context.document.key(place(route))
    text = route.pattern.text
    if (impossible := _impossible(route)) is not None:
        context.warn("unreachable-route", f"no name matches '{text}': {impossible}", mark)
    if route.pattern.tag is not None and route.denies is not None:
        context.warn(
            "deny-by-tag-only",
            f"what '{text}' denies can still be pulled by digest",
            mark,
        )
    _check_no_effect(context, route, specs, table)
    if route.destination is None:
        return
    endpoints = route.destination.endpoints
    for position, name in enumerate(endpoints):
        remotes = [other for other in endpoints[position + 1 :] if specs[other].type == "remote"]
        if remotes and Action.PUSH in specs[name].actions and specs[name].type != "remote":
            context.warn(
                "push-shadows-upstream",
                f"what is pushed to '{name}' hides what '{remotes[0]}' has under the same tag",
                mark,
            )
            break


def _impossible(route: Route) -> str | None:
    """Why no reference can match; None where one can, as far as is seen."""
    pattern = route.pattern
    repository = pattern.exact_repository
    try:
        if repository is not None:
            Repository.parse(repository.namespace, repository.name)
        if pattern.tag is not None and pattern.has_exact_tag:
            parse_tag(pattern.tag)
    except RegistryError as error:
        return error.message
    if _NO_NAME.search(pattern.repository):
        return "a name's segments begin and end with a letter or a digit"
    if pattern.tag is not None and _NO_TAG.match(pattern.tag):
        return "a tag begins with a letter, a digit or '_'"
    return None


def _check_no_effect(
    context: Context, route: Route, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    if route.destination is None or route.denies is not None:
        return
    names = route.destination.endpoints
    path = place(route)
    if not names:
        return  # an error says why
    if len(names) == 1 and context.get((*path, "fallback_on")) is not None:
        message = "'fallback_on' has nothing to fall back on: the route has one endpoint"
        context.warn("no-effect", message, context.document.key((*path, "fallback_on")))
    if context.get((*path, "cache")) is not None and all(
        specs[name].cache_store is None for name in names
    ):
        message = "'cache' has no effect: none of the route's endpoints has a cache"
        context.warn("no-effect", message, context.document.key((*path, "cache")))
    for action in route.allow:
        if not any(action in table.endpoints[name].actions for name in names):
            message = f"'allow' of {action} has no effect: none of the route's endpoints allows it"
            mark = context.document.key((*path, "allow", str(action)))
            context.warn("no-effect", message, mark)
