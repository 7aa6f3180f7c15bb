"""The backlog: what is decided and waits for the database, counted in memory and kept in the spool.

Where the spool cannot be written the records wait in memory alone, which is said once. Beyond the spool's size, and on
a disk without room for one, there is no room for more: the gate is never simply open.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.domain.charge import Demand
    from policyd_rate_limit.storage.engine.spool import Spool
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

ADOPTION_SECONDS = 60.0  # between two looks for spool files of daemons that died while this one ran

_logger = logging.getLogger(__name__)


class Backlog:
    """Keeps what waits for the database of one installation in ``spool``, and has ``memory`` know of it.

    ``monotonic``: a clock in seconds. ``installation``: whose records wait; None: not known yet.
    """

    def __init__(self, memory: Memory, spool: Spool, monotonic: Callable[[], float]) -> None:
        self._memory = memory
        self._spool = spool
        self._monotonic = monotonic
        self._adoption_due = 0.0
        self._is_full = False  # which has been said
        self.installation: str | None = None

    @property
    def records(self) -> list[Record]:
        """What waits, oldest first."""
        return self._spool.records

    @property
    def size(self) -> str:
        """How much waits, for the log."""
        return _batches(self._spool.records)

    def open(self) -> str:
        """Take over what earlier daemons could not bring into the database; of which installation that is, if known."""
        self._spool.adopt("")
        self.count()
        if self._spool.records:
            _logger.info("adopted the spool of an earlier daemon: %s", self.size)
        return self._spool.installation()

    def open_file(self) -> None:
        """Have a spool file to write to."""
        self._spool.open(self.installation or "")

    def count(self) -> None:
        """Have memory know what waits, whatever the database has made it forget."""
        for record in self._spool.records:
            self._memory.apply(record)

    def check_room(self, demands: Sequence[Demand]) -> None:
        """See whether what may be counted of ``demands`` could be kept.

        :raises StoreFull: it could not.
        """
        if self._spool.lacks_room:
            raise StoreFull("there is no room for a spool file")
        if self._is_full or _most_bytes(demands) > self._spool.room:
            self._say_full()
            raise StoreFull("the spool is full")

    def keep(self, record: Record) -> None:
        """Keep ``record``, which is counted in memory, until the database is back.

        :raises StoreFull: it is not kept; the answers that depend on it may not leave.
        """
        try:
            self._spool.keep(record)
        except StoreFull:
            if not self._spool.lacks_room:
                self._say_full()
            raise

    def sort_out(self, installation: str | None) -> bool:
        """Keep back what was written for another database than that of ``installation``, if known; whether any was."""
        if installation is None or installation == self.installation:
            return False
        self.installation = installation
        return self._spool.sort_out(installation)

    def brought_in(self, installation: str | None) -> None:
        """All that waited is in the database, which is of ``installation``."""
        self._is_full = False
        self.installation = installation
        if self._spool.records:
            self._spool.clear(installation or "")
        else:
            self._spool.claim(installation or "")

    def adopt(self) -> None:
        """Look now and then for the spool files of daemons that died."""
        if self.installation and self._monotonic() >= self._adoption_due:
            self._adoption_due = self._monotonic() + ADOPTION_SECONDS
            found = self._spool.adopt(self.installation)
            if found:
                _logger.info("adopted the spool of a daemon that died: %s", _batches(found))

    def close(self, *, keeps_file: bool) -> None:
        """Let go of the spool, in which stays what waits; of an empty file only where ``keeps_file``."""
        self._spool.close(keeps_file=keeps_file)

    def _say_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            _logger.error("the spool is full: nothing more is admitted until the database is back")


def _batches(records: Sequence[Record]) -> str:
    return quantity(len(records), "batch", "batches")


def _most_bytes(demands: Sequence[Demand]) -> int:
    """The most that a record of ``demands`` can take up in the spool."""
    # JSON writes one character as twelve at the most.
    return OVERHEAD + sum(
        OVERHEAD + 12 * (len(demand.mail) + len(charge.part) + len(charge.counter))
        for demand in demands
        for charge in demand.charges
    )
