"""How many entries are on record, and in which part of the time: counted as they are read."""

from __future__ import annotations

from typing import Final

PARTS: Final = 1_000
"""In so many parts the time is counted by itself, which bounds what this takes."""


class OnRecord:
    """Counts entries by their dates, of which those of the last ``longest`` seconds matter."""

    def __init__(self, longest: int = PARTS) -> None:
        self._seconds = max(1, longest // PARTS)
        self._parts: dict[int, int] = {}

    def count(self, date: int) -> None:
        """There is one more, of ``date`` (Unix second)."""
        part = date // self._seconds
        self._parts[part] = self._parts.get(part, 0) + 1
        if len(self._parts) > 2 * PARTS:
            for old in sorted(self._parts)[: len(self._parts) - PARTS - 2]:
                del self._parts[old]

    def since(self, date: int) -> int:
        """How many there are of ``date`` or later, and of the part of the time in which it lies."""
        first = date // self._seconds
        return sum(count for part, count in self._parts.items() if part >= first)
