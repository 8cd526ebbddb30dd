"""`routerd serve`: run the proxy in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from routerd.cli.policies import config_option, load_or_exit
from routerd.config.settings import Address
from routerd.content.errors import StoreError
from routerd.runtime.logs import configure
from routerd.web.server import serve as run
from routerd.web.sockets import ListenError


@click.command()
@config_option
@click.option("--listen", metavar="HOST:PORT", help="Listen here instead of `server.listen`.")
def serve(config: Path, listen: str | None) -> None:
    """Serve the registry API as the policy says. SIGTERM drains; a second one ends at once."""
    policy = load_or_exit(config)
    server = policy.server
    if listen is not None:
        try:
            server = dataclasses.replace(server, listen=(Address.parse(listen),))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--listen") from error
    configure(server.log.format, server.log.level)
    try:
        run(dataclasses.replace(policy, server=server))
    except (ListenError, StoreError) as error:
        raise click.ClickException(str(error)) from error
