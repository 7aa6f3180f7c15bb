"""Sets aside what the database refuses: kept on this disk, and offered again now and then.

A key of one id that is of another type, a row that a constraint or a trigger does not let in, an entry that is longer
than the server takes: no waiting mends these, and nobody else has to suffer from them. What was decided about such an
id counts in this daemon's memory, and lies in a spool file of its own, so that a restart finds it and offers it again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import refusal
from policyd_rate_limit.domain.limits import windows_of
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.engine.backoff import SlowBackoff
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Demand, Verdict
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

ASIDE_BYTES = 1 << 20  # the most that lies here; more is not admitted
LONGEST_NAME = 320  # characters of a counter in the log
MOST_NAMED = 1_000  # counters that are named in the log before all is taken again

_logger = logging.getLogger(__name__)


class Aside:
    """Keeps the records that the database refuses.

    ``create`` makes a spool file of so many bytes. ``monotonic``: a clock for the offers, in seconds.
    """

    def __init__(self, memory: Memory, create: Callable[[int], SpoolFile], monotonic: Callable[[], float]) -> None:
        self._memory = memory
        self._create = create
        self._file: SpoolFile | None = None
        self._bytes = 0
        self._named: set[str] = set()
        self._backoff = SlowBackoff(monotonic)

    @property
    def records(self) -> Sequence[Record]:
        """All of them; memory counts them, whatever the database makes it forget."""
        return self._memory.set_aside

    @property
    def is_due(self) -> bool:
        """Whether it is time to offer them to the database."""
        return bool(self.records) and self._backoff.due

    def take(self, refused: Refused, demands: Sequence[Demand]) -> list[Verdict]:
        """Keep what the database has ``refused`` of ``demands``, and of what waited; the verdicts, which hold."""
        self._backoff.failed()
        verdicts = list(refused.verdicts)
        self.keep(refused.waited, refused.reasons, required=True)
        if not self.keep(refused.records, refused.reasons, required=False):
            for index in refused.unkept:
                charges = demands[index].charges
                of = next(at for at, one in enumerate(charges) if one.refuses and one.counter in refused.reasons)
                limits = charges[of].limits
                verdicts[index] = refusal((windows_of(limits) or limits)[0], of)
        return verdicts

    def offer(self, store: Store, patience: float) -> None:
        """See whether the database takes them by now, in ``patience`` seconds.

        :raises StoreUnavailable, CommitFailed: it is away.
        """
        left: Sequence[Record] = ()
        reasons: Mapping[str, str] = {}
        try:
            store.offer(self.needed(store.reach), patience)
        except Refused as refused:
            self._backoff.failed()
            left, reasons = refused.waited, refused.reasons
        if list(left) != self.records:
            self.replace(left, reasons)

    def keep(self, records: Sequence[Record], reasons: Mapping[str, str], *, required: bool) -> bool:
        """Keep ``records``, of the counters that ``reasons`` name; whether there was room, or they are ``required``.

        On disk when this returns, where there is a disk to write to.
        """
        self._name(reasons)
        if not records:
            return True
        needed = sum(map(_size, records))
        if not required and self._bytes + needed > ASIDE_BYTES:
            _logger.error("what the database refuses fills %d bytes: no more of it is admitted", self._bytes)
            return False
        self._write(records)
        self._memory.set_aside = [*self.records, *records]
        self._bytes += needed
        return True

    def replace(self, records: Sequence[Record], reasons: Mapping[str, str]) -> None:
        """``records`` are what is left, the database has the others or nobody needs them any more."""
        self._name(reasons)
        before, self._file = self._file, None
        self._memory.set_aside = list(records)
        self._bytes = sum(map(_size, records))
        if records:
            self._write(records)
        if before is not None:
            before.remove()  # not earlier: what is in both counts once
        if not records:
            self._named.clear()
            _logger.warning("nothing is set aside any more: the database has what it had refused, or it has expired")

    def needed(self, seconds: int) -> list[Record]:
        """Those that a window of ``seconds`` may hold."""
        return [record for record in self.records if record.date + seconds > self._memory.date]

    def close(self) -> None:
        """Leave the spool file to whoever starts next."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, records: Sequence[Record]) -> None:
        try:
            if self._file is None:
                self._file = self._create(ASIDE_BYTES)
                # With those that could not be written before.
                records = list(dict.fromkeys((*self.records, *records)))
            self._file.extend(records)
        except (OSError, StoreFull) as error:
            _logger.error("what the database refuses is kept in memory only: %s", error)
            if isinstance(error, FileNotFoundError) and self._file is not None:
                self._file.close()
                self._file = None  # the next one has all

    def _name(self, reasons: Mapping[str, str]) -> None:
        for counter, reason in reasons.items():
            if counter in self._named or len(self._named) >= MOST_NAMED:
                continue
            self._named.add(counter)
            _logger.error(
                "the database refuses what concerns %s: %s; its limits hold from the memory of this daemon alone, "
                "and what is admitted is set aside until the database takes it",
                _shown(counter),
                reason,
            )


def _shown(counter: str) -> str:
    """``counter`` in a line of the log, whatever it is made of."""
    text = ascii(counter)[1:-1]
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def _size(record: Record) -> int:
    return len(record.entries) + OVERHEAD
