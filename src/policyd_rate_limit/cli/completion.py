"""``completion SHELL``: what makes a shell complete this command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from policyd_rate_limit.cli import COMPLETION_VARIABLE
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.system.logs import NAME

SHELLS = ("bash", "fish", "zsh")


@click.command(short_help="Write the script for completion by a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> Exit:
    """Write the script that makes a shell complete this command.

    For bash, into /usr/share/bash-completion/completions/policyd-rate-limit; for fish, into
    /usr/share/fish/vendor_completions.d/policyd-rate-limit.fish; for zsh, into
    /usr/share/zsh/vendor-completions/_policyd-rate-limit.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click knows all of SHELLS
    click.echo(kind(context.find_root().command, {}, NAME, COMPLETION_VARIABLE).source())
    return Exit.OK
