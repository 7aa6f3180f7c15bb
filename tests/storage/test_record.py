"""Records: what is packed is what is read, and nothing is dated in the future."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.storage.record import ENTRIES_PER_RECORD, Record, _most_characters, in_records, pack

NOW = 1_700_000_000
# Bytes that are not UTF-8 arrive as lone surrogates.
text = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=8)
entries = st.lists(st.builds(Entry, text, st.integers(-(2**53) + 1, 2**53 - 1), st.integers(1, NOW), text, text))


@given(entries=entries)
def test_what_is_packed_is_read(entries: list[Entry]) -> None:
    """Whatever the text, and in text that every database keeps: ASCII without control characters."""
    record = pack(5, 7, NOW, entries)
    assert record.dated_until(NOW) == entries
    assert (record.writer, record.number, record.date, record.size) == (5, 7, NOW, len(entries))
    assert record.entries.isascii()
    assert record.entries.isprintable()
    assert record.dated(NOW) == record


@given(entries=entries, date=st.integers(1, 2 * NOW), latest=st.integers(1, 2 * NOW), again=st.integers(1, 2 * NOW))
def test_no_entry_lies_in_the_future(entries: list[Entry], date: int, latest: int, again: int) -> None:
    """Neither in that of its record nor in that of whoever reads it; what lies in the past stays there."""
    record = pack(5, 7, date, entries)
    assert record.dated_until(latest) == [replace(entry, date=min(entry.date, date, latest)) for entry in entries]
    dated = record.dated(latest)
    assert dated.date == latest
    assert dated.dated_until(again) == [replace(entry, date=min(entry.date, date, latest, again)) for entry in entries]


def test_entries_of_the_record_follow_its_date() -> None:
    """A date of 0 is that of the record, so that one UPDATE of the row dates all of them."""
    record = pack(5, 7, NOW, [Entry("a", 1, NOW, "m", "p"), Entry("b", 2, NOW - 9, "", "")])
    assert json.loads(record.entries) == [["a", 1, 0, "m", "p"], ["b", 2, NOW - 9, "", ""]]
    earlier = record._replace(date=NOW - 5)
    assert [entry.date for entry in earlier.dated_until(NOW)] == [NOW - 5, NOW - 9]


@pytest.mark.parametrize(
    "entries",
    [
        *("", "[", "7", "{}x", "[7]", '[["a"]]', "[" * 10**6),
        *('[["a","1",0,"",""]]', '[["a",1.0,0,"",""]]', '[["a",NaN,0,"",""]]', '[["a",true,0,"",""]]'),
        *('[["a",1,null,"",""]]', f'[["a",{2**53},0,"",""]]', f'[["a",1,-{2**53},"",""]]'),
        *('[[["a"],1,0,"",""]]', '[["a",1,0,{},""]]', '[["a",1,0,"",[]]]'),
    ],
    ids=lambda entries: entries[:30],
)
def test_what_is_no_list_of_entries_is_a_value_error(entries: str) -> None:
    """And no other error."""
    with pytest.raises(ValueError):
        Record(5, 7, NOW, 1, entries).dated_until(NOW)


@given(count=st.integers(0, 3 * ENTRIES_PER_RECORD + 1))
def test_many_entries_become_several_records(count: int) -> None:
    """In order, each with as many as fit, none without any."""
    many = [Entry(f"user:{number}", 1, NOW, "", "") for number in range(count)]
    records = list(in_records(many, lambda chunk: pack(5, 7, NOW, chunk)))
    assert [entry for record in records for entry in record.dated_until(NOW)] == many
    assert all(0 < record.size <= ENTRIES_PER_RECORD for record in records)
    assert len(records) == -(-count // ENTRIES_PER_RECORD)


@given(entries=entries, characters=st.integers(2, 1_000))
def test_a_record_is_no_longer_than_it_may_be(entries: list[Entry], characters: int) -> None:
    """Unless one entry alone is longer: what does not fit into a row is split, and nothing of it is lost."""
    records = list(in_records(entries, lambda chunk: pack(5, 7, NOW, chunk), characters))
    assert [entry for record in records for entry in record.dated_until(NOW)] == entries
    assert all(record.size > 0 for record in records)
    assert all(record.size == 1 or len(record.entries) <= characters for record in records)


def test_entries_share_a_record_as_far_as_they_fit() -> None:
    """A row costs a database about the same, whatever is in it."""
    plain = [Entry(f"user:{number:05}", 1, NOW, "m" * 20, "p" * 10) for number in range(100)]
    records = list(in_records(plain, lambda chunk: pack(5, 7, NOW, chunk), 10_000))
    assert len(records) == 2
    assert len(records[0].entries) > 2_500


def test_a_record_is_filled_to_its_last_character() -> None:
    """An entry counts for as long as it may become."""
    entry = Entry("user:alice", 1, NOW, "m", "p")
    room = 2 + 2 * _most_characters(entry)  # for the brackets of the list, too
    for characters, sizes in ((room, [2, 2, 1]), (room - 1, [1] * 5)):
        records = in_records([entry] * 5, lambda chunk: pack(5, 7, NOW, chunk), characters)
        assert [record.size for record in records] == sizes
