"""Rows on a terminal or in a file: tables, sizes, times, progress.

Owns how rows look as text and as JSON. Does not own what is in them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from routerd.proxy.operations import Row

_PIPE_COLUMNS = 10_000  # a file has no edge to cut a digest at
_DIGEST_SHOWN = 19  # characters of a digest that people compare: `sha256:` and twelve

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print.",
)


def print_json(rows: Iterable[Row]) -> list[Row]:
    """A JSON array, one row a line, as the rows come; the rows."""
    printed: list[Row] = []
    for row in rows:
        click.echo(("[" if not printed else ",") + json.dumps(row))
        printed.append(row)
    click.echo("]" if printed else "[]")
    return printed


def table(*columns: str) -> Table:
    """An empty table; columns whose name ends with `>` are flushed right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.endswith(">")
        made.add_column(
            column.rstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    return made


def show(found: Table) -> None:
    """Print a table to standard output."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_PIPE_COLUMNS)
    with console.capture() as capture:
        console.print(found)
    # Rich fills lines up to the table's width.
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def progress_bar() -> Progress:
    """Progress in bytes on standard error; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def size(number: int) -> str:
    """Bytes, short."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(seconds: float | None) -> str:
    """UTC seconds as a date and time."""
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%MZ}"


def short(digest: str) -> str:
    """The beginning of a digest; a tag as it is."""
    return digest[:_DIGEST_SHOWN] if digest.startswith(("sha256:", "sha512:")) else digest


def join(words: Sequence[str]) -> str:
    """Words, or a dash."""
    return ", ".join(words) or "-"
