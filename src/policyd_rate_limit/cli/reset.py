"""``reset ID``: take back what was counted for an id."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit.admin import facts, overrides
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.cli.actor import of_this_shell
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import json_option, write, write_json
from policyd_rate_limit.cli.overrides import audit_note_option as note_option
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import id_argument, naming_an_id, rule_option
from policyd_rate_limit.storage.audit_entries import taken_back_of


@click.command(short_help="Take back what was counted for an id.")
@id_argument
@note_option
@rule_option
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str, note: str, rule: str | None, as_json: bool) -> Exit:
    """Take back all that was counted for an id, at once and in all daemons: its windows are empty.

    Exits with 1 when nothing was on record.
    """
    by = of_this_shell()
    with open_desk(load(path)) as desk, naming_an_id():
        taken = overrides.reset(desk, identifier, rule, by=by, note=note)
    if as_json:
        write_json(facts.of_reset(identifier, taken))
    else:
        write([Cell(f"{key}: {taken_back_of(key, amount)}") for key, amount in taken.items()])
    return Exit.OK if any(taken.values()) else Exit.NO
