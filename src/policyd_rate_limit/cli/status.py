"""``status [ID]``: how an id stands, or how the whole does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from policyd_rate_limit import app, stores
from policyd_rate_limit.cli import completing, top
from policyd_rate_limit.cli.exits import Exit, tell
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import Page, json_option, moment, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import (
    in_force_facts,
    naming_an_id,
    override_facts,
    shade,
    stranger_facts,
    when_free,
    written_override,
    written_source,
    written_stranger,
)
from policyd_rate_limit.domain.limits import BLOCKED, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.standing import Counted, Desk, Sender, Senders, Standing, share
from policyd_rate_limit.storage.administration import MayNotList
from policyd_rate_limit.system import pidfile

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.storage.administration import Override

HEAVIEST = 5
_STANDING = (Column("WINDOW"), Column("USED", True), Column("LIMIT", True), Column("SHARE", True), Column("FREE"))


class _Journal(NamedTuple):
    """What waits in a journal, or why it cannot be read."""

    path: str
    batches: int = 0
    mails: int = 0
    error: str | None = None


class _Store(NamedTuple):
    """What the store says, as of ``now`` (Unix second); ``refusal``: why it does not say whom it has counts of."""

    now: int
    counted: Counted | None
    overrides: list[Override]
    heaviest: list[Sender]
    refusal: str | None = None


@click.command(short_help="Say how an id stands, or how the whole does.")
@click.argument("identifier", metavar="[ID]", required=False, shell_complete=completing.ids)
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str | None, as_json: bool) -> Exit:
    """Say how an id stands: its limits, what is used up of them, when it is free again.

    ID is a user, a sender or an address; user:ID, sender:ID and client:ID name just that. Without ID: whether the
    daemon runs and the database is there, which overrides are in force, who sends most.
    """
    settings = load(path)
    if identifier is None:
        return _whole(settings, as_json)
    with app.open_desk(settings) as desk:
        with naming_an_id():
            standings = desk.standings(identifier)
            stranger = desk.stranger(identifier)
        now = desk.store.now()
    if as_json:
        told = {"id": identifier, "time": now, "keys": [_standing_facts(standing) for standing in standings]}
        write_json({**told, **stranger_facts(stranger)})
    else:
        page = [part for standing in standings for part in (Cell(""), *_standing_page(standing, now))][1:]
        write([*page, written_stranger(stranger)] if stranger else page)
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


def _standing_facts(standing: Standing) -> dict[str, object]:
    hits = [{"seconds": one.seconds, "hits": one.hits, "last": one.last or None} for one in standing.hits]
    return {**in_force_facts(standing.key, standing.in_force, standing.usages), "hits": hits}


def _whole(settings: Settings, as_json: bool) -> Exit:
    place = stores.describe(settings)
    store = failure = None
    with app.open_desk(settings) as desk:
        try:
            store = _ask(desk)
        except StoreError as error:
            failure = error
    process = pidfile.running(settings.pidfile)
    journals = _journals(settings)
    if as_json:
        write_json(_whole_facts(place, store, failure, process, journals))
    else:
        write(_whole_page(place, store, process, journals))
    if failure is None:
        return Exit.OK
    tell(failure)
    return Exit.RUN_TIME


def _ask(desk: Desk) -> _Store:
    try:
        counted = desk.counted()
    except MayNotList as refusal:
        return _Store(desk.store.now(), None, desk.store.overrides(), [], str(refusal))
    senders = Senders(desk, counted.seconds)
    now = senders.look()
    return _Store(now, counted, desk.store.overrides(), senders.heaviest(HEAVIEST, by_share=True))


def _journals(settings: Settings) -> list[_Journal]:
    try:
        return [
            _Journal(str(path), len(records), sum(record.size for record in records))
            for path, records in stores.waiting(settings)
        ]
    except (OSError, ValueError) as error:
        return [_Journal(str(settings.journal_home), error=str(error))]


def _whole_page(place: str, store: _Store | None, process: int | None, journals: list[_Journal]) -> Page:
    page: list[Table | Cell] = [Cell(f"daemon: running, process {process}" if process else "daemon: not running")]
    if store is None:
        page.append(Cell(f"store: {place}, AWAY", "bold red"))
    elif store.counted is None:
        page.append(Cell(f"store: {place}, there; ids may not be listed: {store.refusal}", "yellow"))
    else:
        period = spell_period(store.counted.seconds)
        counted = f"{quantity(store.counted.entries, 'entry', 'entries')} of {quantity(store.counted.ids, 'id')}"
        page.append(Cell(f"store: {place}, {counted} in {period}"))
    for journal in journals:
        batches, mails = quantity(journal.batches, "batch", "batches"), quantity(journal.mails, "entry", "entries")
        waiting = (
            journal.error or f"{batches} of {mails} {'waits' if journal.batches == 1 else 'wait'} for the database"
        )
        page.append(Cell(f"journal: {journal.path}: {waiting}", "yellow"))
    if not journals:
        page.append(Cell("journal: nothing waits"))
    if store is not None and store.overrides:
        rows = [(Cell(one.key), Cell(written_override(one, store.now))) for one in store.overrides]
        page += [Cell(""), Table((Column("ID", name=True), Column("OVERRIDE")), rows)]
    if store is not None and store.counted is not None and store.heaviest:
        page += [Cell(""), top.table(store.heaviest, store.counted.seconds, store.now)]
    return page


def _whole_facts(
    place: str, store: _Store | None, failure: StoreError | None, process: int | None, journals: list[_Journal]
) -> dict[str, object]:
    counted = store.counted if store else None
    refusal = store.refusal if store else None
    return {
        "daemon": {"running": process is not None, "process": process},
        "store": {
            "place": place,
            "reachable": store is not None,
            "error": str(failure) if failure else refusal,
            "time": store.now if store else None,
            "seconds": counted.seconds if counted else None,
            "entries": counted.entries if counted else None,
            "ids": counted.ids if counted else None,
        },
        "journals": [journal._asdict() for journal in journals],
        "overrides": [override_facts(override) for override in store.overrides] if store else None,
        "heaviest": [top.facts(sender) for sender in store.heaviest] if store else None,
    }
