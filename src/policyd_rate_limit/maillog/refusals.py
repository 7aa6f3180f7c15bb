"""Reads the lines with which smtpd(8) and cleanup(8) tell that they refused a command, or a whole mail.

    ID: reject: RCPT from NAME[ADDRESS]: 450 4.7.1 <RCPT>: Recipient address rejected: TEXT; from=<..> to=<..>
    proto=ESMTP helo=<..> sasl_username=<..>

``log_whatsup()`` of Postfix's smtpd_check.c writes it; each of the last five may be missing, newer versions may have
more. So does ``milter-reject``, of smtpd or of cleanup, and ``proxy-reject``. header_checks(5) and body_checks(5) have
the text at the end.

Clients choose much of such a line, and Postfix quotes addresses. The first place behind which all is well-formed is
where the text ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.maillog.clients import known_address
from policyd_rate_limit.maillog.mail import Mail, Origin

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.open_mails import OpenMail
    from policyd_rate_limit.maillog.programs import Program

_ADDRESS: Final = rb'(?:"(?:[^"\\]|\\.)*"(?:@[^<>"\s]*)?|[^<>"]*)'
_HEAD: Final = re.compile(
    rb"([A-Z][A-Z-]*) from ([^\[\s]*)\[([^\]]*)\](?::\w+)?: (?:\d{3} )?(?:\d\.\d{1,3}\.\d{1,3} )?"
)
_BEGIN: Final = re.compile(rb"; (?:from=<|to=<|proto=)")
_FIELDS: Final = (
    rb"; (?:from=<(%(address)s)> ?)?(?:to=<(%(address)s)> ?)?(?:proto=[A-Z]+ ?)?"
    rb"(?:helo=<([^<>]*)> ?)?(?:sasl_username=<([^<>]*)> ?)?(?:[a-z_]+=<[^<>]*> ?)*" % {b"address": _ADDRESS}
)
_TAIL: Final = re.compile(_FIELDS)
_CONTENT: Final = re.compile(rb" from ([^\[\s]*)\[([^\]]*)\](?::\w+)?$")
_STATUS: Final = re.compile(rb"^\d\.\d{1,3}\.\d{1,3} ")
_CLOSING: Final = re.compile(rb">(?= [a-z_]+=|$)")
_REPEATED: Final = re.compile(rb"message repeated (\d{1,9}) times: \[ ?(.*?)\]?")
_BEGIN_OF_REFUSAL: Final = rb"([0-9A-Za-z]+): (?:milter-|proxy-)?reject: "
_ID: Final = re.compile(_BEGIN_OF_REFUSAL)
# Nearly all are so: what follows the first place where the text may end is well-formed.
_USUAL: Final = re.compile(
    _BEGIN_OF_REFUSAL + _HEAD.pattern + rb"([^;]*(?:;(?! from=<| to=<| proto=)[^;]*)*)" + _FIELDS
)
_HELD: Final = re.compile(rb"([0-9A-Za-z]+): hold: ")

END_OF_MESSAGE: Final = "END-OF-MESSAGE"
MOST_REPEATED: Final = 100_000
"""Refusals for which one line of rsyslog may stand."""


class Refusal(NamedTuple):
    """What such a line tells; ``times``: for how many it stands. ``queue_id`` is empty for NOQUEUE."""

    queue_id: bytes
    stage: str
    client_name: str
    client_address: str
    reply: str
    sender: str
    recipient: str
    helo_name: str
    sasl_username: str
    times: int


def holding(message: bytes) -> Refusal | None:
    """What ``message`` tells of a mail that an action of access(5), HOLD, has wait; None: nothing.

    The line is that of a refusal but for a word: ``ID: hold: RCPT from NAME[ADDRESS]: <RCPT>: TEXT; from=<..> ..``.
    """
    begin = _HELD.match(message)
    head = _HEAD.match(message, begin.end()) if begin is not None else None
    if begin is None or head is None:
        return None
    return _told(message, b"" if begin.group(1) == b"NOQUEUE" else begin.group(1), head, 1)


def refusal(message: bytes) -> Refusal | None:
    """What ``message`` tells of a refusal; None: nothing."""
    times = 1
    if message.startswith(b"message repeated "):  # $RepeatedMsgReduction of rsyslog
        repeated = _REPEATED.fullmatch(message)
        if repeated is None:
            return None
        times, message = min(int(repeated.group(1)), MOST_REPEATED), repeated.group(2)
    usual = _USUAL.fullmatch(message)
    if usual is not None:
        queue_id, stage, name, address, reply, sender, recipient, helo_name, sasl_username = usual.groups()
        return Refusal(
            b"" if queue_id == b"NOQUEUE" else queue_id,
            _text(stage),
            _text(name),
            known_address(address),
            _text(reply),
            _text(sender or b""),
            _text(recipient or b""),
            _text(helo_name or b""),
            _text(sasl_username or b""),
            times,
        )
    return _unusual(message, times)


def refused_mail(told: Refusal, mail: OpenMail | None, program: Program, time: float, number: int) -> Mail:
    """What ``program`` has ``told`` at ``time`` (Unix seconds), of the whole ``mail`` or of a recipient.

    None: there is no file of it yet, or none that is known. ``number``: of the line. Whose it was says the line, in
    newer versions, or another one of the mail, or of its session.
    """
    is_one = told.recipient != "" and told.stage != END_OF_MESSAGE
    user, method = ("", "") if mail is None else (mail.sasl_username, mail.sasl_method)
    if not told.queue_id:
        user, method = program.sasl_username, program.sasl_method
    return Mail(
        time,
        time if mail is None else mail.began,
        Origin.REJECTED,
        program.host,
        program.service,
        told.queue_id.decode(),
        told.client_address,
        told.client_name,
        told.sasl_username or user,
        method,
        told.sender,
        told.helo_name,
        0,
        1 if is_one else 0,
        (told.recipient,) if told.recipient else (),
        told.stage,
        told.reply,
        program.session,
        number,
    )


def _unusual(message: bytes, times: int) -> Refusal | None:
    begin = _ID.match(message)
    if begin is None:
        return None
    queue_id = b"" if begin.group(1) == b"NOQUEUE" else begin.group(1)
    head = _HEAD.match(message, begin.end())
    if head is None:
        return _of_content(message[begin.end() :], queue_id)
    return _told(message, queue_id, head, times)


def _told(message: bytes, queue_id: bytes, head: re.Match[bytes], times: int) -> Refusal:
    stage, name, address = head.groups()
    end, sender, recipient, helo_name, sasl_username = _tail(message, head.end())
    return Refusal(
        queue_id,
        _text(stage),
        _text(name),
        known_address(address),
        _text(message[head.end() : end]),
        sender,
        recipient,
        helo_name,
        sasl_username,
        times,
    )


def _of_content(message: bytes, queue_id: bytes) -> Refusal | None:
    """Of header_checks(5) or body_checks(5): the line of the mail, whence it came, the usual fields, and the text."""
    begin = message.rfind(b"; from=<")
    end = message.rfind(b">: ")
    found = _CONTENT.search(message[:begin]) if 0 < begin < end else None
    if found is None:
        return None
    _, sender, recipient, helo_name, sasl_username = _tail(message[begin : end + 1], 0)
    text = _STATUS.sub(b"", message[end + 3 :])
    return Refusal(
        queue_id,
        END_OF_MESSAGE,
        _text(found.group(1)),
        known_address(found.group(2)),
        _text(text),
        sender,
        recipient,
        helo_name,
        sasl_username,
        1,
    )


def _tail(message: bytes, start: int) -> tuple[int, str, str, str, str]:
    """Where the text ends that begins at ``start``; sender, recipient, name of HELO and SASL user behind it."""
    begins = [found.start() for found in _BEGIN.finditer(message, start)]
    for begin in begins:
        tail = _TAIL.fullmatch(message, begin)
        if tail is not None:
            sender, recipient, helo_name, sasl_username = (_text(group or b"") for group in tail.groups())
            return begin, sender, recipient, helo_name, sasl_username
    if not begins:
        return len(message.rstrip(b";")), "", "", "", ""
    # With info_log_address_format = internal nothing is quoted.
    begin = begins[-1]
    return (
        begin,
        _between(message, b" from=<", begin),
        _between(message, b" to=<", begin),
        _between(message, b" helo=<", begin),
        _between(message, b" sasl_username=<", begin),
    )


def _between(message: bytes, opening: bytes, start: int) -> str:
    at = message.find(opening, start)
    if at < 0:
        return ""
    at += len(opening)
    found = _CLOSING.search(message, at)
    return _text(message[at : found.start()]) if found is not None else ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
