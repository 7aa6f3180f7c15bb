"""The store that decides in memory and appends to a batch table, which all daemons on one database share.

Each daemon holds the ledger in memory. For a batch it takes the lock that all share, reads the rows that others have
appended since its last batch, decides in memory, appends one row of its own and commits. So a batch costs the same
with ten rows in the table and with ten million, nobody ever searches by id, and the lock is what makes one limit exact
over all daemons.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed
from policyd_rate_limit.storage.log.appender import Appender
from policyd_rate_limit.storage.log.cleaning import clean
from policyd_rate_limit.storage.log.contract import LogError, LogOccupied, LogReplaced, RecordRefused
from policyd_rate_limit.storage.log.follower import Follower
from policyd_rate_limit.storage.log.old_counts import CarryOver
from policyd_rate_limit.storage.log.refusals import Refusals, find_refused
from policyd_rate_limit.storage.log.side_tables import SideTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Hits, HourOfHits, Override
    from policyd_rate_limit.storage.heartbeat import Introduction
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

CHARACTERS_PER_TRANSACTION = 1 << 22  # of what waited: binary logs and clusters have bounds of their own
MAINTENANCE_PATIENCE = 0.2  # seconds that what is not urgent may hold up answers while it waits for others

_logger = logging.getLogger(__name__)


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
        self.installation: str | None = None
        self._proposed = secrets.token_hex(16)
        self._log: Log | None = None
        self._spare: Log | None = None  # opened by a probe
        self._found: Sequence[tuple[int, Record]] = ()  # rescued by a probe
        self._unsaid = Refusals(())  # of what waited
        self._appender = Appender(memory)
        self._side_tables = SideTables(open_log, MAINTENANCE_PATIENCE)
        carry_over = CarryOver(counters_of_old_id, 2 * longest if carried is None else carried)
        self._follower = Follower(memory, self._appender, carry_over, self._side_tables.rebuilt, longest)

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
        self._appender.forgive(records)
        self.admit((), records, patience)

    def _bring_in(self, records: Sequence[Record], patience: float) -> Refusals:
        """Store ``records``, each once, but for what the database refuses, which is returned.

        :raises StoreUnavailable: perhaps none is stored.
        """
        for is_last in (False, True):
            try:
                log = self._begin(patience)
                refusals = Refusals(())
                appended = self._follower.replay(log, records, refusals)
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
                self._follower.committed(log, appended)
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
        self._appender.refuse(found, str(error))
        return bool(found)

    def prepare(self, demands: Sequence[Demand], patience: float) -> Batch | None:
        log = self._log
        if log is None or not self._follower.can_go_on(log):
            return None
        try:
            now = log.try_begin(self._follower.seq)
            if now is None:
                return None
            self._memory.synchronise(now)
            self._follower.read_on(log)
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
                batch.appended = self._appender.append(log, record, batch.refusals)
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
            self._follower.committed(batch.log, batch.appended)
        waited, self._unsaid = self._unsaid, Refusals(())
        refusals.say(verdicts, waited, self._memory)
        return verdicts

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
        self._follower.distrust()

    def need(self, seconds: int) -> None:
        self._follower.need(seconds)

    def look_back(self, seconds: int) -> None:
        self._follower.look_back(seconds)

    @property
    def reach(self) -> int:
        """The longest window that memory knows of all ids, in seconds."""
        return self._follower.needed

    def add_hits(self, hits: Sequence[Hits]) -> None:
        if self._log is None:
            raise StoreUnavailable("there is no connection to the database")
        try:
            self._side_tables.add_hits(self._log, hits)
        except RecordRefused as error:
            self._give_up(error)
            if not self._side_tables.add_hits_in_parts(hits, error):
                raise StoreUnavailable(str(error)) from error  # nobody's are taken
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error

    def add_history(self, rows: Sequence[HourOfHits]) -> None:
        if self._log is None:
            raise StoreUnavailable("there is no connection to the database")
        try:
            self._side_tables.add_history(self._log, rows, self._memory.now)
        except RecordRefused as error:
            self._give_up(error)
            if not self._side_tables.add_history_in_parts(rows, error):
                raise StoreUnavailable(str(error)) from error  # nobody's are taken
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error

    def beat(self, who: Introduction, uptime: int, waiting: int) -> None:
        if self._log is not None:
            with self._failing():
                self._side_tables.beat(self._log, who, uptime, waiting)

    def leave(self) -> None:
        if self._log is not None:
            with self._failing():
                self._side_tables.leave(self._log)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Let go of the log where it fails."""
        try:
            yield
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error

    def clean_trails(self) -> bool:
        if self._log is None:
            return True
        with self._failing():
            self._side_tables.clean_daemons(self._log, self._memory.now)
            return self._side_tables.clean_trails(self._log, self._memory.now)

    def block(self, blocks: Sequence[Override]) -> int:
        if self._log is None:
            raise StoreUnavailable("there is no connection to the database")
        now = self._memory.now
        try:
            return self._side_tables.block(self._log, blocks, now)
        except RecordRefused as error:
            self._give_up(error)
            self._side_tables.block_in_parts(blocks, now, error)
        except LogError as error:
            self._give_up(error)
            raise StoreUnavailable(str(error)) from error
        return 0

    def overrides(self) -> list[Override] | None:
        if self._log is None:
            return None
        with self._failing():
            return self._side_tables.overrides(self._log, self._memory.now)

    def maintain(self) -> None:
        self._memory.sweep(self._follower.longest)
        if self._log is not None:
            try:
                self._log.maintain()
                if self._follower.is_loaded:
                    self._side_tables.announce(self._log, self._follower.longest, self._memory.date)
            except LogError as error:
                self._give_up(error)
                _logger.warning("%s", error)

    def connect(self, patience: float) -> Log:
        """Another connection, to tables that are there; memory knows what time it is.

        :raises LogError: there is none within ``patience`` seconds.
        """
        log = self._open_log()
        try:
            self._memory.synchronise(log.begin(patience))
            log.prepare(self._follower.first_records)
            log.commit()
        except BaseException:
            log.close()
            raise
        return log

    def clean(self, patience: float, limits_of: Callable[[str], Limits | None] | None = None) -> int:
        try:
            log = self._log = self.connect(patience)
            return clean(log, self._memory.date, self._follower.longest, patience, limits_of)
        except LogError as error:
            self._disconnect()
            raise StoreUnavailable(str(error)) from error

    def close(self) -> None:
        self._disconnect()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _begin(self, patience: float) -> Log:
        """Take the lock and bring the memory up to date."""
        self._follower.take_over(self._found)
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
            made = log.prepare(self._follower.first_records)
            self._identify(log)
        else:
            self._memory.synchronise(log.begin(patience))
        self._follower.follow(log, patience, made=made)
        return log

    def _identify(self, log: Log) -> None:
        """Learn which installation the tables are of; one that is rebuilt goes on being the one that it was."""
        before = self.installation
        self.installation = log.installation(before or self._proposed)
        if before and self.installation and self.installation != before:
            raise LogError(
                f"the database is another one now (installation {self.installation}, not {before}): "
                "what waits for the other one is not brought into it"
            )

    def _give_up(self, error: LogError) -> None:
        """Let go of the log after ``error``, unless that says that it goes on."""
        if isinstance(error, LogOccupied):
            return
        if isinstance(error, LogReplaced):
            self._follower.replaced()
        self._follower.take_over(error.rescued)
        self._disconnect()

    def _distrust(self) -> None:
        """After an error that nobody foresaw: memory may hold what the table does not."""
        self._follower.distrust()
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
        return self._store.commit(self)


class _UnreadBatch(Batch):
    """Not decided, since what others have appended could not be read, for ``error``."""

    def __init__(self, store: LogStore, error: LogError, demands: Sequence[Demand], patience: float) -> None:
        self._store = store
        self._error = error
        self._demands = demands
        self._patience = patience

    def finish(self) -> list[Verdict]:
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
