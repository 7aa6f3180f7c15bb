"""One mail about which the daemon was asked, as its own log tells of it, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counting import BYTES, RECIPIENTS
from policyd_rate_limit.domain.decision import REFUSED
from policyd_rate_limit.domain.request import RCPT
from policyd_rate_limit.maillog.mail import Mail, Origin
from policyd_rate_limit.rehearsal.past import Past

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.mail import Decided


class AskedMail:
    """One mail about which the daemon was asked: what its lines say. ``last``: Unix seconds of the last."""

    __slots__ = (
        "count",
        "first",
        "instance",
        "is_given_up",
        "is_refused",
        "is_whole",
        "last",
        "mail",
        "queue_id",
        "recipients",
        "refused",
        "size",
        "turn",
    )

    def __init__(self, instance: str, first: Decided) -> None:
        self.instance = instance
        self.first = first
        self.mail: Mail | None = None  # as Postfix tells of it
        self.turn = first.time
        self.is_given_up = False
        self.last = first.time
        self.queue_id = ""
        self.recipients: dict[str, bool] = {}  # at RCPT: and whether it was refused
        self.count = 0  # at later stages, as far as a rule has counted recipients
        self.size = 0  # as far as a rule has counted bytes
        self.refused = 0  # at later stages
        self.is_refused = False  # as far as is known
        self.is_whole = False  # no more is to come of it

    def add(self, decided: Decided, unit: str) -> None:
        """``decided`` is about it as well, and its cost is in ``unit``."""
        self.last = decided.time
        self.queue_id = decided.queue_id or self.queue_id
        is_refused = decided.verdict == REFUSED
        if unit == BYTES:
            self.size = max(self.size, decided.cost)
        if decided.stage == RCPT:
            self.recipients[decided.recipient] = self.recipients.get(decided.recipient, False) or is_refused
            self.is_refused = all(self.recipients.values())
            return
        if unit == RECIPIENTS:
            self.count = max(self.count, decided.cost)
        if is_refused:
            self.is_refused = self.is_whole = True
            accepted = len(self.recipients) - sum(self.recipients.values())
            # Postfix names who is the only one.
            self.refused = max(1 if decided.recipient else 2, self.count, accepted)

    @property
    def may_be_any(self) -> bool:
        """Whether it may be any mail of its sender: nothing says which one, and some recipient was accepted."""
        return self.mail is None and not self.queue_id and not self.is_refused

    @property
    def is_over(self) -> bool:
        """Whether all is known of it that will be, once nothing has come for a while."""
        return self.mail is not None or self.is_refused or self.is_given_up

    def past(self, time: float, refused: int) -> Past:
        """The mail, which has its turn at ``time``. ``refused``: so many recipients at the least, as Postfix says."""
        at_rcpt = sum(self.recipients.values())
        if refused:
            self.refused = max(self.refused, refused - at_rcpt)
        count = max(len(self.recipients), self.count + at_rcpt, self.refused + at_rcpt, 1)
        first = self.first
        mail = self.mail
        if mail is not None:
            if not self.recipients:
                count = max(count, mail.recipient_count)
        else:
            mail = Mail(
                self.last,
                first.time,
                Origin.SMTP,
                first.host,
                "",
                self.queue_id,
                client_address=first.client_address,
                sasl_username=first.sasl_username,
                sender=first.sender,
                size=self.size,
            )
        return Past(mail, time, tuple(self.recipients), count, at_rcpt + self.refused)
