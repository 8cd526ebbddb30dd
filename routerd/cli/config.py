"""`routerd config`: validate, show and describe policies.

Owns what these commands print and their exit status: 0 accepted, 1 refused, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from routerd.cli.policies import REFUSED, load, load_or_exit
from routerd.config.compile import Policy
from routerd.config.diagnostics import Severity, redact, render
from routerd.config.document import dump
from routerd.config.durations import format_duration
from routerd.config.schema import schema_text
from routerd.config.secrets import Secret
from routerd.routing.decision import Route
from routerd.routing.policy import CacheSettings

_FILE = click.Path(path_type=Path)


@click.group()
def config() -> None:
    """Check and show policies."""


@config.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option(
    "--no-environment", is_flag=True, help="Without environment variables and secret files."
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def validate(files: tuple[Path, ...], strict: bool, no_environment: bool, form: str) -> None:
    """Say what is wrong with policies. What this accepts is exactly what `serve` runs."""
    refused = False
    results = []
    for path in files:
        compilation = load(path, environment=not no_environment)
        diagnostics = [d.strict() if strict else d for d in compilation.diagnostics]
        errors = sum(d.severity is Severity.ERROR for d in diagnostics)
        refused = refused or errors > 0
        if form == "json":
            found = [d.to_json() for d in diagnostics]
            results.append({"file": str(path), "accepted": not errors, "diagnostics": found})
            continue
        for diagnostic in diagnostics:
            click.echo(render(diagnostic, compilation.lines))
        warnings = sum(d.severity is Severity.WARNING for d in diagnostics)
        verdict = "refused" if errors else "accepted"
        click.echo(f"{path}: {verdict}, {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    if form == "json":
        click.echo(json.dumps(results, indent=2))
    if refused:
        sys.exit(REFUSED)


@config.command()
@click.argument("file", type=_FILE)
def show(file: Path) -> None:
    """Print the policy as it takes effect: defaults filled in, secrets left out."""
    click.echo(dump(effective(load_or_exit(file))), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the language, for editors."""
    click.echo(schema_text(), nl=False)


def effective(policy: Policy) -> dict[str, Any]:
    """The policy as plain values, secrets as stars."""
    server = policy.server
    return {
        "server": {
            "listen": [str(address) for address in server.listen],
            "admin": None if server.admin is None else str(server.admin),
            "data": str(server.data),
            "name": server.name,
            "default_namespace": str(server.default_namespace),
            "trusted_proxies": [str(network) for network in server.trusted_proxies],
            "forwarded_header": server.forwarded_header,
            "max_hops": server.max_hops,
            "drain": format_duration(server.drain),
            "log": {"format": server.log.format, "level": server.log.level},
        },
        "endpoints": {
            name: {
                "type": spec.type,
                **_plain(spec.options),
                **_cache(spec.cache_store, policy.table.endpoints[name].cache),
                "actions": [str(action) for action in spec.actions],
            }
            for name, spec in policy.endpoints.items()
        },
        "routes": {str(route.pattern): _route(route) for route in policy.table.routes},
    }


def _route(route: Route) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    destination = route.destination
    if destination is not None and destination.deny is not None:
        shown["deny"] = destination.deny
    elif destination is not None:
        shown["endpoints"] = list(destination.endpoints)
        shown["fallback_on"] = sorted(str(reason) for reason in destination.fallback_on)
        if destination.push_to is not None:
            shown["push_to"] = destination.push_to
        if destination.strip:
            shown["strip"] = destination.strip
        shown["on_miss"] = "stream"
    if route.allow:
        shown["allow"] = {
            str(action): [principal.text for principal in setting.value]
            for action, setting in route.allow.items()
        }
    return shown | _cache(None, route.cache)


def _cache(store: str | None, settings: CacheSettings) -> dict[str, Any]:
    shown: dict[str, Any] = {} if store is None else {"store": store}
    for key in ("ttl", "stale_if_error"):
        setting = getattr(settings, key)
        if setting is not None:
            shown[key] = format_duration(setting.value)
    return {"cache": shown} if shown else {}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in options.items():
        match value:
            case Secret():
                shown[key] = str(value)
            case Mapping():
                shown[key] = _plain(value)
            case tuple():
                shown[key] = list(value)
            case float():
                shown[key] = format_duration(value)
            case str():
                shown[key] = redact(value)
            case _:
                shown[key] = value
    return shown


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
