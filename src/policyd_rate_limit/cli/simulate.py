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
from policyd_rate_limit.config import Settings
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.maillog.tally import Tally
from policyd_rate_limit.rehearsal import facts
from policyd_rate_limit.rehearsal.knowable import wants_recipients
from policyd_rate_limit.rehearsal.rehearsing import rehearse
from policyd_rate_limit.rehearsal.shadow_figures import read_shadow
from policyd_rate_limit.rehearsal.stages import find_stages, postfix_here

if TYPE_CHECKING:
    from policyd_rate_limit.rehearsal.shadow_figures import ShadowFigures

PAST = "past"
"""In place of a file: compare with what was refused in the past, whatever is in force."""

_FILE = click.Path(readable=False, path_type=Path)


class _Compared(NamedTuple):
    """The configuration in question, what it is compared with, and in words why with nothing, where it is nothing."""

    new: Settings
    old: Settings | ShadowFigures | None
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
    help="What to compare it with instead of the configuration in force: another one, what shadow --json has written,"
    f" or {PAST}: what was refused then.",
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
    and who no longer. Where there is no other one, with what was refused in the past. OLD may also be what shadow
    --json has written: then it is compared, rule by rule, with what rules in shadow would have refused since.

    Exits with 1 when anybody is refused who was not before, or the log has no mail of the time of which shadow tells.
    """
    found = _compared(new or path, against)
    configurations = [one for one in (found.new, found.old) if isinstance(one, Settings)]
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
    is_compared = result.shadow is None or result.shadow.began is not None or not result.mails
    return Exit.NO if result.newly_hit or not is_compared else Exit.OK


def _compared(new: Path | None, against: Path | None) -> _Compared:
    """Which configurations are meant, or figures of shadow. Raises ConfigError."""
    in_force = config.find()
    asked = new or in_force
    if against == Path(PAST):
        return _Compared(load(asked), None, f"--against says {PAST}")
    if against is not None:
        return _Compared(load(asked), read_shadow(against) or load(against), "")
    if new is None:
        return _Compared(load(in_force), None, "it is the configuration in force, and no other is given with -f")
    if in_force is None:
        return _Compared(load(new), None, "no configuration is in force on this host, and none is given with --against")
    if _is_same(new, in_force):
        return _Compared(load(new), None, f"{in_force} is the configuration in force")
    settings = load(new)
    try:
        return _Compared(settings, load(in_force), "")
    except ConfigError as error:
        hint = (
            f"{in_force} is the configuration in force, with which {new} is compared: --against names another one;"
            f" --against {PAST} compares with what was refused in the past"
        )
        raise ConfigError(error.problems, error.warnings, hint) from error


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # whoever loads it says so
        return False
