"""Mails on their way to real SMTP servers, good and bad."""

from __future__ import annotations

import datetime
import logging
import pathlib
import socket
import time
import tracemalloc
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.mail import smtp
from policyd_rate_limit.mail.message import compose
from policyd_rate_limit.mail.network import MOST_SAID
from policyd_rate_limit.mail.smtp import MailServer
from support.smtp import PASSWORD, STEPS, USER, authority, hang, smtp_peer, smtp_server

SHORT = 0.3  # seconds


def a_mail(sender: str = "policyd@example.org", recipients: str | tuple[str, ...] = "root@example.org") -> EmailMessage:
    return compose(sender, recipients, "about ünïcode", 1_700_000_000, "text ✓\n.\n..dots\n", html="<p>html ✓</p>\n")


def test_a_mail_arrives_as_it_was() -> None:
    with smtp_server() as server:
        message = a_mail("Policy daemon <policyd@example.org>", ("Root <root@example.org>", "b@example.org, root"))
        assert MailServer(server.host, server.port).send(message) == {}
        [mail] = server.mails
    assert mail.sender == "policyd@example.org"
    assert mail.recipients == ["root@example.org", "b@example.org", "root"]
    assert not mail.encrypted
    got = mail.message
    assert got["Subject"] == "about ünïcode"
    assert got["From"] == "Policy daemon <policyd@example.org>"
    assert got["To"] == "Root <root@example.org>, b@example.org, root"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["MIME-Version"] == "1.0"
    assert got["Date"].datetime.timestamp() == 1_700_000_000
    assert got["Message-ID"].endswith("@example.org>")
    assert got["Bcc"] is None
    assert got.get_content_type() == "multipart/alternative"
    text, html = got.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert text.get_content().replace("\r\n", "\n") == "text ✓\n.\n..dots\n"
    assert html.get_content().strip() == "<p>html ✓</p>"
    assert mail.data.isascii()
    assert max(map(len, mail.data.split(b"\r\n"))) <= 998  # RFC 5322, section 2.1.1


def test_starttls_and_auth(tmp_path: pathlib.Path) -> None:
    ca = authority(tmp_path)
    with smtp_server(certificate=ca.ca.issue_cert("127.0.0.1"), auth=True) as server:
        MailServer(server.host, server.port, True, str(ca.file), (USER, PASSWORD)).send(a_mail())
        [mail] = server.mails
        assert mail.encrypted
        assert mail.authenticated
        with pytest.raises(DeliveryFailed, match="535 ") as failure:
            MailServer(server.host, server.port, True, str(ca.file), (USER, "wrong password")).send(a_mail())
        assert "wrong password" not in str(failure.value)
        with pytest.raises(DeliveryFailed, match="530 "):
            MailServer(server.host, server.port, True, str(ca.file)).send(a_mail())
        with pytest.raises(DeliveryFailed, match="not ASCII") as failure:
            MailServer(server.host, server.port, True, str(ca.file), (USER, "pässword")).send(a_mail())
        assert "ä" not in str(failure.value)
    assert len(server.mails) == 1
    assert PASSWORD not in repr(MailServer("x", 25, True, None, (USER, PASSWORD)))


def test_a_server_without_tls_or_auth_is_no_place_for_secrets() -> None:
    with smtp_server() as server:
        with pytest.raises(DeliveryFailed, match="STARTTLS"):
            MailServer(server.host, server.port, True, None, (USER, PASSWORD)).send(a_mail())
        with pytest.raises(DeliveryFailed, match="AUTH"):
            MailServer(server.host, server.port, False, None, (USER, PASSWORD)).send(a_mail())
    assert not server.mails


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged, but for the server's own."""
    return [record for record in caplog.records if record.name.startswith("policyd")]


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_password_in_clear_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with smtp_server(auth=True) as server:
        here = MailServer(server.host, server.port, False, None, (USER, PASSWORD))
        here.send(a_mail())
        assert not ours(caplog)
        monkeypatch.setattr(smtp, "_is_local", lambda connection: False)
        here.send(a_mail())
    [record] = ours(caplog)
    assert "in clear" in record.getMessage()
    assert PASSWORD not in record.getMessage()
    assert len(server.mails) == 2


@pytest.mark.parametrize("wrong", ["other CA", "system's CAs", "expired", "other name"])
def test_a_certificate_that_is_not_trusted(tmp_path: pathlib.Path, wrong: str) -> None:
    ca = authority(tmp_path)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = {
        "expired": lambda: ca.ca.issue_cert("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(1)),
        "other name": lambda: ca.ca.issue_cert("mail.example.org", "127.0.0.2"),
    }.get(wrong, lambda: ca.ca.issue_cert("127.0.0.1"))()
    trusted = {"other CA": str(authority(tmp_path, "other.pem").file), "system's CAs": None}.get(wrong, str(ca.file))
    said = {"expired": "certificate has expired", "other name": "IP address mismatch"}.get(wrong, "unable to get|self")
    with smtp_server(certificate=certificate, auth=True) as server:
        with pytest.raises(DeliveryFailed, match=f"certificate is not trusted: .*({said})"):
            MailServer(server.host, server.port, True, trusted, (USER, PASSWORD)).send(a_mail())
        assert not server.mails


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_ca_file_that_is_none(tmp_path: pathlib.Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DeliveryFailed, match=f"smtp_ca_file {file}: "):
        MailServer("127.0.0.1", 1, True, str(file)).send(a_mail())


def test_some_recipients_are_refused() -> None:
    with smtp_server() as server:
        server.handler.replies["RCPT b@example.org"] = "550-5.1.1 no\r\n550 5.1.1 such user"
        there = MailServer(server.host, server.port)
        refused = there.send(a_mail(recipients=("a@example.org", "b@example.org")))
        assert list(refused) == ["b@example.org"]
        assert refused["b@example.org"] == "550 5.1.1 no 5.1.1 such user"
        assert server.mails[0].recipients == ["a@example.org"]
        with pytest.raises(DeliveryFailed, match=r"no recipient was accepted: b@example.org: 550 5.1.1 no"):
            there.send(a_mail(recipients="b@example.org"))
        assert len(server.mails) == 1


@pytest.mark.parametrize("what", ["RCPT root@example.org", "DATA"])
@pytest.mark.parametrize("reply", ["451 4.3.0 later", "554 5.7.1 never", "421 4.3.2 closing"])
def test_a_refusal(what: str, reply: str) -> None:
    with smtp_server() as server:
        server.handler.replies[what] = reply
        with pytest.raises(DeliveryFailed, match=f"SMTP server 127.0.0.1:{server.port}: .*{reply}") as failure:
            MailServer(server.host, server.port).send(a_mail())
        assert "\n" not in str(failure.value)
        assert not server.mails


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeliveryFailed, match=f"127.0.0.1:{port}: Connection refused"):
        MailServer("127.0.0.1", port).send(a_mail())


def test_a_name_that_no_resolver_knows() -> None:
    with pytest.raises(DeliveryFailed, match=r"SMTP server mail\.invalid:25: "):
        MailServer("mail.invalid", 25).send(a_mail())
    with pytest.raises(DeliveryFailed):
        MailServer("x" * 300, 25).send(a_mail())


@pytest.mark.parametrize("step", [step for step in STEPS if step != "QUIT"])
def test_a_server_that_hangs(step: str) -> None:
    with smtp_peer(step, hang) as port, pytest.raises(DeliveryFailed, match="timed out"):
        MailServer("127.0.0.1", port, step_seconds=SHORT).send(a_mail())


def close(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("step", [step for step in STEPS if step != "QUIT"])
def test_a_server_that_drops_the_connection(step: str) -> None:
    """Also behind the end of DATA: nobody knows whether the mail was accepted, and it was not said to be."""
    there = smtp_peer(step, lambda connection: connection.shutdown(socket.SHUT_RDWR))
    with there as port, pytest.raises(DeliveryFailed, match=r"(?i)connection"):
        MailServer("127.0.0.1", port).send(a_mail())


@pytest.mark.parametrize("at", [hang, lambda connection: connection.shutdown(socket.SHUT_RDWR)])
def test_what_happens_at_quit_changes_nothing(
    at: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "QUIT_SECONDS", SHORT)
    with smtp_peer("QUIT", at) as port:
        assert MailServer("127.0.0.1", port).send(a_mail()) == {}


def drip(connection: socket.socket) -> None:
    """A reply that never ends, each byte of it in time."""
    while True:
        connection.sendall(b"2")
        time.sleep(SHORT / 10)


@pytest.mark.parametrize("step", ["connect", "RCPT", "end of data"])
def test_a_server_that_drips_meets_the_end_of_all(step: str) -> None:
    with smtp_peer(step, drip) as port, pytest.raises(DeliveryFailed, match=f"not within {SHORT:g} seconds"):
        MailServer("127.0.0.1", port, mail_seconds=SHORT).send(a_mail())


def test_a_greeting_that_is_none() -> None:
    there = smtp_peer("connect", lambda connection: connection.sendall(b"554 go away\r\n"))
    with there as port, pytest.raises(DeliveryFailed, match="554 go away"):
        MailServer("127.0.0.1", port).send(a_mail())


def test_addresses_that_are_not_ascii_need_smtputf8() -> None:
    message = a_mail("policyd@exämple.org", "häns@example.org")
    with smtp_server() as server:
        MailServer(server.host, server.port).send(message)
        [mail] = server.mails
    assert "SMTPUTF8" in mail.options
    assert mail.sender == "policyd@exämple.org"
    assert mail.recipients == ["häns@example.org"]
    assert mail.message["To"] == "häns@example.org"
    with smtp_peer("QUIT", hang) as port, pytest.raises(DeliveryFailed, match="SMTPUTF8"):
        MailServer("127.0.0.1", port).send(message)


@pytest.mark.parametrize("step", STEPS)
def test_a_server_that_never_ends_a_reply(step: str) -> None:
    """220- lines as fast as they go: no more of them is kept than anybody could want to know."""
    said = 0

    def flood(connection: socket.socket) -> None:
        nonlocal said
        while True:
            said += connection.send(b"220-and so on\r\n" * 500)

    tracemalloc.start()
    try:
        with smtp_peer(step, flood) as port, pytest.raises(DeliveryFailed, match=r"more than \d+ bytes of replies"):
            MailServer("127.0.0.1", port).send(a_mail())
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 20 * MOST_SAID
