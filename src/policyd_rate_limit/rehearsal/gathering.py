"""Puts together what a log tells of one mail in several lines: recipients who were refused, and those who were not.

Where a mail had a queue id when a recipient was refused, that says which one it was. Before, refusals of one session
and sender within :data:`JOIN_SECONDS`, each of another recipient, are taken for one mail: two mails that a client sends
so close after each other in one session, and all of whose recipients are refused, may count as one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.maillog.mail import Decided, Mail, Origin
from policyd_rate_limit.rehearsal.past import JOIN_SECONDS, Past, of_mail, of_refusals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policyd_rate_limit.rehearsal.figures import Figures
    from policyd_rate_limit.rehearsal.replies import Replies
    from policyd_rate_limit.rehearsal.users import Users

WAIT_SECONDS: Final = 600.0
"""For so long the refusals of some recipients wait until the mail to the others is complete: twice smtpd_timeout."""

MOST_WAITING: Final = 20_000
"""The most mails that wait for more of them; the oldest goes first."""

_AFTER_RECIPIENTS: Final = (DATA, END_OF_MESSAGE)

_Session = tuple[str, int, str, str, str]


class Gathering:
    """Makes mails of the past of what a log holds: those that a rate limit refused are told by ``replies``.

    ``users`` know whose it was. ``figures`` count what is left out.
    """

    def __init__(self, replies: Replies, users: Users, figures: Figures) -> None:
        self._users = users
        self._replies = replies
        self._figures = figures
        # Refusals that wait for more of their mail, those first that have waited longest.
        self._by_session: OrderedDict[_Session, list[Mail]] = OrderedDict()
        self._by_queue_id: OrderedDict[tuple[str, str], list[Mail]] = OrderedDict()

    def gather(self, items: Iterable[Mail | Decided]) -> Iterator[Past | Decided]:
        """The mails of ``items``, which are in the order of time, each once it is complete; decisions as they are.

        A mail is complete at most :data:`JOIN_SECONDS` after its time. One about which nobody asks, or that was refused
        for another reason than a rate limit or its content, is counted and left out.
        """
        by_session, by_queue_id = self._by_session, self._by_queue_id
        for item in items:
            if by_session:
                yield from self._over(item.time - JOIN_SECONDS, MOST_WAITING)
            if by_queue_id:
                yield from self._given_up(item.time - WAIT_SECONDS, MOST_WAITING)
            if isinstance(item, Decided):
                yield item
            elif item.origin is Origin.SMTP:
                self._users.note(item)
                yield self._accepted(item) if by_session or by_queue_id else of_mail(item)
            elif item.origin is Origin.REJECTED:
                refused = self._refused(item)
                if refused is not None:
                    yield refused
            else:
                self._figures.nobody_asks += 1
        yield from self._over(float("inf"), 0)
        yield from self._given_up(float("inf"), 0)

    def _over(self, since: float, most: int) -> Iterator[Past]:
        """The mails of which nothing has come ``since`` then (Unix seconds), and beyond so many the oldest."""
        waiting = self._by_session
        while waiting:
            session, refusals = next(iter(waiting.items()))
            if refusals[-1].time >= since and len(waiting) <= most:
                break
            del waiting[session]
            yield of_refusals(refusals)

    def _given_up(self, since: float, most: int) -> Iterator[Past]:
        """The mails that never came to their end, likewise."""
        waiting = self._by_queue_id
        while waiting:
            place, refusals = next(iter(waiting.items()))
            if refusals[-1].time >= since and len(waiting) <= most:
                break
            del waiting[place]
            yield of_refusals(refusals)

    def _accepted(self, mail: Mail) -> Past:
        """``mail``, with the refusals that belong to it."""
        refusals = self._before(mail, mail.began)
        waiting = self._by_queue_id.pop((mail.host, mail.queue_id), None)
        if waiting is not None:
            refusals += waiting
        return of_refusals(refusals, mail) if refusals else of_mail(mail)

    def _refused(self, mail: Mail) -> Past | None:
        """Have the refusal wait for what belongs to it; what is complete with it."""
        if not self._replies.match(mail.reply):
            if mail.stage == END_OF_MESSAGE and mail.queue_id:
                # Policy servers were asked before: whoever refused the content has seen it whole.
                self._figures.refused_for_content += 1
                return self._accepted(self._with_user(mail))
            self._figures.refused_otherwise += 1
            return None
        if mail.stage != RCPT and mail.stage not in _AFTER_RECIPIENTS:
            self._figures.refused_elsewhere += 1
            return None
        mail = self._with_user(mail)
        refusals = self._before(mail, mail.time)
        if not mail.queue_id:
            session = _session(mail, mail.sasl_username)
            interrupted = self._by_session.pop(session, None)
            self._by_session[session] = [*refusals, mail]
            return None if interrupted is None else of_refusals(interrupted)
        place = (mail.host, mail.queue_id)
        refusals = [*self._by_queue_id.pop(place, refusals), mail]
        if mail.stage in _AFTER_RECIPIENTS:
            return of_refusals(refusals)
        self._by_queue_id[place] = refusals
        return None

    def _with_user(self, mail: Mail) -> Mail:
        """``mail`` with the user whose it was, as far as that is known."""
        user = self._users.of(mail)
        if user.name == mail.sasl_username:
            return mail
        return replace(mail, sasl_username=user.name, sasl_method=user.method)

    def _before(self, mail: Mail, time: float) -> list[Mail]:
        """The refusals without a queue id that belong to ``mail``, which goes on at ``time``; they wait no longer.

        Whose they were may not have been known. A client names no recipient twice.
        """
        for user in (mail.sasl_username, ""):
            session = _session(mail, user)
            refusals = self._by_session.get(session)
            if refusals is not None and time - refusals[-1].time <= JOIN_SECONDS:
                named = {name for one in refusals for name in one.recipients}
                if named.isdisjoint(mail.recipients):
                    del self._by_session[session]
                    return refusals
        return []


def _session(mail: Mail, user: str) -> _Session:
    return (mail.host, mail.session, mail.client_address, user, mail.sender)
