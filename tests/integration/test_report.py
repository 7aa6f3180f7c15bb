"""The report, from a real daemon's refusals to a real SMTP server, by --clean."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from support.commands import call
from support.daemon import Client, Daemon, mail, running, write_configuration
from support.smtp import PASSWORD, USER, Server, authority, smtp_peer, smtp_server

DAY = 86_400
NAME = 'häns<b>&"'


def clean(daemon: Daemon, **settings: Any) -> subprocess.CompletedProcess[str]:
    """``--clean`` with the daemon's settings, and these."""
    directory = daemon.directory / "clean"
    directory.mkdir(exist_ok=True)
    path = write_configuration(directory, {**daemon.settings, **settings})
    return call(path, "--clean")


def reporting(server: Server, **settings: Any) -> dict[str, Any]:
    return {
        "report": True,
        "report_from": "policyd@example.org",
        "report_to": ["root@example.org", "other@example.org"],
        "smtp_server": [server.host, server.port],
        **settings,
    }


def parts(message: EmailMessage) -> tuple[str, str]:
    """Text and HTML."""
    text, html = message.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    return text.get_content().replace("\r\n", "\n"), html.get_content()


@pytest.fixture
def server() -> Iterator[Server]:
    with smtp_server() as server:
        yield server


@pytest.fixture
def daemon(tmp_path: pathlib.Path) -> Daemon:
    """One that has ended, and whose users had run into limits: three times, once, and once in a window not reported."""
    settings: dict[str, Any] = {
        "limits": [[2, DAY]],
        "limits_by_id": {"carol": [[1, 60]], "free": []},
        "report": True,
        "report_from": "policyd@example.org",
        "report_to": "root@example.org",
    }
    with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        for name, count in (("bob", 3), (NAME, 5), ("carol", 2), ("free", 5)):
            for _ in range(count):
                client.ask(**mail(name))
        client.ask(**mail("free"))  # behind whose answer all hits before it are known
        assert daemon.stop() == 0
    return daemon


def test_a_report_is_mailed_once(daemon: Daemon, server: Server) -> None:
    done = clean(daemon, **reporting(server))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "0 records deleted\n")
    [sent] = server.mails
    assert sent.recipients == ["root@example.org", "other@example.org"]
    assert sent.message["To"] == "root@example.org, other@example.org"
    assert sent.message["Subject"] == "policyd-rate-limit report"
    assert sent.message["Auto-Submitted"] == "auto-generated"
    text, html = parts(sent.message)
    lines = text.splitlines()
    assert lines[0].startswith("2 ids ran into a limit on ")
    assert lines[0].endswith(" since the last report, 4 times in all.")
    assert [(line.split()[:2], line[52:]) for line in lines[3:]] == [
        (["3", "2/1d"], f"{NAME} (SASL user)"),
        (["1", "2/1d"], "bob (SASL user)"),
    ]
    assert "häns&lt;b&gt;&amp;&quot; (SASL user)" in html
    assert "<b>" not in html
    assert "carol" not in text + html

    done = clean(daemon, **reporting(server))
    assert (done.returncode, len(server.mails)) == (0, 1)
    done = clean(daemon, **reporting(server, report_only_if_needed=False, report_subject="nichts Neues ✓"))
    assert (done.returncode, len(server.mails)) == (0, 2)
    assert server.mails[1].message["Subject"] == "nichts Neues ✓"
    assert parts(server.mails[1].message)[0].startswith("Nobody ran into a limit on ")


def test_without_report_there_is_none(daemon: Daemon, server: Server) -> None:
    done = clean(daemon, **reporting(server, report=False))
    assert (done.returncode, done.stdout, server.mails) == (0, "0 records deleted\n", [])


def test_while_the_daemon_goes_on(daemon: Daemon, server: Server) -> None:
    with daemon, Client(daemon.address) as client:
        assert clean(daemon, **reporting(server)).returncode == 0
        client.ask(**mail("bob"))
        client.ask(**mail("free"))
        assert daemon.stop() == 0
    assert clean(daemon, **reporting(server)).returncode == 0
    assert "1 id ran into a limit" in parts(server.mails[1].message)[0]


def test_hits_are_kept_until_the_server_has_accepted(daemon: Daemon, server: Server) -> None:
    """However it fails; the records are deleted, the status is 8, one line says why."""

    def fails(said: str, **settings: Any) -> None:
        done = clean(daemon, **reporting(server, **settings))
        assert (done.returncode, done.stdout) == (8, "0 records deleted\n")
        [line] = done.stderr.splitlines()
        assert line.startswith("policyd-rate-limit: SMTP server 127.0.0.1:")
        assert said in line

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    fails("Connection refused", smtp_server=["127.0.0.1", port])
    for step in ("MAIL", "end of data"):
        with smtp_peer(step, lambda connection: connection.shutdown(socket.SHUT_RDWR)) as port:
            fails("onnection", smtp_server=["127.0.0.1", port])
    server.handler.replies["DATA"] = "451 4.3.0 later"
    fails("451 4.3.0 later")
    server.handler.replies["DATA"] = "554 5.7.1 never"
    fails("554 5.7.1 never")
    server.handler.replies.clear()
    for recipient in ("root", "other"):
        server.handler.replies[f"RCPT {recipient}@example.org"] = "550 5.1.1 nobody"
    fails("no recipient was accepted: root@example.org: 550 5.1.1 nobody; other@example.org: 550")
    fails("STARTTLS", smtp_starttls=True)
    assert not server.mails
    server.handler.replies.clear()
    assert clean(daemon, **reporting(server)).returncode == 0
    assert "4 times in all" in parts(server.mails[0].message)[0]


def test_some_recipients_are_refused(daemon: Daemon, server: Server) -> None:
    """The others have it: it is not sent again, and the status tells."""
    server.handler.replies["RCPT other@example.org"] = "550 5.1.1 nobody"
    done = clean(daemon, **reporting(server))
    assert (done.returncode, done.stdout) == (8, "0 records deleted\n")
    [line] = done.stderr.splitlines()
    assert line.endswith("the report was sent, but not to all: other@example.org: 550 5.1.1 nobody")
    assert server.mails[0].recipients == ["root@example.org"]
    assert clean(daemon, **reporting(server)).returncode == 0
    assert len(server.mails) == 1


def test_with_tls_and_a_password(daemon: Daemon, tmp_path: pathlib.Path) -> None:
    ca = authority(tmp_path)
    with smtp_server(certificate=ca.ca.issue_cert("127.0.0.1"), auth=True) as server:
        settings = reporting(server, smtp_starttls=True, smtp_credentials=[USER, PASSWORD])
        done = clean(daemon, **settings)
        assert done.returncode == 8
        assert "its certificate is not trusted: " in done.stderr
        assert len(done.stderr.splitlines()) == 1
        done = clean(daemon, **settings, smtp_ca_file=str(ca.file))
        assert (done.returncode, done.stderr) == (0, "")
    [sent] = server.mails
    assert sent.encrypted
    assert sent.authenticated


WRONG = [
    ({"report_to": None}, "report is on, and report_to is not set"),
    ({"report_to": "a b"}, "report_to: expected a mail address"),
    ({"report_from": "a b"}, "report_from: expected a mail address"),
    ({"report_subject": []}, "report_subject: expected one line of text"),
    ({"report_limits": ["x"]}, "report_limits[0]: expected a whole number of seconds"),
    ({"smtp_server": ["localhost", "smtp"]}, "smtp_server[1]: expected a port"),
    ({"smtp_credentials": ["topsecret"]}, "smtp_credentials: expected [user, password]"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG)
def test_a_mistake_fails_the_report_alone(daemon: Daemon, server: Server, settings: dict[str, Any], said: str) -> None:
    done = clean(daemon, **reporting(server, **settings))
    assert done.returncode == 8
    assert done.stdout.endswith("records deleted\n")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("policyd-rate-limit: no report: ")
    assert said in last
    assert "topsecret" not in done.stderr
    assert server.mails == []


@pytest.mark.parametrize(
    "settings", [{"smtp_credentials": False}, {"smtp_credentials": ""}, {"smtp_credentials": []}, {"report_from": None}]
)
def test_what_1_2_0_mailed_with(daemon: Daemon, server: Server, settings: dict[str, Any]) -> None:
    done = clean(daemon, **reporting(server, **settings))
    assert (done.returncode, done.stderr) == (0, "")
    [sent] = server.mails
    if "report_from" in settings:
        assert sent.sender == "<>"
        assert sent.message["From"] == f"policyd-rate-limit@{os.uname().nodename}"
    else:
        assert sent.sender == "policyd@example.org"
