"""What ``allow`` and ``block`` have in common."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit import app
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import write, write_json
from policyd_rate_limit.cli.settings import load
from policyd_rate_limit.cli.words import (
    naming_an_id,
    override_facts,
    period,
    stranger_facts,
    written_override,
    written_stranger,
)
from policyd_rate_limit.domain.identity import looks_like_a_pattern
from policyd_rate_limit.domain.limits import Limits
from policyd_rate_limit.storage.administration import LONGEST_NOTE, Override

LONGEST_SECONDS = 10 * 366 * 86_400  # what is meant for ever belongs into the configuration

for_option = click.option(
    "--for",
    "seconds",
    required=True,
    metavar="PERIOD",
    callback=period(LONGEST_SECONDS),
    help="For how long: 90m, 8h, 2d.",
)


def _short(_context: click.Context, _parameter: click.Parameter, note: str) -> str:
    if len(note) > LONGEST_NOTE:
        raise click.BadParameter(f"at most {LONGEST_NOTE} characters, not {len(note)}")
    return note


note_option = click.option("--note", default="", callback=_short, help="Why, for whoever asks status.")


def _refuse_patterns(identifier: str) -> None:
    """Raise ValueError for what looks like many users at once: it would be in force for nobody."""
    if looks_like_a_pattern(identifier) and not identifier.startswith(("user:", "sender:", "client:")):
        raise ValueError(
            f"{identifier} looks like a domain or a pattern, and an id is one user, sender or client;"
            f" user:{identifier} is the user of exactly that name"
        )


def put(path: Path | None, identifier: str, limits: Limits, seconds: int, note: str, *, as_json: bool) -> Exit:
    """Put ``limits`` in force for ``identifier``, for so many ``seconds``."""
    with app.open_desk(load(path)) as desk:
        with naming_an_id():
            _refuse_patterns(identifier)
            keys = desk.rules.keys_of_id(identifier)
        before = desk.overrides()
        now = desk.store.now()
        overrides = [Override(key, limits, now + seconds, note) for key in keys]
        for override in overrides:
            desk.store.set_override(override)
        stranger = desk.stranger(identifier, before)  # not earlier: whoever blocks is in a hurry
    if as_json:
        told = {"id": identifier, "time": now, "overrides": [override_facts(override) for override in overrides]}
        write_json({**told, **stranger_facts(stranger)})
    else:
        page = [Cell(f"{override.key}: {written_override(override, now)}") for override in overrides]
        write([*page, written_stranger(stranger)] if stranger else page)
    return Exit.OK
