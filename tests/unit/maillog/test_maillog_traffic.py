"""What lines of Postfix make of mails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.maillog.mail import Mail, Origin
from support.maillogs import Log, moment, syslog

if TYPE_CHECKING:
    from pathlib import Path

SUBMITTED = """
    postfix/submission/smtpd[11]: connect from laptop.example.net[192.0.2.7]
    postfix/submission/smtpd[11]: 4g1BCD2Fzz1Yk: client=laptop.example.net[192.0.2.7], sasl_method=PLAIN, sasl_username=alice
    cleanup[12]: 4g1BCD2Fzz1Yk: message-id=<1@laptop.example.net>
    qmgr[13]: 4g1BCD2Fzz1Yk: from=<alice@example.org>, size=1234, nrcpt=2 (queue active)
    postfix/submission/smtpd[11]: disconnect from laptop.example.net[192.0.2.7] ehlo=2 starttls=1 auth=1 mail=1 rcpt=2 data=1 quit=1
    smtp[14]: 4g1BCD2Fzz1Yk: to=<bob@example.net>, relay=mx.example.net[198.51.100.1]:25, delay=0.5, delays=0.1/0/0.2/0.2, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4F1)
    smtp[15]: 4g1BCD2Fzz1Yk: to=<carol@example.com>, orig_to=<Carol.C@example.org>, relay=none, delay=30, delays=0.1/0/30/0, dsn=4.4.1, status=deferred (connect to mx.example.com[198.51.100.2]:25: Connection timed out)
    qmgr[13]: 4g1BCD2Fzz1Yk: from=<alice@example.org>, size=1234, nrcpt=2 (queue active)
    smtp[15]: 4g1BCD2Fzz1Yk: to=<carol@example.com>, orig_to=<Carol.C@example.org>, relay=mx.example.com[198.51.100.2]:25, delay=330, delays=329/0/0.2/0.8, dsn=2.0.0, status=sent (250 ok)
    qmgr[13]: 4g1BCD2Fzz1Yk: removed
"""


def test_a_submitted_mail_is_read_once_with_all_that_the_log_tells(tmp_path: Path) -> None:
    log = Log(tmp_path, syslog(SUBMITTED), wants_recipients=True)

    assert log.mail == Mail(
        time=moment("2026-11-28T12:00:04"),
        began=moment("2026-11-28T12:00:02"),
        origin=Origin.SMTP,
        host="mx",
        service="postfix/submission/smtpd",
        queue_id="4g1BCD2Fzz1Yk",
        client_address="192.0.2.7",
        client_name="laptop.example.net",
        sasl_username="alice",
        sasl_method="PLAIN",
        sender="alice@example.org",
        size=1234,
        recipient_count=2,
        recipients=("bob@example.net", "Carol.C@example.org"),
    )
    assert (log.tally.lines, log.tally.of_postfix, log.tally.unfinished, log.tally.again) == (10, 10, 0, 1)
    assert log.tally.mails == {Origin.SMTP: 1}


def test_recipients_are_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    assert Log(tmp_path, syslog(SUBMITTED)).mail.recipients == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("client=a.example[192.0.2.1]", {"client_name": "a.example", "client_address": "192.0.2.1"}),
        ("client=unknown[192.0.2.1]", {"client_name": "unknown", "client_address": "192.0.2.1"}),
        ("client=unknown[unknown]", {"client_name": "unknown", "client_address": ""}),
        ("client=a.example[192.0.2.1]:50123", {"client_address": "192.0.2.1"}),
        ("client=a.example[2001:db8::1]:50123", {"client_address": "2001:db8::1"}),
        ("client=a.example[2001:db8::1]", {"client_address": "2001:db8::1"}),
        (
            "client=a[192.0.2.1]:5, sasl_method=LOGIN, sasl_username=o, brien@example.org",
            {"sasl_method": "LOGIN", "sasl_username": "o, brien@example.org"},
        ),
        (
            "client=a[192.0.2.1], sasl_method=PLAIN, sasl_username=alice, sasl_sender=x, orig_queue_id=4F1",
            {"sasl_username": "alice", "origin": Origin.SMTP},
        ),
        ("client=a[192.0.2.1], sasl_username=alice, news_of_postfix=4, more=x", {"sasl_username": "alice"}),
        ("client=a[192.0.2.1], news_of_postfix=x, orig_queue_id=4F1", {"origin": Origin.SMTP}),
        ("client=a[192.0.2.1], sasl_username=al\udcfcce", {"sasl_username": "al\udcfcce"}),
        ("client=a[192.0.2.1], sasl_username=älice", {"sasl_username": "älice"}),
    ],
)
def test_clients(tmp_path: Path, line: str, expected: dict[str, object]) -> None:
    mail = Log(tmp_path, syslog(_mail("4F1AB2C3D4", line))).mail

    assert {name: getattr(mail, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("logged", "sender"),
    [
        ("from=<>, size=1, nrcpt=1 (queue active)", ""),
        ('from=<"a b"@example.org>, size=1, nrcpt=1 (queue active)', '"a b"@example.org'),
        (
            'from=<"x>, size=9, nrcpt=99 (queue active)"@example.org>, size=1, nrcpt=1 (queue active)',
            '"x>, size=9, nrcpt=99 (queue active)"@example.org',
        ),
        ("from=<b\udcff@example.org>, size=1, nrcpt=1 (queue active)", "b\udcff@example.org"),
        ("from=<a@example.org>, size=1, nrcpt=1 (queue incoming)", "a@example.org"),
    ],
)
def test_senders(tmp_path: Path, logged: str, sender: str) -> None:
    text = f"smtpd[1]: 4F1AB2C3D4: client=a[192.0.2.1]\nqmgr[1]: 4F1AB2C3D4: {logged}\n"

    mail = Log(tmp_path, syslog(text)).mail
    assert (mail.sender, mail.size, mail.recipient_count) == (sender, 1, 1)


def test_mail_of_sendmail_is_local(tmp_path: Path) -> None:
    mail = Log(
        tmp_path,
        syslog(
            """
            pickup[1]: 8C1DB40A15: uid=33 from=<www-data>
            cleanup[2]: 8C1DB40A15: message-id=<20261128120000.8C1DB40A15@mx.example.org>
            qmgr[3]: 8C1DB40A15: from=<www-data@example.org>, size=400, nrcpt=1 (queue active)
            """
        ),
    ).mail
    assert (mail.origin, mail.service, mail.sender) == (Origin.LOCAL, "postfix/pickup", "www-data@example.org")


def test_mail_that_postsuper_queues_once_more_is_no_other_mail(tmp_path: Path) -> None:
    mail = Log(
        tmp_path,
        syslog(
            """
            pickup[1]: 8C1DB40A15: uid=110 from=<alice@example.org> orig_id=8C1DB40A11
            cleanup[2]: 8C1DB40A15: message-id=<1@example.org>
            qmgr[3]: 8C1DB40A15: from=<alice@example.org>, size=400, nrcpt=1 (queue active)
            """
        ),
    ).mail
    assert mail.origin is Origin.REINJECTED


def test_a_bounce_is_mail_of_postfix_itself(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        syslog(
            """
            qmgr[3]: 8C1DB40A11: from=<alice@example.org>, size=400, nrcpt=1 (queue active)
            cleanup[2]: 8C1DB40A15: message-id=<20261128120000.8C1DB40A15@mx.example.org>
            bounce[4]: 8C1DB40A11: sender non-delivery notification: 8C1DB40A15
            qmgr[3]: 8C1DB40A15: from=<>, size=2400, nrcpt=1 (queue active)
            """
        ),
    )
    assert (log.mail.origin, log.mail.queue_id, log.mail.sender) == (Origin.INTERNAL, "8C1DB40A15", "")
    assert log.tally.again == 1  # of a mail from before the log begins


def test_short_queue_ids_recur(tmp_path: Path) -> None:
    first, again = _mail("8C1DB40A15", "client=a[192.0.2.1]"), _mail("8C1DB40A15", "client=b[192.0.2.2]")

    log = Log(tmp_path, syslog(first + "qmgr[1]: 8C1DB40A15: removed\n" + again), wants_recipients=True)
    assert [mail.client_name for mail in log.mails] == ["a", "b"]


def test_one_that_began_and_never_was_queued_is_counted(tmp_path: Path) -> None:
    text = "smtpd[1]: 8C1DB40A15: client=a[192.0.2.1]\nsmtpd[1]: lost connection after RCPT from a[192.0.2.1]\n"
    log = Log(tmp_path, syslog(text + _mail("8C1DB40A15", "client=b[192.0.2.2]") + text))

    assert [mail.client_name for mail in log.mails] == ["b"]
    assert log.tally.unfinished == 2


def test_instances_and_services_with_names_of_their_own(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        syslog(
            """
            postfix-in/smtpd[1]: 8C1DB40A15: client=a[192.0.2.1]
            postfix-out/smtpd[1]: 8C1DB40A15: client=b[192.0.2.2]
            relay-of-web/smtpd[1]: 8C1DB40A16: client=c[192.0.2.3]
            postfix-out/cleanup[1]: 8C1DB40A15: message-id=<2@example.org>
            postfix-in/cleanup[1]: 8C1DB40A15: message-id=<1@example.org>
            postfix-in/qmgr[1]: 8C1DB40A15: from=<a@example.org>, size=1, nrcpt=1 (queue active)
            postfix-out/qmgr[1]: 8C1DB40A15: from=<b@example.org>, size=1, nrcpt=1 (queue active)
            postfix-in/cleanup[1]: 8C1DB40A16: message-id=<3@example.org>
            postfix-in/qmgr[1]: 8C1DB40A16: from=<c@example.org>, size=1, nrcpt=1 (queue active)
            """
        ),
    )
    assert [(mail.client_name, mail.sender, mail.service) for mail in log.mails] == [
        ("a", "a@example.org", "postfix-in/smtpd"),
        ("b", "b@example.org", "postfix-out/smtpd"),
        ("c", "c@example.org", "relay-of-web/smtpd"),
    ]


def test_lines_of_other_programs_are_none_of_postfix(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        "Nov 28 12:00:01 mx dovecot: lmtp(alice)<1><2>: 8C1DB40A15: client=a[192.0.2.1]\n"
        "Nov 28 12:00:01 mx amavis[1]: (1-01) Passed CLEAN, Queue-ID: 8C1DB40A15, from=<a>, size=1, nrcpt=1 (queue active)\n"
        "Nov 28 12:00:01 mx smtpd[1]: 8C1DB40A15: client=a[192.0.2.1]\n"
        "Nov 28 12:00:01 mx -- MARK --\n"
        "Nov 28 12:00:01 mx postfix/proxymap[1]: warning: 8C1DB40A15: client=a[192.0.2.1]\n"
        "no line of a log\n"
        "Nov 28 12:00:01 mx postfix/qmgr[1]: 8C1DB40A15: from=<a@example.org>, size=1, nrcpt=1 (queue active)\n",
    )
    assert log.read == []
    assert (log.tally.others, log.tally.of_postfix, log.tally.not_understood, log.tally.lines) == (4, 2, 1, 7)


def test_what_was_begun_long_ago_is_given_up(tmp_path: Path) -> None:
    log = Log(
        tmp_path,
        "Nov 25 12:00:01 mx postfix/smtpd[1]: 8C1DB40A15: client=a[192.0.2.1]\n"
        "Nov 28 12:00:01 mx postfix/cleanup[1]: 8C1DB40A15: message-id=<1@example.org>\n"
        "Nov 28 12:00:01 mx postfix/qmgr[1]: 8C1DB40A15: from=<>, size=1, nrcpt=1 (queue active)\n",
    )
    assert (log.mail.origin, log.mail.client_name, log.tally.unfinished) == (Origin.INTERNAL, "", 1)


@pytest.mark.parametrize("date", ["Nov 28 12:00:0", "Nov 28 12:00", "Nov 28 12:0", "Nov 28 12:", "Nov 28 12:00:01", ""])
@pytest.mark.parametrize(
    "message",
    [
        *("", "removed", ": removed", "message-id=<", ": message-id=<", "resent-message-id=<", ": resent-message-id=<"),
        *("from=<", ": from=<", ": from=<>, size=1, nrcpt=1 (queue active)", "to=<", ": to=<", ": to=<>, relay=x, "),
        *("client=", ": client=", "uid=", ": uid=1 from=<>", "reject: ", ": reject: ", "NOQUEUE: reject: ", ": ", ":"),
    ],
)
def test_what_is_cut_short_tells_nothing_and_stops_nothing(tmp_path: Path, date: str, message: str) -> None:
    """In Python and compiled, where slices differ: see the docstring of lines."""
    whole = syslog(_mail("4F1AB2C3D4", "client=a[192.0.2.1]"))
    daemons = ("smtpd", "pickup", "cleanup", "qmgr", "smtp")
    texts = [f"Nov 28 12:00:09 mx postfix/{daemon}[1]:{space}{message}" for daemon in daemons for space in ("", " ")]

    log = Log(tmp_path, "\n".join([whole.rstrip(), date, *texts, date, f"{date} mx", whole]), wants_recipients=True)
    assert {mail.queue_id for mail in log.mails} == {"4F1AB2C3D4"}
    assert len(log.mails) == 2


def _mail(queue_id: str, client: str, message_id: str = "1@example.org", sender: str = "a@example.org") -> str:
    return (
        f"smtpd[1]: {queue_id}: {client}\n"
        f"cleanup[1]: {queue_id}: message-id=<{message_id}>\n"
        f"qmgr[1]: {queue_id}: from=<{sender}>, size=1, nrcpt=1 (queue active)\n"
    )
