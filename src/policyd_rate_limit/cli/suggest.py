"""``suggest LOG ...``: limits that spare whoever behaves, from what people have sent."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import click

from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.mail_logs import HostZone, logs_argument, mails_in, zone_option
from policyd_rate_limit.cli.output import json_option, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import refuse_without_unit
from policyd_rate_limit.domain.limits import LimitsError, parse_period, shown
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal.figures import of_log
from policyd_rate_limit.rehearsal.learning import learn
from policyd_rate_limit.rehearsal.observing import SUBJECTS
from policyd_rate_limit.rehearsal.suggested_file import configuration
from policyd_rate_limit.rehearsal.suggestion import ROOM, SPARE, WINDOWS, Suggestion, suggest
from policyd_rate_limit.rehearsal.suggestion_facts import of_suggestion
from policyd_rate_limit.system.logs import one_line
from policyd_rate_limit.system.whole_file import write_whole

LONGEST_WINDOW = 31 * 86_400
MOST_WINDOWS = 6
MOST_ROOM = 100

_FILE = click.Path(readable=False, path_type=Path)


def _windows(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    """The periods that are given, in seconds, shortest first; those that are usual where none is."""
    found = set()
    for text in texts:
        try:
            seconds = parse_period(text)
        except LimitsError as error:
            raise click.BadParameter(f"expected a period such as 1m, 1h or 1d, found {shown(text)}") from error
        refuse_without_unit(text)
        if seconds > LONGEST_WINDOW:
            raise click.BadParameter(f"at most 31d, not {text}")
        found.add(seconds)
    if len(found) > MOST_WINDOWS:
        raise click.BadParameter(f"at most {MOST_WINDOWS} of them, not {len(found)}")
    return tuple(sorted(found)) or WINDOWS


@click.command(short_help="Suggest limits from what the mails of a log show.")
@logs_argument
@click.option(
    "-o", "--output", metavar="OUT", type=_FILE, help="Where to write the configuration; else standard output."
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--html", metavar="FILE", type=_FILE, help="Also write a page with plots.")
@click.option(
    "--spare",
    default=float(SPARE),
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    help="So many per cent of all ids are to be spared, before there is room.",
)
@click.option(
    "--room",
    default=float(ROOM),
    show_default=True,
    metavar="FACTOR",
    type=click.FloatRange(1, MOST_ROOM),
    help="So many times that is allowed.",
)
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="PERIOD",
    callback=_windows,
    help="A window to limit, may be repeated. [default: 1m, 1h, 1d]",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Choice([subject.key for subject in SUBJECTS]),
    help="Whose limits to suggest, may be repeated; else all that the log has mails of.",
)
@zone_option
@json_option
@click.pass_obj
def command(
    path: Path | None,
    logs: tuple[str, ...],
    output: Path | None,
    force: bool,
    html: Path | None,
    spare: float,
    room: float,
    windows: tuple[int, ...],
    keys: tuple[str, ...],
    as_json: bool,
) -> Exit:
    """Suggest limits that spare whoever behaves, as a configuration with comments that say why.

    LOG is a mail log of Postfix in any of its usual forms, also compressed, or - for standard input; several may be
    given in any order. For each user, each domain of users, and, of mails without a user, each sender and each client
    it finds the most that was ever sent in each window, to the second. A limit is what all but a thousandth stay
    within, with half as much room again; whoever goes beyond gets limits of its own.

    Accounts that look stolen are named, with the reasons, and left out. Exits with 1 where the log has no mails.
    """
    subjects = [subject for subject in SUBJECTS if not keys or subject.key in keys]
    zone, tally = HostZone(), Tally()
    observation, figures = learn(load(path), mails_in(logs, tally, wants_recipients=True), zone, subjects, windows)
    suggestion = suggest(observation, Fraction(str(spare)), Fraction(str(room)))
    now = time.time()
    text = configuration(suggestion, zone, now)
    read, damaged = of_log(tally, figures), dict(tally.damaged)
    if html is not None:
        from policyd_rate_limit.rehearsal.suggestion_page import write_page

        write_page(html, suggestion, text, zone, now, read, damaged)
    if output is not None:
        write_whole(output, text.encode(), replace=force)
    if as_json:
        write_json(of_suggestion(suggestion, text, read, damaged))
    elif output is None:
        click.echo(text.encode(), nl=False)
    else:
        _tell(suggestion, output)
    for remark in suggestion.remarks:
        click.echo(remark, err=True)
    for name, what in damaged.items():
        click.echo(one_line(f"{name}: {what}; what came before counts"), err=True)
    if not suggestion.mails:
        click.echo("the log has no mails that limits could be learned from", err=True)
        return Exit.NO
    return Exit.OK


def _tell(suggestion: Suggestion, output: Path) -> None:
    """What was written to ``output``, and who looks stolen."""
    click.echo(
        one_line(
            f"{output} written: {quantity(len(suggestion.rules), 'rule')}, learned from"
            f" {quantity(suggestion.mails, 'mail')}"
        )
    )
    for suspect in suggestion.suspects:
        click.echo(
            one_line(f"looks stolen: {suspect.name}, on {suspect.day:%a %Y-%m-%d}: {'; '.join(suspect.reasons)}")
        )
