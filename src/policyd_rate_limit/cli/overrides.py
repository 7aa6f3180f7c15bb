"""What ``allow`` and ``block`` have in common."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.admin.overrides import override
from policyd_rate_limit.cli.actor import of_this_shell
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import (
    naming_an_id,
    period,
    written_override,
    written_stranger,
)
from policyd_rate_limit.domain.limits import LONGEST_OVERRIDE, Limits
from policyd_rate_limit.storage.administration import LONGEST_NOTE

for_option = click.option(
    "--for",
    "seconds",
    required=True,
    metavar="PERIOD",
    callback=period(LONGEST_OVERRIDE),
    help="For how long: 90m, 8h, 2d.",
)


def _short(_context: click.Context, _parameter: click.Parameter, note: str) -> str:
    if len(note) > LONGEST_NOTE:
        raise click.BadParameter(f"at most {LONGEST_NOTE} characters, not {len(note)}")
    return note


note_option = click.option("--note", default="", callback=_short, help="Why; status and audit show it.")
audit_note_option = click.option("--note", default="", callback=_short, help="Why; audit shows it.")


def put(
    path: Path | None, identifier: str, limits: Limits, seconds: int, note: str, rule: str | None, *, as_json: bool
) -> Exit:
    """Put ``limits`` in force for ``identifier``, for so many ``seconds``; ``rule``: in that rule alone."""
    by = of_this_shell()
    with open_desk(load(path)) as desk, naming_an_id():
        put = override(desk, identifier, limits, seconds, note, rule, by=by)
    if as_json:
        write_json(facts.of_overridden(identifier, put))
    else:
        page = [Cell(f"{one.key}: {written_override(one, put.now)}") for one in put.overrides]
        write([*page, written_stranger(put.stranger)] if put.stranger else page)
    return Exit.OK
