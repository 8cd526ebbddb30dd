"""`routerd audit`: who pulled, pushed and deleted what.

Owns the options and the two forms of the output. Does not own reading the trail
(`proxy/auditlog.py`). It reads files, so it serves a running server and a stopped one alike.
"""

from __future__ import annotations

import math
import sys
import time
from datetime import UTC, date, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click

from routerd.cli.policies import REFUSED, config_option, load_or_exit
from routerd.config.durations import parse_duration
from routerd.config.settings import AuditSettings
from routerd.oci.errors import RegistryError
from routerd.proxy.audit import AuditEntry, Gap, format_time, parse_time
from routerd.proxy.auditlog import Unreadable, Wanted, read
from routerd.routing.grammar import BadPattern
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action, IPNetwork
from routerd.runtime.dayfiles import DayFiles

# Columns of what varies least, so that lines can be printed as they are read. What does not fit pushes
# the rest of its line to the right, and nothing is cut.
_WIDTHS = (24, 15, 8, 6, 6, 11, 8, 12)
_HEADS = ("TIME", "CLIENT", "USER", "ACTION", "STATUS", "CACHE", "BYTES", "ENDPOINT", "REFERENCE")


class When(click.ParamType[float]):
    """UTC seconds of a day, a time, or a duration before now."""

    name = "when"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As `click.ParamType` says."""
        for parse in (_before_now, _day, parse_time):
            try:
                return parse(value)
            except ValueError:
                continue
        raise click.BadParameter(
            f"'{value}' is not a day such as 2027-03-01, a time such as 2027-03-01T12:00:00Z "
            "or a duration before now such as 2h",
            ctx,
            param,
        )


class Network(click.ParamType[IPNetwork]):
    """An address or a network."""

    name = "network"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPNetwork:
        """As `click.ParamType` says."""
        try:
            return ip_network(value, strict=False)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@config_option
@click.option("--since", type=When(), help="From here on: 2027-03-01, a time, or 2h (ago).")
@click.option("--until", type=When(), help="Up to here, excluded.")
@click.option("--repository", metavar="PATTERN", help="A pattern as in `routes`.")
@click.option("--action", type=click.Choice([str(a) for a in Action]))
@click.option("--client", type=Network(), help="An address or a network.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def audit(
    config: Path,
    since: float | None,
    until: float | None,
    repository: str | None,
    action: str | None,
    client: IPNetwork | None,
    form: str,
) -> None:
    """Print the audit trail, oldest first: every pull, push and deletion of a manifest.

    `--format json` prints the lines as they are kept, for jq and the like. Lines that cannot be
    read are left out, and said on standard error.
    """
    policy = load_or_exit(config)
    settings = policy.server.audit
    if settings is None:
        click.echo("routerd: this policy keeps no audit trail: 'server.audit' is null", err=True)
        sys.exit(REFUSED)
    try:
        default = policy.server.default_namespace
        pattern = None if repository is None else Pattern.parse(repository, default)
    except (BadPattern, RegistryError) as error:
        raise click.BadParameter(str(error), param_hint="--repository") from error
    wanted = Wanted(
        -math.inf if since is None else since,
        math.inf if until is None else until,
        pattern,
        None if action is None else Action(action),
        client,
    )
    _print(settings, wanted, form)


def _print(settings: AuditSettings, wanted: Wanted, form: str) -> None:
    files = DayFiles(settings.file, settings.keep)
    as_text = form == "text"
    shown = 0
    try:
        for found in read(files, wanted):
            if isinstance(found, Unreadable):
                _say_unreadable(found)
            elif as_text:
                if not shown:
                    click.echo(_row(_HEADS))
                click.echo(row(found.entry))
                shown += 1
            else:
                click.echo(found.line.decode(), nl=False)
        if not shown and not files.days():
            click.echo(f"routerd: nothing has been written to {settings.file} yet", err=True)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error


def row(entry: AuditEntry | Gap) -> str:
    """One entry as a line of the table."""
    if isinstance(entry, Gap):
        return f"{format_time(entry.time)}  -- {entry.lost} entries were lost before this --"
    reference = entry.reference
    if entry.digest is not None and not reference.endswith(entry.digest):
        reference += f"  {entry.digest}"
    return _row(
        (
            format_time(entry.time),
            entry.client or "-",
            entry.user,
            entry.action,
            str(entry.status),
            entry.cache or "-",
            str(entry.transferred),
            entry.endpoint or "-",
            reference,
        )
    )


def _row(cells: tuple[str, ...]) -> str:
    *padded, last = cells
    return "  ".join([*(f"{c:<{w}}" for c, w in zip(padded, _WIDTHS, strict=True)), last])


def _say_unreadable(found: Unreadable) -> None:
    lines = "1 line is" if found.count == 1 else f"{found.count} lines are"
    click.echo(
        f"routerd: {found.path}: {lines} no entry and left out (line {found.first}): "
        "torn by a kill or a full disk, or not ours",
        err=True,
    )


def _before_now(text: str) -> float:
    return max(0.0, time.time() - parse_duration(text))


def _day(text: str) -> float:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC).timestamp()
