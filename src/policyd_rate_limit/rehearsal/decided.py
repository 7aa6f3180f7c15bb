"""Mails as the daemon's own decisions tell them, where it has logged each request (setting ``debug``).

That is more than Postfix logs: all recipients, also those that were refused, in their order, and how many a mail had at
DATA. Postfix's line about the same mail adds its size, and says when it was complete.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import BYTES, RECIPIENTS
from policyd_rate_limit.domain.decision import (
    ADMITTED,
    AWAY,
    FULL,
    MARKED,
    NONE,
    NOT_COUNTED,
    NOT_LIMITED,
    REFUSED,
    WOULD_REFUSE,
)
from policyd_rate_limit.domain.request import RCPT
from policyd_rate_limit.maillog.mail import Decided, Mail, Origin
from policyd_rate_limit.rehearsal.gathering import JOIN_SECONDS, MOST_WAITING, WAIT_SECONDS
from policyd_rate_limit.rehearsal.past import Past

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from policyd_rate_limit.rehearsal.figures import Figures
    from policyd_rate_limit.rehearsal.replies import Replies

_OF_REQUESTS: Final = frozenset({ADMITTED, AWAY, FULL, MARKED, NONE, NOT_COUNTED, NOT_LIMITED, REFUSED, WOULD_REFUSE})
_OF_DEBUG: Final = frozenset({ADMITTED, NOT_COUNTED, NOT_LIMITED})
"""Verdicts that are logged only where each decision is."""

_Sender = tuple[str, str, str]


class _Asked:
    """One mail about which the daemon was asked: what its lines say. ``last``: Unix seconds of the last."""

    __slots__ = ("count", "first", "is_refused", "is_whole", "last", "queue_id", "recipients", "refused", "size")

    def __init__(self, first: Decided) -> None:
        self.first = first
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
            self.refused = max(1, self.count, accepted)

    def past(self, accepted: Mail | None) -> Past:
        """The mail; ``accepted``: Postfix's line about it; None: it was refused, or never came to its end."""
        at_rcpt = sum(self.recipients.values())
        count = max(len(self.recipients), self.count + at_rcpt, 1)
        first = self.first
        if accepted is not None:
            mail = accepted
            if not self.recipients:
                count = max(count, accepted.recipient_count)
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
        return Past(mail, mail.time, tuple(self.recipients), count, at_rcpt + self.refused)


class _Waiting:
    """The mails that may go on, by instance, in the order of their last lines; and by what Postfix says of them."""

    def __init__(self) -> None:
        self.asked: OrderedDict[str, _Asked] = OrderedDict()
        self._by_queue_id: dict[str, str] = {}
        self._by_sender: dict[_Sender, dict[str, None]] = {}

    def heed(self, instance: str, asked: _Asked) -> None:
        """``asked`` has a new last line."""
        self.asked[instance] = asked
        self.asked.move_to_end(instance)
        if asked.queue_id:
            self._by_queue_id[asked.queue_id] = instance
        self._by_sender.setdefault(_sender_of(asked.first), {})[instance] = None

    def of(self, mail: Mail) -> str | None:
        """Under which instance the daemon was asked about ``mail``.

        It may have been asked before there was a queue id: then the same client, user and sender say it.
        """
        found = self._by_queue_id.get(mail.queue_id)
        if found is not None:
            return found
        candidates = self._by_sender.get(_sender_of(mail), ())
        return next((one for one in candidates if not (self.asked[one].is_refused or self.asked[one].queue_id)), None)

    def pop(self, instance: str) -> _Asked:
        """It waits no longer."""
        asked = self.asked.pop(instance)
        if self._by_queue_id.get(asked.queue_id) == instance:
            del self._by_queue_id[asked.queue_id]
        same = self._by_sender[_sender_of(asked.first)]
        del same[instance]
        if not same:
            del self._by_sender[_sender_of(asked.first)]
        return asked


class DecidedMails:
    """Makes mails of decisions, and leaves out what Postfix says of the same mails.

    ``units``: what each rule counts, by its name. ``figures`` count what is left out.
    """

    def __init__(self, units: Mapping[str, str], replies: Replies, figures: Figures) -> None:
        self._units = units
        self._replies = replies
        self._figures = figures
        self._last_of_debug = float("-inf")  # Unix seconds of the last line that there is only with debug
        self._hosts: set[str] = set()  # that run a Postfix which asks the daemon
        self._going_on = _Waiting()
        self._refused = _Waiting()  # all recipients until now

    def told(self, items: Iterable[Mail | Decided]) -> Iterator[Mail | Past]:
        """The mails of ``items``, in the order of time."""
        for item in items:
            if isinstance(item, Decided):
                whole = self._heed(item)
                if whole is not None:
                    yield whole
            elif not self._logs_all(item.time) or item.origin not in (Origin.SMTP, Origin.REJECTED):
                yield item
            elif item.origin is Origin.SMTP:
                yield from self._of_postfix(item)
            elif not self._replies.match(item.reply) or (self._hosts and item.host not in self._hosts):
                yield item  # of another daemon; of this one the decision tells it
            yield from self._over(self._refused, item.time - JOIN_SECONDS)
            yield from self._over(self._going_on, item.time - WAIT_SECONDS)
        yield from self._over(self._refused, float("inf"))
        yield from self._over(self._going_on, float("inf"))

    def _logs_all(self, now: float) -> bool:
        return now - self._last_of_debug <= WAIT_SECONDS

    def _heed(self, decided: Decided) -> Past | None:
        """Note what ``decided`` says; the mail, where no more is to come of it."""
        if decided.verdict in _OF_DEBUG:
            self._last_of_debug = decided.time
        if decided.verdict not in _OF_REQUESTS or not decided.instance or not self._logs_all(decided.time):
            return None
        instance = f"{decided.host} {decided.instance}"
        before = next((one for one in (self._going_on, self._refused) if instance in one.asked), None)
        asked = _Asked(decided) if before is None else before.pop(instance)
        asked.add(decided, self._units.get(decided.rule or DEFAULT, ""))
        if asked.is_whole:
            return self._known(asked, None)
        (self._refused if asked.is_refused else self._going_on).heed(instance, asked)
        return None

    def _of_postfix(self, mail: Mail) -> Iterator[Mail | Past]:
        instance = self._going_on.of(mail)
        if instance is not None:
            self._hosts.add(mail.host)
            yield self._known(self._going_on.pop(instance), mail)
        elif mail.host in self._hosts:
            self._figures.not_asked += 1
        else:
            yield mail

    def _over(self, waiting: _Waiting, since: float) -> Iterator[Past]:
        """The mails of which nothing has come ``since`` then (Unix seconds)."""
        while waiting.asked:
            instance, asked = next(iter(waiting.asked.items()))
            if asked.last >= since and len(waiting.asked) <= MOST_WAITING:
                break
            yield self._known(waiting.pop(instance), None)

    def _known(self, asked: _Asked, mail: Mail | None) -> Past:
        self._figures.known_from_decisions += 1
        return asked.past(mail)


def _sender_of(one: Mail | Decided) -> _Sender:
    return (one.client_address, one.sasl_username, one.sender)
