"""The command ``policyd-rate-limit``.

Without a subcommand it is the daemon, or does what its old flags ask for. What an action needs is imported when it
is asked for: scripts call ``--version`` and ``--get-config``.
"""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import shell_complete

from policyd_rate_limit import __version__
from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.exits import Exit, status_of, tell
from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.system import signals
from policyd_rate_limit.system.logs import NAME

COMMANDS = {
    "status": "status",
    "top": "top",
    "history": "history",
    "reset": "reset",
    "allow": "allow",
    "block": "block",
    "revoke": "revoke",
    "shadow": "shadow",
    "audit": "audit",
    "copy-to": "copy_to",
    "suggest": "suggest",
    "explain": "explain",
    "simulate": "simulate",
    "check-config": "check_config",
    "convert-config": "convert_config",
    "doctor": "doctor",
    "web": "web",
    "web-user": "web_user",
    "web-token": "web_token",
    "completion": "completion",
}
"""The subcommands, in the order of the help: each is ``command`` of the module of :mod:`policyd_rate_limit.cli` that
is named here. It gets the path of ``-f``, or None, with ``click.pass_obj`` and returns an :class:`Exit`."""

COMPLETION_VARIABLE = "_POLICYD_RATE_LIMIT_COMPLETE"
"""Of the environment: with it the shell asks how a command line may go on."""

_STATUSES = "\b\nExit status:\n" + "\n".join(
    # click breaks none of these lines, and indents them by two.
    textwrap.fill(f"{status:4d}  {status.meaning}", 76, subsequent_indent=" " * 6)
    for status in Exit
)


class _Commands(click.Group):
    """The subcommands of COMMANDS, each imported when it is called or when all are listed."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[name]}")
        found: click.Command = module.command
        return found


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="[COMMAND ...]",
    epilog=_STATUSES,
)
@click.version_option(__version__, prog_name=NAME, message="%(prog)s %(version)s")
@click.option(
    "-f",
    "--file",
    "path",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),  # what is wrong with it is for the configuration to say
    help="The configuration file, instead of policyd-rate-limit.conf or .yaml in ~/.config or /etc.",
)
@click.option(
    "--clean",
    "do_clean",
    is_flag=True,
    help="Delete old records from the database, mail the report if one is asked for, and end.",
)
@click.option(
    "--get-config",
    "setting",
    metavar="NAME",
    shell_complete=completing.settings,
    help="Write the value of a setting, and end; dots reach into it (sqlite_config.database).",
)
@click.pass_context
def command(context: click.Context, path: Path | None, do_clean: bool, setting: str | None) -> Exit:
    """Limit how many mails each user, sender or client address sends: a policy server for Postfix.

    Without a command, --clean and --get-config it serves until SIGTERM, SIGINT or SIGUSR1.
    """
    if context.invoked_subcommand is not None or setting is not None or do_clean:
        signals.release()
    if context.invoked_subcommand is not None:
        if do_clean or setting is not None:
            raise click.UsageError("--clean and --get-config go with no command")
        context.obj = path
        return Exit.OK  # of no meaning: the command has a status of its own
    if setting is not None:
        from policyd_rate_limit.cli.get_config import get_config

        return get_config(path, setting)
    if do_clean:
        from policyd_rate_limit.cli.clean import clean

        return clean(path)
    from policyd_rate_limit.cli.run import run

    return run(path)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with ``arguments`` (the process's own when None) and end the process."""
    _open_standard_descriptors()
    status = _run(sys.argv[1:] if arguments is None else arguments)
    try:
        if sys.stdout is not None:  # it is None when the caller closed it
            sys.stdout.flush()
    except OSError:
        # The disk is full or our reader is gone. That has been told, and must not fail again as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _run(arguments: Sequence[str]) -> int:
    """The exit status of the command; what went wrong has been told."""
    # Not command.main(): it has exit statuses of its own, whatever it is asked for.
    try:
        if asked := os.environ.get(COMPLETION_VARIABLE):
            return shell_complete(command, {}, NAME, COMPLETION_VARIABLE, asked)
        with command.make_context(NAME, list(arguments)) as context:
            return int(command.invoke(context))
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.RUN_TIME  # as silent as any filter whose reader has read enough
    except (PolicydError, OSError) as error:
        tell(error)
        return status_of(error)
    except Exception:  # noqa: BLE001 - the last resort of the process
        traceback.print_exc()
        return Exit.SOFTWARE


def _open_standard_descriptors() -> None:
    """Open what the caller closed of 0, 1 and 2, lest the log go to a file that got the number 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
