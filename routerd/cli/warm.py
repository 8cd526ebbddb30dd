"""`routerd cache warm`: images fetched ahead, with bars on a terminal and a line an event as JSON.

Owns the command and what it prints. Does not own fetching (`proxy/warm.py`) or who does it
(`control.py`): a running server, else this process on the data of a stopped one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from routerd.cli.control import rows_of
from routerd.cli.policies import REFUSED, config_option, load_or_exit
from routerd.oci.errors import RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference

_SHORT = 19  # characters of a digest that tell one from the other: sha256: and twelve more


class PlatformType(click.ParamType[Platform]):
    """`os/architecture[/variant]`."""

    name = "platform"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Platform:
        """As `click.ParamType` says."""
        try:
            return Platform.parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@click.argument("references", metavar="REF...", nargs=-1)
@click.option(
    "--platform",
    "platforms",
    type=PlatformType(),
    multiple=True,
    help="Of an index, only this one. May be repeated; default: all.",
)
@click.option(
    "--file", "listed", type=click.File(), help="A reference a line, '#' for comments; - for stdin."
)
@config_option
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def warm(
    references: tuple[str, ...],
    platforms: tuple[Platform, ...],
    listed: TextIO | None,
    config: Path,
    form: str,
) -> None:
    """Fetch images into the cache before anybody asks for them.

    Whole images, the way of a client's pull, behind what clients wait for. A server that runs does
    it; where none runs on this data, this command does. Exit status: 0 all is there, 1 something
    is missing.
    """
    policy = load_or_exit(config)
    wanted = [*references, *(_lines(listed) if listed is not None else ())]
    if not wanted:
        raise click.UsageError("name what to fetch: REF..., or --file LIST")
    try:
        parsed = [Reference.parse(text, policy.server.default_namespace) for text in wanted]
    except RegistryError as error:
        raise click.BadParameter(error.message, param_hint="REF") from error
    arguments = {"references": list(map(str, parsed)), "platforms": list(map(str, platforms))}
    if not _show(rows_of(policy, "warm", arguments, begins=True), form):
        sys.exit(REFUSED)


def _lines(file: TextIO) -> Iterator[str]:
    for line in file:
        if text := line.partition("#")[0].strip():
            yield text


def _show(rows: Iterable[Mapping[str, Any]], form: str) -> bool:
    """Print what comes; whether every image is whole."""
    complete = True
    screen = _Json() if form == "json" else _Bars()
    with screen:
        for row in rows:
            complete = complete and row.get("result", "warm") == "warm"
            screen.show(row)
    return complete


class _Json:
    """A line an event."""

    def __enter__(self) -> _Json:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def show(self, row: Mapping[str, Any]) -> None:
        """Print it at once: who reads it may be waiting."""
        click.echo(json.dumps(row))
        sys.stdout.flush()


class _Bars:
    """A bar for each blob that is being fetched, and a line for each image that is done with.

    Where the output is no terminal there are no bars.
    """

    def __init__(self) -> None:
        console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._console = console
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def show(self, row: Mapping[str, Any]) -> None:
        """Move a bar, or print what came of an image."""
        if row["kind"] == "image":
            for line in _outcome(row):
                self._console.print(line, markup=False)  # a message may hold brackets
            for bar in self._bars.values():
                self._progress.remove_task(bar)
            self._bars.clear()
        elif row["part"] == "blob":
            content = row["content"]
            if content not in self._bars:
                self._bars[content] = self._progress.add_task(content[:_SHORT], total=row["size"])
            self._progress.update(self._bars[content], completed=row["done"], total=row["size"])


def _outcome(row: Mapping[str, Any]) -> Iterator[str]:
    reference, failed = row["reference"], row["failed"]
    if row["result"] == "failed":
        yield f"{reference}  not fetched: {failed[0]}"
        return
    size = f"{row['bytes'] / 1e6:,.1f} MB"
    yield f"{reference}  {row['digest']}  {row['blobs']} blobs, {size}"
    for why in failed:
        yield f"{reference}  missing: {why}"
