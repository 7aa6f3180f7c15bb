"""The setting ``tables``: what is read of it, and what is told of mistakes in it and in what rules ask of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config.table_kind import LONGEST_NAME, LONGEST_PLACE, MOST_TABLES
from policyd_rate_limit.config.tables import IN_PLACE, TableSettings, tables_as_written
from policyd_rate_limit.tables.cache import QueryFailed
from policyd_rate_limit.tables.source import LONGEST_TEXT, BlockingSource
from support.configuration import Load, problems

PERSON = "rules:\n  x: {key: sasl_username, limits: 1/1h, unless: {sasl_username: $t}}\n"


def told(load: Load, text: str) -> list[str]:
    """What is wrong, each on one line that begins with the number of the line in the file."""
    return [f"{problem.line}: {problem.statement}" for problem in problems(load, text)]


def remarks(load: Load, text: str) -> list[str]:
    """The warnings about the file, without its name."""
    return [warning.partition("x.yaml:")[2].strip() for warning in load(text).warnings]


def test_lists_and_mappings_keep_their_order_and_the_text_that_stands_in_the_file(load: Load) -> None:
    values = "[no, 0123, 2026-11-25, 10.5, 22:05, a@b.example, yes, 0x10]"
    (table,) = load(f"{PERSON}tables:\n  t: {values}\n").settings.tables
    words = values.strip("[]").split(", ")
    assert table == TableSettings("t", IN_PLACE, "", tuple((word, None) for word in words))
    pairs = "{no: yes, 0123: 0x10, bob: 2026-11-25, eve: 10.5, sue: [500/1h, 3000/1d], tom: [], ann: [[5, 60]]}"
    (table,) = load(f"{PERSON}tables:\n  t: {pairs}\n").settings.tables
    assert table.entries == (
        ("no", "yes"),
        ("0123", "0x10"),
        ("bob", "2026-11-25"),
        ("eve", "10.5"),
        ("sue", "[500/1h, 3000/1d]"),
        ("tom", "[]"),
        ("ann", "[5/60]"),
    )


def test_a_name_may_be_as_long_as_it_is_said(load: Load) -> None:
    name = "x" * LONGEST_NAME
    (table,) = load(f"{PERSON.replace('$t', '$' + name)}tables: {{{name}: [a]}}\n").settings.tables
    assert table.name == name


def test_a_conf_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    rules = "rules = {'x': {'key': 'sasl_username', 'limits': '1/1h', 'unless': {'sasl_username': ['$t', '$u']}}}\n"
    path.write_text(f"{rules}tables = {{'t': ['no', 17, '*.a.example'], 'u': {{'bob': 5, 'eve': ('5/1h', '9/1d')}}}}\n")
    settings = config.load(path).settings
    assert [table.entries for table in settings.tables] == [
        (("no", None), ("17", None), ("*.a.example", None)),
        (("bob", "5"), ("eve", "[5/1h, 9/1d]")),
    ]
    assert config.Settings(tables=tables_as_written(settings.tables)).tables == settings.tables


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("t: 5", "3: tables.t: expected a list, a mapping, or file:PATH, 'sql:QUERY' or redis:HASH, found 5"),
        ("t: [a, {}, [b]]", None),
        ("t: /etc/x", "3: tables.t: expected a list, a mapping, or file:PATH"),
        ("t: 'file:'", "3: tables.t: expected a list, a mapping, or file:PATH"),
        ("t: FILE:/etc/x", "3: tables.t: expected a list, a mapping, or file:PATH"),
        (f"t: 'file:/{'x' * LONGEST_PLACE}'", "3: tables.t: expected a list, a mapping, or file:PATH"),
        ("t: [$other]", "3: tables.t[0]: expected an entry such as"),
        ("t: ['']", "3: tables.t[0]: expected an entry such as"),
        ("t: {a: [1/1h, {}]}", "3: tables.t.a: expected a text, a number, or limits"),
        ("T: [a]", "3: tables.T: expected a name of a-z, 0-9, - and _"),
        (f"{'x' * (LONGEST_NAME + 1)}: [a]", f"expected a name of a-z, 0-9, - and _, of at most {LONGEST_NAME}"),
        ("t: [192.0.2.0/24]", "3: tables.t[0]: expected a name: a network is compared with addresses alone"),
        ("t: ['/(/']", "3: tables.t[0]: expected a regular expression between slashes"),
        ("t: 'sql:SELECT 1 FROM a'", "3: tables.t: expected one placeholder for the id, ?, found"),
        ("t: 'sql:SELECT 1 FROM a WHERE b = ? OR c = ?'", "found 2 of them"),
        ("t: 'sql:SELECT 1 FROM a WHERE b = :id'", "3: tables.t: expected one placeholder for the id, ?, found"),
        ("t: redis:plans", "3: tables.t: expected sql:QUERY, file:PATH, a list or a mapping, found 'redis:plans'"),
    ],
)
def test_what_is_wrong_with_a_table(load: Load, table: str, said: str | None) -> None:
    found = told(load, f"# 1\ntables:\n  {table}\n{PERSON}")
    if said is None:
        assert [one.partition(": expected an entry")[0] for one in found] == ["3: tables.t[1]", "3: tables.t[2]"]
    else:
        assert any(said in one for one in found), found


def test_sql_needs_a_database_that_has_it(load: Load) -> None:
    redis = "backend: redis\nredis_config: {url: 'redis://127.0.0.1:6379/0'}\n"
    (found,) = told(load, f"{redis}tables:\n  t: 'sql:SELECT 1 FROM a WHERE b = %s'\n{PERSON}")
    assert found == "4: tables.t: expected redis:HASH with backend redis, which has no SQL, found 'sql:'"
    assert load(f"{redis}tables: {{t: redis:plans}}\n{PERSON}").settings.tables[0].place == "plans"


@pytest.mark.parametrize("placeholder", ["?", "%s"])
def test_sqlite_takes_both_placeholders(load: Load, placeholder: str) -> None:
    text = f"tables: {{t: 'sql:SELECT 1 FROM a WHERE b = {placeholder}'}}\n{PERSON}"
    assert remarks(load, text) == []


def test_the_nearest_table_is_named(load: Load) -> None:
    text = "tables: {staff: [a], plan: {a: b}}\n" + PERSON.replace("$t", "$staf")
    (found,) = told(load, text)
    assert found.endswith("expected one of the tables staff, plan (did you mean staff?), found '$staf'")
    assert "expected a table that tables has, found '$t'" in told(load, PERSON)[0]


def test_there_are_so_many_tables_at_most(load: Load) -> None:
    text = "tables:\n" + "".join(f"  t{number}: [a]\n" for number in range(MOST_TABLES + 1))
    assert told(load, text) == [f"1: tables: expected at most {MOST_TABLES} tables, found {MOST_TABLES + 1}"]


def limiting(table: str, words: str = "") -> str:
    return f"tables:\n  t: {table}\nrules:\n  x: {{key: sasl_username, limits: [], overrides: $t{words}}}\n"


def test_a_table_that_gives_limits_has_to_hold_some(load: Load) -> None:
    (found,) = told(load, limiting("{bob: 5/1h, eve: business}"))
    assert (
        found == "2: tables.t.eve: expected limits such as 100/1h, which a rule takes of this table, found 'business'"
    )
    (found,) = told(load, limiting("[bob]"))
    assert found == "2: tables.t: expected a mapping to limits: a rule takes its limits of it, found 'bob'"


def test_a_rule_whose_limits_are_all_of_a_table_limits_somebody(load: Load) -> None:
    assert remarks(load, limiting("{bob: 5/1h}")) == []
    assert remarks(load, limiting("{bob: 5/1h}", ", warn: 80")) == []
    text = limiting("{bob: 5/1h}", ", warn: 80").replace("limits: []", "limits: 5/mail")
    assert remarks(load, text) == []


def test_a_table_that_no_rule_asks(load: Load) -> None:
    assert remarks(load, f"tables:\n  t: [a]\n  u: [b]\n{PERSON}") == ["3: tables.u: no rule asks it"]
    assert remarks(load, "tables:\n  t: [a]\n") == []  # rules are to come


class _Column:
    """A table with one value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def first_column(self, identifier: str) -> object:
        assert identifier == "alice"
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def close(self) -> None: ...


@pytest.mark.parametrize("value", ["x" * (LONGEST_TEXT + 1), b"\xff", None])
def test_a_command_takes_what_nobody_can_use_for_nothing(value: object) -> None:
    assert BlockingSource("t", _Column(value)).known("alice").text is None


def test_a_command_is_told_of_a_query_that_fails() -> None:
    with pytest.raises(QueryFailed):
        BlockingSource("t", _Column(QueryFailed("no such table"))).known("alice")
