"""Appends records to a batch table as it takes them: in parts, and without what it refuses."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.log.refusals import MOST_REFUSED
from policyd_rate_limit.storage.record import CHARACTERS_PER_RECORD, in_records, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.log.refusals import Refusals
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory


class Appender:
    """Appends what ``memory`` has decided, and remembers what of it the database refuses."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._refused: dict[str, str] = {}  # counter -> why the database takes nothing of it
        self._parts_writer = secrets.randbits(62)  # of records that were too long
        self._parts = 0

    def append(self, log: Log, record: Record, refusals: Refusals) -> list[tuple[int, Record]]:
        """Append ``record`` to ``log``, in parts where it is too long for a row, without what is refused.

        :returns: what was appended, each with its seq; ``refusals`` has what was not.
        """
        longest = min(CHARACTERS_PER_RECORD, log.longest_row)
        if not self._refused and len(record.entries) <= longest:
            return [(log.append(record), record)]
        taken = refusals.taken(record, self._refused, log.longest_row)
        parts = list(in_records(taken, lambda some: self._part(record.date, some), longest))
        if not parts and not record.size:
            return [(log.append(record), record)]
        # What says that the record is there has its name; the parts have others, and come in the same transaction.
        parts.append(pack(record.writer, record.number, record.date, ()))
        return [(log.append(part), part) for part in parts]

    def refuse(self, counters: Iterable[str], reason: str) -> None:
        """The database takes nothing of ``counters``."""
        found = dict.fromkeys(counters, reason)
        if len(self._refused) + len(found) > MOST_REFUSED:
            self._refused.clear()
        self._refused.update(found)

    def forgive(self, records: Iterable[Record]) -> None:
        """The database may take by now what is in ``records``."""
        for record in records:
            for entry in record.dated_until(record.date):
                self._refused.pop(entry.counter, None)

    def _part(self, date: int, entries: Sequence[Entry]) -> Record:
        self._parts += 1
        part = pack(self._parts_writer, self._parts, date, entries)
        self._memory.mark(part)  # what is in it is decided, and counted
        return part
