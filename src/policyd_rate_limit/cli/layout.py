"""Where the cells of a table go on lines of a given width.

What does not fit goes below, and text is broken between its words: an id, which is one, never is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

GAP = 2  # between two columns
INDENT = 4  # of what goes below
LEAST = 12  # characters that a column which may be narrower than its cells keeps


class Column(NamedTuple):
    """A column of a table; numbers are better read when they end below each other.

    ``spare``: where the table is too wide it is left out. ``name``: cells may be of any length, and need not fit.
    """

    heading: str
    right: bool = False
    spare: bool = False
    name: bool = False


class Cell(NamedTuple):
    """A cell with a style of rich's, which a terminal shows. ``short`` says the same where the table is too wide."""

    text: str
    style: str = ""
    short: str = ""


class Table(NamedTuple):
    """``rows`` below the headings of ``columns``."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


Line = list[Cell]
"""Cells side by side, with what is between them."""


def lines(table: Table, width: int | None, measure: Callable[[str], int] = len) -> Iterator[Line]:
    """``table`` on lines of ``width``, None: as wide as it is. ``measure`` says how wide a text is."""
    columns = list(table.columns)
    heading = [Cell(column.heading, "bold") for column in columns]
    rows = [heading, *(list(row) for row in table.rows)]
    widths = _widths(rows, measure)
    if width is not None and _sum(widths) > width:
        rows = [[cell._replace(text=cell.short or cell.text) for cell in row] for row in rows]
        widths = _widths(rows, measure)
        for at in reversed(range(len(columns))):
            if columns[at].spare and _sum(widths) > width:
                for part in (columns, widths, *rows):
                    del part[at]  # type: ignore[attr-defined]  # all of them are lists
        for at, column in enumerate(columns):
            excess = _sum(widths) - width
            if column.name and excess > 0:
                widths[at] = max(min(LEAST, widths[at]), widths[at] - excess)
    for row in rows:
        yield from _row(row, columns, widths, width, measure)


def words(text: str, width: int | None) -> list[str]:
    """``text`` broken between words into lines of ``width``; a word that is longer stays whole."""
    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(LEAST, width), break_long_words=False, break_on_hyphens=False) or [text]


def _row(
    row: Sequence[Cell],
    columns: Sequence[Column],
    widths: Sequence[int],
    width: int | None,
    measure: Callable[[str], int],
) -> Iterator[Line]:
    line: Line = []
    end = begin = 0  # of what stands on the line; of the column
    is_below = False  # the line goes on with what did not fit into the one before
    for cell, column, wide in zip(row, columns, widths, strict=True):
        size = measure(cell.text)
        at = max(begin, begin + wide - size) if column.right else begin
        begin += wide + GAP
        if not size:
            continue
        fits = width is None or at + size <= width
        if width is not None and not fits and is_below and end + GAP + size <= width:
            at, fits = end + GAP, True
        if line and (not fits or at < end + GAP):
            yield line
            line, end, is_below = [], 0, not fits
        if not fits:
            at = INDENT if is_below else 0
        *above, text = words(cell.text, None if width is None else width - at)
        for part in above:
            yield [Cell(" " * at), cell._replace(text=part)]
        if at > end:
            line.append(Cell(" " * (at - end)))
        line.append(cell._replace(text=text))
        end = at + measure(text)
    if line:
        yield line


def _widths(rows: Sequence[Sequence[Cell]], measure: Callable[[str], int]) -> list[int]:
    return [max(measure(cell.text) for cell in column) for column in zip(*rows, strict=True)]


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)
