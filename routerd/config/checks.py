"""What compiles but cannot be meant, or probably is not.

Owns the errors and warnings of config-language.md 7 that need the whole policy. Does not own form
or names. Pairs of routes are looked at by their literal heads, so ten thousand routes are no
problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.diagnostics import Severity
from routerd.config.document import KeyPath
from routerd.config.settings import EndpointSpec
from routerd.config.variables import has_variable
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Namespace, Repository
from routerd.routing.decision import Route
from routerd.routing.policy import DEFAULT_ALLOW, Action
from routerd.routing.table import RouteTable

PAIRS_LIMIT = 200_000  # pairs of routes that are compared; what is left is said in a note


def run_checks(context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable) -> None:
    """Note everything doubtful."""
    for name, spec in specs.items():
        _check_endpoint(context, name, spec)
    _check_use(context, specs, table)
    for route in table.routes:
        _check_route(context, route, specs, table)
    _check_namespaces(context, specs, table)
    _check_overlaps(context, table)
    denying = next((route for route in table.routes if route.denies is not None), None)
    if denying is not None:
        context.note(
            Severity.NOTE,
            "deny",
            "a deny binds only clients that cannot reach the registry themselves",
            context.document.key(_place(denying)),
        )
    header: KeyPath = ("server", "forwarded_header")
    if context.get(header) is not None and not context.get(("server", "trusted_proxies")):
        message = "'forwarded_header' is read from trusted proxies only, and there are none"
        context.warn("no-effect", message, context.document.key(header))


def _place(route: Route) -> KeyPath:
    return ("routes", route.pattern.text)


# Endpoints


def _check_endpoint(context: Context, name: str, spec: EndpointSpec) -> None:
    path: KeyPath = ("endpoints", name)
    for key in ("password", "token"):
        written = context.get((*path, "auth", key))
        if isinstance(written, str) and not has_variable(written):
            context.warn(
                "inline-secret",
                f"the {key} stands in the file; better a variable, or '{key}_file'",
                context.document.key((*path, "auth", key)),
            )
    if spec.type != "remote":
        return
    parts = urlsplit(spec.options["url"])
    host = parts.hostname or ""
    if _is_loopback(host):
        return
    if parts.scheme == "http":
        message = f"everything between here and {host} can be read and changed on the way"
        context.warn("insecure-upstream", message, context.document.value((*path, "url")))
    if spec.options["tls"]["insecure"]:
        message = f"nothing proves that it is {host}; give its certificate as 'tls.ca'"
        mark = context.document.key((*path, "tls", "insecure"))
        context.warn("insecure-upstream", message, mark)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_use(context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable) -> None:
    used = {spec.cache_store for spec in specs.values()}
    for route in table.routes:
        if route.destination is not None:
            used |= set(route.destination.endpoints)
    for name in specs:
        if name not in used:
            message = f"no route leads to endpoint '{name}', and nothing is cached in it"
            context.warn("unused-endpoint", message, context.document.key(("endpoints", name)))


# Routes


def _check_route(
    context: Context, route: Route, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    mark = context.document.key(_place(route))
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
    _check_access(context, route, specs, table)
    _check_push_target(context, route, table)
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
    repository = route.pattern.exact_repository
    if repository is None:
        return None
    try:
        Repository.parse(repository.namespace, repository.name)
    except RegistryError as error:
        return error.message
    return None


def _check_no_effect(
    context: Context, route: Route, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    if route.destination is None or route.denies is not None:
        return
    names = route.destination.endpoints
    path = _place(route)
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


def _check_access(
    context: Context, route: Route, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    if route.destination is None:
        return
    path = _place(route)
    names = route.destination.endpoints
    push = route.allow.get(Action.PUSH)
    pushable = [name for name in names if Action.PUSH in table.endpoints[name].actions]
    if push is not None and pushable:
        mark = context.document.key((*path, "allow", "push"))
        if any(principal.networks is None for principal in push.value):
            context.warn("open-push", f"anyone may push to '{pushable[0]}' here", mark)
        elif Action.PULL not in route.allow:
            message = f"push to '{pushable[0]}' is limited, but anyone may pull: write 'pull' too"
            context.warn("public-storage", message, mark)
    pull = route.allow.get(Action.PULL, DEFAULT_ALLOW[Action.PULL])
    if all(principal.networks is not None for principal in pull.value):
        return
    for name in names:
        if specs[name].type == "remote" and specs[name].options["auth"]["type"] != "anonymous":
            context.warn(
                "credentialed-endpoint-anonymous",
                f"anyone can pull through '{route.pattern.text}' what the login of '{name}' can "
                "read; limit it with 'allow: {pull: [...]}'",
                context.document.key(path),
            )


def _check_push_target(context: Context, route: Route, table: RouteTable) -> None:
    repository = _sample(route)
    if repository is None:
        return
    targets = table.push_targets(repository, Action.PUSH)
    if len(targets) > 1:
        names = " and ".join(f"'{c.step.endpoint}'" for c in targets)
        message = f"a push to {repository} could go to {names}: say which with 'push_to'"
        context.error("ambiguous-push-target", message, context.document.key(_place(route)))


def _sample(route: Route) -> Repository | None:
    """A repository that the route matches."""
    text = route.pattern.intersection(route.pattern)
    if text is None:
        return None
    namespace, _, name = text.partition("/")
    if route.pattern.tag is not None:
        name = name.rpartition(":")[0]
    return Repository(Namespace(namespace), name)


# Namespaces


def _check_namespaces(
    context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    first: dict[str, Route] = {}
    for route in table.routes:
        if route.destination is None or route.pattern.is_everything:
            continue  # `*` asks a remote only for names of its own namespace
        namespace = route.pattern.namespace
        for name in route.destination.endpoints:
            if specs[name].type != "remote":
                continue
            known = specs[name].options["namespace"]
            earlier = first.setdefault(name, route)
            if route.pattern.specificity.namespace_is_wild or (
                earlier.pattern.namespace != namespace
            ):
                context.error(
                    "namespace-lost",
                    f"endpoint '{name}' would serve names of several registries as one: "
                    f"'{route.pattern.text}'"
                    + (f" and '{earlier.pattern.text}'" if earlier is not route else ""),
                    context.document.key(_place(route)),
                )
            elif known is not None and known != namespace:
                how = "" if context.get(("endpoints", name, "namespace")) else ", by its URL"
                context.warn(
                    "namespace-mismatch",
                    f"'{route.pattern.text}' is of {namespace}, but endpoint '{name}' has the "
                    f"images of {known}{how}",
                    context.document.key(_place(route)),
                )


# Overlaps


def _check_overlaps(context: Context, table: RouteTable) -> None:
    compared = 0
    for one, other in _neighbours(table):
        compared += 1
        if compared > PAIRS_LIMIT:
            context.note(
                Severity.NOTE,
                "overlapping-routes",
                f"the first {PAIRS_LIMIT} pairs of routes were compared, and no more",
                context.document.key(("routes",)),
            )
            return
        if one.destination is None or other.destination is None:
            continue
        if one.destination == other.destination:
            continue
        first, second = one.pattern, other.pattern
        if first.contains(second) or second.contains(first):
            continue
        meeting = first.intersection(second)
        if meeting is not None:
            winner, loser = sorted((one, other), key=lambda route: route.pattern.specificity)
            context.warn(
                "overlapping-routes",
                f"'{loser.pattern.text}' and '{winner.pattern.text}' ({winner.origin}) both match "
                f"{meeting}; '{winner.pattern.text}' wins",
                context.document.key(_place(loser)),
            )


def _neighbours(table: RouteTable) -> Iterator[tuple[Route, Route]]:
    """Pairs of routes that may meet: the literal head of one starts with that of the other."""
    by_head: dict[tuple[str, tuple[str, ...]], list[Route]] = defaultdict(list)

    def order(route: Route) -> tuple[bool, int]:
        wild = route.pattern.specificity.namespace_is_wild
        return not wild, len(route.pattern.literal_head)

    for route in sorted(table.routes, key=order):
        pattern = route.pattern
        wild = pattern.specificity.namespace_is_wild
        namespace = "" if wild else pattern.namespace
        head = pattern.literal_head
        for length in range(len(head) + 1):
            for space in {namespace, ""}:
                for earlier in by_head.get((space, head[:length]), ()):
                    yield route, earlier
        by_head[namespace, head].append(route)
