"""``doctor``: what is wrong with Postfix, the configuration, the database and the clock."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import words
from policyd_rate_limit.cli.output import is_terminal, json_option, width, write_json
from policyd_rate_limit.doctor import Finding, Severity, examine
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.system.logs import one_line

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}
_WIDTH = 100  # of what is explained, at the most
_BELOW = " " * 8


@click.command(short_help="Say what is wrong on this host.")
@click.option(
    "--postfix-config",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The directory of main.cf and master.cf, if not Postfix's own.",
)
@click.option("--postconf", metavar="PROGRAM", type=click.Path(path_type=Path), help="If not the first in PATH.")
@click.option(
    "--ignore",
    metavar="CHECK",
    multiple=True,
    shell_complete=completing.checks,
    help="Leave out findings of that name, such as clock.",
)
@json_option
@click.pass_obj
def command(
    path: Path | None, directory: Path | None, postconf: Path | None, ignore: tuple[str, ...], as_json: bool
) -> Exit:
    """Look at Postfix, the configuration, the database and the clock of this host, and say what is wrong.

    It changes nothing. As root it tries everything with the right account: smtpd's user in its chroot, the daemon's
    user in its database. Exits with 1 when there is an error or a warning.
    """
    findings = [finding for finding in examine(path, postconf, directory) if finding.check not in ignore]
    if as_json:
        write_json({"findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            _tell(finding)
        counted = Counter(finding.severity for finding in findings)
        click.echo(f"{quantity(counted[Severity.ERROR], 'error')}, {quantity(counted[Severity.WARNING], 'warning')}")
    return Exit.NO if any(finding.severity.is_wrong for finding in findings) else Exit.OK


def _tell(finding: Finding) -> None:
    severity = click.style(f"{finding.severity:7}", fg=_COLOURS[finding.severity])
    place, found = one_line(finding.place), one_line(finding.found)
    ok = finding.severity is Severity.OK
    # A line of a pipe is for grep.
    room = width() - len(_BELOW) if is_terminal() else None
    first, *below = words(f"{finding.check}: {place}: {found}" if ok else f"{finding.check}: {place}", room)
    click.echo(f"{severity} {first}")
    if not ok:
        below += words(f"{found}. {finding.why}", min(_WIDTH, width() - len(_BELOW)))
    for line in below:
        click.echo(f"{_BELOW}{line}")
    for line in finding.mend.splitlines():
        click.echo(f"          {line}")
