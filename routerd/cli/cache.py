"""`routerd cache`: what is kept, and what is to be kept."""

from __future__ import annotations

import click

from routerd.cli.warm import warm


@click.group()
def cache() -> None:
    """Look after what is kept."""


cache.add_command(warm)
