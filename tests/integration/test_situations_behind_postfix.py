"""Those situations of docs/rules.md in which the stage matters, as they stand there, behind a real Postfix."""

from __future__ import annotations

import json
import pathlib
import smtplib
from collections.abc import Sequence
from typing import Any

import pytest

from policyd_rate_limit.config.yaml_file import read_yaml
from support.commands import call
from support.documented import rules
from support.mail_server import mail_server
from support.postfix import Postfix, Sent, send
from support.said import Said
from support.wait import wait_until

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

HOOKS = ("RCPT", "DATA", "END-OF-MESSAGE")


def situation(heading: str, **replaced: str) -> dict[str, Any]:
    """The settings of a section, without those that it has not; ``replaced``: in its text."""
    text = rules(heading)
    for there, here in replaced.items():
        text = text.replace(there, here)
    return {"tables": {}, **read_yaml(text, "rules.md").values}


def numbered(count: int, domain: str = "example.net") -> list[str]:
    """So many different recipients."""
    return [f"r{number}@{domain}" for number in range(count)]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hosting_provider_at_each_stage(tmp_path: pathlib.Path, hook: str) -> None:
    """51 recipients are one too many: at RCPT for that one alone, later for the mail."""
    store = {"sqlite_config": {"database": str(tmp_path / "limits.sqlite3")}}
    said = Said(store)
    said.make("mailbox", ("address", "plan"), {"carol": "trial"})
    said.make("domain", ("name", "customer"), {})
    settings = {**store, **situation("A hosting provider"), "report_from": "limits@example.org"}
    with mail_server(tmp_path, (hook,), **settings) as (postfix, daemon):
        with postfix.submission("alice") as session:
            assert send(session, "alice", numbered(50)).ok
            excess = send(session, "alice", numbered(51))
            assert excess.ok == (hook == "RCPT")
            assert list(excess.refused) == (["r50@example.net"] if hook == "RCPT" else [])
            # Of 100 in an hour, either all are used, or 50 are left.
            assert send(session, "alice", numbered(1)).ok == (hook != "RCPT")
        used = 100 if hook == "RCPT" else 51
        # One on trial may send 20 in a day.
        assert [postfix.send("carol", numbered(count)).ok for count in (20, 1)] == [True, False]
        told = json.loads(call(daemon.path, "status", "alice", "--json").stdout)["keys"]
        now = {one["key"]: one["windows"][-1]["used"] for one in told}
        assert (now["mailbox|user:alice"], now["machine|server:"]) == (used, used + 20)
        postfix.wait_until_delivered(used + 20)
        postfix.assert_no_trouble()


def from_site(postfix: Postfix, address: str, *mails: str) -> list[str]:
    """What is replied to so many mails of ``address``, each with such a text, to whichever command refuses it."""
    with smtplib.SMTP("127.0.0.1", postfix.port, source_address=(address, 0), timeout=60) as session:
        session.ehlo_or_helo_if_needed()
        replies = []
        for number, text in enumerate(mails):
            session.mail("www@example.org")
            code, reply = session.rcpt(f"r{number}@example.net")
            if code == 250:
                code, reply = session.data(text)
            else:
                session.rset()
            replies.append(f"{code} {reply.decode()}")
    return replies


def held(postfix: Postfix) -> int:
    """How many mails are in the hold queue."""
    return sum(path.is_file() for path in (postfix.queue / "hold").rglob("*"))


def test_the_others_at_all_stages(tmp_path: pathlib.Path) -> None:
    """One Postfix, which asks for each mail at each stage, and with ``policy_context=mx``."""
    staff = tmp_path / "staff"
    staff.write_text("professor@uni.example\n")
    partners = tmp_path / "partners"
    partners.write_text("127.0.0.64/26\n")
    service = "{ unix:ratelimit/policy, policy_context=mx }"
    here = {"/etc/policyd-rate-limit/staff": str(staff), "192.0.2.0/24": "127.0.0.0/24"}
    university = situation("A university", **here)
    with mail_server(tmp_path, HOOKS, service=service, mynetworks="127.0.0.0/8", **university) as (postfix, daemon):

        def submit(user: str, recipients: Sequence[str]) -> Sent:
            with postfix.submission(user) as session:
                return send(session, "mailman", recipients)

        # A university: what goes to more than 300 addresses is held, and only that.
        outside = numbered(301)
        assert submit("mailman@uni.example", outside[:300]).ok
        assert submit("mailman@uni.example", outside[300:]).ok
        wait_until(lambda: held(postfix) == 1, "the mail is held")
        assert submit("mailman@uni.example", outside[7:8]).ok
        assert submit("mailman@uni.example", numbered(3, "cs.uni.example")).ok
        postfix.wait_until_delivered(304)
        assert held(postfix) == 1

        # Web servers: the text in the reply, and a mail that is too large, at its end.
        daemon.reload(**situation("Web servers", **{"10.0.3.": "127.0.0."}))
        replies = from_site(postfix, "127.0.0.7", *["Subject: x\r\n\r\nx"] * 51)
        assert [reply[:4] for reply in replies] == ["250 "] * 50 + ["450 "]
        assert replies[50].startswith(
            "450 4.7.1 <r50@example.net>: Recipient address rejected: 127.0.0.7: 50 of 50 in 1h"
        )
        small, large = from_site(postfix, "127.0.0.8", "x" * 900, ("x" * 98 + "\r\n") * 101_000)
        assert small.startswith("250 ")
        assert large.startswith("450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: ")
        assert from_site(postfix, "127.0.0.80", *["x"] * 51)[50].startswith("250 ")

        # Inbound: the network of the client by its mails' first recipients, and the bounces to one mailbox.
        daemon.reload(**situation("Inbound mail", **{"/etc/policyd-rate-limit/partners": str(partners)}))
        with postfix.submission() as session:
            bounces = [(session.mail(""), session.rcpt("bob@example.org"), session.rset())[1][0] for _ in range(21)]
            assert bounces == [250] * 20 + [450]
            near = [(session.mail("a@b"), session.rcpt(f"{n}@example.org"), session.rset())[1][0] for n in range(41)]
            assert near == [250] * 40 + [450]
        assert from_site(postfix, "127.0.0.70", *["x"] * 2)[1].startswith("250 ")
        postfix.assert_no_trouble()
