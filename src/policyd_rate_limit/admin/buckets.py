"""How much was counted in each minute, hour or day of somebody's clock."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

Step = Literal["minute", "hour", "day"]
STEPS: tuple[Step, ...] = get_args(Step)


class Bucket(NamedTuple):
    """``mails`` were counted in the minute, hour or day that began at the Unix second ``begin``."""

    begin: int
    mails: int


def begin_of(date: int, step: Step, zone: tzinfo | None = None) -> int:
    """The Unix second in which the minute, hour or day of ``date`` (Unix second) began.

    Hours and days are those of ``zone``, None: those of this machine.
    """
    moment = datetime.fromtimestamp(date, zone).replace(second=0)
    if step != "minute":
        moment = moment.replace(minute=0)
    if step == "day":
        # The first midnight, where the clocks are put back at midnight.
        moment = moment.replace(hour=0, fold=0)
    return round(moment.timestamp())


def buckets(charges: Iterable[tuple[int, int]], step: Step, zone: tzinfo | None = None) -> list[Bucket]:
    """The (date, amount) of ``charges`` by ``step``, oldest first; steps in which nothing was counted are left out."""
    counted: Counter[int] = Counter()
    for date, amount in charges:
        counted[begin_of(date, step, zone)] += amount
    return [Bucket(begin, mails) for begin, mails in sorted(counted.items()) if mails]
