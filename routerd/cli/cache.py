"""`routerd cache`: what is stored, and what can be done with it.

Owns these commands' arguments, output and exit status: 0 done, 1 refused, failed or damage found, 2
wrong usage. Does not own who does it (`control.py`) or the offline ones (`offline.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from routerd.cli.control import rows_of
from routerd.cli.offline import rebuild, rename
from routerd.cli.policies import REFUSED, config_option, load_or_exit
from routerd.cli.tables import (
    format_option,
    join,
    moment,
    print_json,
    progress_bar,
    short,
    show,
    size,
    table,
)
from routerd.cli.warm import warm
from routerd.proxy.operations import Row
from routerd.runtime.logs import configure

_RATE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>|B|[KMG]i?B)")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

reference_argument = click.argument("reference", metavar="REFERENCE")
endpoint_option = click.option(
    "--endpoint", metavar="NAME", help="Only what this endpoint has, whatever the routes say."
)


@click.group()
def cache() -> None:
    """See and change what is stored.

    A running server is asked through the control socket in its data directory; a stopped one's data
    is used as it lies there.
    """
    configure("text", "warning")


cache.add_command(rebuild)
cache.add_command(rename)
cache.add_command(warm)


@cache.command()
@click.argument("repository", metavar="[GLOB]", required=False)
@click.option("--endpoint", metavar="NAME", help="Only what this endpoint has.")
@config_option
@format_option
def ls(repository: str | None, endpoint: str | None, config: Path, form: str) -> None:
    """List the tags that are stored, and the manifests without one.

    GLOB is one over the repository's whole name, as its endpoint calls it. SIZE is what is stored of an
    image with all its parts; parts that images share are counted for each.
    """
    policy = load_or_exit(config)
    rows = rows_of(policy, "ls", {"endpoint": endpoint, "repository": repository})
    if form == "json":
        print_json(rows)
        return
    found = table("ENDPOINT", "REPOSITORY", "REFERENCE", "SIZE>", "PULLED", "PUSHED BY", "NOTE")
    for row in rows:
        notes = [word for word in ("pinned", "damaged") if row[word]]
        pushed = "-" if row["pushed_by"] is None else row["pushed_by"] or "unknown"
        found.add_row(
            row["endpoint"],
            row["repository"],
            short(row["reference"]),
            size(row["bytes"]),
            moment(row["pulled_at"]),
            pushed,
            ", ".join(notes),
        )
    show(found)


@cache.command()
@config_option
@format_option
def stat(config: Path, form: str) -> None:
    """Sum up what is stored, and how the stores are doing."""
    rows = rows_of(load_or_exit(config), "stat", {})
    if form == "json":
        print_json(rows)
        return
    for row in rows:
        click.echo(
            f"{row['store']}: {row['blobs']} blobs, {size(row['bytes'])}, "
            f"{size(row['free'])} of {size(row['capacity'])} free"
        )
        click.echo(
            f"  damaged {row['damaged']}, in quarantine {row['quarantined']}, "
            f"seen by nobody {row['unlinked']}"
        )
        click.echo(
            f"  all checked {moment(row['checked_at'])}, "
            f"{row['backups']} index backups, the newest {moment(row['backed_up_at'])}"
        )
        found = table("  ENDPOINT", "REPOSITORIES>", "TAGS>", "MANIFESTS>", "BLOBS>", "SIZE>")
        for one in row["endpoints"]:
            counts = [str(one[key]) for key in ("repositories", "tags", "manifests", "blobs")]
            found.add_row(f"  {one['endpoint']}", *counts, size(one["size"]))
        show(found)


@cache.command()
@reference_argument
@endpoint_option
@config_option
@format_option
def purge(reference: str, endpoint: str | None, config: Path, form: str) -> None:
    """Forget the cached copies of REFERENCE, so that the next pull asks upstream.

    What other tags of the repository need stays. What was pushed is never purged.
    """
    for row in _on_copies("purge", reference, endpoint, config, form):
        click.echo(
            f"{row['endpoint']} {row['repository']}: forgot {row['tags']} tags, "
            f"{row['manifests']} manifests, {row['blobs']} blobs; {size(row['freed'])} unused now"
        )


@cache.command()
@reference_argument
@endpoint_option
@config_option
@format_option
def refresh(reference: str, endpoint: str | None, config: Path, form: str) -> None:
    """Ask upstream for REFERENCE now, however fresh it is.

    An immutable tag may become another digest by this, and only by this.
    """
    # As they come, not as a list: after the last one they may end the program.
    for row in _on_copies("refresh", reference, endpoint, config, form):
        where = f"{row['endpoint']} {row['repository']}:"
        if row["error"]:
            click.echo(f"{where} {row['error']}", err=True)
        elif row["before"] == row["after"]:
            click.echo(f"{where} is {row['after']}, as before")
        else:
            click.echo(f"{where} is {row['after']}, was {row['before'] or 'not stored'}")


@cache.command()
@reference_argument
@endpoint_option
@config_option
@format_option
def pin(reference: str, endpoint: str | None, config: Path, form: str) -> None:
    """Keep the cached copies of REFERENCE from being swept."""
    for row in _on_copies("pin", reference, endpoint, config, form):
        note = "" if row["stored"] else " (nothing is stored yet)"
        click.echo(f"{row['endpoint']} {row['repository']}: pinned {row['reference']}{note}")


@cache.command()
@reference_argument
@endpoint_option
@config_option
@format_option
def unpin(reference: str, endpoint: str | None, config: Path, form: str) -> None:
    """Take the pin of REFERENCE away."""
    for row in _on_copies("unpin", reference, endpoint, config, form):
        click.echo(f"{row['endpoint']} {row['repository']}: unpinned {row['reference']}")


def _on_copies(
    name: str, reference: str, endpoint: str | None, config: Path, form: str
) -> Iterable[Row]:
    """The rows to be printed as text; none where they were printed as JSON. A row that failed ends
    the program with 1 after the last.
    """
    arguments = {"reference": reference, "endpoint": endpoint}
    rows = rows_of(load_or_exit(config), name, arguments)
    found = print_json(rows) if form == "json" else []
    for row in found or rows:
        if form == "text":
            found.append(row)
            yield row
    if any(row.get("error") for row in found):
        sys.exit(REFUSED)


@cache.command()
@config_option
@format_option
def gc(config: Path, form: str) -> None:
    """Sweep now: remove what was cached and is over its `retain`, and bytes that nobody sees.

    What was pushed or pinned stays. A server does this by itself, every hour and when room is short.
    """
    rows = rows_of(load_or_exit(config), "gc", {})
    if form == "json":
        print_json(rows)
        return
    for row in rows:
        if row["skipped"]:
            click.echo(f"{row['store']}: is being swept already")
            continue
        click.echo(
            f"{row['store']}: forgot {row['manifests']} manifests, {row['links']} links; "
            f"{row['blobs']} blobs, {size(row['bytes'])} freed; {row['pinned']} kept by pins"
        )


@cache.command()
@click.option("--store", metavar="NAME", help="Only this storage endpoint.")
@click.option("--rate", default="64MiB", show_default=True, help="At most so much a second.")
@config_option
@format_option
def verify(store: str | None, rate: str, config: Path, form: str) -> None:
    """Hash everything stored again. What is wrong is no longer served and goes into quarantine.

    Exit status: 0 all is right, 1 something was not. What is cached is fetched again; what was pushed
    has to be pushed again.
    """
    arguments = {"store": store, "rate": _bytes(rate)}
    rows = list(_with_progress(rows_of(load_or_exit(config), "verify", arguments)))
    if form == "json":
        print_json(rows)
    else:
        for row in rows:
            _print_verified(row)
    if any(row["kind"] == "damaged" or row.get("index") for row in rows):
        sys.exit(REFUSED)


def _with_progress(rows: Iterable[Row]) -> Iterable[Row]:
    """The rows without those of progress, which are shown."""
    with progress_bar() as bar:
        tasks = {}
        for row in rows:
            if row["kind"] != "progress":
                yield row
                continue
            if row["store"] not in tasks:
                tasks[row["store"]] = bar.add_task(row["store"])
            bar.update(tasks[row["store"]], total=row["of_bytes"], completed=row["bytes"])


def _print_verified(row: Row) -> None:
    if row["kind"] == "damaged":
        click.echo(f"{row['digest']}: {row['why']}")
        click.echo(f"  seen in     {join(row['repositories'])}")
        click.echo(f"  listed by   {join(row['listed_by'])}")
        if row["served"]:
            click.echo("  disk        look after it, then verify again")
        elif row["pushed"]:
            click.echo(f"  PUSHED by   {join(row['pushed_by'])}: push it again, or restore it")
        else:
            click.echo("  cached      to be fetched again")
        if row["quarantined"]:
            click.echo(f"  quarantine  {row['quarantined']}")
        return
    if row["kind"] == "refetched":
        not_yet = f"not fetched again, which the next pull does: {row['error']}"
        click.echo(f"{row['digest']}: {not_yet if row['error'] else 'fetched again'}")
        return
    click.echo(
        f"{row['store']}: {row['blobs']} blobs, {size(row['bytes'])} checked, "
        f"{row['damaged']} damaged"
    )
    if row["index"]:
        click.echo(f"  the index is damaged, run `routerd cache rebuild`: {row['index']}")
    for name in row["foreign"]:
        click.echo(f"  not routerd's, left alone: {name}")


def _bytes(text: str) -> float:
    match = _RATE.fullmatch(text.strip())
    if match is None or not float(match["number"]):
        raise click.BadParameter(f"'{text}' is not a size such as 64MiB", param_hint="--rate")
    return float(match["number"]) * _UNITS[match["unit"]]
