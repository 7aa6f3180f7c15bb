"""Waiting for one's turn at the lock of a file that several daemons write to."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log.sqlite.examiner import signature

if TYPE_CHECKING:
    from pathlib import Path

LOCK_RETRY = (0.0002, 0.001)  # seconds, at random between: SQLite's own back-off goes up to 100 ms
_MOST_HASTE = 0.9  # by so much less sleeps who has waited for long, to be there before those who have just come
# While others make progress the file is not away: so many times the patience may be waited for a turn, and no longer.
TURNS = 10
LONGEST_QUEUE = 20.0  # seconds beyond the patience
# Seconds: what takes longer between two looks at the lock is this process, which did not run, and not the file.
LONGEST_LOOK = 0.1


def pause(haste: float = 0.0) -> None:
    """Wait before the next try; ``haste``: by which part less than usual."""
    time.sleep(random.uniform(*LOCK_RETRY) * (1.0 - haste))  # noqa: S311 - spreads the tries of several daemons


class Turn:
    """How long to wait for the lock: ``patience`` seconds since anybody has written to the log at ``path``.

    A disk that is slow, and no worse, makes many daemons wait for each other: one that took that for an outage would
    decide without the others, who make progress.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._before = time.monotonic()
        self._waited = 0.0  # in all, seconds
        self._end = 0.0  # when so much has been waited
        self._most = min(TURNS * patience, patience + LONGEST_QUEUE)
        self._written: tuple[int, ...] | None = None  # what shows when it is written to; None: nobody has waited yet

    def is_over(self) -> bool:
        """Whether the next try is the last one."""
        if self._written is None:
            return self._patience <= 0
        now = time.monotonic()
        self._waited += min(now - self._before, LONGEST_LOOK)
        self._before = now
        if self._waited < self._end:
            return False
        before, self._written = self._written, signature(self._path)
        self._end = min(self._waited + self._patience, self._most)
        return self._written == before or self._waited >= self._most

    def rest(self) -> None:
        """Let some time pass."""
        if self._written is None:
            self._written = signature(self._path)
            self._end = self._patience
        pause(_MOST_HASTE * min(1.0, self._waited / self._patience))
