"""One mail of the past, with all that is known of it, also of the recipients who were refused then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.domain.request import RCPT

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.mail import Mail

JOIN_SECONDS: Final = 2.0
"""So close after each other come the commands of one mail; for so long a refusal waits for what else belongs to it."""

NO_ADDRESS: Final = "unknown-"
"""What a recipient begins with of whom the log has no address: told apart from all others, in no domain."""


@final
class Past:
    """What Postfix asked, or would have asked, policy servers about.

    ``mail`` has the attributes of its session. ``time``: Unix seconds, when it is rehearsed; of one second those of a
    smaller ``number`` came first. ``recipients``: whose addresses are known, in the order in which the client named
    them, as far as that is known; ``recipient_count``: how many there were in all, at least 1. ``refused``: how many of
    them a rate limit refused then. ``is_accepted``: some passed, as far as limits are concerned: it had its content.
    """

    __slots__ = ("is_accepted", "mail", "number", "recipient_count", "recipients", "refused", "time")

    def __init__(
        self,
        mail: Mail,
        time: float,
        recipients: tuple[str, ...],
        recipient_count: int,
        refused: int = 0,
        number: int = 0,
        *,
        is_accepted: bool = True,
    ) -> None:
        self.mail = mail
        self.time = time
        self.number = number
        self.recipients = recipients
        self.recipient_count = recipient_count
        self.refused = refused
        self.is_accepted = is_accepted


def asked_at(mail: Mail) -> float:
    """About when Postfix asked about ``mail`` (Unix seconds): when it began, unless its content took long."""
    return mail.began if mail.time - mail.began <= JOIN_SECONDS else mail.time


def of_mail(mail: Mail) -> Past:
    """``mail``, which was accepted for all of its recipients."""
    count = mail.recipient_count
    known = mail.recipients
    if count < 1 or len(known) > count:
        count = max(1, len(known))
    return Past(mail, asked_at(mail), known, count, 0, mail.number)


def of_refusals(refusals: list[Mail], accepted: Mail | None = None) -> Past:
    """The mail of which ``refusals`` were some or all recipients; ``accepted``: what of it went on its way.

    ``refusals`` are in the order of time, and not empty. Those without a queue id came before any recipient was
    accepted.
    """
    before = [one for one in refusals if not one.queue_id]
    later = [one for one in refusals if one.queue_id]
    known = [name for one in before for name in one.recipients]
    if accepted is not None:
        known += accepted.recipients
    known += [name for one in later for name in one.recipients if name not in known]
    # At later stages than RCPT whoever was accepted until then is refused: Postfix names one that is alone.
    refused = sum([1 if one.recipients or one.stage == RCPT else 2 for one in refusals])
    count = refused + (max(1, accepted.recipient_count) if accepted is not None else 0)
    mail = accepted if accepted is not None else refusals[-1]
    time = refusals[-1].time if accepted is None else asked_at(accepted)
    count = max(count, len(known))
    return Past(mail, time, tuple(known), count, refused, refusals[0].number, is_accepted=accepted is not None)
