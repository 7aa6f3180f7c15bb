"""One batch of entries as it is kept: in a row of a database, or in the journal.

Every record carries who wrote it and a number that grows by one with each, so that it can be told whether a
record is already known: after a connection that broke during a commit, after a replay, after a restart.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.charge import Entry
from policyd_rate_limit.domain.limits import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ENTRIES_PER_RECORD = 1_000  # where a record is not a batch of requests

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Record(NamedTuple):
    """A batch: ``number`` counts the batches of ``writer`` from 1, ``date`` (Unix second) is that of the batch.

    ``entries`` is the JSON text of a list of ``[counter, amount, date, mail, part]``, where a date of 0 stands for
    that of the batch; ``size`` says how many they are.
    """

    writer: int
    number: int
    date: int
    size: int
    entries: str

    def dated_until(self, latest: int) -> list[Entry]:
        """The entries; none is dated later than the record, or than ``latest``.

        :raises ValueError: they cannot be understood.
        """
        latest = min(latest, self.date)
        try:
            rows = json.loads(self.entries)
            for counter, amount, date, mail, part in rows:
                if type(amount) is not int or type(date) is not int or max(abs(amount), abs(date)) > LARGEST:
                    raise ValueError(f"an amount of {amount!r} at {date!r}")
                hash((counter, mail, part))  # or TypeError
            return [
                Entry(counter, amount, min(date, latest) if date else latest, mail, part)
                for counter, amount, date, mail, part in rows
            ]
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def may_hold(self, mark: str) -> bool:
        """False: there is no entry in it of the counter that :func:`mark_of` has made ``mark`` of. Quickly told."""
        return mark in self.entries

    def dated(self, date: int) -> Record:
        """The same entries in a record of ``date``."""
        return pack(self.writer, self.number, date, self.dated_until(date))


def pack(writer: int, number: int, date: int, entries: Sequence[Entry]) -> Record:
    """A record of ``entries``."""
    rows = [
        (counter, amount, 0 if dated == date else dated, mail, part) for counter, amount, dated, mail, part in entries
    ]
    return Record(writer, number, date, len(rows), _encode(rows))


def mark_of(counter: str) -> str:
    """How ``counter`` stands in the text of a record."""
    return _encode(counter)


def in_records(entries: Iterable[Entry], pack: Callable[[Sequence[Entry]], Record]) -> Iterator[Record]:
    """``entries`` in records of :data:`ENTRIES_PER_RECORD`, each made by ``pack``."""
    iterator = iter(entries)
    while chunk := list(itertools.islice(iterator, ENTRIES_PER_RECORD)):
        yield pack(chunk)
