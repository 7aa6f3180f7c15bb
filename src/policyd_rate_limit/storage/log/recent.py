"""The last records, in case that a table is lost of which another daemon knows less."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policyd_rate_limit.storage.record import Record

RECENT_BYTES = 4 << 20


class Recent:
    """The last records that are known to be in the table, in case that it is lost: :data:`RECENT_BYTES` of them."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self._bytes = 0
        self._forgotten: dict[int, int] = {}  # writer -> number of its newest record that is no longer there

    def add(self, record: Record) -> None:
        """Another one is in the table."""
        self.records.append(record)
        self._bytes += len(record.entries) + OVERHEAD
        while self._bytes > RECENT_BYTES:
            oldest = self.records.popleft()
            self._bytes -= len(oldest.entries) + OVERHEAD
            self._forgotten[oldest.writer] = oldest.number

    def covers(self, writers: Iterable[int], stored: Mapping[int, int]) -> bool:
        """Whether all records of ``writers`` are there whose numbers are greater than those of ``stored``."""
        return all(self._forgotten.get(writer, 0) <= stored.get(writer, 0) for writer in writers)

    def forget(self, stored: Mapping[int, int]) -> None:
        """What is there, and what ``stored`` says (writer -> number), is known no more record by record."""
        for record in self.records:
            self._forgotten[record.writer] = record.number
        for writer, number in stored.items():
            self._forgotten[writer] = max(number, self._forgotten.get(writer, 0))
        self.records.clear()
        self._bytes = 0
