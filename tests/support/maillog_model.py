"""A random traffic of mails, and the logs that a Postfix would write of it, in every form of line."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.maillog.mail import Mail, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STARTS = datetime(2026, 11, 28, 11, 59, 0, tzinfo=UTC).timestamp()


class Line(NamedTuple):
    """What is in a log: Unix seconds, host, tag with process, message."""

    time: float
    host: str
    tag: str
    message: str


def line_of(text: str) -> Line:
    """What a line of ``maillog_file`` tells; what year and zone it was is of no interest here."""
    host, tag_and_message = text[16:].split(" ", 1)
    tag, message = tag_and_message.split(": ", 1)
    moment = datetime.strptime(f"2026 {text[:15]}", "%Y %b %d %H:%M:%S").replace(tzinfo=UTC)
    return Line(moment.timestamp(), host, tag, message)


class Traffic(NamedTuple):
    """The lines of a traffic, in their order, and the mails that a reader is to find, with their recipients."""

    lines: list[Line]
    mails: list[Mail]
    unfinished: int


def traffic(seed: int, count: int, *, host: str = "mx", is_exact: bool = False) -> Traffic:
    """``count`` mails of all kinds. ``is_exact``: their times have microseconds."""
    chance = random.Random(seed)
    lines: list[Line] = []
    mails: list[tuple[float, int, Mail]] = []

    def say(time: float, tag: str, message: str, mail: Mail | None = None) -> None:
        """A line; ``mail``: that it completes."""
        if mail is not None:
            mails.append((time, len(lines), mail))
        lines.append(Line(time, host, f"{tag}[{chance.randrange(1, 99)}]", message))

    now = STARTS
    unfinished = 0
    for number in range(count):
        now += chance.choice((0, 0, 1, 2, 30)) + (chance.randrange(64) / 64 if is_exact else 0)
        queue_id = f"4F1{chance.randrange(16**7):07X}" if chance.random() < 0.5 else f"4g{number:06d}zz1Yk"
        unfinished += not _one(chance, say, host, now, queue_id, number)
    return Traffic(
        sorted(lines, key=lambda line: line.time), [mail for _, _, mail in sorted(mails, key=_order)], unfinished
    )


def _order(completed: tuple[float, int, Mail]) -> tuple[float, int]:
    return completed[:2]


def _one(
    chance: random.Random,
    say: Callable[..., None],
    host: str,
    now: float,
    queue_id: str,
    number: int,
) -> bool:
    """One mail; whether it comes to an end."""
    sender = chance.choice(("", f"a{number}@example.org", f'"a b{number}"@example.org', f"ä{number}@example.org"))
    recipients = tuple(f"r{number}.{index}@example.net" for index in range(chance.randrange(1, 4)))
    later = now + chance.randrange(3)
    mail = Mail(
        later,
        now,
        Origin.SMTP,
        host,
        "postfix/smtpd",
        queue_id,
        f"192.0.2.{number % 250}",
        "client.example",
        sender=sender,
        size=chance.randrange(1, 10**7),
        recipient_count=len(recipients),
        recipients=recipients,
    )
    kind = chance.randrange(6)
    if kind == 0:
        mail = replace(mail, service="postfix/submission/smtpd", sasl_username=f"u{number}", sasl_method="PLAIN")
    elif kind == 1:
        mail = replace(mail, origin=Origin.LOCAL, service="postfix/pickup", client_address="", client_name="")
    elif kind == 2:
        mail = replace(mail, origin=Origin.INTERNAL, service="postfix/cleanup", client_address="", client_name="")
    elif kind == 3:
        reply = f"<{recipients[0]}>: Recipient address rejected: no; really"
        say(
            later,
            "postfix/smtpd",
            f"NOQUEUE: reject: RCPT from client.example[192.0.2.{number % 250}]: 450 4.7.1 {reply}; from=<{sender}>"
            f" to=<{recipients[0]}> proto=ESMTP helo=<h{number}>",
            replace(
                mail,
                began=later,
                origin=Origin.REJECTED,
                queue_id="",
                helo_name=f"h{number}",
                size=0,
                recipient_count=1,
                recipients=recipients[:1],
                stage="RCPT",
                reply=reply,
            ),
        )
        return True
    client = f"client=client.example[192.0.2.{number % 250}]"
    if mail.origin is Origin.LOCAL:
        say(now, "postfix/pickup", f"{queue_id}: uid=1000 from=<{sender}>")
    elif mail.origin is Origin.SMTP:
        say(now, mail.service, f"connect from client.example[192.0.2.{number % 250}]")
        sasl = f", sasl_method=PLAIN, sasl_username=u{number}" if mail.sasl_username else ""
        say(now, mail.service, f"{queue_id}: {client}{sasl}")
    if kind == 5:  # the client goes away
        say(later, mail.service, "lost connection after RCPT from client.example[192.0.2.1]")
        return False
    say(now, "postfix/cleanup", f"{queue_id}: message-id=<{number}@client.example>")
    say(later, "dovecot", f"imap(u{number}): {queue_id}: from=<x>, size=1, nrcpt=1 (queue active)")
    from_line = f"{queue_id}: from=<{sender}>, size={mail.size}, nrcpt={len(recipients)} (queue active)"
    say(later, "postfix/qmgr", from_line, mail)
    for recipient in recipients:
        say(later + 1, "postfix/smtp", f"{queue_id}: to=<{recipient}>, relay=mx.example.net[198.51.100.1]:25, delay=1")
    if chance.random() < 0.3:
        say(later + 2, "postfix/qmgr", from_line)
    say(later + 3, "postfix/qmgr", f"{queue_id}: removed")
    return True


def _line(line: Line, date: str) -> bytes:
    return f"{date} {line.host} {line.tag}: {line.message}\n".encode()


def _date(line: Line, form: str) -> str:
    return datetime.fromtimestamp(line.time, UTC).strftime(form)


def syslog(line: Line) -> bytes:
    return _line(line, _date(line, "%b %e %H:%M:%S"))


def syslog_with_priority(line: Line) -> bytes:
    return b"<22>" + syslog(line)


def syslog_with_year(line: Line) -> bytes:
    return _line(line, _date(line, "%Y %b %e %H:%M:%S"))


def short_precise(line: Line) -> bytes:
    return _line(line, _date(line, "%b %d %H:%M:%S.%f"))


def short_full(line: Line) -> bytes:
    return _line(line, _date(line, "%a %Y-%m-%d %H:%M:%S UTC"))


def short_iso(line: Line) -> bytes:
    return _line(line, _date(line, "%Y-%m-%dT%H:%M:%S+0000"))


def rfc3339(line: Line) -> bytes:
    return _line(line, _date(line, "%Y-%m-%dT%H:%M:%S.%f+00:00"))


def rfc5424(line: Line) -> bytes:
    tag, _, process = line.tag.rstrip("]").partition("[")
    date = _date(line, "%Y-%m-%dT%H:%M:%S.%fZ")
    return f'<22>1 {date} {line.host} {tag} {process} - [x@1 a="] \\" b"] \ufeff{line.message}\n'.encode()


def journal_json(line: Line) -> bytes:
    message: str | list[int] = line.message
    if not line.message.isascii():  # as journalctl does where it is not UTF-8
        message = list(line.message.encode())
    return json.dumps(_fields(line, message)).encode() + b"\n"


def _fields(line: Line, message: object) -> dict[str, object]:
    return {
        "__CURSOR": "s=1",
        "__REALTIME_TIMESTAMP": str(round(line.time * 1e6)),
        "_HOSTNAME": line.host,
        "SYSLOG_IDENTIFIER": line.tag.partition("[")[0],
        "SYSLOG_PID": line.tag.partition("[")[2].rstrip("]"),
        "MESSAGE": message,
        "PRIORITY": "6",
    }


def journal_export(line: Line) -> bytes:
    data = b"".join(
        f"{key}={value}\n".encode() for key, value in _fields(line, line.message).items() if key != "MESSAGE"
    )
    message = line.message.encode()
    if line.message.isascii():
        return data + b"MESSAGE=" + message + b"\n\n"
    return data + b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n\n"


FORMS = (
    *(syslog, syslog_with_priority, syslog_with_year, short_full, short_iso),
    *(short_precise, rfc3339, rfc5424, journal_json, journal_export),
)
EXACT_FORMS = FORMS[5:]


def render(lines: Sequence[Line], form: Callable[[Line], bytes]) -> bytes:
    """A log of ``lines``, each in ``form``."""
    return b"".join(form(line) for line in lines)
