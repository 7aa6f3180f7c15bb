"""How the page shows figures: as Markdown, with no more digits than mean anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from measured import Rounds, median

SIGNIFICANT = 5  # digits that are kept of a measurement
NOTHING = "–"


def rounded(value: Any) -> Any:
    """``value``, as JSON has it, with no more digits than mean anything."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value


def number(value: float | None, unit: str = "") -> str:
    """As a table shows it."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 100:
        text = f"{value:.0f}"
    elif abs(value) >= 10:
        text = f"{value:.1f}"
    else:
        text = f"{value:.2f}"
    return f"{text}{unit}"


def percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, " %")


def spread(rounds: Rounds) -> str:
    """The median, and in parentheses the least and the most."""
    if not rounds:
        return NOTHING
    return f"{number(median(rounds))} ({number(min(rounds.values()))}–{number(max(rounds.values()))})"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    lines = [heads, ["---", *(["---:"] * (len(heads) - 1))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Target(NamedTuple):
    """What was to be reached: ``measured`` is to be at least, or at most, ``wanted``; ``stretch`` would be splendid."""

    what: str
    measured: float | None
    wanted: float
    unit: str = ""
    at_most: bool = False
    stretch: float | None = None

    def row(self) -> list[str]:
        """A line of the table."""
        sign = "at most" if self.at_most else "at least"
        return [
            self.what,
            f"{sign} {self.wanted:g}{self.unit}",
            number(self.measured, self.unit),
            self._verdict(self.wanted),
            f"{self.stretch:g}{self.unit}: {self._verdict(self.stretch)}" if self.stretch is not None else "",
        ]

    def _verdict(self, limit: float) -> str:
        if self.measured is None:
            return "not measured"
        reached = self.measured <= limit if self.at_most else self.measured >= limit
        return "reached" if reached else "**not reached**"
