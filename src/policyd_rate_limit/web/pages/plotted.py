"""Plots for pages, in two widths of which the style shows one."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from policyd_rate_limit.plots.over_time import Look, OverTime, Panel, Series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.plots.plot import Row
    from policyd_rate_limit.web.wording import Wording

WIDE, NARROW = 1080, 360

MOST_STEPS = 800
"""Of a plot: an hour each for a month, and some."""


class Plotted(NamedTuple):
    """A plot as markup in both widths, its figures as a table, and what it shows in the language of the page."""

    wide: Markup
    narrow: Markup
    head: Row
    rows: Sequence[Row]
    heading: Markup
    is_empty: bool


class Column(NamedTuple):
    """``figures`` by when they were (Unix second); refusals are told from others by the ``look``."""

    label: str
    figures: Mapping[int, int]
    look: Look


def plotted(
    name: str, heading: Markup, columns: Sequence[Column], begin: int, end: int, step: int, t: Wording
) -> Plotted:
    """``columns`` for each ``step`` (seconds) from ``begin`` to ``end`` (Unix seconds); ``heading`` says what it is."""
    steps = max(1, min(MOST_STEPS, -(-(end - begin) // step)))
    summed = [_summed(column.figures, begin, step, steps) for column in columns]
    panels = [
        Panel(column.label, (Series(column.label, figures, column.look),))
        for column, figures in zip(columns, summed, strict=True)
    ]
    zone = t.zone or datetime.now().astimezone().tzinfo
    assert zone is not None  # noqa: S101 - astimezone gives one
    plot = OverTime(name, heading.striptags(), panels, begin=begin, step=step, zone=zone, words=t)
    table = plot.table()
    return Plotted(
        Markup(plot.svg(WIDE)),  # noqa: S704 - plots escape what they are given
        Markup(plot.svg(NARROW)),  # noqa: S704
        table.head,
        [row for row in table.rows if any(figure != "0" for figure in row[1:])],
        heading,
        not any(map(any, summed)),
    )


def _summed(figures: Mapping[int, int], begin: int, step: int, steps: int) -> list[int]:
    found = [0] * steps
    for date, figure in figures.items():
        at = (date - begin) // step
        if 0 <= at < steps:
            found[at] += figure
    return found
