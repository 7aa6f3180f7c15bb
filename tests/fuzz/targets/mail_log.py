"""A mail log: mails and decisions in the order of time, each line counted once, and no error at all."""

from __future__ import annotations

import os
from datetime import UTC

from policyd_rate_limit.maillog.reading import read
from policyd_rate_limit.maillog.tally import Tally
from support import maillog_model as model

_LINES = model.traffic(1, 8).lines
SEEDS = (
    *(model.render(_LINES[number : number + 9], form) for number, form in enumerate(model.FORMS)),
    b'Nov 28 12:00:01 mx policyd-rate-limit[1]: INFO verdict=refused kind=user id="a\\xff\\u202e" cost=1\n',
    b'{"time":"2026-11-28T12:00:01+01:00","level":"info","verdict":"admitted","cost":1}\n',
    b"Nov 28 12:00:01 mx postfix/smtpd[1]: message repeated 9 times: [ NOQUEUE: reject: EHLO from a[1]: no; proto=X]\n",
    b"Nov 28 12:00:01 mx postfix/cleanup[1]: 4F1AB2: reject: header a: b from c[1]; from=<d> proto=SMTP helo=<f>: g\n",
    b"Feb 29 02:59:60 mx postfix/smtpd[1]: 4F1AB2: client=a[::1]:1, sasl_method=A, sasl_username=b, orig_client=c[2]\n",
)


def one_input(data: bytes) -> None:
    """Read it out of memory, as a file."""
    tally = Tally()
    descriptor = os.memfd_create("mail.log")
    try:
        os.write(descriptor, data)
        items = list(read([f"/proc/self/fd/{descriptor}"], wants_recipients=True, now=1.8e9, zone=UTC, tally=tally))
    finally:
        os.close(descriptor)
    times = [item.time for item in items]
    assert times == sorted(times)
    assert tally.lines == tally.of_postfix + tally.of_daemon + tally.others + tally.not_understood
    assert tally.mails.total() + tally.decisions == len(items)
