"""The keys of a `cache`, of an endpoint or a route (config-language.md 4).

Owns how they are read and how they are shown. Does not own which of several counts (`routing/`) nor
what they lead to (`proxy/freshness.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.durations import format_duration, parse_duration
from routerd.oci.platform import Platform
from routerd.routing.grammar import BadPattern
from routerd.routing.pattern import TagGlobs
from routerd.routing.policy import CachePolicy, CacheSettings, Prefetch, Setting


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
        read = _READERS.get(key, _duration)
        said[key] = Setting(read(context, here, written), context.origin(here))
    return CacheSettings(**said)


def _duration(context: Context, path: KeyPath, written: str) -> float:
    return parse_duration(written)


def _prefetch(context: Context, path: KeyPath, written: str | dict[str, Any]) -> Prefetch:
    """`none`, `layers`, or a mapping."""
    if isinstance(written, str):
        return Prefetch(layers=written == "layers")
    layers = context.get((*path, "layers"), True)
    concurrency = context.get((*path, "concurrency"), Prefetch().concurrency)
    here = (*path, "platforms")
    return Prefetch(layers, concurrency, platforms(context, here, context.get(here, [])))


def platforms(context: Context, path: KeyPath, written: Sequence[str]) -> tuple[Platform, ...]:
    """The platforms that stand at `path`; the problem of one that is none is noted."""
    found = []
    for position, text in enumerate(written):
        try:
            found.append(Platform.parse(text))
        except ValueError as error:
            context.error("bad-value", str(error), context.document.value((*path, position)))
    return tuple(found)


def _tags(context: Context, path: KeyPath, texts: list[str]) -> TagGlobs:
    found: list[str] = []
    for position, text in enumerate(texts):
        try:
            found += TagGlobs.parse([text]).globs
        except BadPattern as error:
            context.error("bad-pattern", str(error), context.document.value((*path, position)))
    return TagGlobs(tuple(found))


_READERS: Mapping[str, Callable[[Context, KeyPath, Any], Any]] = {
    "immutable_tags": _tags,
    "prefetch": _prefetch,
}


def shown(settings: CacheSettings | CachePolicy) -> dict[str, Any]:
    """The keys that are said, as they are written. A policy's `ttl` of None is upstream's."""
    said = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {key: shown_value(setting.value) for key, setting in said.items() if setting is not None}


def shown_value(value: float | TagGlobs | Prefetch | None) -> Any:
    """One value as it is written."""
    if value is None:
        return "upstream's"
    if isinstance(value, Prefetch):
        return _shown_prefetch(value)
    return list(value.globs) if isinstance(value, TagGlobs) else format_duration(value)


def _shown_prefetch(value: Prefetch) -> Any:
    if not value.layers:
        return "none"
    if value == Prefetch(layers=True):
        return "layers"
    said: dict[str, Any] = {"layers": True, "concurrency": value.concurrency}
    if value.platforms:
        said["platforms"] = [str(platform) for platform in value.platforms]
    return said
