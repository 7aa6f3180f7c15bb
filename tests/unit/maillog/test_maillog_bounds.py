"""What a log makes a reader remember is bounded."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from policyd_rate_limit.maillog.mail import Mail, Origin
from policyd_rate_limit.maillog.open_mails import MOST_OPEN, OpenMail, OpenMails
from policyd_rate_limit.maillog.outgoing import MOST_HELD, Held, Outgoing
from policyd_rate_limit.maillog.programs import LONGEST_HEADER, MOST_PROGRAMS, Program, Programs
from policyd_rate_limit.maillog.recent import MOST_RECENT, RECENT_SECONDS, Recent
from policyd_rate_limit.maillog.tally import Tally
from support.maillogs import Log, syslog

if TYPE_CHECKING:
    from pathlib import Path


def test_of_mails_that_never_end_the_oldest_are_given_up() -> None:
    tally, program = Tally(), Program(b"mx", b"postfix/smtpd")
    open_mails = OpenMails(tally)
    for number in range(2 * MOST_OPEN):
        open_mails.begin(program, b"%X" % number, OpenMail(Origin.SMTP, number / 1000, program))

    known = [open_mails.find(program, b"%X" % number, 100.0) is not None for number in range(2 * MOST_OPEN)]
    assert known == sorted(known)
    assert MOST_OPEN // 2 <= sum(known) <= MOST_OPEN
    assert tally.unfinished == 2 * MOST_OPEN - sum(known)
    open_mails.end()
    assert tally.unfinished == 2 * MOST_OPEN


def test_of_mails_that_wait_the_oldest_is_handed_out() -> None:
    tally = Tally()
    outgoing = Outgoing(tally)
    for number in range(MOST_HELD + 10):
        mail = Mail(float(number), float(number), Origin.SMTP, "mx", "postfix/smtpd", "4F1")
        outgoing.hold(Held(mail, float("inf")))

    assert [item.time for item in outgoing.take()] == list(range(10))
    outgoing.end()
    assert len(outgoing.take()) == MOST_HELD
    assert tally.mails == {Origin.SMTP: MOST_HELD + 10}


def test_of_recent_mails_the_oldest_are_forgotten() -> None:
    recent = Recent()
    for number in range(2 * MOST_RECENT):
        recent.add(number, 0.0)

    known = [recent.has(number, 0.0) for number in range(2 * MOST_RECENT)]
    assert known == sorted(known)
    assert MOST_RECENT // 2 <= sum(known) <= MOST_RECENT
    assert recent.has(2 * MOST_RECENT - 1, RECENT_SECONDS)
    assert not recent.has(2 * MOST_RECENT - 1, RECENT_SECONDS + 1)


def test_programs_are_forgotten_when_there_are_too_many() -> None:
    programs = Programs()
    for number in range(2 * MOST_PROGRAMS + 1):
        assert programs.of(b"mx postfix/smtpd[%d]" % number) is not None
        assert len(programs.known) <= MOST_PROGRAMS


def test_what_is_too_long_for_a_header_is_none() -> None:
    programs = Programs()

    assert programs.of(b"mx " + b"x" * LONGEST_HEADER) is None
    assert programs.known == {}


def test_names_of_hosts_and_clients_of_proxies_are_bounded(tmp_path: Path) -> None:
    """All are read, and nothing of a host or client that is forgotten is told of another."""
    lines = itertools.chain.from_iterable(
        (
            f"Nov 28 12:00:00 mx{number} postfix/smtpd[1]: NOQUEUE: client=a{number}[192.0.2.1], sasl_username=u{number}",
            f"Nov 28 12:00:00 mx{number} postfix/cleanup[1]: 4F1: message-id=<4F1@mx{number}.example.org>",
            f"Nov 28 12:00:00 mx{number} postfix/smtpd[1]: 4F2: client=b[127.0.0.1], orig_client=a{number}[192.0.2.1]",
            f"Nov 28 12:00:00 mx{number} postfix/qmgr[1]: 4F2: from=<>, size=1, nrcpt=1 (queue active)",
        )
        for number in range(10_050)
    )
    log = Log(tmp_path, "\n".join(lines))

    assert [mail.sasl_username for mail in log.mails] == [f"u{number}" for number in range(10_050)]


def test_a_line_of_the_worst_that_clients_can_send_takes_no_time(tmp_path: Path) -> None:
    """Patterns that try again and again would take seconds for these."""
    address = '"; from=<a@x> to=<b@x> proto=SMTP helo=<h' * 200
    hosts = " from a[b]; from=<c> to=<d> proto=SMTP helo=<e>: f" * 200
    names = ", sasl_sender=x" * 500
    text = syslog(
        f"""
        smtpd[1]: NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 <{address}>: no; from=<{address}> to=<{address}> proto
        smtpd[1]: NOQUEUE: reject: RCPT from a[192.0.2.1]: 450 4.7.1 {address}
        cleanup[1]: 4F1AB2C3D4: reject: header Subject:{hosts}{hosts}
        smtpd[1]: 4F1AB2C3D4: client=a[192.0.2.1], sasl_username=x{names}, orig_client=
        smtp[1]: 4F1AB2C3D4: to=<{", orig_to=<x>" * 500}, relay=
        policyd-rate-limit[1]: INFO verdict=refused {'id="' + chr(92) * 2001} {'id="x' * 500}
        """
    )

    assert len(Log(tmp_path, re.sub("postfix/(?=policyd)", "", text), wants_recipients=True).read) >= 2
