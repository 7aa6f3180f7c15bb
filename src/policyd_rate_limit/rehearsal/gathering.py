"""Puts together what a log tells of one mail in several lines: recipients who were refused, and those who were not.

Where a mail had a queue id when a recipient was refused, that says which one it was. Before, refusals of one session
and sender within :data:`JOIN_SECONDS`, each of another recipient, are taken for one mail: two mails that a client sends
so close after each other in one session, and all of whose recipients are refused, may count as one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.maillog.mail import Mail, Origin
from policyd_rate_limit.rehearsal.past import Past, of_mail, of_refusals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policyd_rate_limit.rehearsal.figures import Figures
    from policyd_rate_limit.rehearsal.replies import Replies

JOIN_SECONDS: Final = 2.0
"""So close after each other come the commands of one mail; for so long a refusal waits for what else belongs to it."""

WAIT_SECONDS: Final = 600.0
"""For so long the refusals of some recipients wait until the mail to the others is complete: twice smtpd_timeout."""

MOST_WAITING: Final = 20_000
"""The most mails that wait for more of them; the oldest goes first."""

_AFTER_RECIPIENTS: Final = (DATA, END_OF_MESSAGE)

_Session = tuple[str, int, str, str, str]
_NO_SESSION: Final = ("", 0, "", "", "")


class _Waiting:
    """A mail of which more may come. ``last``: the time (Unix seconds) of what came last of it."""

    __slots__ = ("is_joined", "last", "past", "refusals", "session")

    def __init__(self, session: _Session, time: float) -> None:
        self.session = session
        self.last = time
        self.refusals: list[Mail] = []
        self.past: Past | None = None  # it is complete
        self.is_joined = False  # to another one


class Gathering:
    """Makes mails of the past of what a log holds: those that a rate limit refused are told by ``replies``.

    ``figures`` count what is left out.
    """

    def __init__(self, replies: Replies, figures: Figures) -> None:
        self._replies = replies
        self._figures = figures
        self._line: deque[_Waiting] = deque()  # in the order of time; only while somebody waits at its head
        self._by_session: dict[_Session, _Waiting] = {}
        self._by_queue_id: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()

    def gather(self, items: Iterable[Mail | Past]) -> Iterator[Past]:
        """The mails of ``items``, which are in the order of time, in that order.

        A mail about which nobody asks, or that was refused for another reason, is counted and left out.
        """
        for item in items:
            if isinstance(item, Past):
                past: Past | None = item
            elif item.origin is Origin.SMTP:
                past = self._accepted(item) if self._by_session or self._by_queue_id else of_mail(item)
            elif item.origin is Origin.REJECTED:
                past = self._refused(item)
            else:
                self._figures.nobody_asks += 1
                continue
            if not self._line and not self._by_queue_id:
                if past is not None:
                    yield past
                continue
            yield from self._in_turn(item.time, past)
        for waiting in self._by_queue_id.values():
            self._end(waiting)
        while self._line:
            found = self._complete(self._line.popleft())
            if found is not None:
                yield found

    def _in_turn(self, now: float, past: Past | None) -> Iterator[Past]:
        """What has its turn ``now``; ``past`` comes behind all that waits."""
        while self._by_queue_id:
            waiting = next(iter(self._by_queue_id.values()))
            if now - waiting.last <= WAIT_SECONDS and len(self._by_queue_id) <= MOST_WAITING:
                break
            self._by_queue_id.popitem(last=False)
            self._end(waiting)
        if past is not None:
            behind = _Waiting(_NO_SESSION, now)
            behind.past = past
            self._line.append(behind)
        while self._line:
            first = self._line[0]
            if (
                first.past is None
                and not first.is_joined
                and now - first.last <= JOIN_SECONDS
                and len(self._line) <= MOST_WAITING
            ):
                break
            found = self._complete(self._line.popleft())
            if found is not None:
                yield found

    def _accepted(self, mail: Mail) -> Past:
        """``mail``, with the refusals that belong to it."""
        refusals: list[Mail] = []
        before = self._by_session.get(_session(mail))
        if before is not None and self._belongs(before, mail.began, mail.recipients):
            refusals += self._joined(before)
        waiting = self._by_queue_id.pop((mail.host, mail.queue_id), None)
        if waiting is not None:
            refusals += waiting.refusals
        return of_refusals(refusals, mail) if refusals else of_mail(mail)

    def _refused(self, mail: Mail) -> Past | None:
        """Have the refusal wait for what belongs to it; what is complete with it."""
        if not self._replies.match(mail.reply):
            self._figures.refused_otherwise += 1
            return None
        if mail.stage != RCPT and mail.stage not in _AFTER_RECIPIENTS:
            self._figures.refused_elsewhere += 1
            return None
        session = _session(mail)
        if not mail.queue_id:
            before = self._by_session.get(session)
            if before is None or not self._belongs(before, mail.time, mail.recipients):
                before = self._by_session[session] = _Waiting(session, mail.time)
                self._line.append(before)
            before.refusals.append(mail)
            before.last = mail.time
            return None
        place = (mail.host, mail.queue_id)
        waiting = self._by_queue_id.pop(place, None)
        if waiting is None:
            waiting = _Waiting(session, mail.time)
            before = self._by_session.get(session)
            if before is not None and self._belongs(before, mail.time, mail.recipients):
                waiting.refusals += self._joined(before)
        waiting.refusals.append(mail)
        waiting.last = mail.time
        if mail.stage in _AFTER_RECIPIENTS:
            return of_refusals(waiting.refusals)
        self._by_queue_id[place] = waiting
        return None

    def _belongs(self, before: _Waiting, time: float, recipients: tuple[str, ...]) -> bool:
        """Whether what came at ``time`` goes on with the mail ``before``: a client names no recipient twice."""
        if time - before.last > JOIN_SECONDS:
            return False
        named = {name for one in before.refusals for name in one.recipients}
        return named.isdisjoint(recipients)

    def _joined(self, before: _Waiting) -> list[Mail]:
        """The refusals of ``before``, which are part of another mail from now on."""
        before.is_joined = True
        del self._by_session[before.session]
        return before.refusals

    def _end(self, waiting: _Waiting) -> None:
        """Nothing more comes of it: it has its turn behind all others."""
        waiting.past = of_refusals(waiting.refusals)
        self._line.append(waiting)

    def _complete(self, waiting: _Waiting) -> Past | None:
        if waiting.past is not None or waiting.is_joined:
            return waiting.past
        if self._by_session.get(waiting.session) is waiting:
            del self._by_session[waiting.session]
        return of_refusals(waiting.refusals)


def _session(mail: Mail) -> _Session:
    return (mail.host, mail.session, mail.client_address, mail.sasl_username, mail.sender)
