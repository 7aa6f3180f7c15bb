"""Tables in files: what is read of them, and what becomes of one that is replaced, edited, broken or gone."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from policyd_rate_limit.domain.counting import BYTES, RECIPIENTS
from policyd_rate_limit.domain.rules.attributes import ADDRESS, NAME
from policyd_rate_limit.domain.rules.facts import NO_FACTS
from policyd_rate_limit.tables.file import (
    LONGEST_LINE,
    MOST_LOOKS,
    MOST_SHARED,
    CannotRead,
    FileTable,
    read_table,
    told,
)


def test_what_stands_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "staff"
    path.write_bytes(
        b"\xef\xbb\xbf# staff\n\n alice\r\nbob  [5/1h, 9/1d] \n*@x.example\tx\n" + b"y" * (LONGEST_LINE + 1)
    )
    found = read_table(str(path), [NAME])
    assert found.entries == (("alice", None), ("bob", "[5/1h, 9/1d]"), ("*@x.example", "x"))
    assert [line.number for line in found.wrong] == [6]


def test_a_text_of_many_lines_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_text("".join(f"user{number} plan {number % 5000}\n" for number in range(10_000)))
    texts = [text for _, text in read_table(str(path), [NAME]).entries]
    assert texts == [f"plan {number % 5000}" for number in range(10_000)]
    shared = sum(texts[number] is texts[number + 5000] for number in range(5000))
    assert shared == MOST_SHARED


def test_what_gives_no_limits_is_told_and_stays_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "tiers"
    path.write_text("alice 5/1h\nbob business\ncarol\n\ndora 10M/1d\nemil []\n")
    found = read_table(str(path), [NAME], units=[RECIPIENTS])
    assert [entry for entry, _ in found.entries] == ["alice", "bob", "carol", "dora", "emil"]
    expected = "expected limits such as 100/1h, which a rule takes of this table, found"
    assert list(told(str(path), found.wrong)) == [
        f"{path}:2: {expected} 'business'; it gives none",
        f"{path}:3: {expected} none; it gives none",
        f"{path}:5: {expected} '10M/1d'; it gives none",
    ]
    assert [line.number for line in read_table(str(path), [NAME], units=[BYTES]).wrong] == [2, 3]
    assert not read_table(str(path), [NAME]).wrong


@pytest.mark.parametrize(
    ("contents", "said"), [(None, ": No such file or directory"), (b"a\nb\n\xffc\n", ":3: expected text in UTF-8")]
)
def test_what_cannot_be_read(tmp_path: Path, contents: bytes | None, said: str) -> None:
    path = tmp_path / "staff"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(CannotRead, match=f"^{path}{said}"):
        read_table(str(path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CannotRead, match="expected a regular file"):
        read_table(str(tmp_path / "fifo"))


def test_a_file_is_read_when_it_is_at_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "staff"
    path.write_text("alice\n")
    table = FileTable("staff", str(path))
    table.of_kind(NAME)
    table.look()

    def known(*names: str) -> list[bool]:
        return [table.of_kind(NAME).find(name, NO_FACTS) is not None for name in names]

    assert known("alice", "bob") == [True, False]
    path.write_text("")  # as who edits it in place begins
    table.look_when_at_rest()
    assert known("alice", "bob") == [True, False]
    path.write_text("bob\n192.0.2.0/24\n")
    table.look_when_at_rest()
    assert known("alice", "bob") == [True, False]
    table.look_when_at_rest()
    assert known("alice", "bob") == [False, True]
    assert f"tables.staff: {path}:2: expected a name" in caplog.text
    path.unlink()
    for _ in range(3):
        table.look_when_at_rest()
    assert known("bob") == [True]
    assert caplog.text.count("No such file or directory; until it can be read, its entries from before are used") == 1
    for number in range(MOST_LOOKS + 1):  # which never rests
        path.write_text("carol\n" * (number + 1))
        assert known("carol") == [False]
        table.look_when_at_rest()
    assert known("bob", "carol") == [False, True]


def test_networks(tmp_path: Path) -> None:
    path = tmp_path / "partners"
    path.write_text("192.0.2.0/24 one\n2001:db8::/32 two\n")
    table = FileTable("partners", str(path))
    table.of_kind(ADDRESS)
    table.look()
    assert [table.of_kind(ADDRESS).find(one, NO_FACTS) for one in ("192.0.2.7", "2001:DB8::1", "198.51.100.1")] == [
        "one",
        "two",
        None,
    ]
