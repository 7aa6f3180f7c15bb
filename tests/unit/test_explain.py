"""``explain``: what the rules make of a request, of which nothing is counted."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyd_rate_limit.cli import main
from policyd_rate_limit.tables.sqlite import SqliteLookup
from support.mmdb import write_mmdb

RULES: dict[str, Any] = {
    "person": {"key": "sasl_username", "limits": "2/1h", "overrides": {"*@big.example": ["50/mail", "5/1h"]}},
    "near": {"key": "sender", "limits": "2/1h", "match": {"client_address": "192.0.2.0/24"}},
    "rest": {"key": "server", "limits": "2/1h", "unless": {"sasl_username": "*"}},
    "empty": {"key": "sender", "limits": "1/1h"},
    "size": {"key": "sasl_username", "count": "bytes", "limits": "1M/1d"},
}
BIG = "sasl_username=alice@big.example"


class Explained:
    """Runs ``explain`` on an SQLite file of its own."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory = directory
        self._capsys = capsys
        self.settings: dict[str, Any] = {
            "sqlite_config": {"database": str(directory / "db.sqlite3")},
            "limits": [],
            "rules": RULES,
        }

    def run(self, *arguments: str, command: str = "explain") -> tuple[int, str, str]:
        path = self._directory / "x.yaml"
        path.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        with pytest.raises(SystemExit) as ended:
            main(["-f", str(path), command, *arguments])
        assert isinstance(ended.value.code, int)
        out, err = self._capsys.readouterr()
        return ended.value.code, out, err

    def lines(self, *arguments: str) -> list[str]:
        status, out, _ = self.run(*arguments)
        assert status == 0
        return out.splitlines()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json")[1])


@pytest.fixture
def explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explained:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return Explained(tmp_path, capsys)


def test_each_rule_says_why(explained: Explained) -> None:
    assert explained.lines(BIG, "client_address=10.0.0.1") == [
        "at RCPT (protocol_state is not given), nothing is counted:",
        "person: charges 1 recipient to person|user:alice@big.example; 50/mail, 5/1h, from override *@big.example of"
        " rules.person; used 0 of 50/mail, 0 of 5/1h",
        "near: does not apply: match does not hold, not that client_address lies in 192.0.2.0/24 (it is '10.0.0.1')",
        "rest: does not apply: unless holds, sasl_username is like * (it is 'alice@big.example')",
        "empty: does not apply: sender is empty",
        "size: does not apply: it counts at END-OF-MESSAGE alone",
        "answer now: dunno (accept)",
    ]


def test_nothing_is_counted(explained: Explained) -> None:
    for _ in range(3):
        (person, *_others) = explained.json("sasl_username=bob", "instance=1.2")["rules"]
        assert person["windows"] == [{"maximum": 2, "seconds": 3600, "used": 0, "free_in": 0}]
        assert (person["applies"], person["cost"], person["unit"], person["pattern"]) == (True, 1, "recipients", None)


def test_what_would_be_refused(explained: Explained) -> None:
    told = explained.json("protocol_state=DATA", "recipient_count=3", "sasl_username=bob")
    assert (told["stage"], told["outcome"], told["error"]) == ("DATA", "refuse", None)
    assert told["action"].startswith("defer_if_permit")


def test_the_size_of_a_mail(explained: Explained) -> None:
    lines = explained.lines("protocol_state=END-OF-MESSAGE", "size=2000", "sasl_username=bob")
    assert "size: charges 2 kB to size/bytes|user:bob; 1000000/1d, from rules.size; used 0 of 1000000/1d" in lines
    assert lines[0] == "at END-OF-MESSAGE, nothing is counted:"


def test_whom_an_administrator_has_blocked(explained: Explained) -> None:
    assert explained.run("user:bob", "--for", "1h", "--rule", "person", command="block")[0] == 0
    told = explained.json("sasl_username=bob")
    assert (told["outcome"], told["rules"][0]["blocked"], told["rules"][0]["source"]) == ("block", True, "override")
    assert explained.lines("sasl_username=bob")[1].startswith("person: charges 1 recipient to person|user:bob; blocked")


def test_the_rule_of_version_1(explained: Explained) -> None:
    explained.settings = {"sqlite_config": explained.settings["sqlite_config"], "limits": "10/1m"}
    assert explained.lines("sender=a")[1] == "default: does not apply: nobody whom it charges (limit_by_sasl) sends it"
    assert explained.lines("sasl_username=a")[1] == (
        "default: charges 1 recipient to user:a; 10/1m, from limits; used 0 of 10/1m"
    )


def test_as_postfix_sends_it(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = f"request=smtpd_access_policy\nprotocol_state=DATA\n{BIG}\nrecipient_count=2\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent.encode())))
    told = explained.json()
    assert (told["stage"], told["rules"][0]["cost"]) == ("DATA", 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sasl_user=a"], "unknown attribute 'sasl_user'; did you mean sasl_username?"),
        (["xyzzy=a"], "unknown attribute 'xyzzy'"),
        (["alice"], "expected ATTRIBUTE=VALUE, found 'alice'"),
        (["time=22:00"], "time is no attribute of a request: it is the clock of this host"),
        (["country=DE"], "country is no attribute of a request: it is that of client_address"),
        (["sasl_domain=x"], "made of the address"),
        (["sender=a", "sender=b"], "sender is given twice"),
        (["recipient_count=many"], "expected a number as recipient_count"),
        ([], "found none"),
    ],
)
def test_wrong_usage(explained: Explained, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    status, _, err = explained.run(*arguments)
    assert status == 64
    assert said in " ".join(err.split())


def test_a_database_that_is_away(explained: Explained, tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").write_bytes(b"no database at all, by far" * 100)
    status, out, err = explained.run(BIG)
    assert status == 6
    assert "policyd-rate-limit: " in err
    assert "50/mail, 5/1h, from override *@big.example of rules.person; used is not known" in out
    assert out.endswith("answer: not known while the database is away\n")


TABLES: dict[str, Any] = {
    "tables": {"plan": "sql:SELECT plan FROM plans WHERE name = ?", "staff": ["carol"]},
    "rules": {
        "first": {"key": "server", "limits": "9/1h"},
        "paid": {"key": "sasl_username", "limits": "2/1h", "overrides": {"$staff": "7/1h", "$plan=gold": "50/1h"}},
        "told": {"key": "sasl_username", "limits": "1/1h", "overrides": "$plan"},
        "asked": {"key": "$plan(sasl_username)", "limits": "2/1h"},
        "near": {"key": "sasl_username", "limits": "2/1h", "match": {"sasl_username": "$plan"}},
    },
}


@pytest.mark.parametrize("contents", [b"no database at all, by far" * 100, None])
def test_tables_of_a_database_that_is_away(explained: Explained, tmp_path: Path, contents: bytes | None) -> None:
    explained.settings.update(TABLES)
    if contents is not None:  # else the database is there, and the table is not
        (tmp_path / "db.sqlite3").write_bytes(contents)
    else:
        assert explained.run(command="--clean")[0] == 0
    status, out, err = explained.run("sasl_username=carol", "protocol_state=RCPT")
    assert status == 6
    assert err.startswith("policyd-rate-limit: ")
    assert ("no such table: plans" in " ".join(err.split())) == (contents is None)
    assert out.splitlines() == [
        "at RCPT, nothing is counted:",
        "first: charges 1 recipient to first|server:; 9/1h, from rules.first; used is not known",
        "paid: charges 1 recipient to paid|user:carol; 7/1h, from override $staff of rules.paid; used is not known",
        "told: charges 1 recipient to told|user:carol; 1/1h, from rules.told; used is not known",
        "asked: does not apply: $plan(sasl_username) is empty",
        "near: does not apply: match does not hold, not that sasl_username is in $plan (it is 'carol')",
        "tables.plan: not known while the database is away, and taken to say nothing",
        "answer: not known while the database is away",
    ]


def test_a_table_that_fails_behind_a_rule_that_blocks(explained: Explained) -> None:
    rules = TABLES["rules"]
    explained.settings.update(
        {**TABLES, "rules": {"first": rules["told"] | {"overrides": {}}, "asked": rules["asked"]}}
    )
    assert explained.run("user:carol", "--for", "1h", "--rule", "first", command="block")[0] == 0
    status, out, err = explained.run("sasl_username=carol", "protocol_state=RCPT")
    assert status == 6
    assert "no such table: plans" in " ".join(err.split())
    assert "asked: does not apply: $plan(sasl_username) is empty" in out


def test_a_database_that_is_away_is_asked_once(explained: Explained, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    first_column = SqliteLookup.first_column

    def count(lookup: SqliteLookup, identifier: str) -> object:
        asked.append(identifier)
        return first_column(lookup, identifier)

    monkeypatch.setattr(SqliteLookup, "first_column", count)
    explained.settings.update(TABLES)
    assert explained.run(command="--clean")[0] == 0
    assert explained.run("sasl_username=bob")[0] == 6
    assert asked == ["bob"]
    assert explained.json("sasl_username=bob")["unasked"] == ["plan"]


def test_the_country_of_the_client_where_a_rule_asks(explained: Explained, tmp_path: Path) -> None:
    assert explained.json(BIG)["country"] is None
    explained.settings["geoip"] = str(tmp_path / "countries.mmdb")
    explained.settings["rules"] = {
        "near": {"key": "sasl_username", "limits": "2/1h", "match": {"country": ["at", "de"]}},
        "each": {"key": "country", "limits": "2/1h"},
    }
    status, _, err = explained.run(BIG)
    assert (status, "geoip: expected a file of countries" in " ".join(err.split())) == (5, True)
    write_mmdb(tmp_path / "countries.mmdb", {"192.0.2.0/24": "DE", "198.51.100.0/24": "FR"})
    assert explained.lines(BIG, "client_address=192.0.2.1", "protocol_state=RCPT")[:3] == [
        "at RCPT, from country DE, nothing is counted:",
        "near: charges 1 recipient to near|user:alice@big.example; 2/1h, from rules.near; used 0 of 2/1h",
        "each: charges 1 recipient to each|country:de; 2/1h, from rules.each; used 0 of 2/1h",
    ]
    assert explained.lines(BIG, "client_address=10.0.0.1", "protocol_state=RCPT")[:3] == [
        "at RCPT, from no country that is known, nothing is counted:",
        "near: does not apply: match does not hold, not that country is at or de (it is '')",
        "each: does not apply: country is empty",
    ]
    told = explained.json(BIG, "client_address=198.51.100.1")
    assert (told["country"], told["rules"][0]["failing"]) == ("FR", [{"attribute": "country", "value": "FR"}])
