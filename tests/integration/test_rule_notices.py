"""A real daemon whose rules have mails sent: to administrators, and to the user whose mail it was."""

from __future__ import annotations

import pathlib
import signal
from typing import Any

from support.daemon import Client, Daemon, mail, running, write_configuration
from support.faketime import Clock
from support.smtp import Server, smtp_server
from support.wait import wait_until

ALICE = "Alice@Example.org"
ABUSE = "abuse@example.org"
NOBODY = {"sasl_username": "nobody"}


def by_mail(server: Server, **rule: Any) -> dict[str, Any]:
    """Settings with one rule, which tells those of its ``notify``."""
    person = {"key": "sasl_username", "limits": "4/1h", "notify": [ABUSE, "user"], "unless": NOBODY, **rule}
    return {
        "report_from": "policyd@example.org",
        "smtp_server": [server.host, server.port],
        "rules": {"person": person, "free": {"key": "sender", "limits": "1000/1h"}},
        "fail_action": "450 later",
        "block_action": "550 blocked",
    }


def send(daemon: Daemon, user: str, count: int) -> list[str]:
    """What is answered to so many mails."""
    with Client(daemon.address) as client:
        answers = [client.ask(**mail(user)) for _ in range(count)]
        # Who is to be told is found out behind an answer, and before the next one.
        client.ask(**mail("nobody"))
    return answers


def sent(server: Server, count: int) -> dict[str, list[str]]:
    """The subjects of all mails, by who got them."""
    found: dict[str, list[str]] = {}
    for one in server.wait_for(count):
        (recipient,) = one.recipients
        found.setdefault(recipient, []).append(str(one.message["Subject"]).partition(" on ")[0])
    return found


def test_who_exceeds_a_rule_and_who_runs_it_are_told_once(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    with smtp_server() as server, running(tmp_path, environment=clock.environment, **by_mail(server)) as daemon:
        assert send(daemon, ALICE, 8) == ["dunno"] * 4 + ["450 later"] * 4
        name = ALICE.lower()
        assert sent(server, 2) == {
            ABUSE: [f"{name} ran into the limit 4/1h"],
            ALICE: ["You have sent as much mail as you may"],
        }
        to_alice = next(one for one in server.mails if one.recipients == [ALICE])
        assert to_alice.sender == "policyd@example.org"
        text = to_alice.message.get_content()
        assert "4 in 1h" in text
        assert "192.0.2.1" in text
        assert ABUSE not in to_alice.data.decode()
        send(daemon, "bob", 6)  # whose name is no address
        assert sent(server, 3)[ABUSE][1:] == ["bob ran into the limit 4/1h"]
        clock.forward(3700)
        send(daemon, ALICE, 6)
        assert len(sent(server, 5)[ALICE]) == 2
        assert daemon.stop() == 0
        assert len(server.mails) == 5


def test_warnings_and_blocks_are_told(tmp_path: pathlib.Path) -> None:
    """A block in place of the hit that it is for."""
    with smtp_server() as server, running(tmp_path, **by_mail(server, warn="75%", block="2h")) as daemon:
        assert send(daemon, ALICE, 7) == ["dunno"] * 4 + ["450 later"] + ["550 blocked"] * 2
        name = ALICE.lower()
        found = sent(server, 4)
        assert found[ABUSE] == [f"{name} has used 3 of 4/1h", f"{name} is blocked for 2h by the limit 4/1h"]
        assert found[ALICE] == ["You have nearly sent as much mail as you may", "Your account may send no mail for now"]
        assert daemon.stop() == 0
        assert len(server.mails) == 4


def test_in_shadow_administrators_learn_what_would_be(tmp_path: pathlib.Path) -> None:
    with smtp_server() as server, running(tmp_path, **by_mail(server, warn=75, block="2h", shadow=True)) as daemon:
        assert send(daemon, ALICE, 7) == ["dunno"] * 7
        name = ALICE.lower()
        assert sent(server, 2) == {
            ABUSE: [f"{name} has used 3 of 4/1h", f"{name} would be blocked for 2h by the limit 4/1h"]
        }
        assert daemon.stop() == 0
        assert len(server.mails) == 2


def test_a_rule_that_holds_tells_as_well_and_a_reload_tells_others(tmp_path: pathlib.Path) -> None:
    with smtp_server() as server:
        settings = by_mail(server, action="hold", notify=ABUSE)
        with running(tmp_path, **settings) as daemon:
            assert send(daemon, ALICE, 5)[-1] == "hold"
            assert sent(server, 1) == {ABUSE: [f"{ALICE.lower()} ran into the limit 4/1h"]}
            settings["rules"]["person"]["notify"] = "postmaster@example.org"
            write_configuration(daemon.directory, {**daemon.settings, **settings})
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "configuration reloaded" in daemon.log_text(), "the reload is done", 20)
            assert send(daemon, "carol@example.org", 5)[-1] == "hold"
            assert sent(server, 2)["postmaster@example.org"] == ["carol@example.org ran into the limit 4/1h"]


def test_who_gets_alerts_is_not_told_by_rules_once_more(tmp_path: pathlib.Path) -> None:
    """But of what there is no alert: here of what is held."""
    with smtp_server() as server:
        alerts = {"notify_to": ["Abuse@example.org", "postmaster@example.org"]}
        settings = {**by_mail(server, warn=75, block="2h"), **alerts}
        settings["rules"]["held"] = {"key": "sender", "limits": "1/1h", "action": "hold", "notify": ABUSE}
        settings["rules"]["held"]["match"] = {"sender": "x@example.org"}
        with running(tmp_path, **settings) as daemon:
            assert send(daemon, ALICE, 6)[3:] == ["dunno", "450 later", "550 blocked"]
            assert send(daemon, "x", 2) == ["dunno", "hold"]
            name = ALICE.lower()
            got = [(one.recipients, str(one.message["Subject"]).partition(" on ")[0]) for one in server.wait_for(5)]
            for_all = ["Abuse@example.org", "postmaster@example.org"]
            assert sorted(got) == [
                (for_all, f"{name} has used 3 of 4/1h"),
                (for_all, f"{name} is blocked for 2h by the limit 4/1h"),
                ([ALICE], "You have nearly sent as much mail as you may"),
                ([ALICE], "Your account may send no mail for now"),
                ([ABUSE], "x@example.org ran into the limit 1/1h"),
            ]
            assert daemon.stop() == 0
            assert len(server.mails) == 5


def test_never_more_than_so_many_an_hour_and_the_unsent_are_told_to_no_user(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    with smtp_server() as server:
        settings = {**by_mail(server, limits="1/1h"), "notify_max_per_hour": 2}
        with running(tmp_path, environment=clock.environment, **settings) as daemon:
            for number in range(5):
                send(daemon, f"u{number}@example.org", 2)
            sent(server, 4)
            clock.forward(3601)
            send(daemon, "late@example.org", 2)
            late = {one.recipients[0]: one.message.get_content() for one in server.wait_for(6)[4:]}
            assert "3 more alerts were due" in late[ABUSE]
            assert "u3@example.org" in late[ABUSE]
            assert "u3@example.org" not in late["late@example.org"]


def test_a_user_whom_no_mail_reaches_keeps_nobody_waiting(tmp_path: pathlib.Path) -> None:
    with smtp_server() as server:
        server.handler.replies[f"RCPT {ALICE}"] = "550 5.1.1 no such user"
        with running(tmp_path, **by_mail(server)) as daemon:
            send(daemon, ALICE, 5)
            send(daemon, "bob@example.org", 5)
            found = sent(server, 3)
            assert len(found[ABUSE]) == 2
            assert len(found["bob@example.org"]) == 1
            wait_until(lambda: "notify of rules, to users" in daemon.log_text(), "the failure is logged", 20)
