"""The options of endpoint types that packages bring.

Owns that an adapter gets them ready for use: variables replaced where the language has them,
secrets wrapped, paths absolute. Does not own their form: the package's own schema (`schema.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from routerd.config.context import Context
from routerd.config.credentials import compile_secret
from routerd.config.document import KeyPath
from routerd.config.sight import Sight, is_secret_key, sight_of

_EXPANDED = frozenset({"url", "auth", "tls", "proxy"})  # where the environment counts, below too
_FILE = "_file"


def foreign_options(context: Context, path: KeyPath, common: Collection[str]) -> dict[str, Any]:
    """The options of the endpoint at `path`, without the keys that every endpoint has."""
    return {
        key: value
        for key, value in _mapping(context, path, expands=False).items()
        if key not in common
    }


def _mapping(context: Context, path: KeyPath, *, expands: bool) -> dict[str, Any]:
    """A mapping of options. A secret stands under its own key, whether written or in a file."""
    found: dict[str, Any] = {}
    for key, value in context.get(path, {}).items():
        here = (*path, key)
        twin = key.removesuffix(_FILE)
        if here in context.bad:
            continue
        if key.endswith(_FILE) and is_secret_key(twin):
            found[twin] = compile_secret(context, path, twin)
        elif _is_secret(here) and not isinstance(value, dict | list | None):
            found[key] = compile_secret(context, path, key)
        elif key == "path" or key.endswith(_FILE):
            absolute = context.path(here)
            found[key] = value if absolute is None else str(absolute)
        else:
            found[key] = _value(context, here, value, expands=expands or key in _EXPANDED)
    return found


def _is_secret(path: KeyPath) -> bool:
    return sight_of(path) is Sight.SECRET


def _value(context: Context, path: KeyPath, value: Any, *, expands: bool) -> Any:
    if isinstance(value, dict):
        return _mapping(context, path, expands=expands)
    if isinstance(value, list):
        return [
            _value(context, (*path, position), item, expands=expands)
            for position, item in enumerate(value)
        ]
    if isinstance(value, str) and expands:
        return context.expand(value, path) or ""
    return value
