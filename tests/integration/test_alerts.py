"""A real daemon that tells at once who ran into a limit, and answers Postfix as if it did not."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
import time
from typing import Any

import pytest

from policyd_rate_limit.mail.smtp import STEP_SECONDS
from policyd_rate_limit.notify.command import COMMAND_SECONDS
from policyd_rate_limit.notify.outbox import STOP_SECONDS
from policyd_rate_limit.notify.webhook import URL_SECONDS
from support.alerts import http_server
from support.daemon import Client, Daemon, mail, running, write_configuration
from support.faketime import Clock
from support.load import REFUSAL, SUCCESS
from support.smtp import PASSWORD, USER, Server, authority, hang, peer, smtp_server
from support.stopwatch import Stopwatch
from support.wait import wait_until

LIMITS = {"limits": [[2, 60], [5, 86_400]], "limits_by_id": {"free": []}}
TIGHT = {"limits": [[1, 60]], "limits_by_id": {"free": []}}


def by_mail(server: Server, **settings: Any) -> dict[str, Any]:
    """Settings that have alerts mailed by ``server``."""
    return {
        **LIMITS,
        "report_from": "policyd@example.org",
        "notify_to": "root@example.org",
        "smtp_server": [server.host, server.port],
        **settings,
    }


def send(daemon: Daemon, user: str, count: int) -> list[bool]:
    """Which of ``count`` mails of ``user`` are admitted."""
    with Client(daemon.address) as client:
        answers = [client.ask(**mail(user, queue_id="4Xyz")) for _ in range(count)]
        # Who is to be told is found out behind an answer, and before the next one.
        assert client.ask(**mail("free")) == SUCCESS
    assert all(answer == SUCCESS or answer.startswith(REFUSAL) for answer in answers)
    return [answer == SUCCESS for answer in answers]


def test_one_mail_for_the_first_hit_in_its_window(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    with smtp_server() as server, Daemon(tmp_path, environment=clock.environment, **by_mail(server)) as daemon:
        assert send(daemon, "alice", 4) == [True, True, False, False]
        [first] = server.wait_for(1)
        assert first.recipients == ["root@example.org"]
        text = first.message.get_content()
        assert "SASL user alice ran into a limit" in text
        assert "2 of 2 in 1m, free again in " in text
        assert "2 of 5 in 1d" in text
        for fact in ("192.0.2.1", "4Xyz", "alice@example.org"):
            assert fact in text
        clock.forward(62)
        assert send(daemon, "alice", 4) == [True, True, False, False]
        server.wait_for(2)
        clock.forward(62)
        assert send(daemon, "alice", 3) == [True, False, False]
        third = server.wait_for(3)[2]
        assert "Limit:          5 in 1d" in third.message.get_content().replace("\r", "")
        # A minute later that day is not over.
        clock.forward(62)
        assert send(daemon, "alice", 3) == [False] * 3
        assert send(daemon, "bob", 3) == [True, True, False]
        server.wait_for(4)
        assert daemon.stop() == 0
        assert [found.message["Subject"].split()[0] for found in server.mails] == ["alice"] * 3 + ["bob"]
        assert "WARNING" not in daemon.log_text()


def test_never_more_than_so_many_an_hour(tmp_path: pathlib.Path) -> None:
    clock = Clock(tmp_path)
    settings: dict[str, Any] = {"notify_max_per_hour": 2}
    with (
        smtp_server() as server,
        Daemon(tmp_path, environment=clock.environment, **by_mail(server, **settings)) as daemon,
    ):
        for number in range(5):
            send(daemon, f"u{number}", 3)
        server.wait_for(2)
        clock.forward(3601)
        send(daemon, "late", 3)
        text = server.wait_for(3)[2].message.get_content()
        assert "3 more alerts were due" in text
        assert [name in text for name in ("u1", "u2", "u3", "u4")] == [False, True, True, True]


def test_all_ways_at_once(tmp_path: pathlib.Path) -> None:
    ca = authority(tmp_path)
    certificate = ca.ca.issue_cert("127.0.0.1")
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    with smtp_server(certificate=certificate, auth=True) as server, http_server(certificate) as hook:
        settings = by_mail(
            server,
            smtp_starttls=True,
            smtp_ca_file=str(ca.file),
            smtp_credentials=[USER, PASSWORD],
            notify_command=[sys.executable, "-c", code, str(tmp_path / "got")],
            notify_url=f"https://127.0.0.1:{hook.port}/secret-path",
            notify_secret="whsec_c2VjcmV0",
            notify_ca_file=str(ca.file),
            debug=True,
        )
        with running(tmp_path, **settings) as daemon:
            send(daemon, "alice", 3)
            [post] = hook.wait_for(1)
            [sent] = server.wait_for(1)
            assert daemon.stop() == 0
    alert = json.loads(post.body)
    assert json.loads((tmp_path / "got").read_text()) == alert
    assert alert["data"]["key"] == "user:alice"
    assert alert["data"]["usage"][0] == {"maximum": 2, "seconds": 60, "used": 2, "free_in": alert["data"]["free_in"]}
    assert 50 <= alert["data"]["free_in"] <= 61
    assert sent.message["Message-ID"].startswith(f"<{alert['id']}@")
    assert sent.authenticated
    log = daemon.log_text()
    for secret in (PASSWORD, "c2VjcmV0", "secret-path"):
        assert secret not in log


def test_whoever_hangs_delays_no_answer_and_no_end(tmp_path: pathlib.Path) -> None:
    """Mail server, URL and program all hang: 600 requests get their answers, not one alert gets anywhere."""
    with peer(hang) as port:
        settings: dict[str, Any] = {
            **TIGHT,
            "report_from": "policyd@example.org",
            "notify_to": "root@example.org",
            "smtp_server": ["127.0.0.1", port],
            "notify_url": f"http://127.0.0.1:{port}/",
            "notify_command": ["sleep", "600"],
            "notify_max_per_hour": 100_000,
        }
        with running(tmp_path, **settings) as daemon:
            longest = 0.0
            for number in range(300):
                watch = Stopwatch()
                assert send(daemon, f"u{number}", 2) == [True, False]
                longest = max(longest, watch.seconds)
            # SMTP takes a minute to give up, the others ten seconds: nobody has waited for any of them.
            assert longest < min(STEP_SECONDS, URL_SECONDS, COMMAND_SECONDS)
            wait_until(lambda: sleepers(daemon), "the program")
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < STOP_SECONDS + 10
            log = daemon.log_text()
    assert log.count("alerts wait; new ones are dropped") == 3
    assert log.count("the daemon ends before its last alerts are sent") == 3
    assert len(log.splitlines()) < 350  # one for each key, as ever, and these


def sleepers(daemon: Daemon) -> list[int]:
    """The children of the daemon."""
    children = pathlib.Path(f"/proc/{daemon.process.pid}/task")
    found: list[int] = []
    for task in children.iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def test_a_program_does_not_outlive_the_daemon(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, notify_command=["sleep", "600"], **TIGHT) as daemon:
        send(daemon, "alice", 2)
        wait_until(lambda: sleepers(daemon), "the program")
        [child] = sleepers(daemon)
        assert daemon.stop() == 0
    stat = pathlib.Path(f"/proc/{child}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z", "the end of the program")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"notify_url": "ftp://x/topsecret"}, "notify_url: expected an http or https URL"),
        ({"notify_url": "https://topsecret@x/"}, "notify_url: expected an http or https URL"),
        ({"notify_command": "sleep 600"}, "notify_command: expected a list of a program and its arguments"),
        ({"notify_command": []}, "notify_command: expected a list of a program and its arguments"),
        ({"notify_max_per_hour": 0}, "notify_max_per_hour: expected a whole number from 1"),
        ({"report_from": "no address", "notify_to": "root"}, "report_from: expected a mail address"),
    ],
)
def test_a_wrong_setting_fails_the_alerts_alone(tmp_path: pathlib.Path, settings: dict[str, Any], said: str) -> None:
    with running(tmp_path, **TIGHT, **settings) as daemon:
        daemon.logged(said)
        send(daemon, "alice", 3)
        if "notify_max_per_hour" not in settings:
            wait_until(lambda: daemon.log_text().count(said) > 1, "the alert to fail")
        assert daemon.stop() == 0
    assert "topsecret" not in daemon.log_text()


def test_without_report_from_there_is_no_sender(tmp_path: pathlib.Path) -> None:
    with smtp_server() as server, running(tmp_path, **by_mail(server, report_from=None)) as daemon:
        send(daemon, "alice", 3)
        [sent] = server.wait_for(1)
        assert sent.sender == "<>"
        assert sent.message["From"] == f"policyd-rate-limit@{os.uname().nodename}"
        assert daemon.stop() == 0


def test_a_reload_changes_where_alerts_go(tmp_path: pathlib.Path) -> None:
    """And what was told is not told again."""
    with smtp_server() as old, smtp_server() as new, running(tmp_path, **by_mail(old)) as daemon:
        send(daemon, "alice", 3)
        old.wait_for(1)
        write_configuration(tmp_path, {**daemon.settings, **by_mail(new, notify_to="other@example.org")})
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "notify_to" in daemon.log_text(), "the reload")
        send(daemon, "alice", 1)
        send(daemon, "bob", 3)
        [sent] = new.wait_for(1)
        assert sent.recipients == ["other@example.org"]
        assert sent.message["Subject"].startswith("bob ")
        assert daemon.stop() == 0
        assert (len(old.mails), len(new.mails)) == (1, 1)
