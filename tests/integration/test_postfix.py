"""The daemon behind a real Postfix: what a user who submits mail sees, and what is counted."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from typing import Any

import pytest

from support.daemon import Client, Daemon, mail
from support.faketime import Clock
from support.mail_server import mail_server
from support.postfix import send
from support.programs import require
from support.proxy import LossyProxy
from support.public import public_directory

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

TEXT = "Rate limit reach, retry later"  # of the default fail_action


def mode(count_mode: int | None) -> dict[str, Any]:
    """The settings that name ``count_mode``; none for None."""
    return {} if count_mode is None else {"count_mode": count_mode}


def left(daemon: Daemon, user: str, **attributes: object) -> int:
    """How many more mails to one recipient ``user`` may send: as many are sent, straight to the daemon."""
    number = 0
    with Client(daemon.address) as client:
        while client.ask(**mail(user, **attributes)) == "dunno":
            number += 1
    return number


@pytest.mark.parametrize("socket", ["unix", "tcp"])
@pytest.mark.parametrize("hooks", [("RCPT",), ("DATA",), ("END-OF-MESSAGE",), ("RCPT", "DATA")], ids="+".join)
def test_mail_flows_until_the_limit_and_again_when_the_period_has_passed(
    tmp_path: pathlib.Path, hooks: tuple[str, ...], socket: str
) -> None:
    clock = Clock(tmp_path)
    with mail_server(tmp_path, hooks, socket=socket, environment=clock.environment, limits=[[3, 600], [5, 86400]]) as (
        postfix,
        daemon,
    ):
        assert [postfix.send("alice").ok for _ in range(3)] == [True, True, True]
        refused = postfix.send("alice")
        assert refused.reply.startswith("450 4.7.1 ")
        assert refused.reply.endswith(TEXT)
        assert postfix.send("bob").ok

        clock.forward(300)
        assert not postfix.send("alice").ok
        clock.forward(301)
        assert [postfix.send("alice").ok for _ in range(3)] == [True, True, False]
        clock.forward(86400)
        assert postfix.send("alice").ok

        postfix.wait_until_delivered(7)
        postfix.assert_no_trouble()
        assert "Traceback" not in daemon.log_text()


def test_the_code_of_the_reply_is_that_of_fail_action(tmp_path: pathlib.Path) -> None:
    action = "451 4.7.1 You may send 2 mails an hour; this one can go out later"
    with mail_server(tmp_path, limits=[[2, 3600]], fail_action=action) as (postfix, _):
        assert [postfix.send("alice").ok for _ in range(2)] == [True, True]
        refused = postfix.send("alice", ["late@example.net"])
        text = action.removeprefix("451 4.7.1 ")
        assert refused.reply == f"451 4.7.1 <late@example.net>: Recipient address rejected: {text}"


@pytest.mark.parametrize(
    ("hooks", "count_mode", "cost"),
    [
        (("RCPT",), None, 4),
        (("DATA",), None, 4),
        (("END-OF-MESSAGE",), None, 4),
        (("RCPT", "DATA"), None, 4),
        (("RCPT", "DATA", "END-OF-MESSAGE"), None, 4),
        (("RCPT",), 0, 4),
        (("RCPT", "DATA"), 0, 4),
        (("DATA",), 1, 4),
        (("RCPT", "DATA"), 1, 4),
        (("DATA",), 2, 1),
        (("RCPT", "DATA"), 2, 1),
    ],
)
def test_a_mail_to_four_costs_what_the_mode_says(
    tmp_path: pathlib.Path, hooks: tuple[str, ...], count_mode: int | None, cost: int
) -> None:
    recipients = [f"recipient{number}@example.net" for number in range(4)]
    state = "DATA" if count_mode in (1, 2) else "RCPT"
    with mail_server(tmp_path, hooks, limits=[[20, 3600]], **mode(count_mode)) as (postfix, daemon):
        assert postfix.send("alice", recipients).accepted == tuple(recipients)
        with postfix.submission("alice") as session:  # two mails in one session are two mails
            assert send(session, "alice", recipients).ok
            assert send(session, "alice", recipients[:1]).ok
        used = 2 * cost + 1
        assert left(daemon, "alice", protocol_state=state, recipient_count=int(state == "DATA")) == 20 - used
        postfix.wait_until_delivered(9)
        postfix.assert_no_trouble()


@pytest.mark.parametrize("hooks", [("RCPT",), ("RCPT", "DATA")], ids="+".join)
@pytest.mark.parametrize("count_mode", [None, 0])
def test_accepted_recipients_stay_counted_when_a_later_one_is_refused(
    tmp_path: pathlib.Path, hooks: tuple[str, ...], count_mode: int | None
) -> None:
    recipients = [f"recipient{number}@example.net" for number in range(7)]
    with mail_server(tmp_path, hooks, limits=[[5, 3600]], **mode(count_mode)) as (postfix, daemon):
        sent = postfix.send("alice", recipients)
        assert sent.ok
        assert sent.accepted == tuple(recipients[:5])
        assert all(reply.endswith(TEXT) for reply in sent.refused.values())
        assert postfix.send("alice", recipients).accepted == ()
        assert left(daemon, "alice") == 0
        postfix.wait_until_delivered(5)

        with postfix.submission("bob") as session:  # gives up at the first refusal
            session.mail("bob@example.org")
            assert [session.rcpt(recipient)[0] for recipient in recipients[:6]] == [250] * 5 + [450]
            session.rset()
        assert left(daemon, "bob") == 0


@pytest.mark.parametrize("socket", ["unix", "tcp"])
def test_counts_outlive_the_daemon_and_postfix_reconnects(tmp_path: pathlib.Path, socket: str) -> None:
    with mail_server(tmp_path, socket=socket, processes=1, limits=[[4, 3600]]) as (postfix, daemon):
        with postfix.submission("alice") as session:  # one smtpd process, whose connection is cut twice
            assert send(session, "alice", ["a@example.net"]).ok
            daemon.kill()
            daemon.start()
            assert send(session, "alice", ["b@example.net", "c@example.net"]).ok
            assert daemon.stop() == 0
            daemon.start()
            sent = send(session, "alice", ["d@example.net", "e@example.net"])
            assert sent.accepted == ("d@example.net",)
            assert sent.refused["e@example.net"].endswith(TEXT)
        postfix.wait_until_delivered(4)
        postfix.assert_no_trouble()


def test_a_daemon_without_privileges_serves_a_chrooted_smtpd(tmp_path: pathlib.Path) -> None:
    with public_directory() as directory:
        shutil.chown(directory, "nobody", "nogroup")
        with mail_server(directory, user="nobody", group="nogroup", limits=[[2, 3600]]) as (postfix, daemon):
            assert (postfix.queue / "ratelimit").owner() == "nobody"
            assert postfix.send("alice").ok
            daemon.kill()
            daemon.start()  # takes over the socket that the dead one left
            assert postfix.send("alice").ok
            assert postfix.send("alice").reply.endswith(TEXT)
            postfix.assert_no_trouble()


@pytest.mark.long(8)
@pytest.mark.parametrize(
    ("hooks", "socket", "mails"),
    [(("RCPT",), "unix", 3000), (("RCPT", "DATA"), "tcp", 1000), (("END-OF-MESSAGE",), "unix", 1000)],
    ids=["RCPT-unix", "RCPT+DATA-tcp", "END-OF-MESSAGE-unix"],
)
def test_thousands_of_mails_of_twenty_sessions_are_all_counted(
    tmp_path: pathlib.Path, hooks: tuple[str, ...], socket: str, mails: int
) -> None:
    source = require("smtp-source")
    with mail_server(
        tmp_path,
        hooks,
        socket=socket,
        mynetworks="127.0.0.0/8",
        limit_by_sender=True,
        limits=[[mails, 86400]],
    ) as (postfix, daemon):
        done = subprocess.run(
            [
                *(source, "-s", "20", "-m", str(mails), "-l", "512"),
                *("-f", "bulk@example.org", "-t", "someone@example.net", f"inet:127.0.0.1:{postfix.port}"),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        with postfix.submission() as session:
            refused = send(session, "bulk", ["someone@example.net"])
            assert refused.reply.endswith(TEXT)
            assert send(session, "other", ["someone@example.net"]).ok
        postfix.wait_until_delivered(mails + 1, seconds=180)
        postfix.assert_no_trouble()
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("count_mode", [None, 0])
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_request_sent_again_after_the_daemon_died_is_charged_once(
    tmp_path: pathlib.Path, lost: str, count_mode: int | None
) -> None:
    def die_and_come_back() -> None:
        daemon.kill()
        daemon.start()

    with LossyProxy(lost, die_and_come_back) as proxy:
        service = f"inet:127.0.0.1:{proxy.port}"
        limits = [[10, 3600]]
        with mail_server(tmp_path, socket="tcp", service=service, limits=limits, **mode(count_mode)) as (
            postfix,
            daemon,
        ):
            proxy.target = daemon.address
            assert postfix.send("alice", ["a@example.net", "b@example.net"]).ok
            assert len(proxy.requests) == 3
            assert proxy.requests[0] == proxy.requests[1]
            assert left(daemon, "alice") == 8
            postfix.wait_until_delivered(2)


def test_a_check_hooked_where_the_mode_counts_nothing_is_told_once(tmp_path: pathlib.Path) -> None:
    with mail_server(tmp_path, ("RCPT",), count_mode=1, limits=[[1, 3600]]) as (postfix, daemon):
        assert [postfix.send("alice").ok for _ in range(3)] == [True, True, True]
        daemon.logged("smtpd_data_restrictions")
        assert daemon.log_text().count("smtpd_data_restrictions") == 1


@pytest.mark.parametrize(
    ("default_action", "reply"),
    [(None, "451 4.3.5 "), ("DUNNO", "250 ")],
)
def test_without_a_daemon_postfix_does_as_default_action_says(
    tmp_path: pathlib.Path, default_action: str | None, reply: str
) -> None:
    options = "timeout=5s" if default_action is None else f"default_action={default_action}"
    service = f"{{ unix:ratelimit/policy, {options} }}"
    with mail_server(tmp_path, service=service, limits=[[2, 3600]]) as (postfix, daemon):
        assert postfix.send("alice").ok
        daemon.kill()
        assert postfix.send("alice").reply.startswith(reply)
        daemon.start()
        assert postfix.send("alice").ok
        assert postfix.send("alice").reply.endswith(TEXT)
