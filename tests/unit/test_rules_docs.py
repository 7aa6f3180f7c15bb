"""The rules of the documentation, as they stand there, do what it says of them."""

from __future__ import annotations

import contextlib
import pathlib
import re
import sqlite3
import time
from typing import Any

import pytest

from support.documented import rules, said
from support.ruled import NOON, Ruled

HOUR = 3600


def in_database(text: str, directory: pathlib.Path, *statements: str) -> str:
    """The configuration ``text``, whose tables in SQLite are those that ``statements`` make."""
    path = directory / "mail.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)
    return f"{text}\nsqlite_config: {{database: {path}}}\n"


def test_web_servers() -> None:
    ruled = Ruled(rules("Web servers"))
    for _ in range(50):
        assert set(ruled.mail(client_address="10.0.3.7", sasl_username="")) == {"dunno"}
        ruled.now += 54
    assert ruled.mail(client_address="10.0.3.7", sasl_username="") == [
        said("450 4.7.1 10.0.3.7: 50 of 50 in 1h, next in 15m")
    ]
    assert ruled.admitted(60, client_address="10.0.3.80", sasl_username="") == 60
    assert ruled.admitted(60, client_address="10.0.3.7", sasl_username="alice") == 60
    assert ruled.admitted(60, client_address="10.0.4.7", sasl_username="") == 60
    large = ruled.mail(size=11_000_000, client_address="10.0.3.8", sasl_username="")
    assert [answer == "dunno" for answer in large] == [True, True, False]


def test_a_newsletter_at_night() -> None:
    ruled = Ruled(rules("A newsletter at night"), now=NOON + 10 * HOUR - 60)
    assert ruled.admitted(40, sasl_username="news@example.org") == 30
    ruled.now += 60
    assert ruled.admitted(40, sasl_username="news@example.org") == 40
    assert ruled.counted("night|user:news@example.org") == 40
    assert ruled.counted("person|user:news@example.org") == 30
    assert ruled.admitted(40) == 30


@pytest.mark.parametrize(("domain", "each", "all_of_them"), [("example.org", 100, 1000), ("big.example", 500, 20000)])
def test_a_cap_that_a_domain_shares_and_one_for_each_member(domain: str, each: int, all_of_them: int) -> None:
    ruled = Ruled(rules("A cap that a domain shares, and one for each member"))
    members = all_of_them // each
    for number in range(members + 3):
        admitted = ruled.admitted(each + 1, sasl_username=f"user{number}@{domain}")
        assert admitted == (each if number < members else 0)
    assert ruled.counted(f"domain|sasl_domain:{domain}") == all_of_them


def test_a_hosting_provider(tmp_path: pathlib.Path) -> None:
    text = in_database(
        rules("A hosting provider"),
        tmp_path,
        "CREATE TABLE mailbox (address TEXT PRIMARY KEY, plan TEXT)",
        "INSERT INTO mailbox VALUES ('boss@example.org', 'business'), ('new@example.org', 'trial')",
        "INSERT INTO mailbox VALUES ('x@one.example', NULL)",
        "CREATE TABLE domain (name TEXT PRIMARY KEY, customer TEXT)",
        "INSERT INTO domain VALUES ('one.example', 'Acme'), ('two.example', 'acme'), ('example.org', 'other')",
    )
    ruled = Ruled(text)
    assert said("100 mails in an hour")
    assert ruled.admitted(101) == 100
    assert said("may send 20 in a day")
    assert ruled.admitted(21, sasl_username="New@Example.org") == 20
    assert said("500 in an hour")
    assert ruled.admitted(501, sasl_username="boss@example.org") == 500
    assert ruled.mail(51)[-1] != "dunno"
    for user in ("x@one.example", "y@two.example", "z@unknown.example"):
        assert ruled.admitted(7, sasl_username=user) == 7
    assert ruled.counted("customer|$customer:acme") == 14
    assert ruled.counted("customer|$customer:other") == 620
    assert ruled.counted("machine|server:") == 641


def test_a_university(tmp_path: pathlib.Path) -> None:
    staff = tmp_path / "staff"
    staff.write_text("# who teaches\nprofessor@uni.example\n")
    text = rules("A university").replace("/etc/policyd-rate-limit/staff", str(staff))
    assert said("50 mails in an hour on campus and 30 elsewhere, staff 200")
    ruled = Ruled(text)
    on_campus = {"client_address": "192.0.2.7", "recipient": "bob@uni.example"}
    assert ruled.admitted(51, sasl_username="student@uni.example", **on_campus) == 50
    assert ruled.admitted(51, sasl_username="other@uni.example", client_address="198.51.100.7") == 30
    assert ruled.admitted(201, sasl_username="professor@uni.example", **on_campus) == 200
    assert ruled.admitted(300, sasl_username="mailman@uni.example", **on_campus) == 300
    assert said("Mail to more than 300 different outside addresses in a day is held")
    ruled = Ruled(text)
    lists: dict[str, Any] = {"sasl_username": "mailman@uni.example", "client_address": "192.0.2.7"}
    for number in range(300):
        assert ruled.admitted(1, recipient=f"user{number}@example.net", **lists) == 1
    assert ruled.mail(recipient="one@too.example", **lists)[0] == "hold"
    assert ruled.admitted(5, recipient="user7@example.net", **lists) == 5
    assert ruled.admitted(5, recipient="new@uni.example", **lists) == 5


def test_inbound_mail(tmp_path: pathlib.Path) -> None:
    partners = tmp_path / "partners"
    partners.write_text("198.51.100.64/26  # a forwarder\n")
    text = rules("Inbound mail").replace("/etc/policyd-rate-limit/partners", str(partners))
    ruled = Ruled(text)
    mx = {"policy_context": "mx", "sasl_username": ""}
    assert said("The 61st mail in a minute of all clients in 198.51.100.0/24 is refused")
    answers = [
        ruled.admitted(1, client_address=f"198.51.100.{number % 64}", recipient=f"u{number}@x.example", **mx)
        for number in range(61)
    ]
    assert answers == [1] * 60 + [0]
    assert ruled.admitted(70, client_address="198.51.100.77", **mx) == 70
    assert ruled.admitted(70, client_address="198.51.100.1", sasl_username="") == 70
    assert said("the 21st bounce in an hour to one mailbox")
    ruled = Ruled(text)
    ask = {"client_address": "198.51.100.77", "recipient": "bob@example.org", "sender": "", **mx}
    assert ruled.admitted(21, **ask) == 20
    assert ruled.admitted(300, **{**ask, "sender": "a@b.example"}) == 300


def test_new_accounts(tmp_path: pathlib.Path) -> None:
    def born(days: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOON - days * 86_400))

    text = in_database(
        rules("New accounts"),
        tmp_path,
        "CREATE TABLE mailbox (address TEXT PRIMARY KEY, created TEXT)",
        f"INSERT INTO mailbox VALUES ('six@x', '{born(6)}'), ('eight@x', '{born(8)}'), ('old@x', '{born(31)}')",
    )
    assert said("Of an account that is six days old the 51st mail in a day is refused")
    assert said("of one that is eight days old the 201st")
    ruled = Ruled(text)
    admitted = {user: ruled.admitted(1001, sasl_username=user) for user in ("six@x", "eight@x", "old@x", "unknown@x")}
    assert admitted == {"six@x": 50, "eight@x": 200, "old@x": 1000, "unknown@x": 1000}


def test_the_entries_of_a_table() -> None:
    """Each line of the section is accepted, and asks what it says."""
    table = rules("Tables").replace("file:/etc/policyd-rate-limit/staff", "[boss@example.org]")
    table = re.sub('"sql:.*"', "{boss@example.org: business}", table)
    ruled = Ruled(
        f"""{table}
  tiers: {{alice@example.org: "3/1h, 5/1d"}}
rules:
  person:
    key: sasl_username
    limits: 1/1h
    unless: {{client_address: $campus}}
    overrides: [{{root: []}}, $tiers, {{$plan=business: 4/1h}}]
  domain: {{key: $size(sasl_domain), limits: 2/1h}}
"""
    )
    outside = {"client_address": "198.51.100.1"}
    assert ruled.admitted(9, sasl_username="carol@example.org", **outside) == 1
    assert ruled.admitted(9, **outside) == 3
    assert ruled.admitted(9, sasl_username="Boss@example.org", **outside) == 4
    assert ruled.admitted(9, sasl_username="carol@example.org") == 9
    assert ruled.admitted(9, client_address="2001:db8:17::1", sasl_username="x@big.example") == 2
