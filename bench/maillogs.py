"""Makes mail logs of any size, such as a mail server of an organisation writes them: to measure what reads them.

    python bench/maillogs.py --megabytes 100 --form rfc3339 FILE

The mix is that of a server with submission, an after-queue content filter for a part of its mail, an IMAP server that
logs beside it, and as many who only look for an open door as the Internet has. Lines are some 120 bytes long on
average, 140 in the form rfc3339. The same arguments give the same log.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGINS: Final = 1_767_592_800.0
"""Unix seconds of the first line: 5 January 2026, 06:00 in UTC."""

FORMS: Final = ("syslog", "rfc3339")
_LETTERS: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def lines(*, seed: int = 1, users: int = 500, mails_a_second: float = 5.0) -> Iterator[tuple[float, str]]:
    """Line by line, without end, in the order of time: Unix seconds, and what stands behind the host."""
    waiting: list[tuple[float, int, str]] = []
    order = itertools.count()
    for began, of_one in _sessions(random.Random(seed), users, mails_a_second):
        while waiting and waiting[0][0] <= began:
            moment, _, rest = heapq.heappop(waiting)
            yield moment, rest
        for moment, rest in of_one:
            heapq.heappush(waiting, (moment, next(order), rest))


def _sessions(
    chance: random.Random, users: int, mails_a_second: float
) -> Iterator[tuple[float, Iterator[tuple[float, str]]]]:
    now = BEGINS
    for number in itertools.count():
        now += chance.expovariate(mails_a_second)
        draw = chance.random()
        if draw < 0.28:
            yield now, _submitted(chance, now, number, users)
        elif draw < 0.36:
            yield now, _received(chance, now, number, users)
        elif draw < 0.41:
            yield now, _local(chance, now, number)
        elif draw < 0.45:
            yield now, _refused(chance, now)
        elif draw < 0.90:
            yield now, _probed(chance, now)
        else:
            yield now, _read(chance, now, users)


def form(name: str, host: str = "mx1") -> Callable[[float, str], bytes]:
    """A function that makes a whole line of Unix seconds and the rest, in the form ``name`` of :data:`FORMS`."""
    second, stamp = -1, ""

    def syslog(moment: float, rest: str) -> bytes:
        nonlocal second, stamp
        if int(moment) != second:
            second = int(moment)
            stamp = time.strftime("%b %e %H:%M:%S", time.gmtime(second))
        return f"{stamp} {host} {rest}\n".encode()

    def rfc3339(moment: float, rest: str) -> bytes:
        nonlocal second, stamp
        if int(moment) != second:
            second = int(moment)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{stamp}.{int(moment % 1 * 1e6):06d}+00:00 {host} {rest}\n".encode()

    return {"syslog": syslog, "rfc3339": rfc3339}[name]


def write(file: BinaryIO, size: int, form_name: str, *, seed: int = 1, users: int = 500) -> int:
    """Write a log of some ``size`` bytes; the number of its lines."""
    line_of = form(form_name)
    written = 0
    for count, (moment, rest) in enumerate(lines(seed=seed, users=users), 1):
        line = line_of(moment, rest)
        written += file.write(line)
        if written >= size:
            return count
    raise AssertionError


def _id(number: int) -> str:
    """A long queue id: enable_long_queue_ids of postconf(5)."""
    text = ""
    for _ in range(6):
        number, digit = divmod(number, 52)
        text = _LETTERS[digit] + text
    return f"4g{text}z1Yk"


def _submitted(chance: random.Random, now: float, number: int, users: int) -> Iterator[tuple[float, str]]:
    queue_id, user = _id(number), min(int(chance.expovariate(8 / users)), users - 1)
    address = f"198.51.{user % 100}.{user % 251}"
    client = f"p{user}.example.net[{address}]"
    pid, size = 2000 + number % 40, int(chance.lognormvariate(9.5, 1.4)) + 400
    count = 1 if chance.random() < 0.9 else int(chance.expovariate(0.25)) + 2
    tag = f"postfix/submission/smtpd[{pid}]"
    yield now, f"{tag}: connect from {client}"
    yield now + 0.2, f"{tag}: {queue_id}: client={client}, sasl_method=PLAIN, sasl_username=user{user}@example.org"
    yield (
        now + 0.3,
        f"postfix/cleanup[{2100 + number % 9}]: {queue_id}: message-id=<{number:08x}.{size}@mua.example>",
    )
    yield (
        now + 0.4,
        f"postfix/qmgr[1021]: {queue_id}: from=<user{user}@example.org>, size={size}, nrcpt={count} (queue active)",
    )
    yield (
        now + 0.4,
        f"{tag}: disconnect from {client} ehlo=2 starttls=1 auth=1 mail=1 rcpt={count} data=1 quit=1 commands=8",
    )
    yield from _delivered(chance, now + 0.5, queue_id, number, count)


def _delivered(
    chance: random.Random, now: float, queue_id: str, number: int, count: int
) -> Iterator[tuple[float, str]]:
    for recipient in range(count):
        domain = chance.randrange(3000)
        yield (
            now + 0.3,
            f"postfix/smtp[{2200 + number % 50}]: {queue_id}: to=<p{recipient}@d{domain}.example>,"
            f" relay=mx.d{domain}.example[203.0.113.{domain % 251}]:25, delay=0.9, delays=0.2/0/0.3/0.4,"
            f" dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {domain:08X})",
        )
    yield now + 0.4, f"postfix/qmgr[1021]: {queue_id}: removed"


def _received(chance: random.Random, now: float, number: int, users: int) -> Iterator[tuple[float, str]]:
    """Mail from elsewhere, which passes a content filter."""
    queue_id, again = _id(number), _id(number + 300_000_000)
    domain, user, size = chance.randrange(3000), chance.randrange(users), int(chance.lognormvariate(10, 1.5)) + 900
    client = f"mx.domain{domain}.example[203.0.113.{domain % 251}]"
    tag, message_id = f"postfix/smtpd[{1900 + number % 30}]", f"<{number:08x}@domain{domain}.example>"
    sender, recipient = f"person@domain{domain}.example", f"user{user}@example.org"
    yield now, f"{tag}: connect from {client}"
    yield now + 0.2, f"{tag}: {queue_id}: client={client}"
    yield now + 0.3, f"postfix/cleanup[{2100 + number % 9}]: {queue_id}: message-id={message_id}"
    yield now + 0.3, f"postfix/qmgr[1021]: {queue_id}: from=<{sender}>, size={size}, nrcpt=1 (queue active)"
    yield now + 0.3, f"{tag}: disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"
    yield now + 0.4, "postfix/smtpd[1890]: connect from localhost[127.0.0.1]"
    yield now + 0.4, f"postfix/smtpd[1890]: {again}: client=localhost[127.0.0.1]"
    yield now + 0.4, f"postfix/cleanup[2101]: {again}: message-id={message_id}"
    yield now + 0.4, f"postfix/qmgr[1021]: {again}: from=<{sender}>, size={size + 420}, nrcpt=1 (queue active)"
    yield (
        now + 0.4,
        "postfix/smtpd[1890]: disconnect from localhost[127.0.0.1] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5",
    )
    yield (
        now + 0.5,
        f"amavis[880]: (00880-{number % 100:02d}) Passed CLEAN {{RelayedInbound}}, [203.0.113.{domain % 251}] <{sender}> ->"
        f" <{recipient}>, Queue-ID: {queue_id}, Message-ID: {message_id}, mail_id: {number:x}, Hits: -1.9, size: {size}",
    )
    yield (
        now + 0.5,
        f"postfix/smtp[2201]: {queue_id}: to=<{recipient}>, relay=127.0.0.1[127.0.0.1]:10024, delay=0.4, delays=0.1/0/0/0.3,"
        f" dsn=2.0.0, status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as {again})",
    )
    yield now + 0.5, f"postfix/qmgr[1021]: {queue_id}: removed"
    yield (
        now + 0.6,
        f"dovecot: lmtp({recipient})<914><{number:x}>: sieve: msgid={message_id}: stored mail into mailbox 'INBOX'",
    )
    yield (
        now + 0.6,
        f"postfix/lmtp[2250]: {again}: to=<{recipient}>, relay=mx1.example.org[private/dovecot-lmtp], delay=0.1,"
        f" delays=0/0/0/0.1, dsn=2.0.0, status=sent (250 2.0.0 <{recipient}> {number:x} Saved)",
    )
    yield now + 0.6, f"postfix/qmgr[1021]: {again}: removed"


def _local(chance: random.Random, now: float, number: int) -> Iterator[tuple[float, str]]:
    queue_id = _id(number)
    yield now, f"postfix/pickup[1500]: {queue_id}: uid=33 from=<www-data>"
    yield now, f"postfix/cleanup[2102]: {queue_id}: message-id=<20260105060000.{queue_id}@mx1.example.org>"
    yield (
        now,
        f"postfix/qmgr[1021]: {queue_id}: from=<www-data@example.org>, size={chance.randrange(400, 9000)}, nrcpt=1 (queue active)",
    )
    yield from _delivered(chance, now, queue_id, number, 1)


def _refused(chance: random.Random, now: float) -> Iterator[tuple[float, str]]:
    domain = chance.randrange(3000)
    client, tag = f"unknown[192.0.2.{domain % 251}]", f"postfix/smtpd[{1900 + domain % 30}]"
    yield now, f"{tag}: warning: hostname spam{domain}.example does not resolve to address 192.0.2.{domain % 251}"
    yield now, f"{tag}: connect from {client}"
    yield (
        now,
        f"{tag}: NOQUEUE: reject: RCPT from {client}: 554 5.7.1 <nobody@domain{domain}.example>: Relay access denied;"
        f" from=<spam@domain{domain}.example> to=<nobody@domain{domain}.example> proto=ESMTP helo=<spam{domain}.example>",
    )
    yield now, f"{tag}: disconnect from {client} ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4"


def _probed(chance: random.Random, now: float) -> Iterator[tuple[float, str]]:
    """Somebody who looks for an open door, as most who connect to port 25 do."""
    number = chance.randrange(65_536)
    client, tag = f"unknown[192.0.2.{number % 251}]", f"postfix/smtpd[{1900 + number % 30}]"
    yield now, f"{tag}: connect from {client}"
    if number % 2:
        yield now + 0.3, f"{tag}: lost connection after AUTH from {client}"
    yield now + 0.3, f"{tag}: disconnect from {client} ehlo=1 auth=0/1 commands=1/2"


def _read(chance: random.Random, now: float, users: int) -> Iterator[tuple[float, str]]:
    user = chance.randrange(users)
    yield (
        now,
        f"dovecot: imap-login: Login: user=<user{user}@example.org>, method=PLAIN, rip=198.51.{user % 100}.7, lip=192.0.2.25, TLS",
    )
    yield (
        now + 0.5,
        f"dovecot: imap(user{user}@example.org)<91{user}><{user:x}>: Disconnected: Logged out in=214 out=1930 deleted=0",
    )


def main() -> None:
    """Write a log to a file, or to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--form", choices=FORMS, default="syslog")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("file", type=Path, nargs="?")
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    if options.file is None:
        write(sys.stdout.buffer, size, options.form, seed=options.seed, users=options.users)
        return
    with options.file.open("wb") as file:
        count = write(file, size, options.form, seed=options.seed, users=options.users)
    print(f"{options.file}: {count} lines")


if __name__ == "__main__":
    main()
