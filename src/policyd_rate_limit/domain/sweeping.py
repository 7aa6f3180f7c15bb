"""When what is kept of many keys is looked through for what has expired: a little of it about once a second."""

from __future__ import annotations

from typing import Final

SHARDS: Final = 1024
"""So many dictionaries, so that neither growing one nor sweeping one holds up anybody for long."""

SWEEPS: Final = 256
"""So many sweeps look at all keys, where the longest window is no longer than :data:`LONGEST_SWEPT`."""

LONGEST_SWEPT: Final = 16 * SWEEPS
"""Seconds; with a longer window it takes as many more: to look at a key that nobody has asked for takes as long as to
decide."""


class Sweeping:
    """Says which shards are due, each in its turn."""

    def __init__(self) -> None:
        self._next = 0
        self._unswept = 0.0  # shards that are due

    def due(self, longest: int) -> list[int]:
        """The shards to be swept now, where ``longest`` is the longest window of anybody (seconds)."""
        self._unswept += SHARDS / SWEEPS * min(1.0, LONGEST_SWEPT / max(1, longest))
        found: list[int] = []
        while self._unswept >= 1:
            self._unswept -= 1
            found.append(self._next)
            self._next = (self._next + 1) % SHARDS
        return found
