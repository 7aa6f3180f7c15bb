"""What the tables of an older version have counted."""

from __future__ import annotations

import itertools
import logging
import secrets
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.record import in_records, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts
    from policyd_rate_limit.storage.record import Record

_logger = logging.getLogger(__name__)


class CarryOver:
    """Takes over counts of an older version, as far back as ``seconds``.

    ``counters_of_old_id`` names the counters that an id in its tables stands for.
    """

    def __init__(self, counters_of_old_id: Callable[[str], Sequence[str]], seconds: int) -> None:
        self._counters_of_old_id = counters_of_old_id
        self._seconds = seconds

    def records(self, old_counts: OldCounts, date: int) -> Iterator[Record]:
        """Records of ``date`` (Unix second) with all of ``old_counts`` that still counts."""
        # Of a writer of their own: what waits to be replayed has lower numbers, and would seem to be there.
        writer, numbers = secrets.randbits(62), itertools.count(1)
        yield from in_records(self._entries(old_counts, date), lambda some: pack(writer, next(numbers), date, some))

    def _entries(self, old_counts: OldCounts, now: int) -> Iterator[Entry]:
        entries = 0
        for old_id, date, recipients in old_counts:
            if recipients > 0 and date > now - self._seconds:
                # The old versions dated a mail at the full second before it.
                for counter in self._counters_of_old_id(old_id):
                    entries += 1
                    yield Entry(counter, recipients, min(date + 1, now), "", "")
        if entries:
            _logger.info("%s of an older version carried over", quantity(entries, "count"))
