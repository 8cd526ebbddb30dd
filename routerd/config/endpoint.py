"""The `endpoints` part of a policy.

Owns what the language says of every endpoint and of the built-in types' options. Does not own the
options of types that packages bring, nor what an adapter makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.diagnostics import did_you_mean
from routerd.config.document import KeyPath
from routerd.config.durations import parse_duration
from routerd.config.schema import BUILT_IN, TypeLookup
from routerd.config.secrets import Secret
from routerd.config.settings import EndpointSpec, ServerSettings
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Namespace, parse_namespace
from routerd.routing.decision import EndpointRule
from routerd.routing.policy import Action, CacheSettings, Setting

# Whose images well-known registries have, by the host of their URL.
WELL_KNOWN: Mapping[str, str] = {
    "registry-1.docker.io": "docker.io",
    "registry-1.docker.com": "docker.io",
    "index.docker.io": "docker.io",
    "docker.io": "docker.io",
    "mirror.gcr.io": "docker.io",
    "ghcr.io": "ghcr.io",
    "quay.io": "quay.io",
    "gcr.io": "gcr.io",
    "registry.k8s.io": "registry.k8s.io",
    "mcr.microsoft.com": "mcr.microsoft.com",
    "public.ecr.aws": "public.ecr.aws",
    "registry.gitlab.com": "registry.gitlab.com",
    "lscr.io": "lscr.io",
}
DEFAULT_TIMEOUTS = {"connect": 5.0, "response": 30.0, "stall": 60.0}  # seconds
_DEFAULT_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "remote": ("pull",),
    "storage": ("pull", "push"),
}


def compile_endpoints(
    context: Context, server: ServerSettings, types: TypeLookup
) -> tuple[dict[str, EndpointSpec], dict[str, EndpointRule]]:
    """The specs for who makes the adapters, and the rules for the route table, by name."""
    specs: dict[str, EndpointSpec] = {}
    rules: dict[str, EndpointRule] = {}
    for name in context.names(("endpoints",)):
        path: KeyPath = ("endpoints", name)
        spec = _compile(context, server, path, name, types)
        if spec is not None:
            specs[name] = spec
            rules[name] = EndpointRule(
                name=name,
                actions=frozenset(spec.actions),
                cache=cache_settings(context, (*path, "cache")),
                origin=spec.origin,
                actions_origin=context.origin((*path, "actions")),
                namespace=_serves(spec, server),
            )
    _check_stores(context, specs, types)
    return specs, rules


def cache_settings(context: Context, path: KeyPath) -> CacheSettings:
    """The policy keys of a `cache`, of an endpoint or a route."""

    def setting(key: str) -> Setting[float] | None:
        text = context.get((*path, key)) if isinstance(context.get(path), dict) else None
        if text is None:
            return None
        return Setting(parse_duration(text), context.origin((*path, key)))

    return CacheSettings(ttl=setting("ttl"), stale_if_error=setting("stale_if_error"))


def _compile(
    context: Context, server: ServerSettings, path: KeyPath, name: str, types: TypeLookup
) -> EndpointSpec | None:
    written = context.get(path)
    kind = context.get((*path, "type"))
    if not isinstance(written, dict) or kind is None:
        return None
    info = None if kind in BUILT_IN else types(kind)
    defaults = _DEFAULT_ACTIONS.get(kind) or (info.default_actions if info else ())
    actions = tuple(Action(a) for a in context.get((*path, "actions"), defaults))
    keeps = kind == "storage" or (info is not None and info.needs_store)
    cache = context.get((*path, "cache"))
    if kind == "remote":
        options = _remote(context, path)
    else:
        options = {k: v for k, v in written.items() if k not in ("type", "actions", "cache")}
    return EndpointSpec(
        name=name,
        type=kind,
        options=MappingProxyType(options),
        actions=actions,
        cache_store=cache.get("store") if isinstance(cache, dict) else cache,
        store_path=server.data / name if keeps else None,
        origin=context.origin(path),
    )


def _remote(context: Context, path: KeyPath) -> dict[str, Any]:
    url = context.expanded((*path, "url"), "") or ""
    parts = _checked_url(context, (*path, "url"), url)
    ca = context.path((*path, "tls", "ca"))
    if ca is not None and context.environment is not None and not ca.is_file():
        mark = context.document.value((*path, "tls", "ca"))
        context.error("bad-value", f"there is no file {ca.name} of certificates", mark)
    return {
        "url": url,
        "namespace": _namespace(context, path, parts),
        "auth": _auth(context, (*path, "auth")),
        "token_realms": tuple(context.get((*path, "token_realms"), ())),
        "tls": {
            "ca": None if ca is None else str(ca),
            "insecure": context.get((*path, "tls", "insecure"), False),
        },
        "timeouts": {
            key: context.duration((*path, "timeouts", key), default)
            for key, default in DEFAULT_TIMEOUTS.items()
        },
    }


def _checked_url(context: Context, path: KeyPath, url: str) -> str | None:
    """The URL's host; None, noted, where it is no URL of a registry."""
    if not url:
        return None
    mark = context.document.value(path)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        context.error("bad-value", "'url' is not the http or https URL of a registry", mark)
        return None
    if parts.username is not None or parts.password is not None:
        # Its text would show up wherever the URL does.
        context.error("bad-value", "a login does not stand in a URL; write it as 'auth'", mark)
    return host


def _namespace(context: Context, path: KeyPath, host: str | None) -> str | None:
    written = context.get((*path, "namespace"))
    if written is None:
        return WELL_KNOWN.get(host or "")
    if written == "*":
        context.error(
            "not-supported",
            "namespace '*' is part of the language, but not of this version of routerd yet",
            context.document.value((*path, "namespace")),
        )
        return None
    try:
        return parse_namespace(written)
    except RegistryError as error:
        mark = context.document.value((*path, "namespace"))
        context.error("bad-value", error.message, mark)
        return None


def _auth(context: Context, path: KeyPath) -> dict[str, Any]:
    kind = context.get((*path, "type"), "anonymous")
    if kind == "basic":
        return {
            "type": kind,
            "username": context.expanded((*path, "username"), ""),
            "password": _secret(context, path, "password"),
        }
    if kind == "bearer":
        return {"type": kind, "token": _secret(context, path, "token")}
    return {"type": "anonymous"}


def _secret(context: Context, path: KeyPath, key: str) -> Secret | None:
    value = context.get((*path, key))
    file = context.path((*path, f"{key}_file"))
    spoken = ".".join(str(part) for part in (*path, key))
    if value is not None and file is not None:
        mark = context.document.key((*path, f"{key}_file"))
        context.error("bad-value", f"'{key}' and '{key}_file' say the same twice", mark)
    if file is not None:
        if context.environment is not None and not file.is_file():
            mark = context.document.value((*path, f"{key}_file"))
            context.error("missing-secret", f"there is no file {file.name}", mark)
        return Secret(spoken, file=file)
    if value is None:
        context.error(
            "missing-secret",
            f"'{'.'.join(str(part) for part in path[2:])}' needs '{key}' or '{key}_file'",
            context.document.key(path),
        )
        return None
    expanded = context.expanded((*path, key))
    return None if expanded is None else Secret(spoken, value=expanded)


def _serves(spec: EndpointSpec, server: ServerSettings) -> Namespace | None:
    """Whose names a remote has; None for an endpoint that has those of every namespace."""
    if spec.type != "remote":
        return None
    return Namespace(spec.options["namespace"] or server.default_namespace)


def _check_stores(context: Context, specs: Mapping[str, EndpointSpec], types: TypeLookup) -> None:
    stores = [name for name, spec in specs.items() if spec.store_path is not None]
    for name, spec in specs.items():
        if spec.cache_store is None or spec.cache_store in stores:
            continue
        path: KeyPath = ("endpoints", name, "cache")
        if isinstance(context.get(path), dict):
            path = (*path, "store")
        message = f"endpoint '{name}' is cached in '{spec.cache_store}', which "
        if spec.cache_store in context.names(("endpoints",)):
            message += "is not a storage endpoint"
        else:
            message += f"does not exist{did_you_mean(spec.cache_store, stores)}"
        context.error("unknown-store", message, context.document.value(path))
