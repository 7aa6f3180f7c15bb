"""``history ID``: what an id has sent, as far back as the store keeps it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.buckets import STEPS, Step
from policyd_rate_limit.admin.history import History, history
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import Page, json_option, moment, width, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import id_argument, naming_an_id, rule_option

LONGEST_BAR, SHORTEST_BAR = 40, 10  # characters
BESIDE_BAR = 24  # the others of such a line, without the number of mails
MOST = 10_000


@click.command(short_help="Say how much an id has sent, and when.")
@id_argument
@click.option("--by", "step", default="hour", show_default=True, type=click.Choice(STEPS), help="Add mails up by this.")
@click.option("-n", "--number", "most", default=48, show_default=True, type=click.IntRange(1, MOST), help="How many.")
@click.option("--last", default=10, show_default=True, type=click.IntRange(0, MOST), help="List so many mails.")
@rule_option
@json_option
@click.pass_obj
def command(
    path: Path | None, identifier: str, step: Step, most: int, last: int, rule: str | None, as_json: bool
) -> Exit:
    """Say how much an id has sent in each minute, hour or day, and when it did so last.

    As far back as the store keeps it: for twice the longest limit, with Redis for as long as the limit of the id.
    """
    with open_desk(load(path)) as desk, naming_an_id():
        found = history(desk, identifier, step, last=last, most=most, rule=rule)
    if as_json:
        write_json(facts.of_history(identifier, step, found))
    else:
        write(_page(found, step))
    return Exit.OK


def _page(history: History, step: Step) -> Page:
    page: list[Table | Cell] = []
    if history.buckets:
        largest = max(bucket.mails for bucket in history.buckets)
        longest = max(SHORTEST_BAR, min(LONGEST_BAR, width() - BESIDE_BAR - len(str(largest))))
        rows = [
            (Cell(_begin(begin, step)), Cell(str(mails)), Cell("#" * -(-mails * longest // largest), "cyan"))
            for begin, mails in history.buckets
        ]
        page.append(Table((Column(step.upper()), Column("MAILS", True), Column("")), rows))
    else:
        page.append(Cell(f"{', '.join(history.keys)}: nothing is counted"))
    if history.last:
        columns = (Column("COUNTED"), Column("MAILS", True), Column("ID", name=True), Column("INSTANCE"))
        events = [
            (Cell(moment(event.date)), Cell(str(event.amount)), Cell(event.key), Cell(event.instance))
            for event in history.last
        ]
        page += [Cell(""), Table(columns, events)]
    return page


def _begin(date: int, step: Step) -> str:
    """The minute, hour or day that began at ``date`` (Unix second), on the clock of this machine."""
    try:
        return f"{datetime.fromtimestamp(date):{'%Y-%m-%d' if step == 'day' else '%Y-%m-%d %H:%M'}}"
    except (ValueError, OverflowError, OSError):
        return moment(date)  # no year of a calendar
