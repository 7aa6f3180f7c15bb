"""Back-off: when to try again what has failed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Back-off: when to retry, after a time that doubles with each failure, spread at random."""

    FIRST = 0.1
    MOST = 5.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._delay = 0.0
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether the time of the next try has come."""
        return self._clock() >= self._due

    def failed(self) -> None:
        """A try has failed."""
        self._delay = min(max(2 * self._delay, self.FIRST), self.MOST)
        self._due = self._clock() + self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def succeeded(self) -> None:
        """A try has succeeded."""
        self._delay = self._due = 0.0


class SlowBackoff(Backoff):
    """Back-off for what somebody has to mend first."""

    FIRST = 60.0
    MOST = 3600.0
