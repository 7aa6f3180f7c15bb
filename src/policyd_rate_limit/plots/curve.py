"""How something falls as a maximum rises: steps on logarithmic axes, such as how many ids a maximum would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from policyd_rate_limit.plots.axes import Axes, Mark
from policyd_rate_limit.plots.numbers import grouped
from policyd_rate_limit.plots.plot import CHARACTER, LINE, MOST_ROWS, Plot, Table, nothing
from policyd_rate_limit.plots.svg import element, stairs, text


class Line(NamedTuple):
    """One line: (value, number) by rising value, each number good until the next value."""

    label: str
    points: Sequence[tuple[int, int]]


class Curve(Plot):
    """At most two lines over the same values: the first is solid, the second dashed.

    ``across`` and ``upwards`` say what the axes count; ``marks`` are values that are pointed at.
    """

    def __init__(
        self, name: str, title: str, lines: Sequence[Line], *, across: str, upwards: str, marks: Sequence[Mark] = ()
    ) -> None:
        super().__init__(name, title)
        if len(lines) > 2:
            raise ValueError("two lines can be told apart, not more")
        self.lines = tuple(lines)
        self.across = across
        self.upwards = upwards
        self.marks = tuple(marks)

    @property
    def description(self) -> str:
        parts = []
        for mark in self.marks:
            figures = "".join(f"; {line.label}: {grouped(number_at(line.points, mark.value))}" for line in self.lines)
            parts.append(f"{mark.label}: {grouped(mark.value)}{figures}.")
        ends = [
            f"{line.label} from {grouped(line.points[0][1])} down to {grouped(line.points[-1][1])}"
            for line in self.lines
            if line.points
        ]
        return " ".join([f"{'; '.join(ends)}.".capitalize() if ends else "There are no figures.", *parts])

    def table(self) -> Table:
        values = sorted(
            {value for line in self.lines for value, _ in line.points} | {mark.value for mark in self.marks}
        )
        if len(values) > MOST_ROWS:
            step = len(values) / MOST_ROWS
            values = [values[int(at * step)] for at in range(MOST_ROWS - 1)] + values[-1:]
        return Table(
            (self.across, *(line.label for line in self.lines)),
            [(grouped(value), *(grouped(number_at(line.points, value)) for line in self.lines)) for value in values],
        )

    def svg(self, width: int) -> str:
        values = [value for line in self.lines for value, _ in line.points]
        if not values:
            return self._drawing(width, 5 * LINE, nothing(width))
        most = max(number for line in self.lines for _, number in line.points)
        axes = Axes(width, min(values), max(values), most, self.marks)
        parts = [*axes.ground(self.across, self.upwards), *axes.pointed()]
        for line, look in zip(self.lines, ("plot-line", "plot-line-strong"), strict=False):
            if line.points:
                data = stairs((axes.x(value), axes.y(number)) for value, number in line.points)
                parts.append(element("path", d=f"{data}H{width - 18}", class_=look))
        return self._drawing(width, axes.height, [*parts, *self._legend(width)])

    def _legend(self, width: int) -> Iterator[str]:
        x = float(width)
        for line, look in reversed(list(zip(self.lines, ("plot-line", "plot-line-strong"), strict=False))):
            x -= CHARACTER * len(line.label)
            yield text(line.label, x=x, y=12)
            yield element("path", d=f"M{x - 26:.0f} 8h20", class_=look)
            x -= 38


def number_at(points: Sequence[tuple[int, int]], value: int) -> int:
    """What a line says at ``value``: the number of the last point that is not beyond; before the first, that one's."""
    found = points[0][1] if points else 0
    for at, number in points:
        if at > value:
            break
        found = number
    return found
