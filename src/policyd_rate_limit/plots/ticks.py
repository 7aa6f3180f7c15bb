"""Where an axis has its ticks: at round numbers, at powers of ten, and where days and hours begin in a zone."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from policyd_rate_limit.language.wording import Wording

MOST_TICKS = 400
"""However an axis is asked for, it has no more ticks than this."""

_MINUTE_STEPS = (1, 5, 10, 15, 30, 60, 120, 180, 360, 720)
_DAY_STEPS = (1, 2, 3, 7, 14)
_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 60, 120)
_DAY = 86_400


class Tick(NamedTuple):
    """A place on an axis, and what stands there."""

    value: float
    text: str
    is_major: bool = True


def round_step(span: float, most: int) -> int:
    """The least of 1, 2, 5, 10, 20, ... of which at most ``most`` fit into ``span``."""
    rough = max(1.0, span / max(1, most))
    power = 10 ** math.floor(math.log10(rough))
    return next(int(factor * power) for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-12))


def counts(highest: float, most: int) -> list[int]:
    """Whole numbers from 0 up to at least ``highest``, and to 1 at least, about ``most`` of them."""
    step = round_step(max(1.0, highest), most)
    return list(range(0, math.ceil(max(1.0, highest) / step) * step + 1, step))


def powers(lowest: float, highest: float) -> list[int]:
    """Powers of ten around ``lowest`` and ``highest``, both at least 1."""
    first = math.floor(math.log10(max(1.0, lowest)))
    last = max(first + 1, math.ceil(math.log10(max(1.0, highest)) - 1e-12))
    return [10**power for power in range(first, last + 1)]


def dates(begin: float, end: float, most: int, zone: tzinfo, words: Wording) -> list[Tick]:
    """Where units of time begin in ``zone``, from ``begin`` to ``end`` (Unix seconds), about ``most`` at the most.

    ``words``: in their language. Those where a day begins, or a month where days are ticks, or a year, are major.
    """
    span = max(1.0, end - begin)
    each = span / max(1, most)
    for minutes in _MINUTE_STEPS:
        if each <= minutes * 60:
            return _of_the_day(begin, end, minutes, zone, words)
    for days in _DAY_STEPS:
        if each <= days * _DAY and (days != 3 or span < 14 * _DAY):  # rather weeks, where there are some
            return _of_days(begin, end, days, zone, words)
    for months in _MONTH_STEPS:
        if each <= months * 30 * _DAY:
            return _of_months(begin, end, months, zone, words)
    return _of_months(begin, end, max(_MONTH_STEPS[-1], math.ceil(each / (365 * _DAY)) * 12), zone, words)


def _of_the_day(begin: float, end: float, minutes: int, zone: tzinfo, words: Wording) -> list[Tick]:
    """Every so many ``minutes`` of the clock, from each midnight on."""
    found: dict[float, Tick] = {}
    # By the clock of the zone, so that on the day when it is changed ticks stand at the same hours as on others.
    clock = datetime.fromtimestamp(begin, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if minutes < 60:
        clock = datetime.fromtimestamp(begin, zone).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    while len(found) < MOST_TICKS:
        time = clock.replace(tzinfo=zone).timestamp()
        if time > end:
            break
        if time >= begin:
            is_midnight = clock.hour == clock.minute == 0
            found[time] = Tick(time, words.day_of_plot(clock) if is_midnight else f"{clock:%H:%M}", is_midnight)
        clock += timedelta(minutes=minutes)
    return sorted(found.values())


def _of_days(begin: float, end: float, days: int, zone: tzinfo, words: Wording) -> list[Tick]:
    found: list[Tick] = []
    clock = datetime.fromtimestamp(begin, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if days >= 7:
        clock -= timedelta(days=clock.weekday())  # on Mondays
    while len(found) < MOST_TICKS:
        time = clock.replace(tzinfo=zone).timestamp()
        if time > end:
            break
        if time >= begin:
            found.append(Tick(time, words.day_of_plot(clock), clock.weekday() == 0))
        clock += timedelta(days=days)
    return found


def _of_months(begin: float, end: float, months: int, zone: tzinfo, words: Wording) -> list[Tick]:
    found: list[Tick] = []
    first = datetime.fromtimestamp(begin, zone)
    number = first.year * 12 + first.month - 1
    number -= number % months
    while len(found) < MOST_TICKS and number < datetime.max.year * 12:
        clock = datetime(number // 12, number % 12 + 1, 1, tzinfo=zone)
        if clock.timestamp() > end:
            break
        if clock.timestamp() >= begin:
            name = words.month_of_plot(clock) if months < 12 else f"{clock:%Y}"
            found.append(Tick(clock.timestamp(), name, clock.month == 1))
        number += months
    return found
