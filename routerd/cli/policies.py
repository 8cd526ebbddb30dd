"""Policies on the command line: where the file is, and what is said of one that is refused.

Owns the `--config` option and the printing of diagnostics. Does not own compiling.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from routerd.config.compile import Compilation, Policy, load_policy
from routerd.config.diagnostics import render
from routerd.config.document import Unreadable
from routerd.endpoints.registry import lookup_type

REFUSED = 1  # exit status; click's own for wrong usage is 2
UNREADABLE = 2

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="routerd.yaml",
    envvar="ROUTERD_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The policy.",
)


def load(path: Path, *, environment: bool = True) -> Compilation:
    """Compile a file. Raises `document.Unreadable`."""
    return load_policy(path, environment=os.environ if environment else None, types=lookup_type)


def load_or_exit(path: Path) -> Policy:
    """The policy of a file, its diagnostics printed; ends the program with 1 if it is refused, with
    2 if it cannot be read.
    """
    try:
        compilation = load(path)
    except Unreadable as error:
        click.echo(f"routerd: {error}", err=True)
        sys.exit(UNREADABLE)
    for diagnostic in compilation.diagnostics:
        click.echo(render(diagnostic, compilation.lines), err=True)
    if compilation.policy is None:
        click.echo(f"routerd: {path} is refused", err=True)
        sys.exit(REFUSED)
    return compilation.policy
