"""``status [ID]``: how an id stands, or how the whole does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.overview import Overview, overview
from policyd_rate_limit.admin.standing import Standing, share, standings
from policyd_rate_limit.admin.strangers import stranger
from policyd_rate_limit.cli import completing, top
from policyd_rate_limit.cli.exits import Exit, tell
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import Page, json_option, moment, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import (
    naming_an_id,
    rule_option,
    shade,
    when_free,
    written_override,
    written_source,
    written_stranger,
)
from policyd_rate_limit.domain.limits import BLOCKED, spell_period
from policyd_rate_limit.domain.quantity import quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.admin.daemons import Daemon
    from policyd_rate_limit.config import Settings

MINUTES = 300  # seconds, until which they are shown as such
_STANDING = (Column("WINDOW"), Column("USED", True), Column("LIMIT", True), Column("SHARE", True), Column("FREE"))
_DAEMONS = (
    Column("HOST", name=True),
    Column("STATE"),
    Column("SINCE"),
    Column("HEARD OF"),
    Column("SOCKET", spare=True),
    Column("VERSION", spare=True),
)


@click.command(short_help="Say how an id stands, or how the whole does.")
@click.argument("identifier", metavar="[ID]", required=False, shell_complete=completing.ids)
@rule_option
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str | None, rule: str | None, as_json: bool) -> Exit:
    """Say how an id stands: its limits, what is used up of them, when it is free again.

    ID is a user, a sender or an address, or another key of a rule; user:ID, sender:ID and client:ID name just that.
    Every rule that counts it is shown, also those that it shares with its domain and with all others. Without ID:
    whether the daemon runs and the database is there, which daemons count in it and which of these are silent, which
    overrides are in force, who sends most.
    """
    settings = load(path)
    if identifier is None:
        return _whole(settings, as_json)
    with open_desk(settings) as desk, naming_an_id():
        found = standings(desk, identifier, rule)
        unknown = stranger(desk, identifier)
        now = desk.store.now()
    if as_json:
        write_json(facts.of_standings(identifier, found, unknown, now))
    else:
        page = [part for standing in found for part in (Cell(""), *_standing_page(standing, now))][1:]
        write([*page, written_stranger(unknown)] if unknown else page)
    return Exit.OK


def _standing_page(standing: Standing, now: int) -> Page:
    key, in_force, usages, hits = standing
    rows = []
    for usage in usages:
        if usage.limit == BLOCKED:
            continue  # which the line above says
        used_up = share(usage.used, usage.limit)
        rows.append(
            (
                Cell(spell_period(usage.limit.seconds)),
                Cell(str(usage.used), shade(used_up)),
                Cell(str(usage.limit.maximum)),
                Cell(f"{used_up:.0%}", shade(used_up)),
                when_free([usage], in_force, now),
            )
        )
    page: list[Table | Cell] = [Cell(key, "bold"), Cell(f"limits: {written_source(in_force, now)}")]
    if rows:
        page.append(Table(_STANDING, rows))
    for one in hits:
        last = f", last at {moment(one.last)}" if one.last else ""
        page.append(Cell(f"refused by the limit of {spell_period(one.seconds)}: {quantity(one.hits, 'time')}{last}"))
    return page


def _daemon_row(daemon: Daemon, now: int) -> Sequence[Cell]:
    beat = daemon.heartbeat
    waiting = f", {quantity(beat.waiting, 'batch', 'batches')} waiting" if beat.waiting else ""
    return (
        Cell(beat.host),
        Cell(f"{daemon.state}{waiting}", "bold red" if daemon.is_missed else ""),
        Cell(moment(beat.since)),
        Cell(f"{max(0, now - beat.heard)} s ago" if now - beat.heard < MINUTES else moment(beat.heard)),
        Cell(beat.socket),
        Cell(beat.version),
    )


def _whole(settings: Settings, as_json: bool) -> Exit:
    with open_desk(settings) as desk:
        whole = overview(settings, desk)
    if as_json:
        write_json(facts.of_overview(whole))
    else:
        write(_whole_page(whole))
    if whole.failure is None:
        return Exit.OK
    tell(whole.failure)
    return Exit.RUN_TIME


def _whole_page(whole: Overview) -> Page:
    process, place, store, _, spool_files = whole
    page: list[Table | Cell] = [Cell(f"daemon: running, process {process}" if process else "daemon: not running")]
    daemons = whole.daemons
    missed = sum(one.is_missed for one in daemons or ())
    if daemons is not None:
        silent = f", {missed} silent" if missed else ""
        page.append(
            Cell(f"daemons of this store: {len(daemons) - missed} at work{silent}", "bold red" if missed else "")
        )
    elif store is not None:
        page.append(Cell("daemons of this store: not known"))
    if store is None:
        page.append(Cell(f"store: {place}, AWAY", "bold red"))
    elif store.counted is None:
        page.append(Cell(f"store: {place}, there; ids may not be listed: {store.refusal}", "yellow"))
    else:
        period = spell_period(store.counted.seconds)
        counted = f"{quantity(store.counted.entries, 'entry', 'entries')} of {quantity(store.counted.ids, 'id')}"
        page.append(Cell(f"store: {place}, {counted} in {period}"))
    for file in spool_files:
        batches, mails = quantity(file.batches, "batch", "batches"), quantity(file.mails, "entry", "entries")
        waiting = file.error or f"{batches} of {mails} {'waits' if file.batches == 1 else 'wait'} for the database"
        page.append(Cell(f"spool: {file.path}: {waiting}", "yellow"))
    if not spool_files:
        page.append(Cell("spool: nothing waits"))
    if store is not None and daemons:
        page += [Cell(""), Table(_DAEMONS, [_daemon_row(one, store.now) for one in daemons])]
    if store is not None and store.overrides:
        rows = [(Cell(one.key), Cell(written_override(one, store.now))) for one in store.overrides]
        page += [Cell(""), Table((Column("ID", name=True), Column("OVERRIDE")), rows)]
    if store is not None and store.counted is not None and store.heaviest:
        page += [Cell(""), top.table(store.heaviest, store.counted.seconds, store.now)]
    return page
