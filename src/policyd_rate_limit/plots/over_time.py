"""What happened when: panels of bars over one axis of time, such as mails above and refusals below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.language.wording import english
from policyd_rate_limit.plots import ticks
from policyd_rate_limit.plots.numbers import grouped, moment, short
from policyd_rate_limit.plots.plot import CHARACTER, LINE, MOST_ROWS, Plot, Table, nothing
from policyd_rate_limit.plots.svg import boxes, element, escaped, stairs, text

if TYPE_CHECKING:
    from policyd_rate_limit.language.wording import Wording

_LEFT: Final = 58.0
_RIGHT: Final = 14.0
_HEIGHTS: Final = (130.0, 84.0)  # of the first panel, and of each other
_AXIS: Final = 26.0
_HEAD: Final = 28.0  # above the frame of a panel, for its label
_GAP: Final = 12.0
_LEAST_BAR: Final = 3.0  # bars that would be narrower are put together
_GAPS_FROM: Final = 5.0  # from this width on bars stand apart


class Look(Enum):
    """How a series is drawn; each is told from the others without colour."""

    PLAIN = "filled bars"
    HATCHED = "hatched bars"
    DASHED = "a dashed line"


class Series(NamedTuple):
    """A figure for each step of time."""

    label: str
    values: Sequence[int]
    look: Look = Look.PLAIN


class Panel(NamedTuple):
    """What shares an axis upwards; the label says what is counted."""

    label: str
    series: tuple[Series, ...]


class OverTime(Plot):
    """Panels over one axis of time, which begins at ``begin`` (Unix seconds) and has steps of ``step`` seconds.

    All series are equally long. Dates are those of ``zone``. ``words``: the language; None: English.
    """

    def __init__(
        self,
        name: str,
        title: str,
        panels: Sequence[Panel],
        *,
        begin: float,
        step: int,
        zone: tzinfo,
        words: Wording | None = None,
    ) -> None:
        super().__init__(name, title)
        self.panels = tuple(panels)
        self.begin = begin
        self.step = step
        self.zone = zone
        self._words = words or english()
        self._steps = max((len(series.values) for panel in panels for series in panel.series), default=0)

    @property
    def description(self) -> str:
        if not self._steps:
            return self._words.say("plot.none")
        begin, end = self._moment(self.begin), self._moment(self.begin + self._steps * self.step)
        parts = [self._words.say("plot.span", begin=begin, end=end, each=self._words.each(self.step))]
        for panel in self.panels:
            for series in panel.series:
                most = max(series.values, default=0)
                name = panel.label if series.label == panel.label else f"{panel.label}, {series.label}"
                when = self.begin + list(series.values).index(most) * self.step if most else 0
                label, total = f"{name[:1].upper()}{name[1:]}", grouped(sum(series.values))
                text = "plot.sum_and_most" if most else "plot.sum"
                parts.append(self._words.say(text, label=label, sum=total, when=self._moment(when), most=grouped(most)))
        return " ".join(parts)

    def table(self) -> Table:
        together = max(1, math.ceil(self._steps / MOST_ROWS))
        every = [series for panel in self.panels for series in panel.series]
        head = (
            self._words.say("plot.from"),
            *(self._heading(panel, series) for panel in self.panels for series in panel.series),
        )
        columns = [_added(series.values, together) for series in every]
        return Table(
            head,
            [
                (self._moment(self.begin + number * together * self.step), *map(grouped, figures))
                for number, figures in enumerate(zip(*columns, strict=True))
            ],
        )

    def svg(self, width: int) -> str:
        if not self._steps:
            return self._drawing(width, 5 * LINE, nothing(width, self._words))
        room = width - _LEFT - _RIGHT
        together = max(1, math.ceil(self._steps * _LEAST_BAR / room))
        span = self._steps * self.step

        def x_of(time: float) -> float:
            return _LEFT + room * (time - self.begin) / span

        marks = ticks.dates(self.begin, self.begin + span, max(2, int(room / 88)), self.zone, self._words)
        parts: list[str] = []
        top = 0.0
        for number, panel in enumerate(self.panels):
            height = _HEIGHTS[min(number, 1)]
            parts += self._panel(panel, width, top + _HEAD, height, together, marks, x_of)
            top += _HEAD + height + _GAP
        parts += _axis_of_time(marks, top - _GAP, x_of, width)
        parts += self._hovers(together, top - _GAP, x_of)
        return self._drawing(width, top - _GAP + _AXIS, parts)

    def _panel(
        self,
        panel: Panel,
        width: int,
        top: float,
        height: float,
        together: int,
        marks: Sequence[ticks.Tick],
        x_of: Callable[[float], float],
    ) -> Iterator[str]:
        columns = [_added(series.values, together) for series in panel.series]
        levels = ticks.counts(max((max(column, default=0) for column in columns), default=0), int(height / 26))
        base = top + height
        label = self._words.say("plot.per", label=panel.label, each=self._words.each(together * self.step))
        yield text(label, x=0, y=top - 14, class_="plot-label")
        yield from self._legend(panel, width, top - 14)
        for level in levels:
            y = base - height * level / levels[-1]
            yield element("path", d=f"M{_LEFT:.0f} {y:.1f}H{width - _RIGHT:.0f}", class_="plot-grid")
            yield text(short(level).replace(".", self._words.decimal), x=_LEFT - 6, y=y + 4, text_anchor="end")
        for mark in marks:
            if mark.is_major:
                yield element("path", d=f"M{x_of(mark.value):.1f} {top:.0f}V{base:.0f}", class_="plot-grid")
        for series, column in zip(panel.series, columns, strict=True):
            yield self._drawn(series.look, column, width, base, height / levels[-1], together, x_of)
        yield element("path", d=f"M{_LEFT:.0f} {base:.0f}H{width - _RIGHT:.0f}", class_="plot-axis")

    def _drawn(
        self,
        look: Look,
        column: Sequence[int],
        width: int,
        base: float,
        unit: float,
        together: int,
        x_of: Callable[[float], float],
    ) -> str:
        edges = [x_of(time) for time in self._edges(together)]
        if look is Look.DASHED:
            # Where there is nothing it is away: at the axis it would look like a second one.
            data = "".join(
                stairs([(x, base), *((edges[at], base - column[at] * unit) for at in run), (edges[run[-1] + 1], base)])
                for run in _runs(column)
                for x in [edges[run[0]]]
            )
            return element("path", d=data, class_="plot-before") if data else ""
        gap = 1.0 if edges[1] - edges[0] >= _GAPS_FROM else 0.0
        data = boxes(
            (edges[at], base - figure * unit, edges[at + 1] - edges[at] - gap, figure * unit)
            for at, figure in enumerate(column)
            if figure
        )
        if look is Look.HATCHED:
            return element("path", d=data, class_="plot-strong", fill=self._hatched(width))
        return element("path", d=data, class_="plot-main")

    def _legend(self, panel: Panel, width: int, y: float) -> Iterator[str]:
        """What tells the series of a panel apart, at its right end; where there is one alone its label says all."""
        if len(panel.series) < 2:
            return
        x = width - _RIGHT
        for series in reversed(panel.series):
            x -= CHARACTER * len(series.label)
            yield text(series.label, x=x, y=y)
            x -= 24
            if series.look is Look.DASHED:
                yield element("path", d=f"M{x:.0f} {y - 4:.0f}h18", class_="plot-before")
            else:
                hatched = {"class_": "plot-strong", "fill": self._hatched(width)}
                look = hatched if series.look is Look.HATCHED else {"class_": "plot-main"}
                yield element("rect", x=x, y=y - 10, width=18, height=11, **look)
            x -= 14

    def _hovers(self, together: int, base: float, x_of: Callable[[float], float]) -> Iterator[str]:
        """The figures of each step for whoever points at it: no script is needed for that."""
        edges = self._edges(together)
        columns = [
            (self._heading(panel, series), _added(series.values, together))
            for panel in self.panels
            for series in panel.series
        ]
        for at, (left, right) in enumerate(pairwise(edges)):
            figures = ", ".join(f"{label}: {grouped(column[at])}" for label, column in columns)
            words = element("title", escaped(f"{self._moment(left)}: {figures}"))
            x = x_of(left)
            yield element("rect", words, x=x, y=0, width=x_of(right) - x, height=base, class_="plot-hover")

    def _edges(self, together: int) -> list[float]:
        """Where each step begins, of so many put together, and where the last one ends."""
        begins = [self.begin + at * self.step for at in range(0, self._steps, together)]
        return [*begins, self.begin + self._steps * self.step]

    def _moment(self, time: float) -> str:
        return moment(time, self.zone, self._words)

    @staticmethod
    def _heading(panel: Panel, series: Series) -> str:
        return panel.label if len(panel.series) == 1 else f"{panel.label}, {series.label}"


def _axis_of_time(
    marks: Sequence[ticks.Tick], base: float, x_of: Callable[[float], float], width: int
) -> Iterator[str]:
    for mark in marks:
        x, half = x_of(mark.value), CHARACTER * len(mark.text) / 2
        yield element("path", d=f"M{x:.1f} {base:.0f}v5", class_="plot-axis")
        if x - half >= _LEFT / 2 and x + half <= width:
            look = "plot-major" if mark.is_major else ""
            yield text(mark.text, x=x, y=base + 19, text_anchor="middle", class_=look)


def _runs(column: Sequence[int]) -> Iterator[range]:
    """The places that lie beside each other and have something."""
    begin = 0
    for at in range(len(column) + 1):
        if at == len(column) or not column[at]:
            if at > begin:
                yield range(begin, at)
            begin = at + 1


def _added(values: Sequence[int], together: int) -> list[int]:
    return [sum(values[at : at + together]) for at in range(0, len(values), together)]
