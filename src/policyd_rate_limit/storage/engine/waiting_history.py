"""What is to be added to the hit history, until the store thread brings it into the database."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.administration import HOUR, HourOfHits
from policyd_rate_limit.storage.hit_history import added_up, place_of, to_others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.storage.administration import HitDetails

MOST_ROWS = 10_000  # that wait, of some 500 bytes, of 2,500 if all details are as long as they may be
MOST_ROWS_OF_OTHERS = 10_000  # beside them: for a rule, a kind of verdict and an hour there is one

_Place = tuple[int, str, "Limit", str]

_logger = logging.getLogger(__name__)


class WaitingHistory:
    """Rows for the hit history, however long the database is away; ``clock``: Unix seconds, that of all daemons.

    Beyond :data:`MOST_ROWS` they are added up by rule, and beyond :data:`MOST_ROWS_OF_OTHERS` of these dropped and
    counted, which is said when there is room again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[_Place, _Row] = {}
        self._others: dict[_Place, _Row] = {}
        self._dropped = 0  # hits

    def hit(self, key: str, limit: Limit, kind: str, details: HitDetails) -> None:
        """``key`` ran into ``limit`` just now, with that ``kind`` of verdict."""
        now = int(self._clock())
        with self._lock:
            row = self._rows.get((now - now % HOUR, key, limit, kind))
            if row is not None and row.last <= now:  # in a flood, which is to cost little
                row.hits += 1
                row.last, row.details = now, details
            else:
                self._add(HourOfHits(now - now % HOUR, key, limit, kind, 1, now, now, details))

    def add(self, rows: Iterable[HourOfHits]) -> None:
        """``rows`` are to be written, too."""
        with self._lock:
            for row in rows:
                self._add(row)

    @property
    def waits(self) -> bool:
        """Whether there is anything to :meth:`take`."""
        return bool(self._rows or self._others)

    def take(self, most: int) -> list[HourOfHits]:
        """Up to ``most`` of the rows that wait, each once, and others of their rules.

        :meth:`add` them again if they cannot be written.
        """
        if not self.waits:
            return []
        with self._lock:
            rows = dict(itertools.islice(self._rows.items(), most))
            for place in rows:
                del self._rows[place]
            others = dict(itertools.islice(self._others.items(), most))
            for place in others:
                del self._others[place]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _logger.warning("the hit history lacks %s, for which there was no room", quantity(dropped, "hit"))
        return added_up(
            HourOfHits(*place, row.hits, row.first, row.last, row.details)
            for some in (rows, others)
            for place, row in some.items()
        )

    def _add(self, hits: HourOfHits) -> None:
        if not _put(self._rows, hits, MOST_ROWS):
            if not self._others:
                _logger.warning("more than %d rows of the hit history wait: others are added up", MOST_ROWS)
            if not _put(self._others, to_others(hits), MOST_ROWS_OF_OTHERS):
                self._dropped += hits.hits


class _Row:
    """What is known of one place; a :class:`HourOfHits` that changes."""

    __slots__ = ("details", "first", "hits", "last")

    def __init__(self, hits: HourOfHits) -> None:
        self.hits, self.first, self.last, self.details = hits.hits, hits.first, hits.last, hits.details

    def add(self, hits: HourOfHits) -> None:
        """``hits`` are of the same place."""
        self.hits += hits.hits
        self.first = min(self.first, hits.first)
        if hits.last >= self.last:
            self.last, self.details = hits.last, hits.details


def _put(rows: dict[_Place, _Row], hits: HourOfHits, most: int) -> bool:
    """Add ``hits`` to ``rows``, unless there are ``most`` already."""
    place = place_of(hits)
    row = rows.get(place)
    if row is not None:
        row.add(hits)
    elif len(rows) < most:
        rows[place] = _Row(hits)
    else:
        return False
    return True
