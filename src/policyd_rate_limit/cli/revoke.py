"""``revoke ID``: end what ``allow`` or ``block`` has begun."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit.admin import facts, overrides
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.actor import of_this_shell
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import json_option, write, write_json
from policyd_rate_limit.cli.overrides import audit_note_option as note_option
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import naming_an_id, rule_option


@click.command(short_help="End what allow or block has begun.")
@click.argument("identifier", metavar="ID", shell_complete=completing.overridden_ids)
@note_option
@rule_option
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str, note: str, rule: str | None, as_json: bool) -> Exit:
    """End what allow or block has begun: the usual limits of an id are in force again.

    Exits with 1 when there was nothing to end.
    """
    by = of_this_shell()
    with open_desk(load(path)) as desk, naming_an_id():
        ended = overrides.revoke(desk, identifier, rule, by=by, note=note)
    if as_json:
        write_json(facts.of_revoked(identifier, ended))
    else:
        write([Cell(f"{key}: {'ended' if had_one else 'nothing to end'}") for key, had_one in ended.items()])
    return Exit.OK if any(ended.values()) else Exit.NO
