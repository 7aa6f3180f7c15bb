"""How many have how much: bars between round numbers, on logarithmic axes, so that the one far out is seen as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from policyd_rate_limit.plots.axes import Axes, Mark
from policyd_rate_limit.plots.numbers import grouped
from policyd_rate_limit.plots.plot import LINE, Plot, Table, nothing
from policyd_rate_limit.plots.svg import boxes, element, escaped


class Bin(NamedTuple):
    """How many have at least ``low`` and less than ``high``."""

    low: int
    high: int
    number: int


def bins(values: Iterable[int]) -> list[Bin]:
    """``values``, of which those below 1 are left out, between 1, 2, 5, 10, 20, ... without a gap."""
    counted = Counter(_round_below(value) for value in values if value >= 1)
    if not counted:
        return []
    found = []
    low, last = min(counted), max(counted)
    while low <= last:
        high = _next(low)
        found.append(Bin(low, high, counted[low]))
        low = high
    return found


class Histogram(Plot):
    """Bars of ``counted`` bins; ``across`` says what is measured, ``upwards`` who is counted."""

    def __init__(
        self, name: str, title: str, counted: Sequence[Bin], *, across: str, upwards: str, marks: Sequence[Mark] = ()
    ) -> None:
        super().__init__(name, title)
        self.bins = tuple(counted)
        self.across = across
        self.upwards = upwards
        self.marks = tuple(marks)

    @property
    def description(self) -> str:
        if not self.bins:
            return "There are no figures."
        commonest = max(self.bins, key=lambda one: one.number)
        marks = "".join(f" {mark.label}: {grouped(mark.value)}." for mark in self.marks)
        total = sum(one.number for one in self.bins)
        return (
            f"{self.upwards}: {grouped(total)} in all. Most often {_range(commonest)}, of {grouped(commonest.number)}; "
            f"the highest: {_range(self.bins[-1])}.{marks}"
        )

    def table(self) -> Table:
        return Table((self.across, self.upwards), [(_range(one), grouped(one.number)) for one in self.bins])

    def svg(self, width: int) -> str:
        if not self.bins:
            return self._drawing(width, 5 * LINE, nothing(width))
        axes = Axes(width, self.bins[0].low, self.bins[-1].high, max(one.number for one in self.bins), self.marks)
        parts = list(axes.ground(self.across, self.upwards))
        for one in self.bins:
            if one.number:
                x, y = axes.x(one.low), axes.y(one.number)
                words = element("title", escaped(f"{_range(one)}, {self.upwards}: {grouped(one.number)}"))
                data = boxes([(x, y, max(1.0, axes.x(one.high) - x - 1), axes.base - y)])
                parts.append(element("path", words, d=data, class_="plot-main"))
        return self._drawing(width, axes.height, [*parts, *axes.pointed()])


def _range(one: Bin) -> str:
    return grouped(one.low) if one.high - one.low == 1 else f"{grouped(one.low)} to {grouped(one.high - 1)}"


def _round_below(value: int) -> int:
    """The greatest of 1, 2, 5, 10, ... that is not above ``value``."""
    power = int(10 ** (len(str(value)) - 1))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= value)


def _next(low: int) -> int:
    return low * 5 // 2 if str(low)[0] == "2" else low * 2
