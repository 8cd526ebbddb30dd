"""The `routes` part of a policy.

Owns what a route may say (config-language.md 3). Does not own which route wins (`routing/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from routerd.config.cachepolicy import cache_settings
from routerd.config.context import Context
from routerd.config.diagnostics import Mark, did_you_mean
from routerd.config.document import KeyPath
from routerd.config.effects import check_effects
from routerd.config.settings import ServerSettings
from routerd.oci.reference import Namespace
from routerd.routing.decision import Destination, EndpointRule, Route
from routerd.routing.globs import is_literal
from routerd.routing.grammar import BadPattern
from routerd.routing.pattern import Pattern
from routerd.routing.policy import (
    ANONYMOUS,
    LOOPBACK,
    Action,
    Fallback,
    IPNetwork,
    Principal,
    Setting,
)

_IDENTITIES = ("user:", "group:", "cert:")  # need `access`, which is not built yet


def compile_routes(
    context: Context,
    server: ServerSettings,
    specs: Mapping[str, object],
    rules: Mapping[str, EndpointRule],
) -> list[Route]:
    """Every route whose pattern can be read, without the endpoints that do not exist."""
    routes: list[Route] = []
    seen: dict[tuple[str, str, str | None], str] = {}
    for text in context.names(("routes",)):
        path: KeyPath = ("routes", text)
        pattern = _pattern(context, path, text, server.default_namespace)
        if pattern is None or path in context.bad:
            continue
        canonical = (pattern.namespace, pattern.repository, pattern.tag)
        if canonical in seen:
            message = f"'{text}' and '{seen[canonical]}' are the same pattern"
            context.error("duplicate-key", message, context.document.key(path))
            continue
        seen[canonical] = text
        routes.append(_compile(context, server, path, pattern, rules))
    check_effects(context, routes)
    return routes


def _pattern(
    context: Context, path: KeyPath, text: str, default_namespace: Namespace
) -> Pattern | None:
    try:
        return Pattern.parse(text, default_namespace)
    except BadPattern as error:
        hint = "" if error.hint is None else f"; did you mean '{error.hint}'?"
        message = f"pattern '{text}': {error}{hint}"
        context.error("bad-pattern", message, context.document.key(path))
        return None


def _compile(
    context: Context,
    server: ServerSettings,
    path: KeyPath,
    pattern: Pattern,
    rules: Mapping[str, EndpointRule],
) -> Route:
    written = context.get(path)
    body: dict[str, Any] = written if isinstance(written, dict) else {"endpoints": written}
    names_place = (*path, "endpoints") if isinstance(written, dict) else path
    destination = None
    if "deny" in body or "endpoints" in body:
        destination = _destination(context, path, names_place, body, pattern, rules)
    if "endpoints" not in body:
        for key in ("fallback_on", "push_to", "strip", "on_miss"):
            if key in body:
                message = f"'{key}' belongs to a destination, and this route has no 'endpoints'"
                context.error("bad-value", message, context.document.key((*path, key)))
    return Route(
        pattern=pattern,
        origin=context.origin(path),
        destination=destination,
        allow=_allow(context, server, (*path, "allow")),
        cache=cache_settings(context, (*path, "cache")),
    )


def _destination(
    context: Context,
    path: KeyPath,
    names_place: KeyPath,
    body: Mapping[str, Any],
    pattern: Pattern,
    rules: Mapping[str, EndpointRule],
) -> Destination:
    if "deny" in body:
        if "endpoints" in body:
            mark = context.document.key((*path, "deny"))
            context.error("bad-value", "a route has 'endpoints' or 'deny', not both", mark)
        return Destination(deny=context.get((*path, "deny"), "no reason given"))
    written = body["endpoints"]
    names = written if isinstance(written, list) else [written]
    endpoints = tuple(
        name
        for position, name in enumerate(names)
        if _is_known(
            context,
            (*names_place, position) if isinstance(written, list) else names_place,
            pattern,
            name,
            rules,
        )
    )
    said = context.get((*path, "fallback_on")) if isinstance(context.get(path), dict) else None
    fallback = frozenset({Fallback.NOT_FOUND} if said is None else (Fallback(w) for w in said))
    return Destination(
        endpoints=tuple(dict.fromkeys(endpoints)),
        fallback_on=fallback,
        push_to=_push_to(context, (*path, "push_to"), endpoints, body, rules),
        strip=_strip(context, (*path, "strip"), pattern, body),
    )


def _is_known(
    context: Context,
    place: KeyPath,
    pattern: Pattern,
    name: Any,
    rules: Mapping[str, EndpointRule],
) -> bool:
    if not isinstance(name, str):
        return False
    if name in rules:
        return True
    if name not in context.names(("endpoints",)):
        suggestion = did_you_mean(name, rules) or ", which does not exist"
        message = f"route '{pattern.text}' names endpoint '{name}'{suggestion}"
        context.error("unknown-endpoint", message, context.document.value(place))
    return False


def _push_to(
    context: Context,
    path: KeyPath,
    endpoints: tuple[str, ...],
    body: Mapping[str, Any],
    rules: Mapping[str, EndpointRule],
) -> str | None:
    name = body.get("push_to")
    if name is None or not isinstance(name, str):
        return None
    mark = context.document.value(path)
    written = body["endpoints"]
    if name not in rules and name in (written if isinstance(written, list) else [written]):
        return None  # what is wrong with that endpoint is said of it
    if name not in endpoints:
        code = "bad-value" if name in rules else "unknown-endpoint"
        message = f"'push_to' names '{name}', which is not among the route's endpoints"
        context.error(code, message + did_you_mean(name, endpoints), mark)
        return None
    if Action.PUSH not in rules[name].actions:
        allowed = ", ".join(sorted(rules[name].actions))
        context.error("bad-value", f"endpoint '{name}' allows [{allowed}], not push", mark)
        return None
    return name


def _strip(context: Context, path: KeyPath, pattern: Pattern, body: Mapping[str, Any]) -> str:
    text = body.get("strip")
    if not isinstance(text, str):
        return ""
    mark = context.document.value(path)
    name = pattern.repository
    if not name.startswith(text) or not is_literal(text) or name == text:
        context.error("bad-value", f"'{text}' is not a literal prefix of the pattern", mark)
        return ""
    if not text.endswith("/"):
        whole = text if name[len(text)] == "/" else text.rpartition("/")[0]
        hint = f"; did you mean '{whole}/'?" if whole else ""
        message = f"'{text}' ends within the name, and a prefix ends with '/'{hint}"
        context.error("bad-value", message, mark)
        return ""
    return text


def _allow(
    context: Context, server: ServerSettings, path: KeyPath
) -> Mapping[Action, Setting[tuple[Principal, ...]]]:
    found: dict[Action, Setting[tuple[Principal, ...]]] = {}
    if not isinstance(context.get(path[:-1]), dict):
        return found
    for word in context.names(path):
        here = (*path, word)
        texts = context.get(here)
        if not isinstance(texts, list):
            continue
        principals = (_principal(context, server, (*here, i), text) for i, text in enumerate(texts))
        found[Action(word)] = Setting(
            tuple(p for p in principals if p is not None), context.origin(here)
        )
    return found


def _principal(
    context: Context, server: ServerSettings, path: KeyPath, text: Any
) -> Principal | None:
    mark = context.document.value(path)
    if text == "anonymous":
        return ANONYMOUS
    if text == LOOPBACK.text:
        _check_forgeable(context, server, LOOPBACK, mark)
        return LOOPBACK
    if not isinstance(text, str):
        return None
    if text == "authenticated" or text.startswith(_IDENTITIES):
        context.error(
            "not-supported",
            f"'{text}' needs 'access', which this version of routerd does not have yet",
            mark,
        )
        return None
    if not text.startswith("net:"):
        known = ["anonymous", "authenticated", "net:loopback"]
        message = f"'{text}' is not a principal{did_you_mean(text, known)}"
        context.error("unknown-principal", message, mark)
        return None
    try:
        network: IPNetwork = ip_network(text.removeprefix("net:"))
    except ValueError as error:
        context.error("unknown-principal", f"'{text}' is not a network: {error}", mark)
        return None
    principal = Principal(text, (network,))
    _check_forgeable(context, server, principal, mark)
    return principal


def _check_forgeable(
    context: Context, server: ServerSettings, principal: Principal, mark: Mark
) -> None:
    for proxy in server.trusted_proxies:
        if any(n.version == proxy.version and n.overlaps(proxy) for n in principal.networks or ()):
            context.error(
                "forgeable-address",
                f"'{principal.text}' meets the trusted proxies {proxy}: who can reach such a proxy "
                "can claim to be there",
                mark,
            )
            return
