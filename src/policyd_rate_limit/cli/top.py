"""``top``: who sends most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.daemons import judged
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.senders import Sender, Senders
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import (
    REFRESH_SECONDS,
    Page,
    is_terminal,
    json_option,
    moment,
    write,
    write_again_and_again,
    write_json,
)
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import period, shade, when_free
from policyd_rate_limit.domain.limits import BLOCKED, shown_limit, spell_period
from policyd_rate_limit.errors import StoreError

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import Desk

LINES_BESIDE = 4  # of the terminal, which the table does not get
MOST_MISSED = 3  # daemons that are silent, each of which has a line on a terminal
LONGEST_WINDOW = 366 * 86_400


@click.command(short_help="Show the ids that send most.")
@click.option(
    "--window",
    default="1h",
    show_default=True,
    metavar="PERIOD",
    callback=period(LONGEST_WINDOW),
    help="The period in which mails are counted.",
)
@click.option("-n", "--number", "most", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@click.option(
    "--by",
    default="share",
    show_default=True,
    type=click.Choice(["share", "mails"]),
    help="Rank by how much of a limit is used up, or by mails.",
)
@click.option("--once", is_flag=True, help="Print once and end, also on a terminal.")
@json_option
@click.pass_obj
def command(path: Path | None, window: int, most: int, by: str, once: bool, as_json: bool) -> Exit:
    """Show the ids that send most, live on a terminal."""
    with open_desk(load(path)) as desk:
        by_share = by == "share"
        senders = Senders(desk, window)
        now = senders.look()
        if is_terminal() and not once and not as_json:
            _live(desk, senders, most, by_share=by_share)
            return Exit.OK
        heaviest = senders.heaviest(most, by_share=by_share)
    if as_json:
        write_json(facts.of_senders(heaviest, window, now))
    else:
        write(_page(heaviest, window, now))
    return Exit.OK


def table(heaviest: Sequence[Sender], window: int, now: int) -> Table:
    """A row for each of ``heaviest``, as of ``now`` (Unix second); their mails are those in ``window`` (seconds)."""
    columns = (
        Column("ID", name=True),
        Column(f"IN {spell_period(window)}", True),
        Column("USED", True),
        Column("OF", True),
        Column("SHARE", True),
        Column("FREE"),
        Column("LIMITS FROM", spare=True),
    )
    return Table(columns, [_row(sender, now) for sender in heaviest])


def _row(sender: Sender, now: int) -> Sequence[Cell]:
    tightest = sender.tightest
    name, mails, source = Cell(sender.key), Cell(str(sender.mails)), Cell(sender.in_force.source)
    if tightest is None:
        return (name, mails, Cell(""), Cell("unlimited"), Cell(""), Cell(""), source)
    used_up = share(tightest.used, tightest.limit)
    style = shade(used_up)
    is_blocked = tightest.limit == BLOCKED
    return (
        name,
        mails,
        Cell("" if is_blocked else str(tightest.used), style),
        Cell(shown_limit(tightest.limit), style if is_blocked else ""),
        Cell("" if is_blocked else f"{used_up:.0%}", style),
        when_free(sender.usages, sender.in_force, now),
        source,
    )


def _page(heaviest: Sequence[Sender], window: int, now: int) -> Page:
    return [table(heaviest, window, now)] if heaviest else [Cell("nobody sends")]


def _live(desk: Desk, senders: Senders, most: int, *, by_share: bool) -> None:
    window = senders.window

    def make(lines: int) -> Page:
        nonlocal senders
        try:
            now = senders.look()
            missed = [one for one in judged(desk.store.heartbeats() or (), now, None) if one.is_missed]
            heaviest = senders.heaviest(
                min(most, max(1, lines - LINES_BESIDE - min(len(missed), MOST_MISSED))), by_share=by_share
            )
        except StoreError as error:
            senders = Senders(desk, window)  # which reads everything once the store is back
            return [Cell(str(error), "bold red")]
        silent = [
            Cell(f"the daemon of {one.heartbeat.host} is silent since {moment(one.heartbeat.heard)}", "bold red")
            for one in missed[:MOST_MISSED]
        ]
        return [
            Cell(f"{moment(now)}, every {REFRESH_SECONDS:g} s; Ctrl-C ends"),
            *silent,
            *_page(heaviest, window, now),
        ]

    write_again_and_again(make)
