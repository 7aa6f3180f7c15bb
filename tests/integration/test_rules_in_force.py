"""Rules in the daemon: behind a real Postfix, over a reload, and as the commands see them."""

from __future__ import annotations

import json
import pathlib
import re
from functools import partial
from typing import Any

import pytest

from policyd_rate_limit.cli.exits import Exit
from support.commands import call
from support.daemon import Client, Daemon, mail
from support.mail_server import mail_server
from support.wait import wait_until

of_postfix = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]


def marks(test: Any) -> Any:
    """``test`` needs a Postfix."""
    for mark in of_postfix:
        test = mark(test)
    return test


def reload(daemon: Daemon, **settings: Any) -> None:
    """Have ``daemon`` go by other ``settings``; return once it does."""
    daemon.reload(**settings)


@marks
def test_what_is_too_much_is_held_and_what_is_far_too_much_is_refused(tmp_path: pathlib.Path) -> None:
    rules = {
        "held": {"key": "sasl_username", "limits": "2/1h", "action": "hold"},
        "person": {
            "key": "sasl_username",
            "limits": "4/1h",
            "action": "450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}",
        },
    }
    with mail_server(tmp_path, rules=rules) as (postfix, daemon):
        sent = [postfix.send("alice") for _ in range(5)]
        assert [one.ok for one in sent] == [True] * 4 + [False]
        assert re.fullmatch(
            r"450 4\.7\.1 <.*>: Recipient address rejected: alice: 4 of 4 in 1h, next in (1h|1h1m|59m)", sent[4].reply
        )
        postfix.wait_until_delivered(2)
        assert len([path for path in (postfix.queue / "hold").rglob("*") if path.is_file()]) == 2
        postfix.assert_no_trouble()
        for told in ("verdict=marked rule=held kind=user id=alice ", "verdict=refused rule=person kind=user id=alice "):
            wait_until(partial(_has_logged, daemon, told), told)


def _has_logged(daemon: Daemon, text: str) -> bool:
    return text in daemon.log_text()


@marks
def test_a_mail_is_a_message_its_recipients_and_its_size(tmp_path: pathlib.Path) -> None:
    rules = {
        "messages": {"key": "sasl_username", "count": "messages", "limits": "3/1h"},
        "volume": {"key": "server", "count": "bytes", "limits": "20k/1h", "action": "552 5.3.4 {rule}: no more room"},
        "recipients": {"key": "sasl_username", "limits": "8/1h"},
    }
    many = [f"r{number}@example.net" for number in range(6)]
    with mail_server(tmp_path, ("RCPT", "DATA", "END-OF-MESSAGE"), rules=rules) as (postfix, _):
        assert postfix.send("alice", many).accepted == tuple(many)
        over = postfix.send("alice", many)
        assert over.accepted == tuple(many[:2])  # of eight, six have been counted
        assert postfix.send("bob").ok
        with postfix.submission("bob") as session:
            session.mail("bob@example.org")
            session.rcpt("someone@example.net")
            code, text = session.data("Subject: large\r\n\r\n" + ("x" * 70 + "\r\n") * 400)
        assert (code, text) == (552, b"5.3.4 <END-OF-MESSAGE>: End-of-data rejected: volume: no more room")
        assert [postfix.send("carol").ok for _ in range(4)] == [True, True, True, False]
        postfix.assert_no_trouble()


@marks
def test_bytes_that_are_no_text_neither_open_the_gate_nor_break_the_reply(tmp_path: pathlib.Path) -> None:
    rules = {
        "sender": {"key": "sender", "limits": "1/1h", "action": "550 5.7.1 {sender} may send no more, {key} neither"}
    }
    with mail_server(tmp_path, mynetworks="127.0.0.0/8", parameters={"smtputf8_enable": "no"}, rules=rules) as (
        postfix,
        _,
    ):
        replies = []
        for _ in range(2):
            with postfix.submission() as session:
                assert session.sock is not None
                session.sock.sendall(b"MAIL FROM:<ev\xfe\xffil@example.org>\r\n")
                assert session.getreply()[0] == 250
                replies.append(session.rcpt("someone@example.net"))
        assert replies[0][0] == 250
        assert replies[1][0] == 550
        assert b"ev??il@example.org may send no more, ev??il@example.org neither" in replies[1][1]


def test_a_reload_adds_changes_and_removes_rules_between_two_requests(tmp_path: pathlib.Path) -> None:
    person = {"key": "sasl_username", "limits": "3/1h"}
    with Daemon(tmp_path, rules={"person": person}) as daemon, Client(daemon.address) as client:
        assert [client.ask(**mail("a@x.org")) == "dunno" for _ in range(4)] == [True] * 3 + [False]
        reload(
            daemon, rules={"person": {**person, "limits": "5/1h"}, "domain": {"key": "sasl_domain", "limits": "1/1h"}}
        )
        assert [client.ask(**mail("a@x.org")) == "dunno" for _ in range(2)] == [True, False]
        reload(daemon, rules={"person": {**person, "limits": "5/1h"}})
        assert [client.ask(**mail("a@x.org")) == "dunno" for _ in range(2)] == [True, False]
        reload(daemon, rules={"person": {**person, "limits": "5/1h", "unless": {"sasl_username": "*@x.org"}}})
        assert [client.ask(**mail("a@x.org")) == "dunno" for _ in range(9)] == [True] * 9


def test_what_a_rule_has_counted_is_kept_over_a_restart_and_shared_by_daemons(tmp_path: pathlib.Path) -> None:
    rules = {"machine": {"key": "server", "limits": "10/1h"}, "person": {"key": "sasl_username", "limits": "6/1h"}}
    database = {"database": str(tmp_path / "shared.sqlite3")}
    with (
        Daemon(tmp_path / "one", rules=rules, sqlite_config=database) as one,
        Daemon(tmp_path / "two", rules=rules, sqlite_config=database) as two,
    ):
        with Client(one.address) as client:
            assert [client.ask(**mail("a")) == "dunno" for _ in range(7)] == [True] * 6 + [False]
        one.kill()
        one.start()
        with Client(one.address) as first, Client(two.address) as second:
            answers = [client.ask(**mail(user)) == "dunno" for user in ("b", "c", "d") for client in (first, second)]
            assert answers == [True] * 4 + [False] * 2


def test_the_commands_know_rules(tmp_path: pathlib.Path) -> None:
    rules = {
        "person": {"key": "sasl_username", "limits": "5/1h"},
        "domain": {"key": "sasl_domain", "limits": "8/1h", "shadow": True},
        "machine": {"key": "server", "limits": "100/1h"},
    }
    with Daemon(tmp_path, rules=rules) as daemon, Client(daemon.address) as client:

        def command(*arguments: str) -> Any:
            return json.loads(call(daemon.path, *arguments, "--json").stdout)

        for _ in range(3):
            assert client.ask(**mail("alice@x.org")) == "dunno"
        told = command("status", "alice@x.org")
        assert {one["key"]: (one["windows"][0]["used"], one["shadow"]) for one in told["keys"]} == {
            "person|user:alice@x.org": (3, False),
            "domain|sasl_domain:x.org": (3, True),
            "machine|server:": (3, False),
        }
        command("block", "x.org", "--for", "1h", "--rule", "domain")
        assert client.ask(**mail("alice@x.org")) == "dunno"  # the rule is in shadow
        command("allow", "alice@x.org", "4/1h", "--for", "1h")
        wait_until(lambda: client.ask(**mail("alice@x.org")) != "dunno", "the override is in force", 10)
        assert {one["key"] for one in command("status")["overrides"]} == {
            "person|user:alice@x.org",
            "domain|sasl_domain:x.org",
        }
        (taken,) = command("reset", "alice@x.org")["reset"]
        assert taken["key"] == "person|user:alice@x.org"
        assert command("revoke", "alice@x.org")["revoked"] == ["person|user:alice@x.org"]
        assert call(daemon.path, "status", "alice@x.org", "--rule", "nobody").returncode == Exit.USAGE
        heaviest = {one["key"] for one in command("top", "--once")["senders"]}
        assert {"machine|server:", "domain|sasl_domain:x.org"} <= heaviest
        assert command("history", "alice@x.org", "--rule", "person")["keys"] == ["person|user:alice@x.org"]


def test_the_commands_know_what_a_table_says(tmp_path: pathlib.Path) -> None:
    """Who asks about a user sees the counter of their customer; what is done to the user leaves that alone."""
    tables = {"customer": {"x.org": "Acme", "y.org": "acme"}, "staff": ["bob@x.org"]}
    rules = {
        "person": {"key": "sasl_username", "limits": "5/1h", "overrides": {"$staff": "7/1h"}},
        "customer": {"key": "$customer(sasl_domain)", "limits": "8/1h"},
    }
    with Daemon(tmp_path, rules=rules, tables=tables) as daemon, Client(daemon.address) as client:

        def command(*arguments: str) -> Any:
            return json.loads(call(daemon.path, *arguments, "--json").stdout)

        def limits(*arguments: str) -> dict[str, list[int]]:
            told = command("status", *arguments)["keys"]
            return {one["key"]: [window["maximum"] for window in one["windows"]] for one in told}

        for user in ("alice@x.org", "bob@x.org", "carol@y.org"):
            assert client.ask(**mail(user)) == "dunno"
        assert limits("bob@x.org") == {"person|user:bob@x.org": [7], "customer|$customer:acme": [8]}
        assert limits("zoe@z.org") == {"person|user:zoe@z.org": [5]}
        assert limits("$customer:ACME") == limits("acme", "--rule", "customer") == {"customer|$customer:acme": [8]}
        told = command("status", "acme")["keys"]
        assert {one["key"]: one["windows"][0]["used"] for one in told} == {
            "person|user:acme": 0,
            "customer|$customer:acme": 3,
        }
        (taken,) = command("reset", "bob@x.org")["reset"]
        assert taken["key"] == "person|user:bob@x.org"
        command("block", "$customer:acme", "--for", "1h")
        wait_until(lambda: client.ask(**mail("carol@y.org")) != "dunno", "the customer is blocked", 10)
        assert client.ask(**mail("dora@z.org")) == "dunno"


DISTINCT = {
    "outside": {
        "key": "sasl_username",
        "count": "distinct recipient",
        "unless": {"recipient_domain": ["uni.example", "*.uni.example"]},
        "limits": "3/1d",
        "action": "hold",
    },
    "places": {"key": "sasl_username", "count": "distinct client_address", "limits": "2/1h"},
}


def test_different_values_are_counted_over_restarts_and_by_daemons(tmp_path: pathlib.Path) -> None:
    """Recipients outside are held beyond the third, and a third place is refused; the commands know both."""
    database = {"database": str(tmp_path / "shared.sqlite3")}
    with (
        Daemon(tmp_path / "one", rules=DISTINCT, sqlite_config=database) as one,
        Daemon(tmp_path / "two", rules=DISTINCT, sqlite_config=database) as two,
        Client(two.address) as other,
    ):

        def to(client: Client, recipient: str, place: str = "192.0.2.1") -> str:
            return client.ask(**mail("alice", recipient=recipient, client_address=place))

        with Client(one.address) as client:
            assert [to(client, f"{name}@x.org") for name in "aab"] == ["dunno"] * 3
            assert to(other, "c@x.org") == "dunno"
            assert [to(client, one) for one in ("d@x.org", "d@cs.uni.example", "A@X.org")] == ["hold", "dunno", "dunno"]
            assert to(client, "a@x.org", "2001:db8:0:1::1") == "dunno"
        one.kill()
        one.start()
        with Client(one.address) as client:
            assert to(client, "d@x.org") == "hold"
            assert to(client, "b@x.org", "2001:db8:0:1:ffff::2") == "dunno"
            assert to(client, "b@x.org", "192.0.2.2").startswith("defer_if_permit")

            def command(*arguments: str) -> Any:
                return json.loads(call(one.path, *arguments, "--json").stdout)

            told = {found["key"]: found for found in command("status", "alice")["keys"]}
            outside, places = "outside/distinct-recipient|user:alice", "places/distinct-client_address|user:alice"
            assert {key: found["windows"][0]["used"] for key, found in told.items()} == {outside: 3, places: 2}
            assert {found["rule"] for found in told.values()} == {"outside", "places"}
            heaviest = {found["key"]: found["mails"] for found in command("top", "--once")["senders"]}
            assert heaviest == {outside: 3, places: 2}
            asked = ("sasl_username=alice", "recipient=e@x.org", "client_address=192.0.2.2")
            lines = call(one.path, "explain", *asked).stdout
            assert f"charges 1 different recipient to {outside}" in lines
            assert f"charges 1 different client address to {places}" in lines
            assert "used 2 of 2" in lines
            assert command("reset", "alice", "--rule", "places")["reset"][0]["mails"] == 2
            assert to(other, "b@x.org", "192.0.2.2") == "dunno"
            words = call(one.path, "check-config", "--explain").stdout
            assert "each SASL user may send from 2 different client addresses in any hour." in " ".join(words.split())
        assert "verdict=marked rule=outside kind=user id=alice" in one.log_text() + two.log_text()
        assert "verdict=refused rule=places kind=user id=alice" in one.log_text()
