"""Mail that a content filter hands back is the same mail; mail of a list, or of this host, is one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.maillog.mail import Origin
from support.maillogs import Log, syslog

if TYPE_CHECKING:
    from pathlib import Path


def _mail(
    queue_id: str, client: str, message_id: str = "1@example.net", sender: str = "a@example.net", removed: bool = False
) -> str:
    return (
        f"smtpd[1]: {queue_id}: client={client}\n"
        f"cleanup[1]: {queue_id}: message-id=<{message_id}>\n"
        f"qmgr[1]: {queue_id}: from=<{sender}>, size=1, nrcpt=1 (queue active)\n"
    )


FIRST = _mail("4F1AB2C3D4", "mx.example.net[198.51.100.1]")


def _origins(log: Log) -> list[Origin]:
    return [mail.origin for mail in log.mails]


@pytest.mark.parametrize(
    "again",
    [
        _mail("4F1AB2C3D5", "mx[127.0.0.1], orig_queue_id=4F1AB2C3D4, orig_client=mx.example.net[198.51.100.1]", "2@x"),
        _mail("4F1AB2C3D5", "filter.lan[10.0.0.9], orig_queue_id=4F1AB2C3D4, orig_client=a[198.51.100.1]:41000", "2@x"),
        _mail("4F1AB2C3D5", "localhost[127.0.0.1]"),
        _mail("4F1AB2C3D5", "localhost[::1]:40000"),
        # The host of the log is mx, and cleanup says what its whole name is.
        "cleanup[1]: 4F1AB2C3DA: message-id=<20261128120001.4F1AB2C3DA@mx.example.org>\n"
        + _mail("4F1AB2C3D5", "mx.example.org[192.0.2.25]"),
        "pickup[1]: 4F1AB2C3D5: uid=115 from=<a@example.net>\n"
        "cleanup[1]: 4F1AB2C3D5: message-id=<1@example.net>\n"
        "qmgr[1]: 4F1AB2C3D5: from=<a@example.net>, size=1, nrcpt=1 (queue active)\n",
    ],
)
def test_what_a_filter_hands_back_is_the_same_mail(tmp_path: Path, again: str) -> None:
    assert _origins(Log(tmp_path, syslog(FIRST + again))) == [Origin.SMTP, Origin.REINJECTED]


@pytest.mark.parametrize(
    "other",
    [
        _mail("4F1AB2C3D5", "localhost[127.0.0.1]", "2@example.org"),  # of a program of this host
        _mail(
            "4F1AB2C3D5", "localhost[127.0.0.1]", sender="list-bounces@example.org"
        ),  # a list hands it to its members
        _mail("4F1AB2C3D5", "mx.example.net[198.51.100.1]"),  # a client that did not get the answer sends it again
        _mail("4F1AB2C3D5", "localhost[127.0.0.1]", "", "a@example.net"),
    ],
)
def test_mail_of_its_own(tmp_path: Path, other: str) -> None:
    assert _origins(Log(tmp_path, syslog(FIRST + other))) == [Origin.SMTP, Origin.SMTP]


def test_a_resent_mail_is_another_one(tmp_path: Path) -> None:
    again = _mail("4F1AB2C3D5", "localhost[127.0.0.1]").replace(
        "qmgr[1]", "cleanup[1]: 4F1AB2C3D5: resent-message-id=<2@example.org>\nqmgr[1]"
    )

    assert _origins(Log(tmp_path, syslog(FIRST + again))) == [Origin.SMTP, Origin.SMTP]


@pytest.mark.parametrize("wants_recipients", [False, True])
@pytest.mark.parametrize("is_early", [False, True])
@pytest.mark.parametrize("made_of", ["20261128120001.4F1AB2C3D5", "4F1AB2C3D5"])  # short ids have the time in front
def test_mail_without_a_message_id_comes_back_with_one_of_postfix(
    tmp_path: Path, made_of: str, is_early: bool, wants_recipients: bool
) -> None:
    first = _mail("4F1AB2C3D4", "mx.example.net[198.51.100.1]", "")
    again = _mail("4F1AB2C3D5", "localhost[127.0.0.1]", f"{made_of}@mx.example.org")
    told = (
        "smtp[1]: 4F1AB2C3D4: to=<bob@example.org>, relay=127.0.0.1[127.0.0.1]:10024, delay=0.1, delays=0/0/0/0.1,"
        " dsn=2.0.0, status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4F1AB2C3D5)\n"
    )
    lines = again.splitlines(keepends=True)
    text = first + (lines[0] + lines[1] + told + lines[2] if is_early else again + told)

    log = Log(tmp_path, syslog(text), wants_recipients=wants_recipients)
    assert _origins(log) == [Origin.SMTP, Origin.REINJECTED]


def test_mail_of_a_program_without_message_id_is_a_mail(tmp_path: Path) -> None:
    text = _mail("4F1AB2C3D5", "localhost[127.0.0.1]", "20261128120001.4F1AB2C3D5@mx.example.org") + _mail(
        "4F1AB2C3D6", "a[192.0.2.1]", "2@example.org"
    )

    log = Log(tmp_path, syslog(text))
    assert [(mail.queue_id, mail.origin) for mail in log.mails] == [
        ("4F1AB2C3D5", Origin.SMTP),
        ("4F1AB2C3D6", Origin.SMTP),
    ]


def test_mail_through_a_filter_before_the_queue_is_of_its_client(tmp_path: Path) -> None:
    mail = Log(
        tmp_path,
        syslog(
            """
            postfix/submission/smtpd[1]: NOQUEUE: client=laptop[192.0.2.7]:4711, sasl_method=PLAIN, sasl_username=alice
            smtpd[2]: 4F1AB2C3D5: client=localhost[127.0.0.1]:555, orig_client=laptop[192.0.2.7]:4711
            cleanup[3]: 4F1AB2C3D5: message-id=<1@example.net>
            qmgr[4]: 4F1AB2C3D5: from=<alice@example.org>, size=1, nrcpt=1 (queue active)
            postfix/submission/smtpd[1]: proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as 4F1AB2C3D5; from=<a>
            """
        ),
    ).mail
    assert (mail.origin, mail.client_address, mail.client_name, mail.sasl_username, mail.sasl_method, mail.service) == (
        Origin.SMTP,
        "192.0.2.7",
        "laptop",
        "alice",
        "PLAIN",
        "postfix/submission/smtpd",
    )
