"""Where the cells of a table go: ids are whole, whatever the width, and people find what they look for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.cli.layout import LEAST, Cell, Column, Table, lines, words

COLUMNS = (Column("ID", name=True), Column("MAILS", True), Column("FREE"), Column("FROM", spare=True))
FREE = Cell("in 12 min 3 s (18:36:52)", short="in 12 min 3 s")


def told(table: Table, width: int | None) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines(table, width)]


def table(*ids: str) -> Table:
    return Table(
        COLUMNS, [(Cell(one), Cell(str(7 + 93 * at)), FREE, Cell("limits_by_id")) for at, one in enumerate(ids)]
    )


def test_as_wide_as_it_is() -> None:
    assert told(table("user:alice", "client:127.0.0.17"), None) == [
        "ID                 MAILS  FREE                      FROM",
        "user:alice             7  in 12 min 3 s (18:36:52)  limits_by_id",
        "client:127.0.0.17    100  in 12 min 3 s (18:36:52)  limits_by_id",
    ]


def test_what_is_too_wide_says_less() -> None:
    assert told(table("user:alice", "client:127.0.0.17"), 55) == [
        "ID                 MAILS  FREE           FROM",
        "user:alice             7  in 12 min 3 s  limits_by_id",
        "client:127.0.0.17    100  in 12 min 3 s  limits_by_id",
    ]
    assert told(table("user:alice", "client:127.0.0.17"), 45) == [
        "ID                 MAILS  FREE",
        "user:alice             7  in 12 min 3 s",
        "client:127.0.0.17    100  in 12 min 3 s",
    ]


def test_an_id_that_does_not_fit_has_a_line_of_its_own() -> None:
    long = "sender:" + "x" * 60
    assert told(table("user:alice", long), 40) == [
        "ID                  MAILS  FREE",
        "user:alice              7  in 12 min 3 s",
        long,
        "                      100  in 12 min 3 s",
    ]


def test_text_is_broken_between_words() -> None:
    note = "blocked until 19:03:19, 1 h 59 min more: asked to change the password"
    shown = told(Table((Column("ID", name=True), Column("OVERRIDE")), [(Cell("user:mallory"), Cell(note))]), 40)
    assert shown == [
        "ID            OVERRIDE",
        "user:mallory",
        "    blocked until 19:03:19, 1 h 59 min",
        "    more: asked to change the password",
    ]
    assert words("client:2001:db8:1234:5678::/64 is-one-word", 20) == ["client:2001:db8:1234:5678::/64", "is-one-word"]
    assert words("short", 3) == ["short"]
    assert words("", 3) == [""]


TEXTS = st.text(st.sampled_from("ab:/.-"), min_size=1, max_size=60)


@given(
    st.lists(st.tuples(TEXTS, st.integers(0, 10**9), TEXTS, TEXTS), min_size=1, max_size=5),
    st.integers(1, 120),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_no_cell_is_broken_and_what_fits_is_on_the_line(
    rows: list[tuple[str, int, str, str]], width: int, right: list[bool]
) -> None:
    columns = [column._replace(right=of_column) for column, of_column in zip(COLUMNS, right, strict=True)]
    made = Table(columns, [[Cell(str(text)) for text in row] for row in rows])
    shown = told(made, width)
    found = [word for line in shown for word in line.split()]
    everything = [word for row in [[column.heading for column in columns], *rows] for word in map(str, row)]
    without_last = [word for at, word in enumerate(everything) if at % len(columns) != len(columns) - 1]
    assert found in (everything, without_last)
    for line in shown:
        # Whatever goes beyond the edge is one cell that would do so on any line.
        assert len(line) <= width or len(line.split()) == 1
        assert len(line) <= width or len(line) - len(line.lstrip()) <= max(4, LEAST)


@pytest.mark.parametrize("width", [None, 80])
def test_an_empty_table(width: int | None) -> None:
    assert told(Table(COLUMNS, []), width) == ["ID  MAILS  FREE  FROM"]
