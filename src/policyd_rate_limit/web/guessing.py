"""Guessing of passwords is slowed down: for one account from one place, and for one place in all.

Nobody is kept out from elsewhere, so that who guesses locks nobody else out. Names that there are and names that there
are not are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FREE_GUESSES = 5
"""Of one account from one place, before there is a pause."""

FREE_GUESSES_OF_PLACE = 50
"""Of one place, for whatever accounts."""

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 900.0
"""The pause after a further guess, in seconds; it doubles with each."""

FORGET_SECONDS = 3600.0
"""After so long without a guess they are forgotten."""

MOST_KEPT = 20_000
"""Pairs of account and place, and places, of each of which this keeps a few hundred bytes; the oldest are forgotten."""


@dataclass
class _Guesses:
    number: int = 0
    last: float = 0.0


class Guessing:
    """The guesses so far. ``clock``: a monotonic one, in seconds. For the event loop alone.

    A *place* is an address, an IPv6 /64, or whatever else tells one client from others.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of_pair: dict[tuple[str, ...], _Guesses] = {}
        self._of_place: dict[tuple[str, ...], _Guesses] = {}

    def pause(self, name: str, place: str) -> float:
        """How many seconds it takes until ``name`` may be tried from ``place``; 0: it may be now."""
        return max(
            self._left(self._of_pair.get((name, place)), FREE_GUESSES),
            self._left(self._of_place.get((place,)), FREE_GUESSES_OF_PLACE),
        )

    def begin(self, name: str, place: str) -> None:
        """A guess begins: it counts as a wrong one until :meth:`right`, so that many at a time are no way round."""
        now = self._clock()
        keys: list[tuple[dict[tuple[str, ...], _Guesses], tuple[str, ...]]]
        keys = [(self._of_pair, (name, place)), (self._of_place, (place,))]
        for kept, key in keys:
            guesses = kept.pop(key, None)
            if guesses is None or now - guesses.last >= FORGET_SECONDS:
                guesses = _Guesses()
            while len(kept) >= MOST_KEPT:
                del kept[next(iter(kept))]
            guesses.number += 1
            guesses.last = now
            kept[key] = guesses

    def right(self, name: str, place: str) -> None:
        """The guess was the password. What else was guessed at that place stays."""
        self._of_pair.pop((name, place), None)
        if (place,) in self._of_place:
            self._of_place[place,].number -= 1

    def _left(self, guesses: _Guesses | None, free: int) -> float:
        if guesses is None or guesses.number < free:
            return 0.0
        since = self._clock() - guesses.last
        if since >= FORGET_SECONDS:
            return 0.0
        pause = min(FIRST_PAUSE * 2.0 ** min(guesses.number - free, 30), LONGEST_PAUSE)
        return max(0.0, pause - since)
