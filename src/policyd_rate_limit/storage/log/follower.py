"""Follows a batch table: memory is to know what all daemons have appended, and to lose nothing that it knew.

A table that is removed while daemons run is rebuilt by the first that notices, from its memory; the others then read
the new one. One that has lost rows, or in whose place there is another one, gets what memory knows and it does not:
memory is given up only for a table that has been read, and that lacks nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.storage.log.recent import Recent
from policyd_rate_limit.storage.log.refusals import Refusals
from policyd_rate_limit.storage.replica import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from policyd_rate_limit.storage.log.appender import Appender
    from policyd_rate_limit.storage.log.contract import Log, OldCounts
    from policyd_rate_limit.storage.log.old_counts import CarryOver
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Kept, Memory

_logger = logging.getLogger(__name__)


class _Reach(NamedTuple):
    """How far back (``seconds``) memory knows what the table holds, and how often that was to be read once more."""

    seconds: int
    readings: int = 0


class _Place(NamedTuple):
    """Where in the table memory is: the last row, its date, and the newest number of each writer."""

    seq: int
    date: int
    stored: dict[int, int]


class Follower:
    """Keeps ``memory`` in step with a batch table.

    ``longest`` is the longest window in use (seconds): so far back the table is read. ``appender`` writes what it
    lacks of what was known here, and ``rebuilt`` is called then: other tables may lack something, too. ``carry_over``:
    from the tables of an older version. Where the database fails it raises LogError.
    """

    def __init__(
        self, memory: Memory, appender: Appender, carry_over: CarryOver, rebuilt: Callable[[], None], longest: int
    ) -> None:
        self._memory = memory
        self._appender = appender
        self._carry_over = carry_over
        self._rebuilt = rebuilt
        self._longest = self._needed = _Reach(longest)
        self._needs = threading.Lock()
        self._identity: Hashable = None  # of the table that memory was read from
        self.is_loaded = False  # memory has been read from a table: what is lost can be rebuilt from it
        self._trusted = False  # likewise, and nothing is in it that is not in the table
        self._replaced = False  # the table has lost rows, or another one has taken its place
        self._seq = 0  # of the last row that is in memory
        self._date = 0  # of the last row
        self._stored: dict[int, int] = {}  # writer -> number of its newest record that is known to be in the table
        self._dates: dict[int, int] = {}  # writer -> date of its newest record
        self._recent = Recent()
        self._marked: dict[int, int] = {}  # writer -> up to which number a snapshot in the table holds its records
        self._mended: list[tuple[int, Record]] = []  # appended in this transaction, as the table lacked it
        self._rescued: tuple[Record, ...] = ()

    @property
    def seq(self) -> int:
        """The last row that is in memory."""
        return self._seq

    @property
    def longest(self) -> int:
        """So many seconds back the table has been read."""
        return self._longest.seconds

    @property
    def needed(self) -> int:
        """So many seconds back it will have been read after the next batch."""
        return self._needed.seconds

    def need(self, seconds: int) -> None:
        """The table is to be read so far back from now on; from any thread."""
        with self._needs:
            if seconds > self._needed.seconds:
                self._needed = self._needed._replace(seconds=seconds)

    def look_back(self, seconds: int) -> None:
        """The table is to be read once more, and so far back; from any thread."""
        with self._needs:
            self._needed = _Reach(max(self._needed.seconds, seconds), self._needed.readings + 1)

    def can_go_on(self, log: Log) -> bool:
        """Whether all that is to be read of ``log`` is what is new there."""
        return self._is_in_step(log, self._needed)

    def distrust(self) -> None:
        """Memory may hold what the table does not: all of that is to be read."""
        self._trusted = False

    def replaced(self) -> None:
        """Whatever is there now is to be read from its beginning."""
        self._replaced = True

    def follow(self, log: Log, patience: float, *, made: bool) -> None:
        """Under the lock of ``log``: bring memory up to date; ``made``: the table was, of :meth:`first_records`."""
        self._mended = []
        needed = self._needed
        if made and self.is_loaded:  # the table was made of what is in memory
            self._stored.clear()
            self._seq = 0
            self._rebuilt()
            self._longest = needed
            self.read_on(log)
            self._recent.forget(self._stored)  # all of it is in what the table begins with
            return
        if self._is_in_step(log, needed):
            self.read_on(log)
        else:
            self._read_again(log, needed, patience)
        self._longest = needed

    def committed(self, log: Log, appended: Iterable[tuple[int, Record]]) -> None:
        """The transaction of ``log`` is durable, in which these were ``appended``."""
        # Not before: what was read or written in a transaction that fails may never have been there.
        self.is_loaded = self._trusted = True
        self._replaced = False
        self._identity = log.identity
        self._date = self._memory.date
        mended, self._mended = self._mended, []
        for seq, stored in itertools.chain(mended, appended):
            self._note(seq, stored)
        if mended:
            self._recent.forget(self._stored)

    def replay(self, log: Log, pending: Iterable[Record], refusals: Refusals) -> list[tuple[int, Record]]:
        """Store those of ``pending`` that are not in the table, and count those that are not in memory.

        :returns: what was appended, each with its seq; ``refusals`` has what was not.
        """
        appended: list[tuple[int, Record]] = []
        newest: dict[int, int] = {}
        for record in pending:
            if record.number > newest.get(record.writer, self._stored.get(record.writer, 0)):
                newest[record.writer] = record.number
                self._memory.apply(record)
                appended += self._appender.append(log, record.dated(self._memory.date), refusals)
        return appended

    def first_records(self, old_counts: OldCounts) -> Iterator[Record]:
        """What a new table begins with."""
        if self.is_loaded:
            yield from self._memory.snapshot()
        for record in self._rescued:
            with contextlib.suppress(ValueError):  # said when it was rescued
                yield record.dated(self._memory.date)
        yield from self._carry_over.records(old_counts, self._memory.date)

    def take_over(self, rescued: Sequence[tuple[int, Record]]) -> None:
        """Keep what could be read of a table that is lost."""
        if rescued and not self.is_loaded:
            self._rescued = tuple(record for _, record in rescued)
        self._read(rescued)

    def read_on(self, log: Log) -> None:
        """Read what is new, under the lock."""
        self._read(log.rows_after(self._seq))
        if self._memory.date < self._date:
            log.redate(self._memory.date)

    def _is_in_step(self, log: Log, needed: _Reach) -> bool:
        return self._trusted and not self._replaced and log.identity == self._identity and needed <= self._longest

    def _read_again(self, log: Log, needed: _Reach, patience: float) -> None:
        """Read all that is in the table, and see that it has all that was known before."""
        was_loaded = self.is_loaded
        before = _Place(self._seq, self._date, self._stored)
        kept = self._memory.leave()
        recent, self._recent = self._recent, Recent()
        self._stored = {}
        self._marked = {}
        try:
            self._seq = log.last_before(self._memory.date - needed.seconds)
            first = self._seq
            self._read_all(log)
            self._memory.synchronise(log.begin(patience))
            self.read_on(log)
        except BaseException:
            if was_loaded:
                # Until something else has been read, this is all that anybody knows.
                self._memory.take_back(kept)
                self._seq, self._date, self._stored = before
                self._recent = recent
            raise
        self._recent = recent
        if was_loaded:
            self._complete(log, kept, before, first)
        recent.forget(self._stored)
        self._longest = needed

    def _complete(self, log: Log, kept: Kept, before: _Place, first: int) -> None:
        """Bring in what memory knew (``kept``), and the table, which was read from behind ``first``, lacks."""
        lacking = [
            writer
            for writer, number in kept.applied.items()
            if number > self._stored.get(writer, 0)
            and self._dates.get(writer, self._memory.date) > self._memory.date - self._longest.seconds
        ]
        if not lacking or self._was_emptied(log, kept, before):
            return
        self._rebuilt()
        unknown = any(number > kept.applied.get(writer, 0) for writer, number in self._stored.items())
        # Another daemon has rebuilt it of what it knew, and of what we did not tell it since.
        is_sequel = not self._marked.keys().isdisjoint(kept.applied) and any(
            self._stored.get(writer, 0) > kept.applied.get(writer, 0) for writer in self._marked
        )
        covers = self._recent.covers(lacking, self._stored)
        if covers or is_sequel:
            self._mended = self.replay(log, self._recent.records, Refusals(()))
            if not covers:  # to add all that was known here would count most of it twice
                _logger.warning(
                    "another daemon has rebuilt the table, and may have known less: some mails may not count"
                )
            return
        _logger.warning("the database has lost counts that this daemon knows: writing them again")
        self._memory.take_back(kept)
        if unknown:
            for _, record in log.rows_after(first):
                with contextlib.suppress(ValueError):  # said when it was read
                    self._memory.apply(record)
        log.empty()
        self._mended = [(log.append(record), record) for record in self._memory.snapshot()]
        self._stored = {}

    def _was_emptied(self, log: Log, kept: Kept, before: _Place) -> bool:
        """Whether somebody has deleted all rows on purpose, and nothing but that has happened to the table."""
        return (
            log.identity == self._identity
            and not any(0 < number <= kept.applied.get(writer, 0) for writer, number in self._stored.items())
            and log.last_before(before.date) == 0
        )

    def _read_all(self, log: Log) -> None:
        """Read what is there, and let go of the lock for it: the other daemons have no time to wait for that.

        What they append meanwhile is left for later: it would seem to come from the future.
        """
        last = log.last_before(self._memory.date + 1)
        log.commit()
        with contextlib.closing(log.rows_after(self._seq)) as rows:
            self._read(itertools.takewhile(lambda row: row[0] <= last, rows))
        if not self.is_loaded:
            # All of this is committed, so memory can be relied on if the table is lost from here on.
            self.is_loaded = True
            self._identity = log.identity
            self._rescued = ()

    def _read(self, rows: Iterable[tuple[int, Record]]) -> None:
        for seq, record in rows:
            if record.size == 0 and record.entries == MARK:
                self._marked[record.writer] = record.number
            try:
                self._memory.apply(record)
            except ValueError as error:
                _logger.error("row %d of policyd_batch cannot be understood and does not count: %s", seq, error)
                self._seq = seq
            else:
                self._note(seq, record)

    def _note(self, seq: int, record: Record) -> None:
        self._seq = seq
        self._date = max(self._date, record.date)
        if record.number > self._stored.get(record.writer, 0):
            self._stored[record.writer] = record.number
            self._dates[record.writer] = record.date
            self._recent.add(record)
