"""Mails that an action of access(5) has had held, of which qmgr says nothing until they are released."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.maillog.mail import Origin
from support.maillogs import Log, syslog

if TYPE_CHECKING:
    from pathlib import Path

AT_RCPT = """
    smtpd[11]: 4g1BCD2Fzz1Yk: client=laptop.example.net[192.0.2.7], sasl_method=PLAIN, sasl_username=alice
    smtpd[11]: 4g1BCD2Fzz1Yk: hold: RCPT from laptop.example.net[192.0.2.7]: <bob@example.net>: Recipient address triggers HOLD action; from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<laptop> sasl_username=<alice>
    smtpd[11]: 4g1BCD2Fzz1Yk: hold: RCPT from laptop.example.net[192.0.2.7]: <carol@example.net>: Recipient address Too much; from=<alice@example.org> to=<carol@example.net> proto=ESMTP helo=<laptop> sasl_username=<alice>
    cleanup[12]: 4g1BCD2Fzz1Yk: message-id=<1@laptop.example.net>
"""
AT_ITS_END = """
    smtpd[11]: 4g1BCD2Fzz1Yk: client=laptop.example.net[192.0.2.7]
    cleanup[12]: 4g1BCD2Fzz1Yk: message-id=<1@laptop.example.net>
    smtpd[11]: 4g1BCD2Fzz1Yk: hold: END-OF-MESSAGE from laptop.example.net[192.0.2.7]: <END-OF-MESSAGE>: End-of-data triggers HOLD action; from=<alice@example.org> proto=ESMTP helo=<laptop>
"""
RELEASED = "    qmgr[13]: 4g1BCD2Fzz1Yk: from=<alice@example.org>, size=1234, nrcpt=2 (queue active)\n"


def test_one_that_is_held_at_rcpt_is_a_mail_once_it_has_its_content(tmp_path: Path) -> None:
    log = Log(tmp_path, syslog(AT_RCPT), wants_recipients=True)
    mail = log.mail
    assert (mail.origin, mail.sasl_username, mail.sender) == (Origin.SMTP, "alice", "alice@example.org")
    assert (mail.recipients, mail.recipient_count, mail.size) == (("bob@example.net", "carol@example.net"), 2, 0)
    assert log.tally.unfinished == 0


def test_one_that_is_held_at_its_end_is_a_mail(tmp_path: Path) -> None:
    mail = Log(tmp_path, syslog(AT_ITS_END)).mail
    assert (mail.sender, mail.recipient_count, mail.recipients) == ("alice@example.org", 2, ())  # at least


def test_one_that_is_released_is_no_other_mail(tmp_path: Path) -> None:
    log = Log(tmp_path, syslog(AT_RCPT + RELEASED))
    assert log.mail.recipient_count == 2
    assert log.tally.again == 1


def test_one_whose_client_goes_away_before_its_content_is_none(tmp_path: Path) -> None:
    without_content = "".join(line for line in AT_RCPT.splitlines(keepends=True) if "cleanup" not in line)
    log = Log(tmp_path, syslog(without_content))
    assert log.mails == []
    assert log.tally.unfinished == 1


def test_a_queue_id_that_the_log_does_not_know_is_no_mail(tmp_path: Path) -> None:
    unknown = "".join(
        line for line in AT_RCPT.splitlines(keepends=True) if "client=" not in line and "cleanup" not in line
    )
    assert Log(tmp_path, syslog(unknown)).mails == []


BEFORE = """
    smtpd[11]: connect from laptop.example.net[192.0.2.7]
    smtpd[11]: NOQUEUE: hold: RCPT from laptop.example.net[192.0.2.7]: <bob@example.net>: Recipient address triggers HOLD action; from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<laptop>
"""
REFUSED = "    smtpd[11]: NOQUEUE: reject: RCPT from laptop.example.net[192.0.2.7]: 450 4.7.1 <bob@example.net>: Recipient address rejected: no; from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<laptop>\n"
NEXT = """
    smtpd[11]: 4g1BCD2Fzz1Yk: client=laptop.example.net[192.0.2.7]
    cleanup[12]: 4g1BCD2Fzz1Yk: message-id=<1@laptop.example.net>
"""


def test_the_first_recipient_is_held_before_there_is_a_queue_id(tmp_path: Path) -> None:
    mail = Log(tmp_path, syslog(BEFORE + NEXT), wants_recipients=True).mail
    assert (mail.queue_id, mail.sender, mail.recipients) == ("4g1BCD2Fzz1Yk", "alice@example.org", ("bob@example.net",))


def test_a_recipient_who_is_refused_all_the_same_has_no_mail_held(tmp_path: Path) -> None:
    assert [one.origin for one in Log(tmp_path, syslog(BEFORE + REFUSED + NEXT)).mails] == [Origin.REJECTED]


def test_what_is_held_in_one_session_is_not_in_the_next(tmp_path: Path) -> None:
    again = "    smtpd[11]: connect from laptop.example.net[192.0.2.7]\n"
    assert Log(tmp_path, syslog(BEFORE + again + NEXT)).mails == []


UNWANTED = (
    "    cleanup[12]: 4g1BCD2Fzz1Yk: reject: header Subject: x from laptop.example.net[192.0.2.7];"
    " from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<laptop>: 5.7.1 no\n"
)
TOO_MUCH = (
    "    smtpd[11]: 4g1BCD2Fzz1Yk: reject: END-OF-MESSAGE from laptop.example.net[192.0.2.7]: 450 4.7.1"
    " <END-OF-MESSAGE>: End-of-data rejected: no; from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<l>\n"
)


@pytest.mark.parametrize("wants_recipients", [False, True])
@pytest.mark.parametrize("refused", [UNWANTED, TOO_MUCH])
@pytest.mark.parametrize("held", [AT_RCPT, BEFORE + NEXT])
def test_one_that_was_to_be_held_and_is_refused_at_its_end_is_one_mail(
    tmp_path: Path, held: str, refused: str, wants_recipients: bool
) -> None:
    log = Log(tmp_path, syslog(held + refused), wants_recipients=wants_recipients)
    assert (log.mail.origin, log.mail.stage) == (Origin.REJECTED, "END-OF-MESSAGE")
    assert log.tally.mails == {Origin.REJECTED: 1}
    assert log.tally.unfinished == 0
