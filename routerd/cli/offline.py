"""`routerd cache rebuild` and `rename`: what can only be done while no server runs.

Owns refusing it otherwise, and saying what a rebuilt index cannot know. Does not own doing it.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

import click

from routerd.cli.control import each, is_served, translated
from routerd.cli.policies import REFUSED, config_option, load_or_exit
from routerd.cli.tables import format_option, print_json, size
from routerd.config.settings import Policy
from routerd.content.directory import DirectoryStore
from routerd.content.rebuild import Rebuilt
from routerd.proxy.checking import report
from routerd.proxy.operations import Row
from routerd.proxy.renaming import rename as rename_endpoint
from routerd.runtime.pace import Pace


@click.command()
@click.option("--store", metavar="NAME", help="Only this storage endpoint.")
@config_option
@format_option
def rebuild(store: str | None, config: Path, form: str) -> None:
    """Make the index anew from the content. The server must be stopped.

    Links, tags and who pushed come from the index as far as it can be read, else from its newest
    backup. The index that was there is put aside, below aside/ in the store.
    """
    policy = _stopped(config)
    stores = {
        name: spec.store_path
        for name, spec in policy.endpoints.items()
        if spec.store_path is not None and store in (None, name)
    }
    if store is not None and store not in stores:
        raise click.BadParameter(
            f"the policy has no storage endpoint '{store}'", param_hint="--store"
        )
    rows: list[Row] = []
    for name, path in stores.items():
        if path.is_dir():
            rows += each(_rebuild(name, path), policy.server.data)
    if form == "json":
        print_json(rows)
    else:
        for row in rows:
            _print(row)
    if any(row["kind"] == "damaged" for row in rows):
        sys.exit(REFUSED)


async def _rebuild(name: str, path: Path) -> AsyncGenerator[Row, None]:
    async with aclosing(DirectoryStore(path).rebuild(Pace(math.inf))) as steps:
        async for step in steps:
            if isinstance(step, Rebuilt):
                yield {"kind": "rebuilt", "store": name, **asdict(step)}
            elif step.damage is not None:
                row = report(name, step.damage)
                yield {"kind": row.kind, **asdict(row)}


def _print(row: Row) -> None:
    if row["kind"] == "damaged":
        what = "PUSHED, push it again" if row["pushed"] else "cached, the next pull fetches it"
        click.echo(f"{row['digest']}: {row['why']} ({what})")
        return
    click.echo(
        f"{row['store']}: {row['blobs']} blobs, {size(row['size'])}, {row['manifests']} manifests, "
        f"{row['damaged']} damaged"
    )
    if row["aside"]:
        click.echo(f"  the index that was there: {row['aside']}")
    if row["source"]:
        click.echo(f"  links, tags and who pushed: from {row['source']}")
    else:
        click.echo("  links, tags and who pushed: not known, there is neither index nor backup")
    if row["unseen"]:
        click.echo(
            f"  {row['unseen']} blobs are whole, but which repository may see them is not known: "
            "what was cached is fetched again, what was pushed has to be pushed again"
        )
    for digest in row["lost_manifests"]:
        click.echo(f"    an image without a name: {digest}")
    for name in row["foreign"]:
        click.echo(f"  not routerd's, left alone: {name}")


@click.command()
@click.argument("old")
@click.argument("new")
@config_option
@format_option
def rename(old: str, new: str, config: Path, form: str) -> None:
    """Give what is stored of endpoint OLD to NEW, as the policy calls it now.

    The server must be stopped. A storage endpoint's directory is renamed with it.
    """
    policy = _stopped(config)
    with translated(policy.server.data):
        done = asyncio.run(rename_endpoint(policy, old, new))
    if form == "json":
        print_json([{"kind": done.kind, **asdict(done)}])
        return
    moved = ", and its directory" if done.directory else ""
    click.echo(f"{old} is {new} now: {done.rows} rows of the index{moved}")


def _stopped(config: Path) -> Policy:
    policy = load_or_exit(config)
    data = policy.server.data
    if is_served(data):
        raise click.ClickException(f"a server runs on {data}: stop it first")
    if not data.is_dir():
        raise click.ClickException(f"there is nothing in {data}: is this the server's policy?")
    return policy
