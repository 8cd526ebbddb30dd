"""The two forms of the proposal as the language itself.

Owns `registries` for `endpoints`, and the proposal's table (`upstream`, `username`, `password`,
`acl`) as endpoints and routes (config-language.md 1). Does not own checking the result.
"""

from __future__ import annotations

from typing import Any

from routerd.config.document import Document, KeyPath
from routerd.oci.errors import RegistryError
from routerd.oci.reference import DOCKER_HUB, parse_namespace

_TABLE = ("upstream", "username", "password", "acl")
_BESIDE = ("version", "server")  # what may stand beside the table


def expand(document: Document) -> None:
    """Rewrite the document's values, and the places of what moved, in the language."""
    values = document.values
    table = {key.lower(): key for key in values if key.lower() in _TABLE}
    if table:
        _expand_table(document, table)
    elif "registries" in values:
        if "endpoints" in values:
            document.error(
                "duplicate-key",
                "'registries' and 'endpoints' are the same key",
                document.key(("registries",)),
            )
            del values["registries"]
        else:
            values["endpoints"] = values.pop("registries")
            _move(document, ("registries",), ("endpoints",))


def _expand_table(document: Document, table: dict[str, str]) -> None:
    values = document.values
    others = [
        key
        for key in values
        if key not in table.values() and key not in _BESIDE and not key.startswith("x-")
    ]
    for key in others:
        document.error(
            "unknown-key",
            f"'{key}' cannot stand beside 'upstream' and 'acl': a file is in one form or the other",
            document.key((key,)),
        )
        del values[key]
    taken = {name: values.pop(key) for name, key in table.items()}
    if "upstream" not in taken:
        first = next(iter(table.values()))
        document.error("bad-value", "the policy needs 'upstream'", document.key((first,)))
    remote: dict[str, Any] = {
        "type": "remote",
        "url": taken.get("upstream"),
        # Every name that comes without one of its own is meant for the upstream.
        "namespace": _default_namespace(values),
        "cache": "local",
        "actions": ["pull"],
    }
    _move(document, (table.get("upstream", "acl"),), ("endpoints", "remote", "url"))
    if "username" in taken or "password" in taken:
        remote["auth"] = {"type": "basic"}
        for name in ("username", "password"):
            if name in taken:
                remote["auth"][name] = taken[name]
                _move(document, (table[name],), ("endpoints", "remote", "auth", name))
    if taken.get("upstream") is not None:
        local = {"type": "storage", "actions": ["pull", "push"]}
        values["endpoints"] = {"remote": remote, "local": local}
    else:
        values["endpoints"] = {"local": {"type": "storage"}}
    place = document.keys.get(("endpoints", "remote", "url"))
    if place is not None:
        for path in (("endpoints", "remote"), ("endpoints", "local"), ("routes", "*")):
            document.keys.setdefault(path, place)
    acl = taken.get("acl")
    routes: dict[str, Any] = {}
    if isinstance(acl, dict):
        routes.update(acl)
        _move(document, (table["acl"],), ("routes",))
    elif acl is not None:
        document.error("wrong-type", "'acl' is a mapping", document.key((table["acl"],)))
    # The proposal: what is not in the list is looked up locally, then upstream.
    routes.setdefault("*", ["local", "remote"])
    values["routes"] = routes


def _default_namespace(values: dict[str, Any]) -> str:
    server = values.get("server")
    written = server.get("default_namespace") if isinstance(server, dict) else None
    try:
        return parse_namespace(written) if isinstance(written, str) else DOCKER_HUB
    except RegistryError:  # said where it is compiled
        return DOCKER_HUB


def _move(document: Document, old: KeyPath, new: KeyPath) -> None:
    """Let what stood at and below `old` be found at and below `new`."""
    for places in (document.keys, document.marks):
        for path in [path for path in places if path[: len(old)] == old]:
            places[(*new, *path[len(old) :])] = places.pop(path)
    for path in [path for path in document.texts if path[: len(old)] == old]:
        document.texts[(*new, *path[len(old) :])] = document.texts.pop(path)
