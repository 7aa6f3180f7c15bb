"""Which mails and refusals were of one SMTP session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import maillog_model as model
from support.maillogs import Log, syslog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFUSED = "NOQUEUE: reject: RCPT from c.example[192.0.2.7]: 450 4.7.1 <bob@example.net>: Recipient address rejected: no; from=<alice@example.org> to=<bob@example.net> proto=ESMTP helo=<c>"
LINES = f"""
    smtpd[11]: connect from c.example[192.0.2.7]
    smtpd[12]: connect from c.example[192.0.2.7]
    smtpd[11]: {REFUSED}
    smtpd[12]: {REFUSED}
    smtpd[11]: 4g1BCD2Fzz1Yk: client=c.example[192.0.2.7]
    cleanup[13]: 4g1BCD2Fzz1Yk: message-id=<1@c.example>
    qmgr[14]: 4g1BCD2Fzz1Yk: from=<alice@example.org>, size=1234, nrcpt=2 (queue active)
    smtpd[11]: disconnect from c.example[192.0.2.7] ehlo=1 mail=1 rcpt=1/2 data=1 quit=1
    smtpd[11]: connect from c.example[192.0.2.7]
    smtpd[11]: {REFUSED}
"""


def test_a_session_is_one_connection_to_one_process(tmp_path: Path) -> None:
    one, two, mail, later = (one.session for one in Log(tmp_path, syslog(LINES)).mails)
    assert one == mail != 0
    assert len({one, two, later}) == 3


def test_without_the_beginning_of_a_session_it_is_not_known(tmp_path: Path) -> None:
    without = "".join(line for line in LINES.splitlines(keepends=True) if " connect from" not in line)
    assert {one.session for one in Log(tmp_path, syslog(without)).mails} == {0}


@pytest.mark.parametrize("form", model.FORMS)
def test_sessions_are_known_from_every_form(tmp_path: Path, form: Callable[[model.Line], bytes]) -> None:
    lines = [
        model.Line(model.STARTS, "mx", f"postfix/{tag}", message)
        for tag, _, message in (line.strip().partition(": ") for line in LINES.strip().splitlines())
    ]

    one, two, mail, later = (one.session for one in Log(tmp_path, model.render(lines, form)).mails)
    assert one == mail
    assert len({one, two, later} - {0}) == 3


def test_without_process_ids_no_session_is_known(tmp_path: Path) -> None:
    without = LINES.replace("smtpd[11]", "smtpd").replace("smtpd[12]", "smtpd")
    assert {one.session for one in Log(tmp_path, syslog(without)).mails} == {0}


PROXIED = f"""
    smtpd[11]: connect from c.example[192.0.2.7]
    smtpd[11]: NOQUEUE: client=c.example[192.0.2.7], sasl_method=PLAIN, sasl_username=alice
    smtpd[12]: connect from c.example[192.0.2.7]
    smtpd[11]: {REFUSED}
    smtpd[12]: {REFUSED}
    smtpd[11]: disconnect from c.example[192.0.2.7]
    smtpd[11]: connect from c.example[192.0.2.7]
    smtpd[11]: {REFUSED}
"""


def test_whose_a_refusal_is_says_the_mail_before_it_in_its_session(tmp_path: Path) -> None:
    """With smtpd_proxy_filter there is no queue id at DATA, by which the mail would be known."""
    known = [(one.sasl_username, one.sasl_method) for one in Log(tmp_path, syslog(PROXIED)).mails]
    assert known == [("alice", "PLAIN"), ("", ""), ("", "")]
