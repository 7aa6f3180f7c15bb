"""A frame with logarithmic axes: to the right from 1 on, upwards from nothing, which stands below 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from policyd_rate_limit.plots import ticks
from policyd_rate_limit.plots.numbers import grouped, short
from policyd_rate_limit.plots.plot import BOLD, CHARACTER, LINE
from policyd_rate_limit.plots.svg import element, text

_LEFT: Final = 58.0
_RIGHT: Final = 18.0
_HEIGHT: Final = 200.0
_AXIS: Final = 44.0


class Mark(NamedTuple):
    """A value of the axis to the right that is pointed at, and what it is."""

    value: int
    label: str
    is_soft: bool = False


class Axes:
    """Where values lie on a drawing ``width`` units wide, of which ``marks`` take a line each above the frame."""

    def __init__(self, width: int, lowest: int, highest: int, most: int, marks: Sequence[Mark]) -> None:
        self.width = width
        self.marks = sorted(marks)
        self.top = LINE + 6 + LINE * len(marks)
        self.base = self.top + _HEIGHT
        self.height = self.base + _AXIS
        self._across = ticks.powers(
            min([lowest, *(mark.value for mark in marks)]), max([highest, *(mark.value for mark in marks)])
        )
        # A band for nothing, then one for each power of ten.
        self._upwards = [0, *ticks.powers(1, most)]

    def x(self, value: float) -> float:
        """Where ``value`` is, to the right; what is below the first power of ten is there."""
        first, last = math.log10(self._across[0]), math.log10(self._across[-1])
        part = (math.log10(max(value, self._across[0])) - first) / (last - first)
        return _LEFT + (self.width - _LEFT - _RIGHT) * part

    def y(self, number: float) -> float:
        """Where ``number`` is, upwards: between nothing and 1 in proportion, from there on by its logarithm."""
        bands = 0.0 if number <= 0 else number if number < 1 else 1 + math.log10(number)
        return self.base - _HEIGHT * bands / (len(self._upwards) - 1)

    def ground(self, across: str, upwards: str) -> Iterator[str]:
        """The grid and the figures beside it; ``across`` and ``upwards`` say what the axes count."""
        end = self.width - _RIGHT
        yield text(upwards, x=0, y=12, class_="plot-label")
        for number in self._upwards:
            yield element("path", d=f"M{_LEFT:.0f} {self.y(number):.1f}H{end:.0f}", class_="plot-grid")
            yield text(short(number), x=_LEFT - 6, y=self.y(number) + 4, text_anchor="end")
        room = (end - _LEFT) / max(1, len(self._across) - 1)
        for at, power in enumerate(self._across):
            x = self.x(power)
            yield element("path", d=f"M{x:.1f} {self.top:.0f}V{self.base:.0f}", class_="plot-grid")
            anchor = "end" if at == len(self._across) - 1 and at else "middle"
            yield text(short(power), x=x + (CHARACTER if anchor == "end" else 0), y=self.base + 17, text_anchor=anchor)
            for factor in (2, 5):
                if room > 90 and power < self._across[-1]:
                    yield element("path", d=f"M{self.x(factor * power):.1f} {self.base:.0f}v4", class_="plot-axis")
                    yield text(short(factor * power), x=self.x(factor * power), y=self.base + 17, text_anchor="middle")
        yield text(across, x=end, y=self.base + 36, text_anchor="end", class_="plot-label")
        yield element("path", d=f"M{_LEFT:.0f} {self.base:.0f}H{end:.0f}", class_="plot-axis")

    def pointed(self) -> Iterator[str]:
        """The marks, each with its words on a line of its own above the frame."""
        # Words are not to be crossed by the line of another mark: it begins below them.
        order = reversed(self.marks) if any(map(self._stands_left, self.marks)) else self.marks
        for number, mark in enumerate(order):
            x, y = self.x(mark.value), LINE + 6 + LINE * number
            is_left = self._stands_left(mark)
            look = "plot-mark-soft" if mark.is_soft else "plot-mark"
            yield element("path", d=f"M{x:.1f} {y:.0f}V{self.base:.0f}", class_=look)
            yield text(
                _words(mark),
                x=x + (-6 if is_left else 6),
                y=y + 9,
                text_anchor="end" if is_left else "start",
                class_="plot-major",
            )

    def _stands_left(self, mark: Mark) -> bool:
        """Whether there is no room for the words of ``mark`` to the right of its line."""
        return self.x(mark.value) + len(_words(mark)) * BOLD + 8 > self.width


def _words(mark: Mark) -> str:
    return f"{mark.label}: {grouped(mark.value)}"
