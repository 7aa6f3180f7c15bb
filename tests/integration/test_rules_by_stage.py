"""Rules at the stages of SMTP, behind a real Postfix: pipelining, BDAT, many recipients, odd names of users."""

from __future__ import annotations

import pathlib
import smtplib

import pytest

from support.mail_server import mail_server

pytestmark = [
    pytest.mark.needs_postfix,
    pytest.mark.needs_root,
    pytest.mark.depends_on_machine(reason="Postfix's processes wait for each other as long as Postfix likes"),
]

HOOKS = ("RCPT", "DATA", "END-OF-MESSAGE")
RULES = {
    "one-mail": {"key": "sasl_username", "limits": "3/mail", "action": "450 4.7.1 {rule}: {maximum} in one mail"},
    "messages": {"key": "sasl_username", "count": "messages", "limits": "3/1h", "action": "450 4.7.1 {rule}: {used}"},
    "recipients": {"key": "sasl_username", "limits": "7/1h", "action": "450 4.7.1 {rule}: {used} of {maximum}"},
    "volume": {"key": "server", "count": "bytes", "limits": "100k/1h", "action": "552 5.3.4 {rule} of {key}"},
}


def replies(session: smtplib.SMTP, text: bytes, count: int) -> list[tuple[int, bytes]]:
    """Send ``text`` at once, and read so many replies."""
    assert session.sock is not None
    session.sock.sendall(text)
    return [session.getreply() for _ in range(count)]


def envelope(recipients: int) -> bytes:
    to = (f"RCPT TO:<r{number}@example.net>\r\n".encode() for number in range(recipients))
    return b"MAIL FROM:<alice@example.org>\r\n" + b"".join(to)


@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_what_is_pipelined_is_counted_once_at_whatever_stage_it_is_asked_about(tmp_path: pathlib.Path, by: str) -> None:
    """Postfix asks for each recipient, at DATA or the first BDAT, and at the end."""
    body = b"Subject: x\r\n\r\nx\r\n"
    with mail_server(tmp_path, HOOKS, rules=RULES) as (postfix, _):
        with postfix.submission("alice") as session:
            for number in range(2):
                if by == "DATA":
                    got = replies(session, envelope(3) + b"DATA\r\n", 5)
                    got += replies(session, body + b".\r\n", 1)
                    assert [code for code, _ in got] == [250] * 4 + [354, 250], number
                else:
                    parts = b"BDAT 4\r\nSubj" + b"BDAT %d LAST\r\n" % (len(body) - 4) + body[4:]
                    got = replies(session, envelope(3) + parts, 6)
                    assert [code for code, _ in got] == [250] * 6, number
            # A fourth recipient is one too many for one mail; the second here for an hour. Those before stand.
            got = replies(session, envelope(4) + b"RSET\r\n", 6)
            assert [code for code, _ in got] == [250, 250, 450, 450, 450, 250]
            assert b"recipients: 7 of 7" in got[2][1]
        assert [call for call in ("alice", "bob", "bob") if postfix.send(call, ["a@b.example"]).ok] == ["bob", "bob"]
        with postfix.submission("bob") as session:
            got = replies(session, envelope(4) + b"RSET\r\n", 6)
            assert [code for code, _ in got] == [250, 250, 250, 250, 450, 250]
            assert b"one-mail: 3 in one mail" in got[4][1]
        with postfix.submission("carol") as session:
            large = (b"x" * 70 + b"\r\n") * 1700
            if by == "DATA":
                assert [code for code, _ in replies(session, envelope(1) + b"DATA\r\n", 3)] == [250, 250, 354]
                got = replies(session, large + b".\r\n", 1)
            else:
                got = replies(session, envelope(1) + b"BDAT %d LAST\r\n" % len(large) + large, 3)
            assert got[-1] == (552, b"5.3.4 <END-OF-MESSAGE>: End-of-data rejected: volume of server")
        postfix.assert_no_trouble()


@pytest.mark.parametrize("user", ["a|b", "../", "default|user", "$plan=business", "x" * 400])
def test_a_user_of_any_name_has_the_limits_of_one(tmp_path: pathlib.Path, user: str) -> None:
    rules = {
        "person": {"key": "sasl_username", "limits": "2/1h", "action": "450 4.7.1 {key}: {used} of {maximum}"},
        "domain": {"key": "sasl_domain", "limits": "1/1h"},
    }
    with mail_server(tmp_path, rules=rules) as (postfix, _):
        sent = [postfix.send(user) for _ in range(3)]
        assert [one.ok for one in sent] == [True, True, False]
        assert "2 of 2" in sent[2].reply
        assert postfix.send("z").ok
        assert postfix.send("x").ok
        postfix.assert_no_trouble()
