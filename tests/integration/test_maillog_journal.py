"""What journalctl writes of a real journal, in each of its forms, tells the mails that were logged."""

from __future__ import annotations

import time
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest

from policyd_rate_limit.maillog.mail import Mail, Origin
from support import maillog_model as model
from support.journal import journal_of, journalctl
from support.maillogs import Log

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs_root]

MAILS = 60
SHORT = ("short", "short-precise", "short-iso", "short-iso-precise", "short-full", "short-unix")
WHOLE = ("json", "export")
NO_UTF8 = b"\xe4"
"""In the sender of one more mail: the journal keeps what it is, and the short forms leave the message out."""

ODD = (
    b"postfix/smtpd[99]: 4F1ODD00001: client=client.example[192.0.2.9]",
    b"postfix/cleanup[99]: 4F1ODD00001: message-id=<odd@client.example>",
    b"postfix/qmgr[99]: 4F1ODD00001: from=<" + NO_UTF8 + b"@example.org>, size=1, nrcpt=1 (queue active)",
    b"postfix/smtp[99]: 4F1ODD00001: to=<r@example.net>, relay=mx.example.net[198.51.100.1]:25, delay=1",
    b"postfix/qmgr[99]: 4F1ODD00001: removed",
)


def what(mail: Mail) -> tuple[Any, ...]:
    """All that a mail is but when and on which host it was: those are of this run."""
    return (
        *(mail.origin.value, mail.service, mail.queue_id, mail.client_address, mail.sasl_username, mail.sender),
        *(mail.helo_name, mail.size, mail.recipient_count, mail.recipients, mail.stage, mail.reply),
    )


def test_every_form_of_journalctl_tells_the_same_mails(tmp_path: Path) -> None:
    traffic = model.traffic(15, MAILS)
    lines = [f"{line.tag}: {line.message}".encode() for line in traffic.lines]
    began = time.time()
    journal = journal_of([b"<22>" + line for line in (*lines, *ODD)], tmp_path)
    ended = time.time()
    expected = sorted(map(what, traffic.mails))
    odd = (Origin.SMTP.value, "postfix/smtpd", "4F1ODD00001", "192.0.2.9", "", "\udce4@example.org", "", 1, 1)

    for form in SHORT + WHOLE:
        log = Log(tmp_path, journalctl(journal, form), wants_recipients=True, now=ended, zone=UTC)
        mails = sorted(map(what, log.mails))
        if form in WHOLE:
            assert mails == sorted([*expected, (*odd, ("r@example.net",), "", "")]), form
        else:
            assert mails == expected, form
        assert all(int(began) <= mail.began <= mail.time <= ended for mail in log.mails), form
        assert log.tally.not_understood == (form in SHORT), form
        assert log.tally.unfinished == traffic.unfinished + (form in SHORT), form
