"""The `endpoints` part of a policy.

Owns what the language says of every endpoint. Does not own the options of a type: those of `remote`
(`remote.py`) and of types that packages bring (`foreign.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from routerd.config.cachepolicy import cache_settings
from routerd.config.context import Context
from routerd.config.diagnostics import did_you_mean
from routerd.config.document import KeyPath
from routerd.config.foreign import foreign_options
from routerd.config.remote import remote_options
from routerd.config.schema import BUILT_IN, COMMON, TypeLookup
from routerd.config.settings import EndpointSpec, ServerSettings
from routerd.config.sizes import DEFAULT_LIMITS, DEFAULT_MIN_FREE, Size, StorageLimits
from routerd.oci.reference import Namespace
from routerd.routing.decision import EndpointRule
from routerd.routing.policy import Action

_LIMITS = ("max_size", "min_free")  # of a storage
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
    _check_previous_names(context, specs)
    return specs, rules


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
    is_remote = kind == "remote"
    common = (*COMMON, *_LIMITS) if kind == "storage" else COMMON
    options = remote_options(context, path) if is_remote else foreign_options(context, path, common)
    return EndpointSpec(
        name=name,
        type=kind,
        options=MappingProxyType(options),
        actions=actions,
        cache_store=_store(context, (*path, "cache")),
        store_path=server.data / name if keeps else None,
        origin=context.origin(path),
        previous_names=tuple(context.get((*path, "previous_names"), ())),
        limits=_limits(context, path) if kind == "storage" else DEFAULT_LIMITS,
    )


def _limits(context: Context, path: KeyPath) -> StorageLimits:
    """How much a storage endpoint may keep."""
    max_size, min_free = (context.get((*path, key)) for key in _LIMITS)
    return StorageLimits(
        None if max_size is None else Size.parse(max_size),
        DEFAULT_MIN_FREE if min_free is None else Size.parse(min_free),
    )


def _store(context: Context, path: KeyPath) -> str | None:
    """The storage endpoint that a `cache` names, in either form."""
    written = context.get(path)
    name = context.get((*path, "store")) if isinstance(written, dict) else written
    return name if isinstance(name, str) else None


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


def _check_previous_names(context: Context, specs: Mapping[str, EndpointSpec]) -> None:
    """What was kept under a name becomes one endpoint's, and none that is still in use."""
    takers: dict[str, str] = {}
    for name, spec in specs.items():
        for position, previous in enumerate(spec.previous_names):
            message = None
            if previous in context.names(("endpoints",)):
                message = f"'{previous}' is the name of an endpoint of this policy"
            elif previous in takers:
                message = f"'{previous}' became '{takers[previous]}' already"
            takers.setdefault(previous, name)
            if message is not None:
                path = ("endpoints", name, "previous_names", position)
                context.error("bad-value", message, context.document.value(path))
