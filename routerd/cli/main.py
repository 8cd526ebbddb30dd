"""The command `routerd` and what stands below it."""

from __future__ import annotations

import click

from routerd import __version__
from routerd.cli.audit import audit
from routerd.cli.cache import cache
from routerd.cli.config import config
from routerd.cli.explain import explain
from routerd.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="routerd")
def main() -> None:
    """A declarative routing proxy and pull-through cache for container registries."""


main.add_command(serve)
main.add_command(config)
main.add_command(cache)
main.add_command(explain)
main.add_command(audit)
