"""The engine: decides with the database, and without it during an outage.

Limits then hold from memory. Every record that is decided meanwhile goes to the spool before its answers leave, and to
the database, once, when that is back.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed, Refused
from policyd_rate_limit.storage.engine.aside import Aside
from policyd_rate_limit.storage.engine.backlog import Backlog
from policyd_rate_limit.storage.engine.exchange import Exchange
from policyd_rate_limit.storage.engine.probe import PATIENCE_WHILE_AWAY, Probe
from policyd_rate_limit.storage.engine.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.engine.mailbox import Mailbox
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

_logger = logging.getLogger(__name__)


class Engine:
    """Decides with the store, and without it while its database is away.

    ``enforce`` false: the database's absence is the caller's matter (``db_error_action``), nothing is decided
    meanwhile. ``patience``: seconds to wait for the database (``db_timeout``). ``journal_size``: bytes, the bound
    of the spool and of what waits in memory; ``former_journal_name`` is its name in the version before.
    ``monotonic``: a clock for the tries, in seconds. ``mailbox`` is emptied while the database is there. ``signs``
    of the database are looked at for each batch while it is away: when they change somebody has mended something, and
    it is tried at once.
    """

    def __init__(
        self,
        store: Store,
        memory: Memory,
        *,
        journal_directory: Path,
        journal_name: str,
        journal_size: int,
        enforce: bool,
        patience: float,
        monotonic: Callable[[], float],
        mailbox: Mailbox | None = None,
        former_journal_name: str = "",
        signs: Callable[[], object] | None = None,
    ) -> None:
        self._store = store
        self._memory = memory
        self._spool = Spool(journal_directory, journal_name, journal_size, former_name=former_journal_name)
        self._backlog = Backlog(memory, self._spool, monotonic)
        self._aside = Aside(memory, self._spool.beside, monotonic)
        self._probe = Probe(self._look, monotonic, signs)
        self._exchange = None if mailbox is None else Exchange(store, mailbox, monotonic, self._kept)
        self._enforce = enforce
        self._patience = patience
        self._monotonic = monotonic
        self._away = False
        self.away_since: float | None = None  # by the monotonic clock; any thread may look

    def open(self) -> None:
        """Take over what earlier daemons could not bring into the database, and prepare its own spool file."""
        self._memory.advance()
        # A database that is rebuilt goes on being the one that these were written for.
        self._store.propose(self._backlog.open())
        self._open_file()

    def admit(self, demands: Sequence[Demand]) -> list[Verdict]:
        """Decide ``demands`` in order; what is admitted is kept when this returns.

        :raises StoreUnavailable: the database is away, and memory is not to decide.
        :raises StoreFull: neither the database nor the spool can take more.
        """
        if not self._away or self._probe.has_reached():
            verdicts = self._try(demands, self._patience)
            if verdicts is not None:
                return verdicts
        return self._without_database(demands)

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        """Decide ``demands`` in order without waiting, as far as that is possible; see :meth:`admit` for the rest."""
        batch = None if self._away or self._backlog.records else self._store.prepare(demands, self._patience)
        if batch is None:
            return _WaitingBatch(self, demands)
        return batch if batch.is_done else _GuardedBatch(self, batch, demands)

    def conclude(self, batch: Batch, demands: Sequence[Demand]) -> list[Verdict]:
        """Finish ``batch`` of the store, of ``demands``; raises as :meth:`admit`."""
        verdicts = self._outcome(batch.finish, demands)
        return self._without_database(demands) if verdicts is None else verdicts

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """How the limits of each of ``demands`` stand: by the database, or by memory while that is away."""
        if not self._away:
            with contextlib.suppress(StoreUnavailable):
                return self._store.explain(demands)
        return [self._memory.ledger.explain(demand) for demand in demands]

    def enforce(self, wanted: bool) -> None:
        """Whether memory is to decide from now on while the database is away. Any thread may say so."""
        self._enforce = wanted

    @property
    def waiting(self) -> int:
        """How many batches wait for the database."""
        return len(self._spool.records)

    def _kept(self) -> int:
        """How many batches the database does not have, also of those that it refuses."""
        return self.waiting + len(self._aside.records)

    @property
    def waiting_bytes(self) -> int:
        """What these take up."""
        return self._spool.waiting_bytes

    @property
    def journal_bytes(self) -> int:
        """The most that may wait."""
        return self._spool.bytes

    def maintain(self) -> None:
        """Do what is not urgent; called about once a second."""
        self._open_file()
        if not self._away:
            self._store.maintain()
            self._backlog.adopt()
        if not self._away or self._probe.has_reached():
            self._try((), self._patience)
        if not self._away and self._aside.is_due:
            self._offer()
        if self._exchange is not None:
            self._exchange.maintain(away=self._away)

    def close(self) -> None:
        """Let go of the database and of the spool; what still waits stays in the spool."""
        self._probe.join()
        if self._backlog.records or self._away:
            self._try((), PATIENCE_WHILE_AWAY if self._away else self._patience)
        if self._exchange is not None and not self._away:
            self._exchange.end()
        self._store.close()
        self._aside.close()
        self._backlog.close(keeps_file=self._away)

    def _look(self) -> None:
        """See whether the database is there, in the thread of the probe."""
        self._store.probe(self._patience)

    def _try(self, demands: Sequence[Demand], patience: float) -> list[Verdict] | None:
        """Have the database decide; None when it is away and has decided nothing."""
        return self._outcome(partial(self._admit, demands, patience), demands)

    def _admit(self, demands: Sequence[Demand], patience: float) -> list[Verdict]:
        """Have the database decide, and take what waits; raises as the store."""
        if self._backlog.records and self._backlog.installation is None:
            # Whose database is it? Nothing is brought into it yet.
            with contextlib.suppress(Refused):
                self._store.admit((), (), patience)
        self._sort_out()
        try:
            verdicts = self._store.admit(demands, self._backlog.records, patience)
        except Refused as refused:
            verdicts = self._aside.take(refused, demands)
        self._found()
        return verdicts

    def _sort_out(self) -> None:
        """Keep back what was written for another database than the one that is there now."""
        if self._backlog.sort_out(self._store.installation):
            self._store.reload()
            self._backlog.count()
            self._open_file()

    def _offer(self) -> None:
        """See whether the database takes by now what it has refused."""
        try:
            self._aside.offer(self._store, self._patience)
        except (StoreUnavailable, CommitFailed) as failure:
            self._lost(failure)

    def _outcome(self, decide: Callable[[], list[Verdict]], demands: Sequence[Demand]) -> list[Verdict] | None:
        """What ``decide`` gives; None when the database is away and has decided nothing."""
        try:
            verdicts = decide()
        except Refused as refused:
            return self._aside.take(refused, demands)
        except CommitFailed as failure:
            self._lost(failure)
            if not self._enforce:
                self._store.reload()
                return None
            if failure.record is not None:
                self._keep(failure.record)
            return failure.verdicts
        except StoreUnavailable as failure:
            self._lost(failure)
            self._backlog.count()
            return None
        return verdicts

    def _without_database(self, demands: Sequence[Demand]) -> list[Verdict]:
        if not self._enforce:
            raise StoreUnavailable("the database is away")
        self._backlog.check_room(demands)
        self._memory.advance()
        verdicts, record = self._memory.decide(demands)
        if record is not None:
            self._keep(record)
        return verdicts

    def _keep(self, record: Record) -> None:
        try:
            self._backlog.keep(record)
        except StoreFull:
            self._store.reload()
            raise

    def _open_file(self) -> None:
        if self._enforce:
            self._backlog.open_file()

    def _lost(self, failure: Exception) -> None:
        self._probe.lost()
        if not self._away:
            self._away = True
            self.away_since = self._monotonic()
            _logger.error(
                "%s; %s",
                str(failure),  # not the error itself, which holds frames, cursors and connections
                "limits go on from memory" if self._enforce else "db_error_action is the answer",
            )

    def _found(self) -> None:
        if self._away:
            self._away = False
            self.away_since = None
            _logger.warning("the database is back; in the spool: %s", self._backlog.size)
        self._probe.found()
        self._backlog.brought_in(self._store.installation)


class _WaitingBatch(Batch):
    """All of it is left: to begin may take waiting."""

    def __init__(self, engine: Engine, demands: Sequence[Demand]) -> None:
        self._engine = engine
        self._demands = demands

    def finish(self) -> list[Verdict]:
        return self._engine.admit(self._demands)


class _GuardedBatch(Batch):
    """``batch`` of the store, which ends without the database where that fails."""

    def __init__(self, engine: Engine, batch: Batch, demands: Sequence[Demand]) -> None:
        self._engine = engine
        self._batch = batch
        self._demands = demands
        self.verdicts = batch.verdicts
        self.descriptors = batch.descriptors
        self.deadline = batch.deadline
        self.most_in_flight = batch.most_in_flight

    def poll(self) -> list[Verdict] | None:
        """As that of the store: what that cannot do is left to :meth:`finish`."""
        return self._batch.poll()

    def finish(self) -> list[Verdict]:
        return self._engine.conclude(self._batch, self._demands)
