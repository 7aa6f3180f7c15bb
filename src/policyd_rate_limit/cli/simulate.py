"""``simulate LOG ...``: what limits would have done with the mails of the past."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from policyd_rate_limit import config
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.mail_logs import HostZone, logs_argument, mails_in, zone_option
from policyd_rate_limit.cli.output import json_option, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.simulate_words import page_of
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal import facts
from policyd_rate_limit.rehearsal.knowable import wants_recipients
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.stages import find_stages, postfix_here

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings

_FILE = click.Path(readable=False, path_type=Path)


class _Compared(NamedTuple):
    """The configuration in question, the other one, and in words why there is none, where there is none."""

    new: Settings
    old: Settings | None
    why_alone: str


@click.command(short_help="Say what limits would have done with the mails of a log.")
@logs_argument
@click.option(
    "-f", "--file", "new", metavar="NEW", type=_FILE, help="The configuration in question; else that in force."
)
@click.option(
    "--against",
    metavar="OLD",
    type=_FILE,
    help="The configuration to compare it with, instead of the one in force.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    type=click.Choice((RCPT, DATA, END_OF_MESSAGE), case_sensitive=False),
    help="Where Postfix asks, instead of what main.cf of this host says, or the rules need. May be repeated.",
)
@zone_option
@click.option("--html", metavar="FILE", type=_FILE, help="Also write a page with plots.")
@json_option
@click.pass_obj
def command(
    path: Path | None,
    logs: tuple[str, ...],
    new: Path | None,
    against: Path | None,
    stages: tuple[str, ...],
    html: Path | None,
    as_json: bool,
) -> Exit:
    """Feed the mails of a log to a configuration, and say whom it would have refused, since when, and for how long.

    LOG is a mail log of Postfix in any of its usual forms, also compressed, or - for standard input; several may be
    given in any order. Nothing is counted. It is compared with the configuration in force: who would be refused now,
    and who no longer. Where there is no other one, with what was refused in the past.

    Exits with 1 when anybody is refused who was not before.
    """
    found = _compared(new or path, against)
    configurations = [one for one in (found.new, found.old) if one is not None]
    tally = Tally()
    asked = find_stages(stages, configurations, None if stages else postfix_here())
    items = mails_in(logs, tally, wants_recipients=any(map(wants_recipients, configurations)))
    result = rehearse(found.new, found.old, asked, items, tally)
    if html is not None:
        from policyd_rate_limit.rehearsal.page import write_page

        write_page(html, result, HostZone(), time.time())
    if as_json:
        write_json(facts.of_rehearsal(result))
    else:
        write(page_of(result, found.why_alone))
    return Exit.NO if result.newly_hit else Exit.OK


def _compared(new: Path | None, against: Path | None) -> _Compared:
    """Which configurations are meant. Raises ConfigError."""
    in_force = config.find()
    if against is None and new is None:
        return _Compared(load(in_force), None, "it is the configuration in force, and no other is given with -f")
    if new is None and in_force is None:
        return _Compared(load(None), load(against), "")
    other = against or in_force
    asked = new or in_force
    if other is None:
        return _Compared(
            load(asked), None, "no configuration is in force on this host, and none is given with --against"
        )
    if against is None and asked is not None and _is_same(asked, other):
        return _Compared(load(asked), None, f"{other} is the configuration in force")
    return _Compared(load(asked), load(other), "")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # whoever loads it says so
        return False
