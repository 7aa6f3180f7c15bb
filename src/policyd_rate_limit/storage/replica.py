"""The ledger of one daemon: it decides, and it numbers what it decided.

A store keeps it in step with its database; while the database is away it decides alone.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.mails import Mails
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.values import Values
from policyd_rate_limit.domain.windows import Windows
from policyd_rate_limit.storage.record import Record, in_records, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.domain.charge import Demand, Verdict
    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.domain.ledger import Ledger


MARK: Final = "[ ]"
"""The entries of a record that says what a snapshot holds; no batch is written so."""

SECONDS_BETWEEN_LINES: Final = 60
"""So often at the most it is said that there is no room for new values."""

_logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What was in memory; ``applied``: writer -> number of its newest record that is in there."""

    windows: Windows
    values: Values
    mails: Mails
    applied: dict[int, int]


class Memory:
    """A ledger with a clock (Unix seconds) and the identity under which this run of a daemon writes records."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.writer = secrets.randbits(62)
        self._clock = clock
        self._ahead = 0.0  # seconds of the shared clock
        self._number = 0
        self.spacing = 1  # of the numbers of two records, at the least; a store may need room between them
        self._applied: dict[int, int] = {}  # writer -> number of its newest record that is in the ledger
        self._said = -SECONDS_BETWEEN_LINES
        self.set_aside: Sequence[Record] = ()  # what the database refuses: counted, and known nowhere else

    @property
    def date(self) -> int:
        """The second that a charge made now is dated."""
        return self.ledger.windows.date

    @property
    def now(self) -> int:
        """The second in which it is decided: what ends with the next one is in force."""
        return self.ledger.windows.now

    def shared_time(self) -> float:
        """The time (Unix seconds) by the clock that all daemons share, as far as is known; for any thread."""
        return self._clock() + self._ahead

    def advance(self) -> None:
        """Look at the clock: what is decided from here on is decided now."""
        self.ledger.advance(self.shared_time())

    def synchronise(self, time: float) -> None:
        """It is ``time`` by the clock that all daemons share: what is decided from here on is decided then.

        How far that is from the own clock is remembered, for when the shared one is away.
        """
        self._ahead = time - self._clock()
        self.ledger.advance(time)

    def sweep(self, longest: int) -> None:
        """Forget some of what has expired; called about once a second. ``longest``: the longest window, in seconds."""
        ledger = self.ledger
        ledger.sweep(longest)
        refused, passed = ledger.values.turned_away, self.now - self._said
        if refused and not 0 <= passed < SECONDS_BETWEEN_LINES:
            self._said, ledger.values.turned_away = self.now, 0
            _logger.warning(
                "no room for %s of rules with count: distinct, which counts as exceeded: %s in memory, and max_ids"
                " allows no more",
                quantity(refused, "new value"),
                quantity(len(ledger.values), "value"),
            )

    def decide(self, demands: Sequence[Demand]) -> tuple[list[Verdict], Record | None]:
        """Decide ``demands`` in order; the record is what is to be made durable, None when nothing was counted."""
        entries: list[Entry] = []
        ledger = self.ledger
        verdicts = [ledger.decide(demand, entries) for demand in demands]
        return verdicts, self.record(entries) if entries else None

    def next_number(self, spacing: int = 0) -> int:
        """The number of the next batch of this writer: what it counts is in the ledger, or will be without a record.

        ``spacing``: how far behind the one before, if not the usual one.
        """
        self._number += spacing or self.spacing
        self._applied[self.writer] = self._number
        return self._number

    def record(self, entries: Sequence[Entry]) -> Record:
        """The next record of this writer, of ``entries`` that are in the ledger already."""
        return pack(self.writer, self.next_number(), self.date, entries)

    def apply(self, record: Record) -> None:
        """Count ``record`` unless it is in the ledger already; a date in the future becomes now."""
        if record.number > self._applied.get(record.writer, 0):
            self._applied[record.writer] = record.number
            for entry in record.dated_until(self.date):
                self.ledger.apply(entry)

    def knows(self, record: Record) -> None:
        """``record`` is in the ledger, under another name."""
        self._applied[record.writer] = record.number

    def marks(self) -> list[Record]:
        """Empty records that say up to which number the records of each writer are in the ledger."""
        applied = {**self._applied, self.writer: self._number}
        return [Record(writer, number, self.date, 0, MARK) for writer, number in applied.items()]

    def snapshot(self) -> Iterator[Record]:
        """All that is in the ledger."""
        # The marks keep the records that the snapshot holds from being replayed, here and by others.
        yield from self.marks()
        yield from in_records(self.ledger.snapshot(), self.record)

    def mark(self, record: Record) -> None:
        """What ``record`` says is in the ledger already."""
        self._applied[record.writer] = max(record.number, self._applied.get(record.writer, 0))

    def leave(self) -> Kept:
        """Begin with an empty ledger, as :meth:`forget`; what was there until now is kept for :meth:`take_back`."""
        kept = Kept(self.ledger.windows, self.ledger.values, self.ledger.mails, self._applied)
        self._applied = {}
        self.forget()
        return kept

    def take_back(self, kept: Kept) -> None:
        """What was left is there again."""
        time = self.ledger.windows.time
        self.ledger.windows, self.ledger.values, self.ledger.mails, self._applied = kept
        self.ledger.advance(time)

    def forget(self) -> None:
        """Empty the ledger, to be rebuilt from the database; what that refuses stays."""
        time = self.ledger.windows.time
        self.ledger.clear()
        self.ledger.windows.advance(time)
        self._applied.clear()
        for record in self.set_aside:
            self.apply(record)
