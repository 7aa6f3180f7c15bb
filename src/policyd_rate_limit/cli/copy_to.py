"""``copy-to NEW``: bring what the database holds into another one."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit import config
from policyd_rate_limit.admin import maintenance
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.cli.actor import of_this_shell
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import json_option, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.domain.quantity import quantity


@click.command(short_help="Bring counts, overrides, hits and trails into another database.")
@click.argument("new", metavar="NEW", type=click.Path(readable=False, path_type=Path))
@json_option
@click.pass_obj
def command(path: Path | None, new: Path, as_json: bool) -> Exit:
    """Bring what the database in use holds into that of another configuration, NEW: counts, overrides, hits.

    The hit history and the audit trail come along. Daemons may use both meanwhile. What was copied before is not
    copied again: copy, have all daemons use NEW, copy once more for what the old database was given in between.
    docs/backup.md says how.

    Exits with 1 when something is left out: batches that wait in the spool for the old database, ids of more than 300
    characters, whose names Redis does not keep, and what cannot be read or written.
    """
    old = load(path)
    target = config.load(new).settings
    copied, waiting = maintenance.copy(old, target, of_this_shell())
    batches = sum(len(records) for _, records in waiting)
    if as_json:
        told = {
            "from": backend_of(old).describe(),
            "to": backend_of(target).describe(),
            "counts": copied.counts,
            "overrides": copied.overrides,
            "revoked": copied.revoked,
            "hits": copied.hits,
            "history": copied.history,
            "audit": copied.audit,
            "kept_overrides": copied.kept,
            "skipped_ids": copied.skipped,
            "refused": copied.refused,
            "waiting_batches": batches,
        }
        write_json(told)
    else:
        brought = [quantity(copied.counts, "count"), quantity(copied.overrides, "override")]
        if copied.revoked:
            brought.append(f"the end of {quantity(copied.revoked, 'override')}")
        brought.append(quantity(copied.hits, "hit"))
        if copied.history:
            brought.append(f"{quantity(copied.history, 'hit')} of the hit history")
        if copied.audit:
            brought.append(f"{quantity(copied.audit, 'entry', 'entries')} of the audit trail")
        page = [
            Cell(f"from {backend_of(old).describe()}"),
            Cell(f"to {backend_of(target).describe()}"),
            Cell(f"brought {', '.join(brought[:-1])} and {brought[-1]}"),
        ]
        page += [Cell(f"{key}: the override in the new database differs, and stays") for key in copied.kept]
        if copied.skipped:
            page.append(Cell(f"left out: {quantity(copied.skipped, 'id')} whose name Redis does not keep", "yellow"))
        if copied.refused:
            refused = quantity(copied.refused, "counter or record", "counters or records")
            page.append(Cell(f"left out: {refused} that cannot be read or written; the lines above say why", "yellow"))
        page += [
            Cell(
                f"left out: {quantity(len(records), 'batch', 'batches')} in {spool_file}, which a daemon on the old"
                " database has to bring in first",
                "yellow",
            )
            for spool_file, records in waiting
        ]
        write(page)
    return Exit.NO if batches or copied.skipped or copied.refused else Exit.OK
