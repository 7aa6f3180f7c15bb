"""``block ID --for PERIOD``: let nothing of an id pass for a while."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit.cli import overrides
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.output import json_option
from policyd_rate_limit.cli.words import id_argument, rule_option
from policyd_rate_limit.domain.limits import Limit


@click.command(short_help="Let nothing of an id pass for a while.")
@id_argument
@overrides.for_option
@overrides.note_option
@rule_option
@json_option
@click.pass_obj
def command(path: Path | None, identifier: str, seconds: int, note: str, rule: str | None, as_json: bool) -> Exit:
    """Let nothing of an id pass for a while: block alice --for 1h. End it before its time with revoke."""
    return overrides.put(path, identifier, (Limit(0, 1),), seconds, note, rule, as_json=as_json)
