"""`routerd explain`: where a reference goes, and which line says so.

Owns the text of config-language.md 8. Does not own deciding (`routing/`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from routerd.cli.policies import REFUSED, config_option, load_or_exit
from routerd.config.cachepolicy import shown_value
from routerd.config.compile import Policy
from routerd.oci.errors import DEFAULTS, RegistryError
from routerd.oci.reference import DOCKER_HUB, Reference
from routerd.routing.decision import Refusal, Step
from routerd.routing.explain import Explanation, explain_reference
from routerd.routing.policy import Action, Caller, Origin, Setting

_LABEL = 12  # columns of the left-hand words


@click.command()
@click.argument("reference")
@config_option
@click.option(
    "--action", type=click.Choice([str(a) for a in Action]), default="pull", show_default=True
)
@click.option("--client", metavar="IP", help="Who asks; default: 127.0.0.1.")
def explain(reference: str, config: Path, action: str, client: str | None) -> None:
    """Say where REFERENCE goes, why, and which line of the policy says so.

    Exit status: 0 served, 1 refused.
    """
    policy = load_or_exit(config)
    try:
        parsed = Reference.parse(reference, policy.server.default_namespace)
    except RegistryError as error:
        raise click.BadParameter(error.message, param_hint="REFERENCE") from error
    try:
        caller = Caller(ip_address(client or "127.0.0.1"))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--client") from error
    explanation = explain_reference(policy.table, parsed, Action(action), caller)
    for line in lines(policy, explanation):
        click.echo(line.rstrip())
    if explanation.decision.refusal is not None:
        sys.exit(REFUSED)


def lines(policy: Policy, explanation: Explanation) -> Iterator[str]:
    """The explanation, line by line."""
    reference, caller = explanation.reference, explanation.caller
    yield (
        f"{reference}  {explanation.action}  anonymous from {caller.address}"
        f"        policy {policy.path.name} sha256:{policy.fingerprint[:6]}"
    )
    decision = explanation.decision
    if decision.refusal is not None:
        yield _row("refused", _refusal(decision.refusal))
    for position, step in enumerate(decision.steps):
        yield _row("served by" if position == 0 else "then", _served_by(policy, step, reference))
    for step in explanation.steps:
        place = f"{step.route.origin}  {step.route.pattern}"
        yield _row("endpoints", f"{step.endpoint:<12} {place}")
    for action, setting in explanation.allow.items():
        if action is Action.PULL:
            who = ", ".join(principal.text for principal in setting.value) or "nobody"
            yield _row("pull", f"{who:<12} {setting.origin}")
    if explanation.steps and policy.endpoints[explanation.steps[0].endpoint].cache_store:
        cache = explanation.steps[0].cache
        yield _row("ttl", _setting(policy, cache.ttl))
        yield _row("stale", _setting(policy, cache.stale_if_error))
        for field in fields(cache):
            setting = getattr(cache, field.name)
            if setting.origin.line and field.name not in ("ttl", "stale_if_error"):
                yield _row("cache", _setting(policy, setting, f"{field.name} "))
    yield _row("push", _push(explanation))
    yield "  routes, narrowest first"
    for number, row in enumerate(explanation.rows, start=1):
        yield f"    {number}  {row.route.pattern!s:<24} {row.route.origin}  {row.note}"
    if not explanation.rows:
        yield f"    none matches {reference.repository}"
    by_digest = [step.endpoint for step in explanation.by_digest]
    only = " only" if len(by_digest) == 1 else ""
    yield _row("by digest", ", then ".join(by_digest) + only if by_digest else "not served")
    yield _row("reached as", " | ".join(_styles(policy, reference)))


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"


def _served_by(policy: Policy, step: Step, reference: Reference) -> str:
    spec = policy.endpoints[step.endpoint]
    words = [step.endpoint]
    if spec.type == "remote":
        first, *others = spec.options["url"]
        base, prefix = _split(str(first["url"]))
        what = reference.in_path
        words.append(f"{base}/v2/{prefix}{step.repository.name}/manifests/{what}")
        kept = f", cached in {spec.cache_store}" if spec.cache_store else ", nothing kept"
        words.append(_logins(first["auth"]) + kept)
        words += [f"then {_split(str(other['url']))[0]}" for other in others]
        words += ["offline: never asked"] if spec.options["offline"] else []
    else:
        words.append(f"{spec.type} {step.repository}")
    return "  ".join(words)


def _logins(accounts: Sequence[Mapping[str, Any]]) -> str:
    named = [
        {"basic": f"login {account.get('username')}", "bearer": "a token"}.get(
            account["type"], "no login"
        )
        for account in accounts
    ]
    return ", ".join(named) + (" in turn" if len(named) > 1 else "")


def _split(url: str) -> tuple[str, str]:
    base, _, prefix = url.rstrip("/").partition("/v2/")
    return base.removesuffix("/v2"), f"{prefix}/" if prefix else ""


def _push(explanation: Explanation) -> str:
    push = explanation.push
    if push.refusal is None:
        return f"to {push.steps[0].endpoint}"
    return f"refused, {_refusal(push.refusal)}"


def _refusal(refusal: Refusal) -> str:
    return f"{DEFAULTS[refusal.code][0]} {refusal.code}: {refusal.message}"


def _setting(policy: Policy, setting: Setting[Any], name: str = "") -> str:
    text = name + _words(shown_value(setting.value))
    return f"{text:<{28 if name else 12}} {_said_by(policy, setting.origin)}"


def _words(value: Any) -> str:
    """A setting's value on one line."""
    match value:
        case dict():
            said = (
                key if inner is True else f"{key} {_words(inner)}" for key, inner in value.items()
            )
            return ", ".join(said)
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _said_by(policy: Policy, origin: Origin) -> str:
    if not origin.line:
        return "default"
    for name, rule in policy.table.endpoints.items():
        said = [getattr(rule.cache, field.name) for field in fields(rule.cache)]
        if any(setting is not None and setting.origin == origin for setting in said):
            return f"{origin}  endpoint {name}"
    return str(origin)


def _styles(policy: Policy, reference: Reference) -> Iterator[str]:
    """The request styles of protocol.md 1 that this version serves (S5, S1, S2)."""
    repository = reference.repository
    joint = "@" if reference.tag is None else ":"
    name = repository.name
    if repository.namespace == policy.server.default_namespace:
        short = name
        if repository.namespace == DOCKER_HUB and name.count("/") == 1:
            short = name.removeprefix("library/")
        yield f"{short}{joint}{reference.in_path} (dockerd mirror)"
    yield f"?ns={repository.namespace}"
    if policy.table.is_configured(repository.namespace):
        yield f"/v2/{repository}"
