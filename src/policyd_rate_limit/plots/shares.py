"""How much of its maximum each of several has used: one bar for each, with the maximum of all at one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from policyd_rate_limit.plots.numbers import NARROW_SPACE, counted, grouped, share
from policyd_rate_limit.plots.plot import BOLD, CHARACTER, LINE, Plot, Table, nothing, shortened
from policyd_rate_limit.plots.svg import element, escaped, text

MOST_SHARE: Final = 2.5
"""A bar that is longer than so many times its maximum is broken off: its figure says how long it would be."""

_NARROW: Final = 560  # below this width a bar's label stands above it
_BAR: Final = 14.0
_ROW: Final = 26.0
_ROW_NARROW: Final = 42.0
_AXIS: Final = 24.0
_TOP: Final = 22.0


class Bar(NamedTuple):
    """One bar: what it is of, its value, its maximum, and what else is to be said of it, such as the period."""

    label: str
    value: int
    maximum: int
    note: str = ""

    @property
    def share(self) -> float:
        """The value as a part of the maximum; infinite where something is and nothing may be."""
        if self.maximum:
            return self.value / self.maximum
        return math.inf if self.value else 0.0

    @property
    def figure(self) -> str:
        """Value, maximum and note in words."""
        return f"{grouped(self.value)} of {grouped(self.maximum)}{f' {self.note}' if self.note else ''}"


class Shares(Plot):
    """Bars below each other; ``whose`` heads the labels, such as "user", and ``what`` the figures."""

    def __init__(self, name: str, title: str, bars: Sequence[Bar], *, whose: str, what: str) -> None:
        super().__init__(name, title)
        self.bars = tuple(bars)
        self.whose = whose
        self.what = what

    @property
    def description(self) -> str:
        if not self.bars:
            return "There are no figures."
        beyond = sum(bar.share > 1 for bar in self.bars)
        full = sum(bar.share == 1 for bar in self.bars)
        first = max(self.bars, key=lambda bar: bar.share)
        bars = counted(len(self.bars), "bar")
        begin = f"{bars}, each as a part of its maximum. Most used: {first.label}, {first.figure}."
        return f"{begin} Beyond the maximum: {grouped(beyond)}; just at it: {grouped(full)}."

    def table(self) -> Table:
        return Table(
            (self.whose, self.what, "maximum", "used", ""),
            [
                (
                    bar.label,
                    grouped(bar.value),
                    grouped(bar.maximum),
                    share(bar.value, bar.maximum) if bar.maximum or not bar.value else "∞",
                    bar.note,
                )
                for bar in self.bars
            ],
        )

    def svg(self, width: int) -> str:
        if not self.bars:
            return self._drawing(width, 5 * LINE, nothing(width))
        is_narrow = width < _NARROW
        row = _ROW_NARROW if is_narrow else _ROW
        of_figures = max(len(bar.figure) for bar in self.bars) * CHARACTER + 12
        left = 0.0 if is_narrow else min(0.32 * width, max(len(bar.label) for bar in self.bars) * CHARACTER + 12)
        right = float(width) if is_narrow else max(width - of_figures, left + 0.25 * width)
        # Room is left for what is beyond, though nothing may be: so the line is seen to be a line.
        most = min(MOST_SHARE, max(1.1, max(bar.share for bar in self.bars) * 1.02))
        unit = (right - left) / most
        height = _TOP + row * len(self.bars)
        parts: list[str] = []
        for number, bar in enumerate(self.bars):
            top = _TOP + number * row
            parts += self._drawn(bar, width, top, left, right, unit, is_narrow=is_narrow)
        parts += _scale(left, right, unit, height)
        return self._drawing(width, height + _AXIS, parts)

    def _drawn(
        self, bar: Bar, width: int, top: float, left: float, right: float, unit: float, *, is_narrow: bool
    ) -> Iterator[str]:
        line = top + (12 if is_narrow else _BAR)
        y = top + (LINE if is_narrow else 3)
        room = width - len(bar.figure) * CHARACTER - 12 if is_narrow else left - 12
        yield text(shortened(bar.label, room), x=0, y=line, class_="plot-figure")
        if is_narrow:
            yield text(bar.figure, x=width, y=line, text_anchor="end")
        else:
            yield text(bar.figure, x=right + 12, y=line)
        words = element("title", escaped(f"{bar.label}: {bar.figure}"))
        yield element("rect", words, x=left, y=y, width=right - left, height=_BAR, class_="plot-ground")
        within = min(bar.share, 1.0) * unit
        if within:
            yield element("rect", words, x=left, y=y, width=within, height=_BAR, class_="plot-main")
        beyond = min(bar.share * unit, right - left) - unit
        if bar.share > 1:
            yield element(
                "rect",
                words,
                x=left + unit,
                y=y,
                width=beyond,
                height=_BAR,
                class_="plot-strong",
                fill=self._hatched(width),
            )
        # Across the bar alone: labels stand between bars where they are narrow.
        yield element("path", d=f"M{left + unit:.1f} {y - 4:.1f}v{_BAR + 8:.0f}", class_="plot-mark")
        if bar.share * unit > right - left:
            # Two strokes through its end say that it would go on.
            yield element("path", d=f"M{right - 14:.1f} {y - 2:.1f}l-5 18m9-18l-5 18", class_="plot-mark")


def _scale(left: float, right: float, unit: float, base: float) -> Iterator[str]:
    """Per cent below, and above what stands at 100 of them."""
    at = left + unit
    is_near_end = at + len("maximum") * BOLD / 2 > right
    anchor = "end" if is_near_end else "middle"
    yield text("maximum", x=right if is_near_end else at, y=_TOP - 8, text_anchor=anchor, class_="plot-major")
    yield element("path", d=f"M{left:.1f} {base:.1f}H{right:.1f}", class_="plot-axis")
    for half in range(int((right - left) / unit * 2) + 1):
        x = left + unit * half / 2
        anchor = "start" if half == 0 else "end" if right - x < 4 * CHARACTER else "middle"
        yield element("path", d=f"M{x:.1f} {base:.1f}v5", class_="plot-axis")
        yield text(f"{50 * half}{NARROW_SPACE}%", x=x, y=base + 19, text_anchor=anchor)
