"""Round numbers: what people take for a limit."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from typing import Final

_FACTORS: Final = (12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
_POWERS: Final = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)

LADDER: Final[tuple[int, ...]] = (
    *range(1, 11),
    *(factor * power for power in _POWERS for factor in _FACTORS),
)
"""All of them, from 1 up to beyond what anybody sends, each at most a third more than the one before from 4 on."""


def readable(number: float | Fraction) -> int:
    """The least round number that is not below ``number``."""
    return LADDER[min(bisect_left(LADDER, number), len(LADDER) - 1)]
