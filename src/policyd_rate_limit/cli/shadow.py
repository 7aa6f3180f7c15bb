"""``shadow``: what the rules in shadow would have refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.shadow import GONE, IN_SHADOW, shadow
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import Page, json_option, moment, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import period
from policyd_rate_limit.domain.limits import spell_limit
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.administration import HISTORY_DAYS

if TYPE_CHECKING:
    from policyd_rate_limit.admin.shadow import Shadow, ShadowRule

_STATES = {IN_SHADOW: "in shadow", GONE: "there is no such rule any more"}


@click.command(short_help="Say what rules in shadow would have refused.")
@click.option(
    "--since",
    "seconds",
    default="1d",
    show_default=True,
    metavar="PERIOD",
    callback=period(HISTORY_DAYS * 86_400),
    help="How far back, in whole hours: 8h, 7d.",
)
@click.option(
    "-n",
    "--number",
    "most",
    default=20,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="How many ids of each.",
)
@json_option
@click.pass_obj
def command(path: Path | None, seconds: int, most: int, as_json: bool) -> Exit:
    """Say how many requests each rule with shadow: true would have refused, and to whom, by the daemons' own counts.

    Those of all daemons on the database. A rule that was in shadow then and no longer is is shown as well.
    """
    with open_desk(load(path)) as desk:
        found = shadow(desk, seconds)
    if as_json:
        write_json(facts.of_shadow(found, most))
    else:
        write(list(_page(found, most)))
    return Exit.OK


def _page(found: Shadow, most: int) -> Iterator[Table | Cell]:
    if not found.rules:
        yield Cell(f"no rule is in shadow, nor was one since {moment(found.since)} that would have refused anything")
    for number, rule in enumerate(found.rules):
        if number:
            yield Cell("")
        yield from _rule(rule, found.since, most)


def _rule(rule: ShadowRule, since: int, most: int) -> Page:
    state = _STATES.get(rule.state, "in force, no longer in shadow")
    if not rule.refused:
        return [Cell(f"{rule.name}: {state}; it would have refused nothing since {moment(since)}")]
    blocks = f", and blocked ids {quantity(rule.blocked, 'time')}" if rule.blocked else ""
    heading = f"{rule.name}: {state}; it would have refused {quantity(rule.refused, 'request')}{blocks}"
    columns = (Column("ID", name=True), Column("LIMIT"), Column("REFUSED", True), Column("FIRST"), Column("LAST"))
    rows = [
        (
            Cell(one.key),
            Cell(spell_limit(one.limit)),
            Cell(str(one.refused), "yellow"),
            Cell(moment(one.first)),
            Cell(moment(one.last)),
        )
        for one in rule.ids[:most]
    ]
    page: list[Table | Cell] = [Cell(f"{heading} since {moment(since)}")]
    if rows:
        page.append(Table(columns, rows))
    left = rule.ids[most:]
    others = sum(one.refused for one in left) + rule.others
    if others:
        page.append(Cell(f"of others: {quantity(others, 'request')}"))
    return page
