"""The keys of a `cache`, of an endpoint or a route (config-language.md 4).

Owns how they are read and how they are shown. Does not own which of several counts (`routing/`) nor
what they lead to (`proxy/freshness.py`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.durations import format_duration, parse_duration
from routerd.routing.grammar import BadPattern
from routerd.routing.pattern import TagGlobs
from routerd.routing.policy import CachePolicy, CacheSettings, Setting


def cache_settings(context: Context, path: KeyPath) -> CacheSettings:
    """What the `cache` at `path` says; nothing where it is no mapping."""
    if not isinstance(context.get(path), dict):
        return CacheSettings()
    said: dict[str, Setting[Any]] = {}
    for key in (field.name for field in fields(CacheSettings)):
        here = (*path, key)
        written = context.get(here)
        if written is None:
            continue
        value = (
            _tags(context, here, written) if key == "immutable_tags" else parse_duration(written)
        )
        said[key] = Setting(value, context.origin(here))
    return CacheSettings(**said)


def _tags(context: Context, path: KeyPath, texts: list[str]) -> TagGlobs:
    found: list[str] = []
    for position, text in enumerate(texts):
        try:
            found += TagGlobs.parse([text]).globs
        except BadPattern as error:
            context.error("bad-pattern", str(error), context.document.value((*path, position)))
    return TagGlobs(tuple(found))


def shown(settings: CacheSettings | CachePolicy) -> dict[str, Any]:
    """The keys that are said, as they are written. A policy's `ttl` of None is upstream's."""
    said = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {key: shown_value(setting.value) for key, setting in said.items() if setting is not None}


def shown_value(value: float | TagGlobs | None) -> Any:
    """One value as it is written."""
    if value is None:
        return "upstream's"
    return list(value.globs) if isinstance(value, TagGlobs) else format_duration(value)
