"""One batch of entries as it is kept: in a row of a database, or in the spool.

Every record carries who wrote it and a number that grows with each, so that it can be told whether a
record is already known: after a connection that broke during a commit, after a replay, after a restart.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_QUOTES_OF_ENTRY: Final = b'"' * 6
_ONE_NOW: Final = '",1,0,"'  # between counter and mail, as it mostly is
# What a string in JSON may hold unescaped (RFC 8259, section 7), as far as it is ASCII.
_AS_THEY_ARE: Final = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))

ENTRIES_PER_RECORD: Final = 1_000  # where a record is not a batch of requests
OVERHEAD: Final = 128  # bytes that keeping a record takes beside its entries, at the most
# A row of a database is not to be longer, unless one entry alone is: MySQL takes 1 to 16 MiB at once.
CHARACTERS_PER_RECORD: Final = 1 << 18


class Record(NamedTuple):
    """A batch: ``number`` grows with each of ``writer``, ``date`` (Unix second) is that of the batch.

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
            return [_entry(row, latest) for row in json.loads(self.entries)]
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def may_hold(self, mark: str) -> bool:
        """False: there is no entry in it of the counter that :func:`mark_of` has made ``mark`` of. Quickly told."""
        return mark in self.entries

    def dated(self, date: int) -> Record:
        """The same entries in a record of ``date``."""
        return pack(self.writer, self.number, date, self.dated_until(date))


def _entry(row: Sequence[Any], latest: int) -> Entry:
    counter, amount, date, mail, part = row
    if type(amount) is not int or type(date) is not int or max(abs(amount), abs(date)) > LARGEST:
        raise ValueError(f"an amount of {amount!r} at {date!r}")
    if not (isinstance(counter, str) and isinstance(mail, str) and isinstance(part, str)):
        raise TypeError(f"something else than text: {(counter, mail, part)!r}")
    return Entry(counter, amount, min(date, latest) if date else latest, mail, part)


def pack(writer: int, number: int, date: int, entries: Sequence[Entry]) -> Record:
    """A record of ``entries``."""
    # Put together by hand, in half the time that it takes to have a list of lists encoded; and looked at only once.
    rows = []
    for entry in entries:
        when = 0 if entry.date == date else entry.date
        amount = _ONE_NOW if entry.amount == 1 and not when else f'",{entry.amount},{when},"'
        rows.append(f'["{entry.counter}{amount}{entry.mail}","{entry.part}"]')
    text = f"[{','.join(rows)}]"
    if not text.isascii() or text.encode().translate(None, _AS_THEY_ARE) != _QUOTES_OF_ENTRY * len(rows):
        text = json.dumps(
            [
                (entry.counter, entry.amount, 0 if entry.date == date else entry.date, entry.mail, entry.part)
                for entry in entries
            ],
            separators=(",", ":"),
        )
    return Record(writer, number, date, len(rows), text)


def mark_of(counter: str) -> str:
    """How ``counter`` stands in the text of a record."""
    return json.dumps(counter)


def in_records(
    entries: Iterable[Entry], pack: Callable[[Sequence[Entry]], Record], characters: int = CHARACTERS_PER_RECORD
) -> Iterator[Record]:
    """``entries`` in records of :data:`ENTRIES_PER_RECORD` and ``characters`` at the most, each made by ``pack``.

    An entry that has more has a record of its own.
    """
    chunk: list[Entry] = []
    size = 2
    for entry in entries:
        more = _most_characters(entry)
        if chunk and (len(chunk) == ENTRIES_PER_RECORD or size + more > characters):
            yield pack(chunk)
            chunk, size = [], 2
        chunk.append(entry)
        size += more
    if chunk:
        yield pack(chunk)


def _most_characters(entry: Entry) -> int:
    """How long ``entry`` is as JSON, at the most."""
    text = entry.counter + entry.mail + entry.part
    # Quotes and backslashes have one in front of them; others are six characters, or twice six.
    return 56 + len(text) * (2 if text.isascii() and text.isprintable() else 12)
