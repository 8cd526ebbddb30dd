"""The `warm` part of a policy: what is fetched ahead, and how often.

Owns its keys and defaults (config-language.md 5). Does not own fetching (`proxy/warm.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerd.config.cachepolicy import platforms
from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.durations import parse_duration
from routerd.config.settings import EndpointSpec, ServerSettings, WarmRule
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Reference
from routerd.routing.policy import SELF, Action
from routerd.routing.table import RouteTable

DEFAULT_EVERY = 3600.0  # seconds; the hour of the proposal's bots
SHORTEST_EVERY = 60.0  # seconds; more often is a poll that upstream counts


def compile_warm(
    context: Context,
    server: ServerSettings,
    specs: Mapping[str, EndpointSpec],
    table: RouteTable,
) -> tuple[WarmRule, ...]:
    """The rules; what is wrong with one, or cannot have an effect, is noted."""
    rules = []
    for position, written in enumerate(context.get(("warm",), [])):
        path: KeyPath = ("warm", position)
        references = _references(context, server, (*path, "references"), written)
        for place, reference in references:
            _check_effect(context, place, reference, specs, table)
        every = parse_duration(written["every"]) if "every" in written else DEFAULT_EVERY
        if every < SHORTEST_EVERY:
            message = f"'every' is at least {SHORTEST_EVERY:g}s: each round asks upstream"
            context.error("bad-value", message, context.document.value((*path, "every")))
        wanted = platforms(context, (*path, "platforms"), written.get("platforms", []))
        rules.append(WarmRule(tuple(found for _, found in references), wanted, every))
    return tuple(rules)


def _references(
    context: Context, server: ServerSettings, path: KeyPath, written: Mapping[str, Any]
) -> list[tuple[KeyPath, Reference]]:
    found = []
    for position, text in enumerate(written["references"]):
        place = (*path, position)
        try:
            found.append((place, Reference.parse(text, server.default_namespace)))
        except RegistryError as error:
            context.error("bad-value", error.message, context.document.value(place))
    return found


def _check_effect(
    context: Context,
    place: KeyPath,
    reference: Reference,
    specs: Mapping[str, EndpointSpec],
    table: RouteTable,
) -> None:
    """What no route leads anywhere, or what nothing keeps, is never warm."""
    decision = table.decide(reference, Action.PULL, SELF)
    if decision.refusal is not None:
        why = decision.refusal.message
    elif not any(specs[step.endpoint].cache_store for step in decision.steps):
        why = f"endpoint '{decision.steps[0].endpoint}' has no 'cache' to keep it in"
    else:
        return
    message = f"'{reference}' cannot be fetched ahead: {why}"
    context.warn("no-effect", message, context.document.value(place))
