"""What a mail log tells: mails of the past, and decisions of this daemon."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import final


class Origin(Enum):
    """How a mail came to Postfix, which says whether policy servers were asked about it."""

    SMTP = "smtp"
    """smtpd took it: it asks policy servers."""
    LOCAL = "local"
    """pickup(8) took it, from sendmail(1): nobody is asked."""
    INTERNAL = "internal"
    """Postfix made it: a bounce, a notification, what an alias or .forward of a user sends on. Nobody is asked."""
    REINJECTED = "reinjected"
    """A content filter handed back a mail that had been taken before: the same mail once more."""
    REJECTED = "rejected"
    """A command of its SMTP session was refused: the mail, or one recipient of it."""


@final
@dataclass(slots=True)
class Mail:
    """One mail of the past; with :attr:`Origin.REJECTED`, one command that was refused, such as one RCPT.

    Text that the log does not have is empty. Bytes that are not UTF-8 are surrogates (PEP 383, "surrogateescape").

    ``time``
        Unix seconds of the line at which it was complete: its first ``from=`` of qmgr(8), or the refusal.
    ``began``
        Unix seconds of the line with which it began: ``client=`` of smtpd(8), or that of pickup(8). What began before
        the log does: ``time``.
    ``host``, ``service``
        The host as syslog has it; the name with which smtpd or pickup logs, such as postfix/submission/smtpd. Of what
        Postfix made itself: that of cleanup(8).
    ``queue_id``
        Empty where it had none (``NOQUEUE``).
    ``client_address``, ``client_name``
        As in ``client=name[address]``; the address is empty where Postfix does not know it. Behind a proxy filter
        (``smtpd_proxy_filter``) those of the client that the filter was asked for.
    ``sasl_username``, ``sasl_method``, ``sender``, ``helo_name``
        As logged; the name of HELO or EHLO is logged with refusals only.
    ``size``, ``recipient_count``
        Bytes, and recipients after aliases were expanded by cleanup(8), as qmgr logs them; 0 and 1 of a refused RCPT.
        Of a mail that an action of access(5) has had held: 0, and for how many recipients it has.
    ``recipients``
        As the client named them, as far as deliveries tell (``orig_to``, else ``to``), without repetition, in the order
        of their lines. Empty where nobody wants them. Of a refusal: the one that its line names.
    ``session``
        The number of the SMTP session, which no other one has; 0: the log does not tell. Mails are compared without it.
    ``number``
        Of the line that ``began`` is of, among all of its reading: so lines of one second are in order. Not compared.
    ``stage``
        Of a refusal: where it was refused, in Postfix's words: RCPT, DATA, END-OF-MESSAGE, MAIL, CONNECT. Else empty.
    ``reply``
        Of a refusal: what the client was told, behind the status codes. Else empty.
    """

    time: float
    began: float
    origin: Origin
    host: str
    service: str
    queue_id: str
    client_address: str = ""
    client_name: str = ""
    sasl_username: str = ""
    sasl_method: str = ""
    sender: str = ""
    helo_name: str = ""
    size: int = 0
    recipient_count: int = 0
    recipients: tuple[str, ...] = ()
    stage: str = ""
    reply: str = ""
    session: int = field(default=0, compare=False)
    number: int = field(default=0, compare=False)


@final
@dataclass(slots=True)
class Decided:
    """A line of this daemon about one decision, in either format: docs/logging.md says what each field means.

    ``time``: Unix seconds. What the line leaves out is empty, 0 or False. Values that the daemon cut off end in an
    ellipsis.
    """

    time: float
    host: str
    verdict: str
    rule: str = ""
    kind: str = ""
    id: str = ""
    stage: str = ""
    cost: int = 0
    charged: int = 0
    limit: str = ""
    shadow: bool = False
    queue_id: str = ""
    instance: str = ""
    sasl_username: str = ""
    sender: str = ""
    recipient: str = ""
    client_address: str = ""
    suppressed: int = 0
