"""Lines of Postfix about what it refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.maillog.mail import Mail, Origin
from support.maillogs import Log, syslog

if TYPE_CHECKING:
    from pathlib import Path

RCPT = "RCPT from a.example[192.0.2.1]: 450 4.7.1 <bob@example.net>: Recipient address rejected: Too many mails"
TAIL = "from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<a.example>"


def _one(directory: Path, message: str, program: str = "smtpd[1]") -> Mail:
    return Log(directory, syslog(f"{program}: {message}"), wants_recipients=True).mail


def test_a_refused_recipient(tmp_path: Path) -> None:
    mail = _one(tmp_path, f"NOQUEUE: reject: {RCPT}; {TAIL} sasl_username=<alice>")

    assert mail == Mail(
        time=mail.time,
        began=mail.time,
        origin=Origin.REJECTED,
        host="mx",
        service="postfix/smtpd",
        queue_id="",
        client_address="192.0.2.1",
        client_name="a.example",
        sasl_username="alice",
        sender="alice@example.org",
        helo_name="a.example",
        recipient_count=1,
        recipients=("bob@example.net",),
        stage="RCPT",
        reply="<bob@example.net>: Recipient address rejected: Too many mails",
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"NOQUEUE: reject: {RCPT}; {TAIL}", {"sasl_username": "", "helo_name": "a.example"}),
        (f"NOQUEUE: reject: {RCPT}; {TAIL} sasl_username=<al> session=<a1>", {"sasl_username": "al"}),
        (f"NOQUEUE: reject: {RCPT}; {TAIL} session=<a1>", {"sasl_username": "", "sender": "alice@example.org"}),
        (f"NOQUEUE: milter-reject: {RCPT}; {TAIL}", {"stage": "RCPT"}),
        (
            "NOQUEUE: reject: CONNECT from unknown[unknown]: 554 5.7.1 <unknown[unknown]>: Client host rejected: no; proto=SMTP",
            {
                "stage": "CONNECT",
                "client_name": "unknown",
                "client_address": "",
                "reply": "<unknown[unknown]>: Client host rejected: no",
                "recipients": (),
                "recipient_count": 0,
            },
        ),
        (
            "NOQUEUE: reject: RCPT from a[2001:db8::1]:4711: 554 5.7.1 <b@x>: Relay access denied; from=<> to=<b@x> proto=SMTP helo=<h>",
            {"client_address": "2001:db8::1", "sender": "", "reply": "<b@x>: Relay access denied"},
        ),
        (
            'NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 <"a b"@x>: Recipient address rejected: no; from=<"; from=<'
            'mallory@x> to=<b@x> proto=SMTP"@x> to=<"a b"@x> proto=ESMTP helo=<h>',
            {"sender": '"; from=<mallory@x> to=<b@x> proto=SMTP"@x', "recipients": ('"a b"@x',)},
        ),
        (
            'NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 <"; from=<m@x> to=<n@x> proto=SMTP helo=<h>"@x>: Recipient'
            ' address rejected: no; from=<alice@x> to=<"; from=<m@x> to=<n@x> proto=SMTP helo=<h>"@x> proto=ESMTP helo=<h>',
            {"sender": "alice@x", "recipients": ('"; from=<m@x> to=<n@x> proto=SMTP helo=<h>"@x',)},
        ),
        (
            "NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 <a>b@x>: no; from=<c>d@x> to=<a>b@x> proto=ESMTP helo=<h>",
            {"sender": "c>d@x", "recipients": ("a>b@x",), "helo_name": "h"},  # info_log_address_format = internal
        ),
        (
            "NOQUEUE: reject: MAIL from a[192.0.2.1]: 452 4.3.1 Insufficient system storage; proto=ESMTP helo=<h>",
            {"stage": "MAIL", "reply": "Insufficient system storage", "helo_name": "h"},
        ),
        (
            "NOQUEUE: reject: VRFY from a[192.0.2.1]: 252 2.0.0 no; to=<b@x> proto=SMTP",
            {"stage": "VRFY", "recipients": ("b@x",)},
        ),
        (
            "NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 <b@x>: text; with; semicolons; from=<al\udcff@x> to=<b@x> proto=SMTP",
            {"reply": "<b@x>: text; with; semicolons", "sender": "al\udcff@x"},
        ),
        (
            "NOQUEUE: proxy-reject: END-OF-MESSAGE from a[192.0.2.1]: 554 5.7.0 Reject, id=1 - spam; from=<a@x> to=<b@x> proto=ESMTP helo=<h>",
            {"stage": "END-OF-MESSAGE", "reply": "Reject, id=1 - spam", "recipient_count": 0},
        ),
    ],
)
def test_forms(tmp_path: Path, message: str, expected: dict[str, object]) -> None:
    mail = _one(tmp_path, message)

    assert {name: getattr(mail, name) for name in expected} == expected
    assert mail.origin is Origin.REJECTED


@pytest.mark.parametrize(
    "message",
    [
        f"NOQUEUE: reject_warning: {RCPT}; {TAIL}",
        f"NOQUEUE: hold: {RCPT}; {TAIL}",
        f"NOQUEUE: discard: {RCPT}; {TAIL}",
        f"NOQUEUE: redirect: {RCPT}; {TAIL}",
        f"NOQUEUE: filter: {RCPT}; {TAIL}",
        f"NOQUEUE: warn: {RCPT}; {TAIL}",
        f"warning: NOQUEUE: reject: {RCPT}; {TAIL}",
        "lost connection after RCPT from a[192.0.2.1]",
        "NOQUEUE: reject: nothing that Postfix writes",
    ],
)
def test_what_was_not_refused(tmp_path: Path, message: str) -> None:
    log = Log(tmp_path, syslog(f"smtpd[1]: {message}"))

    assert (log.read, log.tally.of_postfix) == ([], 1)


def test_postscreen_refuses_before_policy_servers_are_asked(tmp_path: Path) -> None:
    line = (
        "postscreen[1]: NOQUEUE: reject: RCPT from [192.0.2.1]:4711: 550 5.7.1 Service unavailable; client [192.0.2.1]"
    )

    assert Log(tmp_path, syslog(f"{line} blocked using zen; from=<a@x>, to=<b@x>, proto=ESMTP, helo=<h>")).read == []


def test_a_mail_that_is_refused_after_its_first_recipient(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        syslog(
            f"""
            smtpd[1]: 4F1AB2C3D4: client=a.example[192.0.2.1], sasl_method=PLAIN, sasl_username=alice
            smtpd[1]: 4F1AB2C3D4: reject: {RCPT}; {TAIL}
            smtpd[1]: 4F1AB2C3D4: reject: END-OF-MESSAGE from a.example[192.0.2.1]: 450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: no; {TAIL}
            """
        ),
    )
    assert [(mail.stage, mail.queue_id, mail.sasl_username, mail.sasl_method) for mail in log.mails] == [
        ("RCPT", "4F1AB2C3D4", "alice", "PLAIN"),
        ("END-OF-MESSAGE", "4F1AB2C3D4", "alice", "PLAIN"),
    ]
    assert log.mails[0].began < log.mails[0].time
    assert log.tally.unfinished == 0


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (
            "milter-reject: END-OF-MESSAGE from a[192.0.2.1]: 5.7.1 Spam; from=<a@x> to=<b@x> proto=ESMTP helo=<h>",
            "Spam",
        ),
        (
            "reject: header Subject: from m[192.0.2.9]; from=<m@x> to=<n@x> proto=SMTP helo=<h>: 5.7.1 no from a[192.0.2.1];"
            " from=<a@x> to=<b@x> proto=ESMTP helo=<h>: 5.7.1 no such subjects",
            "no such subjects",
        ),
        ("reject: body buy now from a[192.0.2.1]; from=<a@x> to=<b@x> proto=ESMTP helo=<h>: no", "no"),
    ],
)
def test_cleanup_refuses_content(tmp_path: Path, message: str, reply: str) -> None:
    mail = _one(tmp_path, f"4F1AB2C3D4: {message}", "cleanup[1]")

    assert (mail.stage, mail.client_address, mail.sender, mail.reply) == ("END-OF-MESSAGE", "192.0.2.1", "a@x", reply)


def test_rsyslog_has_one_line_for_equal_ones(tmp_path: Path) -> None:
    line = f"NOQUEUE: reject: {RCPT}; {TAIL}"

    log = Log(tmp_path, syslog(f"smtpd[1]: {line}\nsmtpd[1]: message repeated 3 times: [ {line}]"))
    assert len(log.mails) == 4
    assert {mail.sender for mail in log.mails} == {"alice@example.org"}


@pytest.mark.parametrize("said", ["last message", "syslogd: last message"])
def test_a_bsd_has_one_line_for_equal_ones(tmp_path: Path, said: str) -> None:
    refused = syslog(f"smtpd[1]: NOQUEUE: reject: {RCPT}; {TAIL}")
    repeated = f"Nov 28 12:00:31 mx {said} repeated 3 times\n"
    other = "Nov 28 12:00:31 mx other: x\n"

    log = Log(tmp_path, repeated + refused + repeated + other + repeated)
    assert [mail.time - log.mails[0].time for mail in log.mails] == [0, 30, 30, 30]
    assert {mail.sender for mail in log.mails} == {"alice@example.org"}
    assert log.tally.others == 4


def test_what_a_bsd_repeats_of_other_lines_is_no_refusal(tmp_path: Path) -> None:
    text = "Nov 28 12:00:01 mx postfix/smtpd[1]: connect from a[192.0.2.1]\nNov 28 12:00:31 mx last message repeated 3 times\n"

    assert Log(tmp_path, text).read == []
