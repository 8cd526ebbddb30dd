"""What compiles but cannot be meant, or probably is not.

Owns the order of the checks of config-language.md 7 that need the whole policy, and those of
endpoints and namespaces. Does not own form or names, or the checks of routes (`route_checks.py`,
`reference_checks.py`, `pair_checks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.diagnostics import Severity
from routerd.config.document import KeyPath
from routerd.config.pair_checks import check_pairs
from routerd.config.reference_checks import check_references
from routerd.config.route_checks import check_route, place
from routerd.config.settings import EndpointSpec, ServerSettings
from routerd.config.upstreams import Place, account_places, places
from routerd.config.variables import MissingVariable, expand, has_variable
from routerd.routing.decision import Route
from routerd.routing.globs import is_literal
from routerd.routing.table import RouteTable

_AUDIT_FILE: KeyPath = ("server", "audit", "file")


def run_checks(
    context: Context,
    server: ServerSettings,
    specs: Mapping[str, EndpointSpec],
    table: RouteTable,
) -> None:
    """Note everything doubtful."""
    for name, spec in specs.items():
        _check_endpoint(context, name, spec)
    _check_audit(context, specs, server)
    _check_use(context, specs, table)
    for route in table.routes:
        check_route(context, route, specs, table)
    _check_namespaces(context, specs, table)
    check_references(context, specs, table)
    check_pairs(context, table)
    denying = next((route for route in table.routes if route.denies is not None), None)
    if denying is not None:
        context.note(
            Severity.NOTE,
            "deny",
            "a deny binds only clients that cannot reach the registry themselves",
            context.document.key(place(denying)),
        )
    header: KeyPath = ("server", "forwarded_header")
    if context.get(header) is not None and not context.get(("server", "trusted_proxies")):
        message = "'forwarded_header' is read from trusted proxies only, and there are none"
        context.warn("no-effect", message, context.document.key(header))


# The server


def _check_audit(
    context: Context, specs: Mapping[str, EndpointSpec], server: ServerSettings
) -> None:
    """A store's directory is the store's: what else lies there could be taken for content."""
    if server.audit is None:
        return
    for name, spec in specs.items():
        if spec.store_path is not None and server.audit.file.parent.is_relative_to(spec.store_path):
            message = f"the audit trail would lie in the directory of endpoint '{name}'"
            context.error("shared-path", message, context.document.value(_AUDIT_FILE))


# Endpoints


def _check_endpoint(context: Context, name: str, spec: EndpointSpec) -> None:
    path: KeyPath = ("endpoints", name)
    if spec.type != "remote":
        _check_login(context, (*path, "auth"))
        return
    found = places(context, path)
    for auth in dict.fromkeys(one.auth for one in found):
        for account in account_places(context, auth):
            _check_login(context, account)
    for one in found:
        _check_connection(context, one)
    if spec.options["offline"] and spec.cache_store is None:
        message = f"endpoint '{name}' is offline and has no 'cache': it serves nothing"
        context.warn("no-effect", message, context.document.key((*path, "offline")))
    if spec.previous_names and spec.cache_store is None:
        message = f"endpoint '{name}' has no 'cache': nothing was stored under its former names"
        context.warn("no-effect", message, context.document.key((*path, "previous_names")))


def _check_login(context: Context, path: KeyPath) -> None:
    for key in ("password", "token"):
        written = context.get((*path, key))
        if isinstance(written, str) and not has_variable(written):
            context.warn(
                "inline-secret",
                f"the {key} stands in the file; better a variable, or '{key}_file'",
                context.document.key((*path, key)),
            )


def _check_connection(context: Context, place: Place) -> None:
    """Whether who is asked can be told from an impostor. What is no URL was said before."""
    try:
        parts = urlsplit(expand(context.get(place.url, ""), context.environment) or "")
        host = parts.hostname
    except (MissingVariable, ValueError):
        return
    if not host or _is_loopback(host):
        return
    if parts.scheme == "http":
        message = f"everything between here and {host} can be read and changed on the way"
        context.warn("insecure-upstream", message, context.document.value(place.url))
    if context.get((*place.tls, "insecure"), False):
        message = f"nothing proves that it is {host}; give its certificate as 'tls.ca'"
        mark = context.document.key((*place.tls, "insecure"))
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


# Namespaces


def _check_namespaces(
    context: Context, specs: Mapping[str, EndpointSpec], table: RouteTable
) -> None:
    first: dict[str, Route] = {}
    for route in table.routes:
        if route.destination is None:
            continue
        for name in route.destination.endpoints:
            if specs[name].type != "remote":
                continue
            known = specs[name].options["namespace"]
            namespace = _asked_for(route, name, table)
            earlier = first.setdefault(name, route)
            if not is_literal(namespace) or _asked_for(earlier, name, table) != namespace:
                context.error(
                    "namespace-lost",
                    f"endpoint '{name}' would serve names of several registries as one: "
                    f"'{route.pattern.text}'"
                    + (f" and '{earlier.pattern.text}'" if earlier is not route else ""),
                    context.document.key(place(route)),
                )
            elif known is not None and known != namespace:
                how = "" if context.get(("endpoints", name, "namespace")) else ", by its URL"
                context.warn(
                    "namespace-mismatch",
                    f"'{route.pattern.text}' is of {namespace}, but endpoint '{name}' has the "
                    f"images of {known}{how}",
                    context.document.key(place(route)),
                )


def _asked_for(route: Route, endpoint: str, table: RouteTable) -> str:
    """The namespace whose names the endpoint is asked for; `*` asks a remote for its own only."""
    own = table.endpoints[endpoint].namespace
    return own if route.pattern.is_everything and own is not None else route.pattern.namespace
