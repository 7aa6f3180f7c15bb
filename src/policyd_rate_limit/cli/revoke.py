"""``revoke ID``: end what ``allow`` or ``block`` has begun."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit import app
from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import json_option, write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import naming_an_id


@click.command(short_help="End what allow or block has begun.")
@click.argument("identifier", metavar="ID", shell_complete=completing.overridden_ids)
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str, as_json: bool) -> Exit:
    """End what allow or block has begun: the usual limits of an id are in force again.

    Exits with 1 when there was nothing to end.
    """
    with app.open_desk(load(path)) as desk:
        with naming_an_id():
            keys = desk.rules.keys_of_id(identifier)
        ended = [key for key in keys if desk.store.remove_override(key)]
    if as_json:
        write_json({"id": identifier, "revoked": ended})
    else:
        write([Cell(f"{key}: {'ended' if key in ended else 'nothing to end'}") for key in keys])
    return Exit.OK if ended else Exit.NO
