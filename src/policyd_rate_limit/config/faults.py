"""Collects what is wrong in what consists of parts, and says which name was most likely meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from policyd_rate_limit.config.kind import Fault, Place, Wrong

MOST_HINTS: Final = 20
"""How often the nearest name is looked for, which takes a millisecond."""

_T = TypeVar("_T")
_LONGEST_WORD: Final = 100


class Faults:
    """Collects what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self._found: list[Fault] = []

    def keep(self, place: Place, read: Callable[..., _T], *arguments: Any) -> _T | None:
        """What ``read`` makes of ``arguments``; None where that, which is at ``place``, is wrong."""
        try:
            return read(*arguments)
        except Wrong as wrong:
            self._found += [fault._replace(place=(*place, *fault.place)) for fault in wrong.faults]
            return None

    def end(self) -> None:
        """Raise Wrong where anything was."""
        if self._found:
            raise Wrong(*self._found)


class Hints:
    """Says which name is most likely meant, as long as that takes no time to speak of."""

    def __init__(self) -> None:
        self._left = MOST_HINTS

    def nearest(self, expected: str, found: object, known: Iterable[str]) -> str:
        """``expected``, and which of the ``known`` names ``found`` may be a slip for."""
        if not self._left or not isinstance(found, str) or not found:
            return expected
        self._left -= 1
        near = get_close_matches(found.lower()[:_LONGEST_WORD], list(known), 1)
        return f"{expected} (did you mean {near[0]}?)" if near else expected
