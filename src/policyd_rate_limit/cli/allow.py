"""``allow ID LIMITS --for PERIOD``: other limits for an id, which end by themselves."""

from __future__ import annotations

from pathlib import Path

import click

from policyd_rate_limit.cli import overrides
from policyd_rate_limit.cli.exits import Exit
from policyd_rate_limit.cli.output import json_option
from policyd_rate_limit.cli.words import id_argument, refuse_without_unit, rule_option
from policyd_rate_limit.domain.limits import Limits, LimitsError, parse_limits, parse_limits_text

UNLIMITED = "unlimited"


@click.command(short_help="Give an id other limits for a while.")
@id_argument
@click.argument("limits", nargs=-1, required=True)
@overrides.for_option
@overrides.note_option
@rule_option
@json_option
@click.pass_obj
def command(
    path: Path | None,
    identifier: str,
    limits: tuple[str, ...],
    seconds: int,
    note: str,
    rule: str | None,
    as_json: bool,
) -> Exit:
    """Give an id other limits for a while, in place of all that it has: allow alice 5000/1d --for 8h.

    LIMITS are as in the configuration, such as 100/1h 5000/1d, each period with its unit, or the word unlimited. What
    the id has sent already counts. End it before its time with revoke.
    """
    return overrides.put(path, identifier, _limits(limits), seconds, note, rule, as_json=as_json)


def _limits(texts: tuple[str, ...]) -> Limits:
    if texts == (UNLIMITED,):
        return ()
    try:
        found = parse_limits([limit for text in texts for limit in parse_limits_text(text)])
    except LimitsError as error:
        raise click.BadParameter(str(error), param_hint="LIMITS") from error
    for text in texts:
        if not text.strip().startswith(("[", "(")):
            refuse_without_unit(text.partition("/")[2], "LIMITS")
    if not found:
        raise click.BadParameter(f"for no limit at all say {UNLIMITED}", param_hint="LIMITS")
    return found
