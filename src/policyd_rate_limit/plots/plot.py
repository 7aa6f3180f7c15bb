"""What all plots have in common: a title, a description, the drawing at a width, and the same figures as a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.language.wording import english
from policyd_rate_limit.plots.svg import element, escaped, text

if TYPE_CHECKING:
    from policyd_rate_limit.language.wording import Wording

CHARACTER: Final = 7.7
"""How wide a character of a label is, about, in units of the drawing: the style has them 13 units high."""

BOLD: Final = 9.2
"""The same of a character in bold."""

LINE: Final = 18.0
"""From one line of text to the next."""

MOST_ROWS: Final = 1000
"""Of the table beside a plot."""

Row = tuple[str, ...]


class Table(NamedTuple):
    """The figures of a plot for whoever reads rather than looks."""

    head: Row
    rows: Sequence[Row]


class Plot(ABC):
    """A plot; one unit of the drawing is a CSS pixel where it is shown as wide as it was asked for."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        """In ids of elements: unique in its page, letters, digits and hyphens."""
        self.title = title

    @property
    @abstractmethod
    def description(self) -> str:
        """What the plot shows, in a sentence or two that do without it."""

    @abstractmethod
    def svg(self, width: int) -> str:
        """The drawing as markup, so many units wide; to be told apart by name and width where it is there twice."""

    @abstractmethod
    def table(self) -> Table:
        """The same figures."""

    def _drawing(self, width: int, height: float, content: Iterable[str]) -> str:
        """The whole element, with what tells it to whoever does not see it."""
        mark = f"{self.name}-{width}"
        return element(
            "svg",
            [
                element("title", escaped(self.title), id=f"{mark}-title"),
                element("desc", escaped(self.description), id=f"{mark}-desc"),
                element("defs", self._hatching(width)),
                *content,
            ],
            class_="plot",
            role="img",
            viewBox=f"0 0 {width} {height:.0f}",
            width=width,
            height=round(height),
            aria_labelledby=f"{mark}-title",
            aria_describedby=f"{mark}-desc",
        )

    def _hatching(self, width: int) -> str:
        """Lines from corner to corner, by which refusals are told from mails without colour."""
        return element(
            "pattern",
            [
                element("rect", width=6, height=6, class_="hatch-ground"),
                element("path", d="M-1 1l2-2M0 6l6-6M5 7l2-2", class_="hatch-line"),
            ],
            id=self._hatch_id(width),
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        )

    def _hatched(self, width: int) -> str:
        """The paint of the hatching."""
        return f"url(#{self._hatch_id(width)})"

    def _hatch_id(self, width: int) -> str:
        return f"{self.name}-{width}-hatch"


def style() -> str:
    """The style sheet of all plots, in light and in dark; whoever shows one puts it into the page."""
    return resources.files("policyd_rate_limit.plots").joinpath("plots.css").read_text(encoding="utf-8")


def shortened(label: str, room: float) -> str:
    """``label``, without its middle where it is wider than ``room``: the ends tell users and domains apart."""
    most = max(5, int(room / CHARACTER))
    if len(label) <= most:
        return label
    head = most // 2
    return f"{label[:head]}…{label[len(label) - (most - head - 1) :]}"


def nothing(width: int, words: Wording | None = None) -> list[str]:
    """In place of a plot of no figures; ``words``: None are English ones."""
    return [
        text(
            (words or english()).say("plot.nothing"), x=width / 2, y=3 * LINE, class_="plot-note", text_anchor="middle"
        )
    ]
