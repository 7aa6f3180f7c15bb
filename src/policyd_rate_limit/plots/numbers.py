"""How figures are written on plots and beside them."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import TYPE_CHECKING

from policyd_rate_limit.language.wording import english

if TYPE_CHECKING:
    from policyd_rate_limit.language.wording import Wording

NARROW_SPACE = "\u202f"
"""Between thousands, as ISO 80000-1 has it: no comma or point, which mean different things to different readers."""

_SUFFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_SHORT_FROM = 10_000


def grouped(number: float) -> str:
    """``number`` with its thousands apart; a fraction has two digits at the most."""
    if isinstance(number, float) and not number.is_integer():
        return f"{number:,.2f}".rstrip("0").rstrip(".").replace(",", NARROW_SPACE)
    return f"{int(number):,}".replace(",", NARROW_SPACE)


def counted(number: int, noun: str, plural: str = "") -> str:
    """``number`` of what ``noun`` is one of: as ``quantity`` of ``domain.quantity``, with its thousands apart."""
    return f"{grouped(number)} {noun if number == 1 else plural or f'{noun}s'}"


def short(number: float) -> str:
    """``number`` for an axis: from ten thousand on with a suffix where nothing is lost by it."""
    if abs(number) >= _SHORT_FROM:
        for factor, suffix in _SUFFIXES:
            if abs(number) >= factor and (number / factor * 10).is_integer():
                return f"{number / factor:g}{suffix}"
    return grouped(number)


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent; what is small but not nothing is never called 0 %, nor all but a few 100 %."""
    if not whole:
        return "–"
    value = 100 * part / whole
    if 0 < value < 0.1:
        return f"< 0.1{NARROW_SPACE}%"
    if 99.9 < value < 100:
        return f"> 99.9{NARROW_SPACE}%"
    return f"{grouped(round(value, 1))}{NARROW_SPACE}%"


def moment(time: float, zone: tzinfo, words: Wording | None = None) -> str:
    """``time`` (Unix seconds) to the minute on the clock of ``zone``; ``words``: None are English ones."""
    return (words or english()).moment_of_plot(datetime.fromtimestamp(time, zone))
