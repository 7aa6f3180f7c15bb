"""``convert-config``: a ``.conf`` as ``.yaml``."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import click

from policyd_rate_limit import config
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.config.converting import convert
from policyd_rate_limit.config.finding import search_path
from policyd_rate_limit.config.source import read_text
from policyd_rate_limit.errors import ConfigError, Problem, SystemRefusal
from policyd_rate_limit.system.logs import one_line

MODE = 0o644
MODE_OF_SECRETS = 0o640


@click.command(short_help="Write a .conf file as .yaml.")
@click.argument("file", required=False, type=click.Path(readable=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(writable=False, path_type=Path),
    help="Where to write, - for standard output; else beside FILE, with .yaml in place of .conf.",
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.pass_obj
def command(path: Path | None, file: Path | None, output: Path | None, force: bool) -> Exit:
    """Write a .conf file as .yaml: the same settings, in the same order, with its comments.

    FILE is the one that the daemon would read unless it is named. What differs is told on standard error.
    """
    file = file or path or config.find()
    if file is None or file.suffix != ".conf":
        found = "no configuration file" if file is None else "another one"
        raise ConfigError([Problem(str(file or "configuration"), 0, "", "a name that ends in .conf", found)])
    conversion = convert(read_text(file), str(file))
    for note in conversion.notes:
        click.echo(one_line(note), err=True)
    if output == Path("-"):
        click.echo(conversion.text.encode(), nl=False)
        return Exit.OK
    output = output or file.with_suffix(".yaml")
    _write(output, conversion.text, _mode(file, secret=conversion.secret), _owner(file), force=force)
    click.echo(f"{output} written")
    searched = [found.absolute() for found in search_path()]
    if file.absolute() in searched and output.absolute() in searched[searched.index(file.absolute()) :]:
        click.echo(f"the daemon goes on reading {file} for as long as it is there", err=True)
    return Exit.OK


def _mode(file: Path, *, secret: bool) -> int:
    """Whom the new file is open to: nobody whom the old one is not."""
    return file.stat().st_mode & (MODE_OF_SECRETS if secret else MODE)


def _owner(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_uid, facts.st_gid


def _write(path: Path, text: str, mode: int, owner: tuple[int, int], *, force: bool) -> None:
    """Write the whole file or nothing, and give it to ``owner`` where that is allowed.

    Raises SystemRefusal when the file exists, unless ``force``.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(text.encode())
            file.flush()
            os.fsync(descriptor)
        if force:
            new.replace(path)
        else:
            path.hardlink_to(new)
    except FileExistsError:
        raise SystemRefusal(f"{path} exists; --force replaces it") from None
    finally:
        new.unlink(missing_ok=True)
