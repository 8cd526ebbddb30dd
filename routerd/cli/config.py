"""`routerd config`: validate, show and describe policies.

Owns what these commands print and their exit status: 0 accepted, 1 refused, 2 wrong usage
or a file that cannot be read, which the others are not kept waiting for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from routerd.cli.policies import REFUSED, UNREADABLE, load, load_or_exit
from routerd.config.cachepolicy import shown as shown_cache
from routerd.config.compile import Policy
from routerd.config.diagnostics import Diagnostic, Severity, render
from routerd.config.document import Unreadable, dump
from routerd.config.durations import format_duration
from routerd.config.schema import schema_text
from routerd.config.secrets import Secret
from routerd.config.settings import AuditSettings, EndpointSpec, WarmRule
from routerd.config.sight import KeyPath, shown_value
from routerd.routing.decision import Route
from routerd.routing.policy import (
    DEFAULT_ALLOW,
    Action,
    CachePolicy,
    CacheSettings,
    Principal,
    Setting,
    cascade,
)

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
    refused = unreadable = False
    results = []
    for path in files:
        try:
            compilation = load(path, environment=not no_environment)
        except Unreadable as error:
            unreadable = True
            click.echo(f"routerd: {error}", err=True)
            results.append({"file": str(path), "accepted": False, "unreadable": str(error)})
            continue
        diagnostics = [d.strict() if strict else d for d in compilation.diagnostics]
        accepted = not any(d.severity is Severity.ERROR for d in diagnostics)
        refused = refused or not accepted
        found = [d.to_json() for d in diagnostics]
        results.append({"file": str(path), "accepted": accepted, "diagnostics": found})
        if form == "text":
            _print(path, diagnostics, compilation.lines)
    if form == "json":
        click.echo(json.dumps(results, indent=2))
    if unreadable or refused:
        sys.exit(UNREADABLE if unreadable else REFUSED)


def _print(path: Path, diagnostics: Sequence[Diagnostic], lines: Sequence[str]) -> None:
    for diagnostic in diagnostics:
        click.echo(render(diagnostic, lines))
    errors = sum(d.severity is Severity.ERROR for d in diagnostics)
    warnings = sum(d.severity is Severity.WARNING for d in diagnostics)
    verdict = "refused" if errors else "accepted"
    click.echo(f"{path}: {verdict}, {_count(errors, 'error')}, {_count(warnings, 'warning')}")


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
            "workers": 1,
            "name": server.name,
            "default_namespace": str(server.default_namespace),
            "trusted_proxies": [str(network) for network in server.trusted_proxies],
            "forwarded_header": server.forwarded_header,
            "max_hops": server.max_hops,
            "drain": format_duration(server.drain),
            "log": {"format": server.log.format, "level": server.log.level},
            "audit": _audit(server.audit),
        },
        # What counts for an action that none of a name's routes speaks of.
        "access": {"default": _principals(DEFAULT_ALLOW)},
        "endpoints": {
            name: {
                "type": spec.type,
                **_plain(_options(spec), ("endpoints", name)),
                **_endpoint_cache(spec.cache_store, policy.table.endpoints[name].cache),
                **_limits(spec),
                "actions": [str(action) for action in spec.actions],
                **({"previous_names": list(spec.previous_names)} if spec.previous_names else {}),
            }
            for name, spec in policy.endpoints.items()
        },
        "routes": {str(route.pattern): _route(route) for route in policy.table.routes},
        **({"warm": [_warm(rule) for rule in policy.warm]} if policy.warm else {}),
    }


def _warm(rule: WarmRule) -> dict[str, Any]:
    platforms = {"platforms": [str(platform) for platform in rule.platforms]}
    return {
        "references": [str(reference) for reference in rule.references],
        **(platforms if rule.platforms else {}),
        "every": format_duration(rule.every),
    }


def _audit(settings: AuditSettings | None) -> dict[str, str] | None:
    if settings is None:
        return None
    return {"file": str(settings.file), "keep": format_duration(settings.keep)}


def _options(spec: EndpointSpec) -> Mapping[str, Any]:
    """A remote's one URL and one account as most policies write them, without a list."""
    if spec.type != "remote":
        return spec.options
    urls = [
        {**each, "auth": each["auth"][0] if len(each["auth"]) == 1 else each["auth"]}
        for each in spec.options["url"]
    ]
    return {**spec.options, **(urls[0] if len(urls) == 1 else {"url": urls})}


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
        shown["allow"] = _principals(route.allow)
    return shown | _route_cache(route.cache)


def _endpoint_cache(store: str | None, settings: CacheSettings) -> dict[str, Any]:
    """What counts where no route says otherwise. A `ttl` that is not written is upstream's."""
    if store is None:
        return {}
    return {"cache": {"store": store, **shown_cache(cascade([settings], CachePolicy()))}}


def _limits(spec: EndpointSpec) -> dict[str, Any]:
    if spec.type != "storage":
        return {}
    most = {} if spec.limits.max_size is None else {"max_size": str(spec.limits.max_size)}
    return {**most, "min_free": str(spec.limits.min_free)}


def _route_cache(settings: CacheSettings) -> dict[str, Any]:
    said = shown_cache(settings)
    return {"cache": said} if said else {}


def _principals(allow: Mapping[Action, Setting[tuple[Principal, ...]]]) -> dict[str, list[str]]:
    return {
        str(action): [principal.text for principal in setting.value]
        for action, setting in allow.items()
    }


def _plain(value: Any, path: KeyPath) -> Any:
    """A value of an endpoint's options, without what may not be shown of it."""
    match value:
        case Secret():
            return str(value)
        case Mapping():
            return {key: _plain(inner, (*path, key)) for key, inner in value.items()}
        case tuple() | list():
            return [_plain(inner, path) for inner in value]
        case float():
            return format_duration(value)
        case str():
            return shown_value(path, value) or "***" if value else value
        case _:
            return value


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
