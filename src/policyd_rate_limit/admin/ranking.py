"""Who is ahead by some score, kept up as scores change: the heaviest of a million ids without looking at all of them.

A score falls by itself as time passes, and rises only when something is counted, which is told here. So what was told
last is what it is at most, and of whoever is not kept it is known how much they have at most: a list is right as soon
as its last place has more than that.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_RANKED: Final = 20_000
"""So many are kept at the least, where there are as many, and twice that at the most, some 200 bytes each."""

Score = tuple[float, float]
"""What ranks first, and what does among equals."""

NOTHING: Final[Score] = (0.0, 0.0)
LARGEST_SCORE: Final[Score] = (math.inf, math.inf)


class Ranking:
    """The keys with the highest scores of those that were noted. For one thread."""

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST_RANKED if most is None else most
        self._scores: dict[str, Score] = {}
        self._ordered: list[tuple[str, Score]] | None = None
        self._edge = NOTHING  # what those that were not kept in the last pass have at most
        self._rising = NOTHING  # likewise in this one

    def note(self, key: str, score: Score) -> None:
        """``key`` has that ``score`` now."""
        self._ordered = None
        if score > self._rising:
            self._scores[key] = score
            if len(self._scores) > 2 * self._most:
                self._prune()
        else:
            self._scores.pop(key, None)

    def begin_pass(self) -> None:
        """All that there are have been noted since the last call, and are to be noted again until the next."""
        self._edge, self._rising = self._rising, NOTHING

    def kept(self) -> list[str]:
        """All keys that are kept."""
        return list(self._scores)

    def ordered(self) -> Sequence[tuple[str, Score]]:
        """All that are kept, with the scores that were noted, the highest first; it stays as it is."""
        if self._ordered is None:
            self._ordered = sorted(self._scores.items(), key=lambda item: item[1], reverse=True)
        return self._ordered

    @property
    def most_beyond(self) -> Score:
        """What whoever is not kept has at most."""
        return max(self._edge, self._rising)

    def _prune(self) -> None:
        kept = heapq.nlargest(self._most, self._scores.items(), key=lambda item: item[1])
        dropped = self._scores.keys() - {key for key, _ in kept}
        self._rising = max(self._rising, max(self._scores[key] for key in dropped))
        self._scores = dict(kept)


def best(
    ordered: Sequence[tuple[str, Score]], most: int, score_of: Callable[[Sequence[str]], Sequence[Score]]
) -> list[tuple[str, Score]]:
    """The ``most`` keys of :meth:`Ranking.ordered` with the highest scores now, those first; none without a score.

    ``score_of`` finds out what the scores of some keys are now: of no more keys than it takes.
    """
    found: list[tuple[Score, str]] = []  # a heap: the lowest first
    step = max(100, most // 4)
    for first in range(0, len(ordered), step):
        if len(found) == most and found[0][0] >= ordered[first][1]:
            break
        keys = [key for key, _ in ordered[first : first + step]]
        for key, score in zip(keys, score_of(keys), strict=True):
            if score > NOTHING:
                if len(found) < most:
                    heapq.heappush(found, (score, key))
                else:
                    heapq.heappushpop(found, (score, key))
    return [(key, score) for score, key in sorted(found, key=lambda one: (-one[0][0], -one[0][1], one[1]))]
