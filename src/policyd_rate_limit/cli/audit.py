"""``audit [ID]``: who has changed what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.audit import audit
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import Page, json_option, moment, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import period
from policyd_rate_limit.storage.administration import AUDIT_DAYS

if TYPE_CHECKING:
    from policyd_rate_limit.admin.audit import Audit


@click.command(short_help="Say who has changed what.")
@click.argument("identifier", metavar="[ID]", required=False, shell_complete=completing.ids)
@click.option(
    "--since",
    "seconds",
    metavar="PERIOD",
    callback=lambda *given: None if given[2] is None else period(AUDIT_DAYS * 86_400)(*given),
    help="How far back: 8h, 7d; else as far as is kept.",
)
@click.option("-n", "--number", "most", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str | None, seconds: int | None, most: int, as_json: bool) -> Exit:
    """Say who has allowed, blocked, revoked, reset or copied what, when, from where, and why; the latest first.

    ID is what the other commands take, and the name of a counter or an account as well; without it all is shown. A
    command enters whoever has logged in, however root was become.
    """
    with open_desk(load(path)) as desk:
        found = audit(desk, identifier, seconds=seconds, most=most)
    if as_json:
        write_json(facts.of_audit(found))
    else:
        write(_page(found))
    return Exit.OK


def _page(found: Audit) -> Page:
    if not found.entries:
        return [Cell("nothing was changed, as far as is kept")]
    columns = (
        Column("WHEN"),
        Column("WHO"),
        Column("FROM", spare=True),
        Column("DID"),
        Column("TO", name=True),
        Column("HOW"),
    )
    rows = [
        (
            Cell(moment(one.date)),
            Cell(one.who),
            Cell(one.from_where),
            Cell(one.action),
            Cell(one.subject),
            Cell(": ".join(text for text in (one.detail, one.note) if text)),
        )
        for one in found.entries
    ]
    return [Table(columns, rows)]
