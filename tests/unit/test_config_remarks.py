"""What is odd in settings that are each right: entries that apply to nobody, limits that limit nobody."""

from __future__ import annotations

import time

import pytest

from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.config.placeholders import LONGEST_QUERY, wrong_placeholder
from policyd_rate_limit.config.remarks import refuses_nothing
from support.configuration import Load

NEVER = "applies to nobody: "
NOTHING = "1: limits is empty, and nothing else limits anybody: nothing is limited"
BY_IP = "limit_by_ip: true\nlimited_networks: [192.0.2.0/24, 192.0.2.128/25, 198.51.100.7, '2001:db8::/32']\n"


def remarks(load: Load, text: str) -> list[str]:
    """The warnings about the file, without its name and ``limits_by_id: ``."""
    return [warning.partition("x.yaml:")[2].replace(": limits_by_id: ", ": ") for warning in load(text).warnings]


@pytest.mark.parametrize("name", ["@example.org", "*@example.org", "*", ".example.org", "alice@*", "alice@", "/^a.*/"])
def test_an_id_is_no_pattern(load: Load, name: str) -> None:
    assert remarks(load, f"limits_by_id:\n  '{name}': []\n") == [
        f"2: '{name}' {NEVER}an id is one user or one sender, no domain and no pattern"
    ]


@pytest.mark.parametrize(
    "name", ["example.org", "mail.example.com.", "EXAMPLE.ORG", "xn--bcher-kva.de", "a.b.xn--p1ai"]
)
def test_a_user_may_be_called_like_a_domain(load: Load, name: str) -> None:
    assert remarks(load, f"limits_by_id:\n  '{name}': []\n") == [
        f"2: '{name}' applies to a user of exactly that name, and to no address in a domain"
    ]


@pytest.mark.parametrize(
    "name", ["alice", "john.doe", "alice@example.org", "no", "a.b-c", "web1.service", "x" * 400 + ".org", "_", "1.5"]
)
def test_what_a_user_may_be_called(load: Load, name: str) -> None:
    assert remarks(load, f"limits_by_id:\n  '{name}': []\n") == []


@pytest.mark.parametrize("name", ["user:alice", "sender:a@b", "client:192.0.2.1"])
def test_no_kind_is_before_an_id(load: Load, name: str) -> None:
    said = f"1: '{name}' {NEVER}an id has no kind before it here"
    assert remarks(load, f"limits_by_id: {{'{name}': []}}\n") == [said]


def test_addresses_where_no_client_is_charged(load: Load) -> None:
    text = "limits_by_id:\n  a: []\n  192.0.2.1: []\n  192.0.2.0/24: []\n"
    assert remarks(load, text) == ["3: '192.0.2.1', '192.0.2.0/24' apply to nobody: limit_by_ip is off"]


def test_clients_outside_of_what_is_limited(load: Load) -> None:
    inside = ["192.0.2.1", "192.0.2.255", "192.0.0.0/16", "0.0.0.0/0", "198.51.100.7", "2001:db8:1::/48", "::/0"]
    outside = ["192.0.3.0", "192.0.1.255", "198.51.100.6", "203.0.113.0/24", "2001:db9::1", "10.0.0.0/8"]
    text = BY_IP + "limits_by_id:\n" + "".join(f"  '{name}': []\n" for name in (*inside, *outside))
    [said] = remarks(load, text)
    assert said == (
        f"{4 + len(inside)}: '192.0.3.0', '192.0.1.255', '198.51.100.6' and 3 more apply to nobody:"
        " in none of limited_networks"
    )


def test_a_client_is_reached_by_what_has_no_sender(load: Load) -> None:
    text = BY_IP + "limit_by_sender: true\nlimits_by_id: {192.0.2.10: [], a@b: []}\n"
    assert remarks(load, text) == [
        "4: '192.0.2.10' applies only to mail without a sender: limit_by_sender charges the sender before the client"
    ]


def test_users_where_only_clients_are_charged(load: Load) -> None:
    text = BY_IP + "limit_by_sasl: false\nlimits_by_id: {alice: [], 192.0.2.10: []}\n"
    assert remarks(load, text) == [f"4: 'alice' {NEVER}limit_by_sasl and limit_by_sender are off"]


def test_periods_that_nobody_has(load: Load) -> None:
    report = "report: true\nreport_to: a@b\nreport_limits: [900, 86400, 60, 7]\n"
    assert remarks(load, report + "limits_by_id: {a: [[1, 7]]}\n") == ["3: report_limits: no limit has 900 seconds"]
    assert remarks(load, report.replace("true", "false")) == []
    assert remarks(load, report + "sql_limits_by_id: SELECT 1 WHERE x = ?\n") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit_by_sasl: false\n", "1: limit_by_sasl, limit_by_sender and limit_by_ip are all off: nothing is limited"),
        ("limits: []\n", NOTHING),
        ("limits: []\nlimits_by_id: {a: []}\n", NOTHING),
        ("limits: []\nlimits_by_id: {'@b.org': [[1, 1]]}\n", NOTHING),
        ("limit_by_ip: true\n", "1: limit_by_ip is on, and limited_networks is empty: no client is charged"),
        ("fail_action: dunno\n", "1: fail_action: 'dunno' refuses nothing: beyond the limits all passes"),
    ],
)
def test_what_limits_nobody(load: Load, text: str, said: str) -> None:
    assert said in remarks(load, text)


@pytest.mark.parametrize("text", ["limits_by_id: {a: [[1, 1]]}", "sql_limits_by_id: SELECT l FROM t WHERE i = ?"])
def test_what_limits_somebody(load: Load, text: str) -> None:
    assert remarks(load, f"limits: []\n{text}\n") == []


@pytest.mark.parametrize(
    "action", ["dunno", "OK", "permit", "PREPEND X: y", "warn x", "info", "200", "4", "defer_if_reject x", "bcc a@b"]
)
def test_an_action_that_refuses_nothing(action: str) -> None:
    assert refuses_nothing(action)


@pytest.mark.parametrize(
    "action", ["defer", "reject x", "450 4.7.1 x", "554", "defer_if_permit x", "discard", "my_class"]
)
def test_an_action_that_may_refuse(action: str) -> None:
    assert not refuses_nothing(action)


RIGHT = [
    (0, "SELECT limits FROM t WHERE id = ?"),
    (0, "SELECT limits FROM t WHERE id = ? AND kind = 'what?'"),
    (0, "SELECT '%s', limits FROM t WHERE id = ? -- or ?"),
    (1, "SELECT limits FROM rate_limits WHERE id = %s"),
    (2, "SELECT limits FROM rate_limits WHERE id = %s AND x LIKE 'a%%'"),
    (2, "SELECT limits::text FROM rate_limits WHERE id = %s AND data ? 'x'"),
    (1, "SELECT `a?`, \"b\" FROM t WHERE t.x = 'it''s' AND id=%s"),
]
WRONG = [
    (0, "SELECT limits FROM t", "?, found none"),
    (0, "SELECT limits FROM t WHERE id = %s", "?, found %s, which is for the other databases"),
    (0, "SELECT limits FROM t WHERE id = ? OR a = ?", "?, found 2 of them"),
    (0, "SELECT limits FROM t WHERE id = '?'", "?, found it in quotes or in a comment"),
    (0, "SELECT limits FROM t WHERE id = :id", "?, found the named :id"),
    (0, "SELECT limits FROM t WHERE id = ? AND b = :b", "?, found :b too"),
    (0, "SELECT limits FROM t WHERE id = ?1", "?, found a numbered one"),
    (1, "SELECT limits FROM t", "%s, found none"),
    (1, "SELECT limits FROM t WHERE id = ?", "%s, found ?, which is for SQLite"),
    (2, "SELECT limits FROM t WHERE id = %s OR a = %s", "%s, found 2 of them"),
    (2, "SELECT limits FROM t WHERE id = %(id)s", "%s, found the named %(id)s"),
    (2, "SELECT limits FROM t WHERE id = :id", "%s, found the named :id"),
    (1, "SELECT limits FROM t WHERE id = '%s'", "%s, found it in quotes or in a comment"),
    (2, "SELECT limits FROM t WHERE id = %s -- %s", "%s, found it in quotes or in a comment"),
    (1, "SELECT limits FROM t WHERE id = %s AND x LIKE 'a%'", "%s, found a % that is not doubled"),
    (1, "SELECT limits FROM t WHERE id = %s AND x = 3 % 2", "%s, found a % that is not doubled"),
]


@pytest.mark.parametrize(("backend", "query"), RIGHT)
def test_a_query_with_one_placeholder(backend: int, query: str) -> None:
    assert wrong_placeholder(query, str(DATABASES[backend].placeholder)) is None


@pytest.mark.parametrize(("backend", "query", "said"), WRONG)
def test_a_query_with_a_wrong_placeholder(load: Load, backend: int, query: str, said: str) -> None:
    [warning] = remarks(load, f'backend: {backend}\nsql_limits_by_id: "{query}"\n')
    assert warning.startswith("2: sql_limits_by_id: expected one placeholder for the id, ")
    assert warning.endswith(f"{said}; the query fails for every id")


@pytest.mark.parametrize("text", ["'", "$a$", "%", "/*", '"', ":a", "$a", "`", "--", "'\\", "?"])
@pytest.mark.parametrize("length", [LONGEST_QUERY, 4 << 20])
def test_a_long_query_takes_no_time(text: str, length: int) -> None:
    query = (text * length)[:length]
    began = time.thread_time()
    wrong_placeholder(query, "?")
    wrong_placeholder(query, "%s")
    assert time.thread_time() - began < 5


def test_many_ids_and_networks_take_no_time(load: Load) -> None:
    networks = ", ".join(f"10.{high}.{low}.0/28" for high in range(8) for low in range(250))
    ids = ", ".join(f"10.{high}.{low}.1: []" for high in range(8) for low in range(250))
    began = time.thread_time()
    settings, warnings = load(f"limit_by_ip: true\nlimited_networks: [{networks}]\nlimits_by_id: {{{ids}}}\n")
    assert time.thread_time() - began < 10
    assert len(settings.limits_by_id) == 2000
    assert warnings == ()
