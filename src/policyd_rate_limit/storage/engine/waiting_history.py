"""What is to be added to the hit history, until the store thread brings it into the database."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.administration import HourOfHits
from policyd_rate_limit.storage.hit_history import added_up, hour_of, place_of, to_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.storage.administration import HitDetails

MOST_ROWS = 10_000  # that wait, of some 500 bytes, of 2,500 if all details are as long as they may be
MOST_ROWS_OF_OTHERS = 10_000  # beside them: for a rule, a kind of verdict and an hour there is one

_logger = logging.getLogger(__name__)


class WaitingHistory:
    """Rows for the hit history, however long the database is away; ``clock``: Unix seconds, that of all daemons.

    Beyond :data:`MOST_ROWS` they are added up by rule, and beyond :data:`MOST_ROWS_OF_OTHERS` of these dropped and
    counted, which is said when there is room again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[tuple[int, str, Limit, str], HourOfHits] = {}
        self._others: dict[tuple[int, str, Limit, str], HourOfHits] = {}
        self._dropped = 0  # hits

    def hit(self, key: str, limit: Limit, kind: str, details: HitDetails) -> None:
        """``key`` ran into ``limit`` just now, with that ``kind`` of verdict."""
        now = int(self._clock())
        self.add((HourOfHits(hour_of(now), key, limit, kind, 1, now, now, details),))

    def add(self, rows: Iterable[HourOfHits]) -> None:
        """``rows`` are to be written, too."""
        with self._lock:
            for row in rows:
                if not self._put(self._rows, row, MOST_ROWS):
                    if not self._others:
                        _logger.warning("more than %d rows of the hit history wait: others are added up", MOST_ROWS)
                    if not self._put(self._others, to_others(row), MOST_ROWS_OF_OTHERS):
                        self._dropped += row.hits

    def take(self) -> list[HourOfHits]:
        """All rows that wait, each once. :meth:`add` them again if they cannot be written."""
        if not self._rows:
            return []
        with self._lock:
            rows, self._rows = self._rows, {}
            others, self._others = self._others, {}
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _logger.warning("the hit history lacks %s, for which there was no room", quantity(dropped, "hit"))
        return added_up([*rows.values(), *others.values()])

    @staticmethod
    def _put(rows: dict[tuple[int, str, Limit, str], HourOfHits], row: HourOfHits, most: int) -> bool:
        """Add ``row`` to ``rows``, unless there are ``most`` already."""
        place = place_of(row)
        known = rows.get(place)
        if known is None and len(rows) >= most:
            return False
        rows[place] = row if known is None else added_up((known, row))[0]
        return True
