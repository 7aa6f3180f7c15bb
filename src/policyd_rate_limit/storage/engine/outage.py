"""Deciding while the database is away: limits hold from memory, and a spool keeps what is admitted.

Every record that is decided meanwhile goes to the spool before its answers leave, and to the database, once,
when that is back. Where the spool cannot be written either, the records wait in memory alone, which is said once.
Beyond the spool's size, and on a disk without room for one, nothing more is admitted: the gate is never simply open.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import refusal
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreError, StoreFull, StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed, Refused
from policyd_rate_limit.storage.engine.aside import Aside
from policyd_rate_limit.storage.engine.backoff import Backoff, SlowBackoff
from policyd_rate_limit.storage.engine.spool import Spool
from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.engine.mailbox import Mailbox
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

PATIENCE_WHILE_AWAY = 0.05  # seconds that looking for it may hold up the answers that memory could give at once
PATIENCE_WITH_SIGNS = 1.0  # likewise, where somebody seems to have mended something
ADOPTION_SECONDS = 60.0  # between two looks for spool files of daemons that died while this one ran

_logger = logging.getLogger(__name__)


class Fallback:
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
        self._sorted_for: str | None = None  # the installation whose records wait; None: not known yet
        self._adoption_due = 0.0
        self._enforce = enforce
        self._patience = patience
        self._monotonic = monotonic
        self._backoff = Backoff(monotonic)
        self._mailbox = mailbox
        self._mailbox_backoff = Backoff(monotonic)
        self._mailbox_fails = False
        self._hits_first = False
        self._has_published = False
        self._away = False
        self.away_since: float | None = None  # by the monotonic clock; any thread may look
        self._full = False
        self._probe: threading.Thread | None = None
        self._reached = False
        self._aside = Aside(memory, self._spool.beside)
        self._leisure = SlowBackoff(monotonic)
        self._signs = signs
        self._seen: object = None

    def open(self) -> None:
        """Take over what earlier daemons could not bring into the database, and prepare its own spool file."""
        self._memory.advance()
        self._spool.adopt("")
        self._count_pending()
        if self._spool.records:
            count = quantity(len(self._spool.records), "batch", "batches")
            _logger.info("adopted the spool of an earlier daemon: %s", count)
        # A database that is rebuilt goes on being the one that these were written for.
        self._store.propose(self._spool.installation())
        self._open_spool()

    def admit(self, demands: Sequence[Demand]) -> list[Verdict]:
        """Decide ``demands`` in order; what is admitted is kept when this returns.

        :raises StoreUnavailable: the database is away, and memory is not to decide.
        :raises StoreFull: neither the database nor the spool can take more.
        """
        if self._may_try():
            verdicts = self._try(demands, self._patience)
            if verdicts is not None:
                return verdicts
        return self._without_database(demands)

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        """Decide ``demands`` in order without waiting, as far as that is possible; see :meth:`admit` for the rest."""
        batch = None if self._away or self._spool.records else self._store.prepare(demands, self._patience)
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
        self._open_spool()
        if not self._away:
            self._store.maintain()
            self._adopt()
        if self._may_try():
            self._try((), self._patience)
        if self._aside.records and not self._away and self._leisure.due:
            self._offer()
        if self._mailbox_backoff.due:
            self._empty_mailbox()
        if self._mailbox is not None and not self._has_published:
            self._publish([])  # whoever waits for the first word of them

    def close(self) -> None:
        """Let go of the database and of the spool; what still waits stays in the spool."""
        if self._probe is not None:
            self._probe.join()
        if self._spool.records or self._away:
            self._try((), PATIENCE_WHILE_AWAY if self._away else self._patience)
        self._empty_mailbox()
        self._store.close()
        self._aside.close()
        self._spool.close(keeps_file=self._away)

    def _empty_mailbox(self) -> None:
        """Bring hits into the database, and learn of overrides there.

        What ails one of them does not keep back the other: a failure costs the connection, so the other is next.
        """
        if self._away or self._mailbox is None:
            return
        steps = (self._learn_of_overrides, self._bring_hits)
        try:
            for step in reversed(steps) if self._hits_first else steps:
                step(self._mailbox)
        except StoreError as error:
            self._hits_first = not self._hits_first
            self._mailbox_backoff.failed()
            if not self._mailbox_fails:
                self._mailbox_fails = True
                _logger.warning("hits and overrides cannot be exchanged with the database: %s", str(error))
            return
        self._mailbox_fails = False
        self._mailbox_backoff.succeeded()

    def _learn_of_overrides(self, _: Mailbox) -> None:
        overrides = self._store.overrides()
        if overrides is not None:
            self._publish(overrides)

    def _bring_hits(self, mailbox: Mailbox) -> None:
        hits = mailbox.take()
        if hits:
            try:
                self._store.add_hits(hits)
            except StoreError:
                mailbox.add(hits)
                raise

    def _publish(self, overrides: list[Override]) -> None:
        assert self._mailbox is not None  # noqa: S101 - the caller has looked
        self._has_published = True
        self._mailbox.publish(overrides)

    def _may_try(self) -> bool:
        """Whether the database is there, or was within reach a moment ago.

        While it is away a thread of its own knocks, since that may take as long as ``patience``. After that a batch is
        worth the same time: with less, a daemon of several would not find its turn at a disk that is slow, and would
        stay away for as long as the others are busy.
        """
        if not self._away:
            return True
        if self._signs is not None and (signs := self._signs()) != self._seen:
            if self._probe is not None:
                self._probe.join(PATIENCE_WHILE_AWAY)
            if self._probe is None or not self._probe.is_alive():
                self._seen = signs
                self._look_for_it()
                if self._probe is not None:
                    self._probe.join(PATIENCE_WITH_SIGNS)
        elif self._probe is None:
            if self._backoff.due:
                self._look_for_it()
            return False
        if self._probe is None or self._probe.is_alive():
            return False
        self._probe = None
        if not self._reached:
            self._backoff.failed()
        return self._reached

    def _look_for_it(self) -> None:
        self._probe = None
        probe = threading.Thread(target=self._knock, name="probe", daemon=True)
        try:
            probe.start()
        except RuntimeError as error:  # the system has no room for another thread
            _logger.warning("cannot start the thread that looks for the database: %s", error)
            self._backoff.failed()
        else:
            self._probe = probe

    def _knock(self) -> None:
        try:
            self._store.probe(self._patience)
        except StoreError:
            self._reached = False
        except Exception:
            self._reached = False
            _logger.exception("looking for the database failed")
        else:
            self._reached = True

    def _try(self, demands: Sequence[Demand], patience: float) -> list[Verdict] | None:
        """Have the database decide; None when it is away and has decided nothing."""
        return self._outcome(partial(self._admit, demands, patience), demands)

    def _admit(self, demands: Sequence[Demand], patience: float) -> list[Verdict]:
        """Have the database decide, and take what waits; raises as the store."""
        if self._spool.records and self._sorted_for is None:
            self._learn(patience)
        self._sort_out()
        try:
            verdicts = self._store.admit(demands, self._spool.records, patience)
        except Refused as refused:
            verdicts = self._set_aside(refused, demands)
        self._found()
        return verdicts

    def _learn(self, patience: float) -> None:
        """Find out whose database it is, without bringing anything into it."""
        with contextlib.suppress(Refused):
            self._store.admit((), (), patience)

    def _sort_out(self) -> None:
        """Keep back what was written for another database than the one that is there now."""
        installation = self._store.installation
        if installation is None or installation == self._sorted_for:
            return
        self._sorted_for = installation
        if self._spool.sort_out(installation):
            self._store.reload()
            self._count_pending()
            self._open_spool()

    def _adopt(self) -> None:
        """Look now and then for the spool files of daemons that died."""
        if self._sorted_for and self._monotonic() >= self._adoption_due:
            self._adoption_due = self._monotonic() + ADOPTION_SECONDS
            found = self._spool.adopt(self._sorted_for)
            if found:
                count = quantity(len(found), "batch", "batches")
                _logger.info("adopted the spool of a daemon that died: %s", count)

    def _set_aside(self, refused: Refused, demands: Sequence[Demand]) -> list[Verdict]:
        """Keep what the database refuses of ``demands``, and of what waited; the verdicts."""
        self._leisure.failed()
        verdicts = list(refused.verdicts)
        self._aside.keep(refused.waited, refused.reasons, required=True)
        if not self._aside.keep(refused.records, refused.reasons, required=False):
            for index in refused.unkept:
                charges = demands[index].charges
                of = next(at for at, one in enumerate(charges) if one.refuses and one.counter in refused.reasons)
                verdicts[index] = refusal(charges[of].limits[0], of)
        return verdicts

    def _offer(self) -> None:
        """See whether the database takes by now what it has refused."""
        records, reasons = self._aside.needed(self._store.reach), {}
        try:
            self._store.offer(records, self._patience)
        except Refused as refused:
            self._leisure.failed()
            records, reasons = list(refused.waited), dict(refused.reasons)
        except (StoreUnavailable, CommitFailed) as failure:
            self._lost(failure)
            return
        else:
            records = []
        if records != self._aside.records:
            self._aside.replace(records, reasons)

    def _outcome(self, decide: Callable[[], list[Verdict]], demands: Sequence[Demand]) -> list[Verdict] | None:
        """What ``decide`` gives; None when the database is away and has decided nothing."""
        try:
            verdicts = decide()
        except Refused as refused:
            return self._set_aside(refused, demands)
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
            self._count_pending()
            return None
        return verdicts

    def _without_database(self, demands: Sequence[Demand]) -> list[Verdict]:
        if not self._enforce:
            raise StoreUnavailable("the database is away")
        if self._spool.lacks_room:
            raise StoreFull("there is no room for a spool file")
        if self._full or _most_bytes(demands) > self._spool.room:
            self._say_full()
            raise StoreFull("the spool is full")
        self._memory.advance()
        verdicts, record = self._memory.decide(demands)
        if record is not None:
            self._keep(record)
        return verdicts

    def _keep(self, record: Record) -> None:
        """Keep ``record``, which is counted in memory, until the database is back.

        :raises StoreFull: it is not kept; the answers that depend on it may not leave.
        """
        try:
            self._spool.keep(record)
        except StoreFull:
            self._store.reload()
            if not self._spool.lacks_room:
                self._say_full()
            raise

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            _logger.error("the spool is full: nothing more is admitted until the database is back")

    def _count_pending(self) -> None:
        """Have memory know what waits, whatever the database has made it forget."""
        for record in self._spool.records:
            self._memory.apply(record)

    def _open_spool(self) -> None:
        if self._enforce:
            self._spool.open(self._sorted_for or "")

    def _lost(self, failure: Exception) -> None:
        if self._signs is not None:
            self._seen = self._signs()
        if not self._away:
            self._away = True
            self.away_since = self._monotonic()
            _logger.error(
                "%s; %s",
                str(failure),  # not the error itself, which holds frames, cursors and connections
                "limits go on from memory" if self._enforce else "db_error_action is the answer",
            )
        self._backoff.failed()

    def _found(self) -> None:
        if self._away:
            self._away = self._full = False
            self.away_since = None
            count = quantity(len(self._spool.records), "batch", "batches")
            _logger.warning("the database is back; in the spool: %s", count)
        self._backoff.succeeded()
        self._sorted_for = self._store.installation
        if self._spool.records:
            self._forget_pending()
        else:
            self._spool.claim(self._sorted_for or "")

    def _forget_pending(self) -> None:
        """All that waited is in the database."""
        self._spool.clear(self._sorted_for or "")


class _WaitingBatch(Batch):
    """All of it is left: to begin may take waiting."""

    def __init__(self, fallback: Fallback, demands: Sequence[Demand]) -> None:
        self._fallback = fallback
        self._demands = demands

    def finish(self) -> list[Verdict]:
        """See :meth:`Fallback.admit`."""
        return self._fallback.admit(self._demands)


class _GuardedBatch(Batch):
    """``batch`` of the store, which ends without the database where that fails."""

    def __init__(self, fallback: Fallback, batch: Batch, demands: Sequence[Demand]) -> None:
        self._fallback = fallback
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
        """See :meth:`Fallback.conclude`."""
        return self._fallback.conclude(self._batch, self._demands)


def _most_bytes(demands: Sequence[Demand]) -> int:
    """The most that a record of ``demands`` can take up in the spool."""
    # JSON writes one character as twelve at the most.
    return OVERHEAD + sum(
        OVERHEAD + 12 * (len(demand.mail) + len(charge.part) + len(charge.counter))
        for demand in demands
        for charge in demand.charges
    )
