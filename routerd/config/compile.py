"""A policy file into a Policy: all of it, or all of its problems at once.

Owns names and what they refer to. Does not own form (`schema.py`), endpoints' own keys
(`endpoint.py`), routes (`route.py`) or what compiles but is doubtful (`checks.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from routerd.config.checks import run_checks
from routerd.config.context import Context
from routerd.config.diagnostics import Diagnostic, Severity, in_order
from routerd.config.document import Document, load
from routerd.config.endpoint import compile_endpoints
from routerd.config.route import compile_routes
from routerd.config.schema import TypeLookup, check
from routerd.config.server import compile_server
from routerd.config.settings import Policy
from routerd.config.shorthand import expand
from routerd.config.warm import compile_warm
from routerd.routing.table import RouteTable

__all__ = ["Compilation", "Policy", "load_policy"]


@dataclass(frozen=True, slots=True)
class Compilation:
    """What came of a file: the policy, None where an error refuses it, and every diagnostic."""

    policy: Policy | None
    diagnostics: tuple[Diagnostic, ...]
    lines: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Whether an error refuses the file."""
        return any(d.severity is Severity.ERROR for d in self.diagnostics)


def load_policy(
    path: Path, *, environment: Mapping[str, str] | None, types: TypeLookup
) -> Compilation:
    """Compile the file. `environment` None: without variables and secret files
    (`--no-environment`). Raises `document.Unreadable`.
    """
    document = load(path)
    policy = None
    if document.values or not document.problems:
        policy = _compile(document, path, environment, types)
    problems = in_order(document.problems)
    refused = any(problem.severity is Severity.ERROR for problem in problems)
    return Compilation(None if refused else policy, problems, tuple(document.lines))


def _compile(
    document: Document, path: Path, environment: Mapping[str, str] | None, types: TypeLookup
) -> Policy:
    expand(document)
    bad = check(document, types)
    context = Context(document, bad, environment, path.absolute().parent)
    server = compile_server(context)
    endpoints, rules = compile_endpoints(context, server, types)
    routes = compile_routes(context, server, endpoints, rules)
    table = RouteTable(routes, rules)
    run_checks(context, server, endpoints, table)
    warm = compile_warm(context, server, endpoints, table)
    fingerprint = hashlib.sha256(document.data).hexdigest()
    return Policy(server, endpoints, table, warm, path, fingerprint)
