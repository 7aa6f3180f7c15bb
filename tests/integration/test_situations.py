"""The situations of docs/rules.md, as they stand there, in the daemon, on each of the stores.

But for tables in a database, which with Redis are hashes.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from policyd_rate_limit.config.yaml_file import read_yaml
from support.commands import call
from support.daemon import Client, Daemon, encode, mail
from support.documented import rules
from support.faketime import Clock
from support.mmdb import write_mmdb
from support.said import Said
from support.stores_for_daemons import STORES
from support.wait import wait_until

DAY = 86_400


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The settings of an empty store."""
    with STORES[request.param](tmp_path) as empty:
        yield empty.settings


def situation(store: Mapping[str, Any], directory: pathlib.Path, heading: str, **files: str) -> dict[str, Any]:
    """The settings of a section, with ``store``. ``files``: their names, as the section has them, and their texts."""
    text = rules(heading)
    for name, content in files.items():
        path = directory / name
        path.write_text(content)
        text = text.replace(f"/etc/policyd-rate-limit/{name}", str(path))
    settings = {**read_yaml(text, "rules.md").values, **store}
    for name, place in settings.get("tables", {}).items():
        if isinstance(place, str) and place.startswith("sql:"):
            settings["tables"][name] = Said(store).place(place)
    return settings


def admitted(client: Client, requests: Iterable[Mapping[str, object]]) -> list[bool]:
    """Which of ``requests``, that are sent without waiting for an answer, are let pass."""
    sent = list(requests)
    client.socket.sendall(b"".join(encode(**request) for request in sent))
    return [client.answer() == "dunno" for _ in sent]


def test_a_hosting_provider(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    settings = situation(store, tmp_path, "A hosting provider")
    said = Said(store)
    said.make("mailbox", ("address", "plan"), {"boss@x.example": "business", "new@x.example": "trial"})
    said.make("domain", ("name", "customer"), {"x.example": "Acme"})
    with Daemon(tmp_path, report_from="limits@x.example", **settings) as daemon, Client(daemon.address) as client:
        for user, most in (("New@x.example", 20), ("alice@x.example", 100)):
            assert admitted(client, (mail(user) for _ in range(most + 1))) == [True] * most + [False]
        assert all(admitted(client, (mail("boss@x.example") for _ in range(110))))
        told = json.loads(call(daemon.path, "status", "boss@x.example", "--json").stdout)["keys"]
        assert {one["key"]: one["windows"][-1]["used"] for one in told} == {
            "mailbox|user:boss@x.example": 110,
            "domain|sasl_domain:x.example": 230,
            "customer|$customer:acme": 230,
            "machine|server:": 230,
        }


def test_a_university(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    settings = situation(store, tmp_path, "A university", staff="professor@uni.example\n")
    on_campus = {"client_address": "2001:db8:17::9", "recipient": "bob@cs.uni.example"}
    with Daemon(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        for user, where, most in (
            ("student@uni.example", on_campus, 50),
            ("other@uni.example", {"client_address": "198.51.100.9"}, 30),
            ("professor@uni.example", on_campus, 200),
        ):
            assert admitted(client, (mail(user, **where) for _ in range(most + 1))) == [True] * most + [False]
        mailman = [mail("mailman@uni.example", client_address="192.0.2.9") for _ in range(301)]
        assert [client.ask(**request) for request in mailman] == ["dunno"] * 300 + ["hold"]
        assert client.ask(**{**mailman[7], "instance": "again.1"}) == "dunno"


def test_web_servers(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    with Daemon(tmp_path, **situation(store, tmp_path, "Web servers")) as daemon, Client(daemon.address) as client:
        site = {"client_address": "10.0.3.7"}
        answers = [client.ask(**mail("", **site)) for _ in range(51)]
        assert answers[:50] == ["dunno"] * 50
        assert answers[50].startswith("450 4.7.1 10.0.3.7: 50 of 50 in 1h, next in ")
        end = {"protocol_state": "END-OF-MESSAGE", "recipient_count": 1, "client_address": "10.0.3.8"}
        assert client.ask(**mail("alice", size=9_000_000, **end)) == "dunno"
        assert client.ask(**mail("alice", size=11_000_000, **end)) != "dunno"


def test_a_newsletter_at_night(tmp_path: pathlib.Path) -> None:
    """On SQLite alone: the hours are those of this host, whose clock is another one here than that of a server."""
    store = {"sqlite_config": {"database": str(tmp_path / "night.sqlite3")}}
    clock = Clock(tmp_path)
    now = time.localtime()
    clock.forward(12 * 3600 - (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec))
    settings = situation(store, tmp_path, "A newsletter at night")
    with Daemon(tmp_path, environment=clock.environment, **settings) as daemon, Client(daemon.address) as client:
        assert admitted(client, (mail("news@example.org") for _ in range(31))) == [True] * 30 + [False]
        clock.forward(10 * 3600)
        assert all(admitted(client, (mail("news@example.org") for _ in range(40))))
        assert admitted(client, (mail("alice@example.org") for _ in range(31))) == [True] * 30 + [False]


def test_a_cap_that_a_domain_shares(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    settings = situation(store, tmp_path, "A cap that a domain shares, and one for each member")
    with Daemon(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        users = [f"user{number}@example.org" for number in range(11)]
        for number, user in enumerate(users):
            expected = 100 if number < 10 else 0
            assert sum(admitted(client, (mail(user) for _ in range(101)))) == expected
        assert sum(admitted(client, (mail("x@big.example") for _ in range(501)))) == 500


def test_inbound_mail(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    settings = situation(store, tmp_path, "Inbound mail", partners="198.51.100.64/26\n")
    with Daemon(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        from_outside = {"policy_context": "mx", "client_address": "198.51.100.7"}
        near = [mail("", **{**from_outside, "client_address": f"198.51.100.{n % 60}"}) for n in range(61)]
        assert admitted(client, near) == [True] * 60 + [False]
        partner = {**from_outside, "client_address": "198.51.100.77", "recipient": "bob@example.org"}
        assert all(admitted(client, (mail("", **partner) for _ in range(70))))
        assert all(admitted(client, (mail("", client_address="198.51.100.7") for _ in range(5))))
        bounces = [mail("", **partner, sender="") for _ in range(21)]
        assert admitted(client, bounces) == [True] * 20 + [False]


def test_a_stolen_account(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    countries = tmp_path / "countries.mmdb"
    codes = ("DE", "FR", "IT", "US", "BR", "CN")
    write_mmdb(countries, {f"203.0.{number}.0/24": code for number, code in enumerate(codes)})
    settings = {
        **situation(store, tmp_path, "A stolen account"),
        "geoip": str(countries),
        "report_from": "limits@x.example",
    }
    with Daemon(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        abroad = [mail("alice", client_address=f"203.0.{number}.1") for number in range(6)]
        assert admitted(client, abroad) == [True] * 5 + [False]
        assert client.ask(**mail("alice", client_address="203.0.0.1")).startswith("reject 5.7.1")
        moving = [mail("bob", client_address=f"203.0.0.{number}") for number in range(21)]
        assert admitted(client, moving) == [True] * 20 + [False]
        assert client.ask(**mail("bob", client_address="203.0.0.1")).startswith("reject 5.7.1")
        assert client.ask(**mail("carol", client_address="203.0.0.1")) == "dunno"

        def note(user: str) -> str:
            told = json.loads(call(daemon.path, "status", user, "--json").stdout)["keys"]
            return " ".join(one["override"]["note"] for one in told if one["override"] is not None)

        wait_until(lambda: "addresses" in note("bob"), "the block is in the database", 10)
        assert "countries" in note("alice")
        call(daemon.path, "revoke", "alice")
        wait_until(lambda: client.ask(**mail("alice", client_address="203.0.0.1")) == "dunno", "she is free", 10)


def test_new_accounts(tmp_path: pathlib.Path, store: dict[str, Any]) -> None:
    def born(days: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - days * DAY))

    settings = situation(store, tmp_path, "New accounts")
    Said(store).make("mailbox", ("address", "created"), {"six@x": born(6), "eight@x": born(8)})
    with Daemon(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        for user, most in (("six@x", 50), ("eight@x", 200)):
            assert admitted(client, (mail(user) for _ in range(most + 1))) == [True] * most + [False]
        assert all(admitted(client, (mail("old@x") for _ in range(210))))
