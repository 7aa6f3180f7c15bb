"""``check-config``: what is wrong with a configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from policyd_rate_limit import config
from policyd_rate_limit.admin import maintenance
from policyd_rate_limit.admin.rule_words import paragraph
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import words
from policyd_rate_limit.cli.output import json_option, width, write_json
from policyd_rate_limit.cli.process import look_at
from policyd_rate_limit.errors import ConfigError, Problem
from policyd_rate_limit.language.wording import english
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system.accounts import drop_privileges
from policyd_rate_limit.system.logs import NAME, one_line


@click.command(short_help="Say what is wrong in a configuration file.")
@click.argument("file", required=False, type=click.Path(readable=False, path_type=Path))
@click.option(
    "--pid",
    metavar="PID",
    type=click.IntRange(1),
    help="Check the file that the daemon of this process id was started with, before it is to reload.",
)
@click.option(
    "--explain", is_flag=True, help="Also tell in words what each rule does: to whom, how much, when, and what then."
)
@json_option
@click.pass_obj
def command(path: Path | None, file: Path | None, pid: int | None, explain: bool, as_json: bool) -> Exit:
    """Say all that is wrong, or odd, in a configuration file.

    FILE is the one that the daemon would read unless it is named. Exits with 1 when the daemon would not start with it.
    """
    if pid is not None:
        if file is not None or path is not None:
            raise click.UsageError("--pid goes without a file")
        file = _as_the_daemon(pid)
    problems: tuple[Problem, ...] = ()
    rules: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    file = file or path or config.find()
    try:
        settings, warnings = config.load(file)
        warnings = (*warnings, *maintenance.check(settings))
        if explain:
            rules = {
                rule.name: f"{rule.name}: {paragraph(rule, settings, english())}"
                for rule in make_rules(settings, make_subjects(settings), None)
            }
    except ConfigError as error:
        problems, warnings = error.problems, (*warnings, *error.warnings)
    if as_json:
        told = {
            "file": None if file is None else str(file),
            "errors": [_facts(problem) for problem in problems],
            "warnings": list(warnings),
        }
        write_json({**told, "rules": rules} if explain else told)
    else:
        for problem in problems:
            click.echo(f"error: {one_line(str(problem))}")
        for warning in warnings:
            click.echo(f"warning: {one_line(warning)}")
        if not problems and not warnings:
            click.echo(f"{file}: nothing wrong")
        for text in rules.values():
            click.echo("\n" + "\n".join(words(one_line(text), width())))
    return Exit.NO if problems else Exit.OK


def _as_the_daemon(pid: int) -> Path | None:
    """Become who the daemon ``pid`` is, and find the file that it was started with.

    The file that ``-f`` named; None: it named none. Raises SystemRefusal.
    """
    from policyd_rate_limit.cli import command as daemon

    process = look_at(pid)
    if os.geteuid() == 0:
        config.import_readers()
        # It reads the file with its own rights; and what it says of itself is no reason for root to open anything.
        drop_privileges(process.account)
    if process.home:
        os.environ["HOME"] = process.home
    named: Path | None = daemon.make_context(NAME, process.words, resilient_parsing=True).params["path"]
    return named if named is None or named.is_absolute() else process.directory / named


def _facts(problem: Problem) -> dict[str, str | int | None]:
    return {
        "file": problem.file,
        "line": problem.line or None,
        "setting": problem.setting or None,
        "expected": problem.expected,
        "found": problem.found,
    }
