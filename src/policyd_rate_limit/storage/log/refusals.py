"""Which subject it concerns when the database refuses what a store appends, and what becomes of that."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, TypeVar

from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.log.contract import LogError, RecordRefused
from policyd_rate_limit.storage.record import in_records, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Demand, Verdict
    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

MOST_REFUSED = 1_000  # counters of which it is remembered that the database refuses them
MOST_TRIES = 64  # to find out which they are; who is under suspicion then counts as refused

_Row = TypeVar("_Row")


class Refusals:
    """What is refused of one batch of ``demands``, or of what was brought in."""

    def __init__(self, demands: Sequence[Demand]) -> None:
        self._demands = demands
        self._entries: list[tuple[int, list[Entry]]] = []  # with the dates of their records
        self._reasons: dict[str, str] = {}

    def taken(self, record: Record, refused: Mapping[str, str], longest_row: int) -> list[Entry]:
        """The entries of ``record``, but for those of counters that are ``refused``, or that are too long."""
        taken: list[Entry] = []
        left: list[Entry] = []
        for entry in record.dated_until(record.date):
            reason = refused.get(entry.counter, "")
            if not reason and len(pack(0, 0, record.date, (entry,)).entries) > longest_row:
                reason = f"an entry is longer than the {longest_row} characters that the server takes"
            if reason:
                self._reasons[entry.counter] = reason
                left.append(entry)
            else:
                taken.append(entry)
        if left:
            self._entries.append((record.date, left))
        return taken

    def add(self, others: Refusals) -> None:
        """``others`` are refused as well."""
        self._entries += others._entries
        self._reasons |= others._reasons

    def instead(self, others: Refusals) -> None:
        """It is ``others`` that are refused, of the same batch."""
        self._entries, self._reasons = others._entries, others._reasons

    def say(self, verdicts: list[Verdict], waited: Refusals, memory: Memory) -> None:
        """All else is stored, and the ``verdicts`` hold; ``waited``: what was refused of what was brought in before.

        :raises Refused: something was refused.
        """
        if not self._entries and not waited._entries:
            return
        # Of writers of their own: what else was in these records is stored.
        batch, before = (
            [pack(secrets.randbits(62), 1, date, entries) for date, entries in refusals._entries]
            for refusals in (self, waited)
        )
        for record in (*batch, *before):
            memory.knows(record)
        unkept = [
            at
            for at, (demand, verdict) in enumerate(zip(self._demands, verdicts, strict=True))
            if any(
                counted > 0 and charge.refuses and charge.counter in self._reasons
                for charge, counted in zip(demand.charges, verdict.counted, strict=False)  # nothing of a refused one
            )
        ]
        raise Refused(verdicts, batch, {**waited._reasons, **self._reasons}, unkept, before)


def find_refused(open_log: Callable[[], Log], entries: Sequence[Entry], date: int, patience: float) -> set[str]:
    """The counters of those of ``entries`` that the database does not take; none: it takes nothing at all.

    Nothing of what is tried stays in the database.

    :raises LogError: it does not answer.
    """
    if not _takes(open_log, (), date, patience):
        return set()
    by_counter: dict[str, list[Entry]] = {}
    for entry in entries:
        by_counter.setdefault(entry.counter, []).append(entry)
    refused: set[str] = set()
    suspects = [list(by_counter)]
    for _ in range(MOST_TRIES):
        if not suspects:
            break
        some = suspects.pop()
        if not _takes(open_log, [entry for counter in some for entry in by_counter[counter]], date, patience):
            if len(some) == 1:
                refused.update(some)
            else:
                suspects += [some[: len(some) // 2], some[len(some) // 2 :]]
    return refused.union(*suspects)


def store_in_parts(
    open_log: Callable[[], Log], rows: Sequence[_Row], store: Callable[[Log, Sequence[_Row]], object]
) -> list[_Row]:
    """Have ``store`` write those of ``rows``, which are refused together, that the database takes; the others.

    Each is written once.
    """
    dropped: list[_Row] = []
    suspects: list[Sequence[_Row]] = [rows]
    for _ in range(MOST_TRIES):
        if not suspects:
            break
        some = suspects.pop()
        try:
            with contextlib.closing(open_log()) as log:
                store(log, some)
        except RecordRefused:
            if len(some) == 1:
                dropped += some
            else:
                suspects += [some[: len(some) // 2], some[len(some) // 2 :]]
        except LogError:
            dropped += some  # perhaps stored: not to be counted twice
    return [*dropped, *(row for some in suspects for row in some)]


def _takes(open_log: Callable[[], Log], entries: Sequence[Entry], date: int, patience: float) -> bool:
    """Whether the database lets ``entries`` in."""
    log = open_log()
    try:
        log.begin(patience)
        log.prepare(lambda _: ())
        log.append(pack(secrets.randbits(62), 1, date, ()))
        for record in in_records(entries, lambda some: pack(secrets.randbits(62), 1, date, some)):
            if len(record.entries) <= log.longest_row:  # of longer ones it is known
                log.append(record)
        log.last_before(0)  # all is sent before it asks
    except RecordRefused:
        return False
    finally:
        log.close()  # nothing is committed
    return True
