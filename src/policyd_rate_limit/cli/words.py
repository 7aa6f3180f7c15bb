"""How ids, limits and overrides are read from a command line, and written for people and for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from policyd_rate_limit.admin.desk import NotAnId
from policyd_rate_limit.cli import completing
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.cli.output import duration, moment
from policyd_rate_limit.domain.charge import Usage, free_in
from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.limits import Limits, LimitsError, parse_period, shown, shown_limit, spell_period
from policyd_rate_limit.mail.wording import KINDS

if TYPE_CHECKING:
    from policyd_rate_limit.admin.desk import InForce
    from policyd_rate_limit.admin.strangers import Stranger
    from policyd_rate_limit.storage.administration import Override

FULL, NEARLY = "bold red", "yellow"  # styles of rich
NEARLY_FULL = 0.8

id_argument = click.argument("identifier", metavar="ID", shell_complete=completing.ids)

rule_option = click.option("--rule", metavar="NAME", help="Only in the rule of this name; else in all keyed by ID.")


def period(longest: int) -> Callable[[click.Context, click.Parameter, str], int]:
    """The callback of an option that is a period such as ``8h``, of ``longest`` seconds at the most: its seconds."""

    def convert(_context: click.Context, _option: click.Parameter, text: str) -> int:
        try:
            seconds = parse_period(text)
        except LimitsError as error:
            raise click.BadParameter(f"expected a period such as 90m, 8h or 2d, found {shown(text)}") from error
        refuse_without_unit(text)
        if seconds > longest:
            raise click.BadParameter(f"at most {spell_period(longest)}, not {text}")
        return seconds

    return convert


def refuse_without_unit(period: str, hint: str | None = None) -> None:
    """On a command line 8 is more often meant as hours than as the seconds that a configuration has it for.

    Raises click.BadParameter, about the parameter ``hint``.
    """
    number = period.strip()
    if number.isdecimal():
        raise click.BadParameter(
            f"{number} is without a unit: {number}s, {number}m, {number}h, {number}d or {number}w?", param_hint=hint
        )


@contextlib.contextmanager
def naming_an_id() -> Iterator[None]:
    """What is asked here is about an ID of the command line; NotAnId is the fault of whoever wrote that."""
    try:
        yield
    except NotAnId as error:
        raise click.BadParameter(str(error), param_hint="ID") from error


def written(limits: Limits) -> str:
    """``limits`` in one line, as a configuration has them."""
    return ", ".join(map(shown_limit, limits)) or "unlimited"


def written_override(override: Override, now: int) -> str:
    """What ``override`` does, and for how long from ``now`` (Unix second)."""
    blocks = any(limit.maximum == 0 for limit in override.limits)
    note = f": {override.note}" if override.note else ""
    left = duration(max(0, override.until - now))
    return f"{'blocked' if blocks else written(override.limits)} until {moment(override.until)}, {left} more{note}"


def written_source(in_force: InForce, now: int) -> str:
    """The limits in force, and where they come from."""
    if in_force.override is not None:
        return written_override(in_force.override, now)
    shadow = ", in shadow: nothing is refused" if in_force.shadow else ""
    return f"{written(in_force.limits)}, from {in_force.source}{shadow}"


def when_free(usages: Iterable[Usage], in_force: InForce, now: int) -> Cell:
    """When one more is admitted, given how the limits stand ``now`` (Unix second)."""
    seconds = free_in(usages)
    if seconds is None:
        override = in_force.override
        return Cell(f"not before {moment(override.until)}" if override else "never", FULL)
    if not seconds:
        return Cell("now")
    return Cell(f"in {duration(seconds)} ({moment(now + seconds)})", FULL, short=f"in {duration(seconds)}")


def shade(share: float) -> str:
    """The style of what is used up to this share."""
    return FULL if share >= 1 else NEARLY if share >= NEARLY_FULL else ""


def written_stranger(stranger: Stranger) -> Cell:
    """That an id may be misspelt, or be of another kind than it was taken for."""
    taken = " and ".join(
        dict.fromkeys(f"the {KINDS.get(kind_of(key), kind_of(key))} {id_of_key(key)}" for key in stranger.keys)
    )
    nearest = f"; on record are {', '.join(stranger.nearest)}" if stranger.nearest else ""
    return Cell(f"never seen, as far as is on record: a typo? Taken for {taken}{nearest}", NEARLY)
