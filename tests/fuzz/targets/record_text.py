"""The text of a record, as a row of a database or a spool file holds it: entries, or ValueError."""

from __future__ import annotations

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.storage.record import Record, in_records, mark_of, pack

DATE = 1_700_000_000
SEEDS = (
    b'[["user:a",1,0,"m","p"]]',
    b'[["user:a",-1,1699999999,"","p"],["\\ud800",2,0,"\\u0000","\xc3\xa9"]]',
    b"[]",
    b"[ ]",
    b"[[[[",
    b'[["a",1e5,0,"",""]]',
    b'[["a",9007199254740993,0,"",""]]',
    b'[{"a":1}]',
    b"NaN",
    b'[["a",true,0,"",""]]',
)


def one_input(data: bytes) -> None:
    """Read it, and write again what was read."""
    text = data.decode("utf-8", "replace")
    record = Record(1, 2, DATE, 1, text)
    try:
        entries = record.dated_until(DATE)
    except ValueError:
        entries = [Entry(text, 1, DATE, text[::-1], text[:7])]
    for entry in entries:
        assert abs(entry.amount) <= LARGEST
        assert entry.date <= DATE
    written = pack(1, 2, DATE, entries)
    assert written.dated_until(DATE) == entries
    assert all(written.may_hold(mark_of(entry.counter)) for entry in entries)
    parts = list(in_records(entries, lambda some: pack(1, 2, DATE, some)))
    assert [entry for part in parts for entry in part.dated_until(DATE)] == entries
