"""The counts of a batch table as a copy reads and writes them: see :mod:`policyd_rate_limit.storage.copying`."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.storage.administration import PATIENCE
from policyd_rate_limit.storage.copying import Change, Sums, What, changes, without_debts
from policyd_rate_limit.storage.log.administration import Reader, entries_of
from policyd_rate_limit.storage.record import in_records, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.log.administration import LogAdministration
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.record import Record

ENTRIES_PER_STEP: Final = 2_000  # for which the daemons wait, while they are appended
RECORDS_PER_STEP: Final = 200  # likewise
COUNTERS_PER_PAGE: Final = 100

_logger = logging.getLogger(__name__)


class LogCopying:
    """Copies the batch table that ``administration`` opens, from or to: a
    :class:`policyd_rate_limit.storage.copying.RecordCopier`, whose methods are described there.
    """

    def __init__(self, administration: LogAdministration) -> None:
        self.refused = 0
        self._administration = administration
        self._seq = 0  # of the last row that was read, as the target
        self._latest = 0  # the date of that row
        self._newest: dict[int, int] = {}  # writer -> number of its newest record
        self._date = 0  # now
        self._writer = 0  # of what came from the source
        self._takes: Callable[[str], bool] = lambda _: False
        self._brought: dict[str, dict[What, int]] = {}  # by that writer: counter -> second -> amount

    def size(self) -> int:
        return self._count("SELECT coalesce(sum(size), 0) FROM policyd_batch")

    def size_brought(self, source: int) -> int:
        return self._count("SELECT coalesce(sum(size), 0) FROM policyd_batch WHERE writer = %s", _writer_of(source))

    def records(self) -> Iterator[Sequence[Record]]:
        yield from iter(Reader(self._administration.open(), 0).page, [])

    def sums(self, target: int, takes: Callable[[str], bool]) -> Iterator[Sequence[Sums]]:
        amounts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        values: dict[str, dict[What, int]] = defaultdict(dict)
        writer, whole_since = _writer_of(target), 0
        for page in self.records():
            # Some of the rows of the oldest second may have been deleted.
            whole_since = whole_since or page[0].date + 1
            for record in page:
                if record.writer != writer:
                    for entry in entries_of(record, None, 0):
                        if not takes(entry.counter):
                            continue
                        if is_distinct(entry.counter):
                            _note_value(values[entry.counter], entry)
                        else:
                            amounts[entry.counter][entry.date] += entry.amount
        counters = iter(amounts.items())
        while some := list(itertools.islice(counters, COUNTERS_PER_PAGE)):
            yield [Sums(counter, without_debts(of_counter), whole_since) for counter, of_counter in some]
        of_values = iter(values.items())
        while found := list(itertools.islice(of_values, COUNTERS_PER_PAGE)):
            yield [Sums(counter, of_counter, whole_since) for counter, of_counter in found]

    def begin(self, source: int, takes: Callable[[str], bool]) -> None:
        """Reads all that is there."""
        self._seq = self._latest = 0
        self._newest.clear()
        self._writer, self._takes = _writer_of(source), takes
        self._brought = defaultdict(dict)
        self._read_on(self._administration.open())

    def add_records(self, page: Sequence[Record]) -> int:
        added = 0
        missing = [record for record in page if self._lacks(record)]
        while missing:
            log = self._lock()
            size = count = 0
            for record in missing[:RECORDS_PER_STEP]:
                count += 1
                if self._lacks(record):  # still
                    try:
                        dated = record.dated(self._date)
                    except ValueError as error:
                        _logger.error("a record of the old database cannot be understood and is left out: %s", error)
                        self.refused += 1
                        continue
                    self._append(log, dated)
                    size += record.size
                if size >= ENTRIES_PER_STEP:
                    break
            log.commit()
            added += size
            del missing[:count]
        return added

    def add_sums(self, page: Sequence[Sums], keep: int) -> int:  # noqa: ARG002 - a log is kept by --clean
        added = 0
        missing = [change for found in page for change in self._changes(found)]
        for first in range(0, len(missing), ENTRIES_PER_STEP):
            log = self._lock()
            entries = list(self._entries(missing[first : first + ENTRIES_PER_STEP]))
            for record in in_records(entries, self._pack):
                self._append(log, record)
            log.commit()
            added += len(entries)
        return added

    def nameless(self, counter: str) -> bool:
        return counter.startswith("#")

    def _changes(self, found: Sums) -> list[Change]:
        return changes(found, self._brought.get(found.counter, {}))

    def _entries(self, wanted: Iterable[Change]) -> Iterator[Entry]:
        """What is to be appended; should another copy have been faster, less than was ``wanted``."""
        for change in wanted:
            counter, what, _, new = change
            brought = self._brought[counter]
            missing = new - brought.get(what, 0)
            if missing:
                brought[what] = new
                if isinstance(what, str):
                    yield Entry(counter, 1 if new else -1, change.date, "", what)
                else:
                    yield Entry(counter, missing, what, "", "")

    def _pack(self, entries: Sequence[Entry]) -> Record:
        return pack(self._writer, self._newest.get(self._writer, 0) + 1, self._date, entries)

    def _append(self, log: Log, record: Record) -> None:
        self._seq = log.append(record)
        self._latest = record.date
        self._newest[record.writer] = record.number

    def _lacks(self, record: Record) -> bool:
        return record.number > self._newest.get(record.writer, 0)

    def _lock(self) -> Log:
        """Take the lock of the log, and read what is new there."""
        log = self._administration.open()
        self._date = math.ceil(log.begin(PATIENCE))
        self._read_on(log)
        if self._latest > self._date:
            log.redate(self._date)
            self._latest = self._date
        return log

    def _read_on(self, log: Log) -> None:
        for seq, record in log.rows_after(self._seq):
            self._seq, self._latest = seq, max(self._latest, record.date)
            if self._lacks(record):
                self._newest[record.writer] = record.number
                if record.writer == self._writer:
                    for entry in entries_of(record, None, 0):
                        if self._takes(entry.counter):
                            brought = self._brought[entry.counter]
                            if is_distinct(entry.counter):
                                _note_value(brought, entry)
                            else:
                                brought[entry.date] = brought.get(entry.date, 0) + entry.amount

    def _count(self, text: str, *parameters: int) -> int:
        return int(self._administration.open().read(text, *parameters)[0][0])


def _note_value(values: dict[What, int], entry: Entry) -> None:
    """Have ``entry``, of a counter of different values, be in ``values``: value -> second in which it came last.

    One that was taken back came at 0.
    """
    if entry.amount > 0:
        values[entry.part] = max(values.get(entry.part, 0), entry.date)
    elif entry.part == RESET:
        for value, date in values.items():
            if date <= entry.date:
                values[value] = 0
    elif entry.amount and values.get(entry.part, 0) <= entry.date:
        values[entry.part] = 0


def _writer_of(identity: int) -> int:
    """Under which writer (62 bits) counts are kept that came from the database of that ``identity``."""
    return int.from_bytes(hashlib.blake2b(b"copy %d" % identity, digest_size=8).digest(), "big") >> 2
