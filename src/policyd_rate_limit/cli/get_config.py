"""``--get-config NAME``: the value of one setting, for scripts."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit import config
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.system.logs import NAME, one_line


def get_config(path: Path | None, name: str) -> Exit:
    """Write the value of setting ``name`` to standard output, without a newline. Raises ConfigError."""
    settings = load(path)
    try:
        value = config.show(settings, name)
    except KeyError:
        click.echo(f"{NAME}: {one_line(name)}: no such setting", err=True)
        return Exit.NO
    # As bytes, since a locale such as C cannot say all that a configuration file can.
    click.echo(value.encode("utf-8", "backslashreplace"), nl=False)
    return Exit.OK
