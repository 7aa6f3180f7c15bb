"""The store that decides in memory and appends to a batch table, which all daemons on one database share.

Each daemon holds the ledger in memory. For a batch it takes the lock that all share, reads the rows that others have
appended since its last batch, decides in memory, appends one row of its own and commits. So a batch costs the same
with ten rows in the table and with ten million, nobody ever searches by id, and the lock is what makes one limit exact
over all daemons.

A table that is removed while daemons run is rebuilt by the first that notices, from its memory; the others then read
the new one. One that has lost rows, or in whose place there is another one, gets what memory knows and it does not:
memory is given up only for a table that has been read, and that lacks nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.administration import longest_window
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed
from policyd_rate_limit.storage.log import tables
from policyd_rate_limit.storage.log.contract import LogError, LogReplaced, RecordRefused
from policyd_rate_limit.storage.log.refusals import MOST_REFUSED, Refusals, add_hits_in_parts, find_refused
from policyd_rate_limit.storage.record import CHARACTERS_PER_RECORD, OVERHEAD, in_records, pack
from policyd_rate_limit.storage.replica import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Hits, Override
    from policyd_rate_limit.storage.log.contract import Log, OldCounts
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Kept, Memory

CHARACTERS_PER_TRANSACTION = 1 << 22  # of what waited: binary logs and clusters have bounds of their own
ANNOUNCED_EACH = 3600  # seconds
RECENT_BYTES = 4 << 20  # of the last records, in case that a table is lost of which another daemon knows less
MAINTENANCE_PATIENCE = 0.2  # seconds that what is not urgent may hold up answers while it waits for others

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


class _Recent:
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


class LogStore:
    """Decides in memory and appends to a batch table: a :class:`policyd_rate_limit.storage.contract.Store`, whose
    methods are described there.

    ``open_log`` connects to the database, or raises LogError. ``memory`` is shared with whoever decides while that is
    away. ``longest`` is the longest window in use (seconds): so far back the log is read. ``counters_of_old_id`` names
    the counters that an id in a database of an older one stands for; ``carried`` (seconds) how far back its counts are
    taken over, twice the longest window unless given.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        memory: Memory,
        *,
        longest: int,
        counters_of_old_id: Callable[[str], Sequence[str]],
        carried: int | None = None,
    ) -> None:
        self._open_log = open_log
        self._memory = memory
        self._longest = self._needed = _Reach(longest)
        self._needs = threading.Lock()
        self._carried = 2 * longest if carried is None else carried
        self._counters_of_old_id = counters_of_old_id
        self.installation: str | None = None
        self._proposed = secrets.token_hex(16)
        self._log: Log | None = None
        self._spare: Log | None = None  # opened by a probe
        self._identity: Hashable = None  # of the table that memory was read from
        self._loaded = False  # memory has been read from a table: what is lost can be rebuilt from it
        self._trusted = False  # likewise, and nothing is in it that is not in the table
        self._replaced = False  # the table has lost rows, or another one has taken its place
        self._seq = 0  # of the last row that is in memory
        self._date = 0  # of the last row
        self._stored: dict[int, int] = {}  # writer -> number of its newest record that is known to be in the table
        self._dates: dict[int, int] = {}  # writer -> date of its newest record
        self._recent = _Recent()
        self._marked: dict[int, int] = {}  # writer -> up to which number a snapshot in the table holds its records
        self._mended: list[tuple[int, Record]] = []  # appended in this transaction, as the table lacked it
        self._rescued: tuple[Record, ...] = ()
        self._found: Sequence[tuple[int, Record]] = ()  # rescued by a probe
        self._overrides: list[Override] = []
        self._overrides_version: Hashable = None
        self._name = secrets.token_hex(16)
        self._announced: tuple[Hashable, int, int] | None = None
        self._lacks_overrides = False  # a table that was rebuilt
        self._refused: dict[str, str] = {}  # counter -> why the database takes nothing of it
        self._unsaid = Refusals(())  # of what waited
        self._parts_writer = secrets.randbits(62)  # of records that were too long
        self._parts = 0

    def propose(self, installation: str) -> None:
        self._proposed = installation or self._proposed

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """What is pending has transactions of its own."""
        for some in _in_transactions(pending):
            self._unsaid.add(self._bring_in(some, patience))
        try:
            log = self._begin(patience)
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error
        except BaseException:
            self._distrust()
            raise
        return self._decide(log, demands).finish()

    def offer(self, records: Sequence[Record], patience: float) -> None:
        for record in records:
            for entry in record.dated_until(record.date):
                self._refused.pop(entry.counter, None)
        self.admit((), records, patience)

    def _bring_in(self, records: Sequence[Record], patience: float) -> Refusals:
        """Store ``records``, each once, but for what the database refuses, which is returned.

        :raises StoreUnavailable: perhaps none is stored.
        """
        for is_last in (False, True):
            try:
                log = self._begin(patience)
                refusals = Refusals(())
                appended = self._replay(log, records, refusals)
                log.commit()
            except RecordRefused as error:
                self._give_up(error)
                if is_last or not self._find_refused(records, error, patience):
                    raise StoreUnavailable(str(error)) from error
            except LogError as error:
                self._give_up(error)
                raise StoreUnavailable(str(error)) from error
            except BaseException:
                self._distrust()
                raise
            else:
                self._committed(log, appended)
                return refusals
        raise AssertionError

    def _find_refused(self, records: Sequence[Record], error: LogError, patience: float) -> bool:
        """Whether it is the fault of some of ``records``, whose counters are refused from here on."""
        entries = [entry for record in records for entry in record.dated_until(record.date)]
        try:
            found = find_refused(self._open_log, entries, self._memory.date, patience)
        except LogError as failure:
            _logger.warning("%s", failure)
            return False
        if len(self._refused) + len(found) > MOST_REFUSED:
            self._refused.clear()
        self._refused.update((counter, str(error)) for counter in found)
        return bool(found)

    def prepare(self, demands: Sequence[Demand], patience: float) -> Batch | None:
        log = self._log
        if log is None or not self._trusted or log.identity != self._identity or self._needed > self._longest:
            return None
        try:
            now = log.try_begin(self._seq)
            if now is None:
                return None
            self._memory.synchronise(now)
            self._read_on(log)
        except LogError as error:
            return _UnreadBatch(self, error, demands, patience)
        batch = self._decide(log, demands)
        if batch.record is None:
            try:
                batch.finish()
            except CommitFailed as failure:
                return _FailedBatch(failure)
            batch.is_done = True
        return batch

    def _decide(self, log: Log, demands: Sequence[Demand]) -> _DecidedBatch:
        """Decide ``demands`` under the lock of ``log``, and append to it what was counted."""
        try:
            verdicts, record = self._memory.decide(demands)
        except BaseException:
            self._distrust()
            raise
        batch = _DecidedBatch(self, log, demands, verdicts, record)
        if record is not None:
            try:
                batch.appended = self._append(log, record, batch.refusals)
            except LogError as error:
                batch.failure = error
        return batch

    def commit(self, batch: _DecidedBatch) -> list[Verdict]:
        """Make ``batch`` durable; the verdicts. Raises as :meth:`admit`."""
        verdicts, record, refusals = batch.decided, batch.record, batch.refusals
        try:
            if batch.failure is not None:
                raise batch.failure
            batch.log.commit()
        except LogError as error:
            self._give_up(error)
            if not isinstance(error, RecordRefused) or record is None:
                raise CommitFailed(str(error), verdicts, record) from error
            try:
                # At once, or the others would have to do without the database for the sake of one.
                refusals.instead(self._bring_in((record,), MAINTENANCE_PATIENCE))
            except StoreUnavailable as unavailable:
                raise CommitFailed(str(unavailable), verdicts, record) from error
        else:
            self._committed(batch.log, batch.appended)
        waited, self._unsaid = self._unsaid, Refusals(())
        refusals.say(verdicts, waited, self._memory)
        return verdicts

    def _committed(self, log: Log, appended: Iterable[tuple[int, Record]]) -> None:
        # Not before: what was read or written in a transaction that fails may never have been there.
        self._loaded = self._trusted = True
        self._replaced = False
        self._identity = log.identity
        self._rescued = ()
        self._date = self._memory.date
        mended, self._mended = self._mended, []
        for seq, stored in itertools.chain(mended, appended):
            self._note(seq, stored)
        if mended:
            self._recent.forget(self._stored)

    def _append(self, log: Log, record: Record, refusals: Refusals) -> list[tuple[int, Record]]:
        """Append ``record``, in parts where it is too long for a row, without what is refused."""
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

    def _part(self, date: int, entries: Sequence[Entry]) -> Record:
        self._parts += 1
        part = pack(self._parts_writer, self._parts, date, entries)
        self._memory.mark(part)  # what is in it is decided, and counted
        return part

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """Memory knows what the last batch has found."""
        return [self._memory.ledger.explain(demand) for demand in demands]

    def probe(self, patience: float) -> None:
        try:
            log = self._open_log()
            try:
                log.wait(patience)
            except BaseException:
                log.close()
                raise
            spare, self._spare = self._spare, log
        except LogError as error:
            # Memory belongs to the other thread, which takes these over when it tries next.
            self._found = error.rescued or self._found
            raise
        if spare is not None:
            spare.close()

    def reload(self) -> None:
        self._trusted = False

    def need(self, seconds: int) -> None:
        with self._needs:
            if seconds > self._needed.seconds:
                self._needed = self._needed._replace(seconds=seconds)

    def look_back(self, seconds: int) -> None:
        with self._needs:
            self._needed = _Reach(max(self._needed.seconds, seconds), self._needed.readings + 1)

    @property
    def reach(self) -> int:
        """The longest window that memory knows of all ids, in seconds."""
        return self._needed.seconds

    def add_hits(self, hits: Sequence[Hits]) -> None:
        if self._log is None:
            raise StoreUnavailable("there is no connection to the database")
        try:
            tables.add_hits(self._log, hits, MAINTENANCE_PATIENCE)
        except RecordRefused as error:
            self._give_up(error)
            dropped = add_hits_in_parts(self._open_log, hits, MAINTENANCE_PATIENCE)
            if len(dropped) == len(hits):
                raise StoreUnavailable(str(error)) from error  # nobody's are taken
            for hit in dropped:
                _logger.error("the database refuses the hits of %r, which no report will tell of: %s", hit.key, error)
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error

    def overrides(self) -> list[Override] | None:
        log = self._log
        if log is None:
            return None
        try:
            if self._lacks_overrides:
                for override in self._overrides:
                    tables.set_override(log, override, self._memory.now, MAINTENANCE_PATIENCE)
                self._lacks_overrides = False
            version = (log.identity, tables.overrides_version(log))
            if version == self._overrides_version:
                return None
            self._overrides = tables.overrides(log, self._memory.now)
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error
        self._overrides_version = version
        return self._overrides

    def maintain(self) -> None:
        self._memory.ledger.windows.sweep(self._longest.seconds)
        if self._log is not None:
            try:
                self._log.maintain()
                self._announce(self._log)
            except LogError as error:
                self._give_up(error)
                _logger.warning("%s", error)

    def _announce(self, log: Log) -> None:
        """Have everybody's ``--clean`` know how far back this daemon looks; said now and then, and when it changes."""
        announcement = (log.identity, self._longest.seconds, self._memory.date // ANNOUNCED_EACH)
        if self._loaded and announcement != self._announced:
            self._announced = announcement  # or a right that is missing would be met each second
            # Once it is gone for as long as its longest window, nobody needs what it has counted.
            expires = self._memory.date + self._longest.seconds + 2 * ANNOUNCED_EACH
            tables.announce_window(log, self._name, self._longest.seconds, expires, MAINTENANCE_PATIENCE)

    def connect(self, patience: float) -> Log:
        """Another connection, to tables that are there; memory knows what time it is.

        :raises LogError: there is none within ``patience`` seconds.
        """
        log = self._open_log()
        try:
            self._memory.synchronise(log.begin(patience))
            log.prepare(self._first_records)
            log.commit()
        except BaseException:
            log.close()
            raise
        return log

    def clean(self, patience: float, limits_of: Callable[[str], Limits | None] | None = None) -> int:
        """Delete what is older than twice the longest window of any daemon, while they use the table.

        ``limits_of`` gives the limits of a counter where they are not those of the configuration: it is asked about
        what would be deleted, in case that a longer window still needs it.

        :returns: how many entries were deleted.
        :raises StoreUnavailable: the database cannot be cleaned now.
        """
        try:
            log = self._log = self.connect(patience)
            now = self._memory.date
            tables.remove_expired(log, now, patience)
            in_force = tables.overrides(log, now)
            longest = max(self._longest.seconds, longest_window(in_force), tables.longest_announced(log, now))
            if limits_of is not None:
                longest = max(longest, self._longest_window(log, limits_of))
            deleted = log.clean(now - 2 * longest, patience)
            log.compact(patience)
        except LogError as error:
            self._disconnect()
            raise StoreUnavailable(str(error)) from error
        return deleted

    def close(self) -> None:
        self._disconnect()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _longest_window(self, log: Log, limits_of: Callable[[str], Limits | None]) -> int:
        """The longest window of those who are counted in rows that are older than twice the usual longest one."""
        before = self._memory.date - 2 * self._longest.seconds
        counters: set[str] = set()
        for _, record in log.rows_after(0):
            if record.date >= before:
                break
            with contextlib.suppress(ValueError):  # what cannot be understood does not count
                counters.update(entry.counter for entry in record.dated_until(record.date))
        return max((limit.seconds for counter in counters for limit in limits_of(counter) or ()), default=0)

    def _begin(self, patience: float) -> Log:
        """Take the lock and bring the memory up to date."""
        self._take_over(self._found)
        self._found = ()
        try:
            return self._follow(patience)
        except LogReplaced as replaced:
            self._leave(replaced)
        return self._follow(patience)

    def admit_after(self, error: LogError, demands: Sequence[Demand], patience: float) -> list[Verdict]:
        """Decide ``demands``, which could not be prepared for ``error``; raises as :meth:`admit`."""
        if isinstance(error, LogReplaced):
            self._leave(error)
            return self.admit(demands, (), patience)
        self._give_up(error)
        raise StoreUnavailable(str(error)) from error

    def _leave(self, replaced: LogReplaced) -> None:
        _logger.warning("%s; going on with what is there now", str(replaced))
        self._give_up(replaced)

    def _follow(self, patience: float) -> Log:
        """Take the lock of the log that is open, or of one that is opened now, and read what is new there."""
        log, made = self._log, False
        if log is None:
            log, self._spare = self._spare or self._open_log(), None
            self._log = log
            self._memory.synchronise(log.begin(patience))
            made = log.prepare(self._first_records)
            self._identify(log)
        else:
            self._memory.synchronise(log.begin(patience))
        self._mended = []
        needed = self._needed
        if made and self._loaded:  # the table was made of what is in memory
            self._stored.clear()
            self._seq = 0
            self._lacks_overrides = True
            self._longest = needed
            self._read_on(log)
            self._recent.forget(self._stored)  # all of it is in what the table begins with
            return log
        if not self._trusted or self._replaced or log.identity != self._identity or needed > self._longest:
            self._read_again(log, needed, patience)
        else:
            self._read_on(log)
        self._longest = needed
        return log

    def _read_again(self, log: Log, needed: _Reach, patience: float) -> None:
        """Read all that is in the table, and see that it has all that was known before."""
        was_loaded = self._loaded
        before = _Place(self._seq, self._date, self._stored)
        kept = self._memory.leave()
        recent, self._recent = self._recent, _Recent()
        self._stored = {}
        self._marked = {}
        try:
            self._seq = log.last_before(self._memory.date - needed.seconds)
            first = self._seq
            self._read_all(log)
            self._memory.synchronise(log.begin(patience))
            self._read_on(log)
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
        self._lacks_overrides = True
        unknown = any(number > kept.applied.get(writer, 0) for writer, number in self._stored.items())
        # Another daemon has rebuilt it of what it knew, and of what we did not tell it since.
        is_sequel = not self._marked.keys().isdisjoint(kept.applied) and any(
            self._stored.get(writer, 0) > kept.applied.get(writer, 0) for writer in self._marked
        )
        covers = self._recent.covers(lacking, self._stored)
        if covers or is_sequel:
            self._mended = self._replay(log, self._recent.records, Refusals(()))
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
        self._mended = [(log.append(record), record) for record in self._snapshot()]
        self._stored = {}

    def _was_emptied(self, log: Log, kept: Kept, before: _Place) -> bool:
        """Whether somebody has deleted all rows on purpose, and nothing but that has happened to the table."""
        return (
            log.identity == self._identity
            and not any(0 < number <= kept.applied.get(writer, 0) for writer, number in self._stored.items())
            and log.last_before(before.date) == 0
        )

    def _identify(self, log: Log) -> None:
        """Learn which installation the tables are of; one that is rebuilt goes on being the one that it was."""
        before = self.installation
        self.installation = log.installation(before or self._proposed)
        if before and self.installation and self.installation != before:
            raise LogError(
                f"the database is another one now (installation {self.installation}, not {before}): "
                "what waits for the other one is not brought into it"
            )

    def _read_all(self, log: Log) -> None:
        """Read what is there, and let go of the lock for it: the other daemons have no time to wait for that.

        What they append meanwhile is left for later: it would seem to come from the future.
        """
        last = log.last_before(self._memory.date + 1)
        log.commit()
        with contextlib.closing(log.rows_after(self._seq)) as rows:
            self._read(itertools.takewhile(lambda row: row[0] <= last, rows))
        if not self._loaded:
            # All of this is committed, so memory can be relied on if the table is lost from here on.
            self._loaded = True
            self._identity = log.identity
            self._rescued = ()

    def _read_on(self, log: Log) -> None:
        """Read what is new, under the lock."""
        self._read(log.rows_after(self._seq))
        if self._memory.date < self._date:
            log.redate(self._memory.date)

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

    def _replay(self, log: Log, pending: Iterable[Record], refusals: Refusals) -> list[tuple[int, Record]]:
        """Store those of ``pending`` that are not in the table, and count those that are not in memory."""
        appended: list[tuple[int, Record]] = []
        newest: dict[int, int] = {}
        for record in pending:
            if record.number > newest.get(record.writer, self._stored.get(record.writer, 0)):
                newest[record.writer] = record.number
                self._memory.apply(record)
                appended += self._append(log, record.dated(self._memory.date), refusals)
        return appended

    def _first_records(self, old_counts: OldCounts) -> Iterator[Record]:
        """What a new table begins with."""
        if self._loaded:
            yield from self._snapshot()
        for record in self._rescued:
            with contextlib.suppress(ValueError):  # said when it was rescued
                yield record.dated(self._memory.date)
        # Of a writer of their own: what waits to be replayed has lower numbers, and would seem to be there.
        writer, numbers = secrets.randbits(62), itertools.count(1)
        yield from in_records(
            self._carried_over(old_counts), lambda entries: pack(writer, next(numbers), self._memory.date, entries)
        )

    def _snapshot(self) -> Iterator[Record]:
        """All that memory knows."""
        # The marks keep the records that the snapshot holds from being replayed, here and by others.
        yield from self._memory.marks()
        yield from in_records(self._memory.ledger.snapshot(), self._memory.record)

    def _carried_over(self, old_counts: OldCounts) -> Iterator[Entry]:
        now = self._memory.date
        entries = 0
        for old_id, date, recipients in old_counts:
            if recipients > 0 and date > now - self._carried:
                # The old versions dated a mail at the full second before it.
                for counter in self._counters_of_old_id(old_id):
                    entries += 1
                    yield Entry(counter, recipients, min(date + 1, now), "", "")
        if entries:
            _logger.info("%s of an older version carried over", quantity(entries, "count"))

    def _give_up(self, error: LogError) -> None:
        """Let go of the log after ``error``."""
        if isinstance(error, LogReplaced):
            self._replaced = True  # whatever is there now is read from its beginning
        self._take_over(error.rescued)
        self._disconnect()

    def _take_over(self, rescued: Sequence[tuple[int, Record]]) -> None:
        """Keep what could be read of a table that is lost."""
        if rescued and not self._loaded:
            self._rescued = tuple(record for _, record in rescued)
        self._read(rescued)

    def _distrust(self) -> None:
        """After an error that nobody foresaw: memory may hold what the table does not."""
        self._trusted = False
        self._disconnect()

    def _disconnect(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


class _DecidedBatch(Batch):
    """Decided under the lock of ``log``, and appended there; ``failure``: why it could not be.

    ``record``: what was counted, None: nothing was, so that there is nothing to be kept.
    """

    def __init__(
        self, store: LogStore, log: Log, demands: Sequence[Demand], verdicts: list[Verdict], record: Record | None
    ) -> None:
        self._store = store
        self.log = log
        self.verdicts = self.decided = verdicts
        self.record = record
        self.refusals = Refusals(demands)
        self.appended: Sequence[tuple[int, Record]] = ()
        self.failure: LogError | None = None

    def finish(self) -> list[Verdict]:
        """See :meth:`LogStore.commit`."""
        return self._store.commit(self)


class _UnreadBatch(Batch):
    """Not decided, since what others have appended could not be read, for ``error``."""

    def __init__(self, store: LogStore, error: LogError, demands: Sequence[Demand], patience: float) -> None:
        self._store = store
        self._error = error
        self._demands = demands
        self._patience = patience

    def finish(self) -> list[Verdict]:
        """See :meth:`LogStore.admit_after`."""
        return self._store.admit_after(self._error, self._demands, self._patience)


class _FailedBatch(Batch):
    """Nothing of it had to be kept, but even to end its transaction has failed."""

    def __init__(self, failure: CommitFailed) -> None:
        self._failure = failure

    def finish(self) -> list[Verdict]:
        """Say so, where it may take time to do without the database.

        :raises CommitFailed: always.
        """
        raise self._failure


def _in_transactions(pending: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """``pending`` as it is stored together."""
    some: list[Record] = []
    characters = 0
    for record in pending:
        some.append(record)
        characters += len(record.entries)
        if characters > CHARACTERS_PER_TRANSACTION:
            yield some
            some, characters = [], 0
    if some:
        yield some
