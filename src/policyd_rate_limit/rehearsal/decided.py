"""Mails as the daemon's own decisions tell them, where it has logged each request (setting ``debug``).

That is more than Postfix logs: all recipients, also those that were refused, in their order, and how many a mail had at
DATA. Postfix's line about the same mail adds its size, and says when it was complete.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.counter import DEFAULT
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
from policyd_rate_limit.maillog.mail import Decided
from policyd_rate_limit.rehearsal.asked import AskedMail
from policyd_rate_limit.rehearsal.gathering import MOST_WAITING, WAIT_SECONDS
from policyd_rate_limit.rehearsal.past import JOIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from policyd_rate_limit.maillog.mail import Mail
    from policyd_rate_limit.rehearsal.figures import Figures
    from policyd_rate_limit.rehearsal.past import Past
    from policyd_rate_limit.rehearsal.users import Users

_OF_REQUESTS: Final = frozenset({ADMITTED, AWAY, FULL, MARKED, NONE, NOT_COUNTED, NOT_LIMITED, REFUSED, WOULD_REFUSE})
_OF_DEBUG: Final = frozenset({ADMITTED, NOT_COUNTED, NOT_LIMITED})
"""Verdicts that are logged only where each decision is."""

_Sender = tuple[str, str, str]

ORDER_SECONDS: Final = JOIN_SECONDS + 1.0
"""So much later than others of its time a mail may be told of; some logs have whole seconds alone."""


class _Going:
    """The mails about which the daemon may be asked more, or that Postfix has not told of yet, by instance.

    They are in the order of their last lines, and are found by what Postfix says of them.
    """

    def __init__(self) -> None:
        self.asked: OrderedDict[str, AskedMail] = OrderedDict()
        self._by_queue_id: dict[str, str] = {}
        self._by_sender: dict[_Sender, dict[str, None]] = {}

    def heed(self, instance: str, asked: AskedMail) -> None:
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
            return None if self.asked[found].mail is not None else found
        candidates = self._by_sender.get(_sender_of(mail), ())
        return next((one for one in candidates if self.asked[one].may_be_any), None)

    def pop(self, instance: str) -> AskedMail:
        """It is over."""
        asked = self.asked.pop(instance)
        if self._by_queue_id.get(asked.queue_id) == instance:
            del self._by_queue_id[asked.queue_id]
        same = self._by_sender[_sender_of(asked.first)]
        del same[instance]
        if not same:
            del self._by_sender[_sender_of(asked.first)]
        return asked


class _Told:
    """A mail that Postfix tells of. ``is_known``: the daemon does as well."""

    __slots__ = ("is_known", "past")

    def __init__(self, past: Past) -> None:
        self.past = past
        self.is_known = False


class _Untold:
    """The mails that Postfix tells of, and the daemon has not told of yet: its lines may come a moment later."""

    def __init__(self) -> None:
        self._by_queue_id: dict[str, _Told] = {}
        self._by_sender: dict[_Sender, dict[str, None]] = {}

    def add(self, told: _Told) -> None:
        """It waits for that. Of two with one queue id, of different hosts, the daemon is taken to mean the later."""
        mail = told.past.mail
        self._by_queue_id[mail.queue_id] = told
        self._by_sender.setdefault(_sender_of(mail), {})[mail.queue_id] = None

    def take(self, asked: AskedMail) -> Mail | None:
        """The one about which the daemon was ``asked``, which waits no longer."""
        told = self._by_queue_id.get(asked.queue_id)
        if told is None and asked.may_be_any:
            told = self._by_queue_id.get(next(iter(self._by_sender.get(_sender_of(asked.first), ())), ""))
        if told is None:
            return None
        told.is_known = True
        self.remove(told)
        return told.past.mail

    def remove(self, told: _Told) -> None:
        """It waits no longer."""
        mail = told.past.mail
        if self._by_queue_id.get(mail.queue_id) is told:
            del self._by_queue_id[mail.queue_id]
        same = self._by_sender.get(_sender_of(mail))
        if same is not None:
            same.pop(mail.queue_id, None)
            if not same:
                del self._by_sender[_sender_of(mail)]


class DecidedMails:
    """Puts mails in their order, and adds what the daemon's own lines tell of them, where it logs each decision.

    All waits for :data:`ORDER_SECONDS`: Postfix tells of a mail at its end, and the daemon's log may be another one,
    with other dates. ``units``: what each rule counts, by its name. ``users`` are told who sent what. ``figures`` count
    what is left out.
    """

    def __init__(self, units: Mapping[str, str], users: Users, figures: Figures) -> None:
        self._users = users
        self._units = units
        self._figures = figures
        self._last_of_debug = float("-inf")  # Unix seconds of the last line that there is only with debug
        self._hosts: set[str] = set()  # that run a Postfix which asks the daemon
        self._going = _Going()
        self._untold = _Untold()
        self._refused: OrderedDict[str, int] = OrderedDict()  # how many recipients Postfix says, by queue id
        self._line: list[tuple[float, int, int, _Told | AskedMail]] = []  # a heap: when each has its turn
        self._turns = 0

    def told(self, items: Iterable[Past | Decided]) -> Iterator[Past]:
        """The mails of ``items`` in the order of time, which those are in but for some seconds."""
        line = self._line
        now = float("-inf")
        for item in items:
            now = max(now, item.time)
            if isinstance(item, Decided):
                self._users.note_decision(item)
                self._heed(item)
            else:
                self._of_postfix(item)
            if line and line[0][0] <= now - ORDER_SECONDS:
                yield from self._in_turn(now - ORDER_SECONDS)
            if self._going.asked:
                self._give_up(now - WAIT_SECONDS)
        self._give_up(float("inf"))
        yield from self._in_turn(float("inf"))

    def _put(self, time: float, number: int, item: _Told | AskedMail) -> None:
        self._turns += 1
        heapq.heappush(self._line, (time, number, self._turns, item))

    def _in_turn(self, until: float) -> Iterator[Past]:
        """What has its turn ``until`` then (Unix seconds)."""
        line = self._line
        while line and line[0][0] <= until:
            time, _, _, item = heapq.heappop(line)
            if isinstance(item, _Told):
                past = item.past
                if not past.is_accepted:
                    if not self._is_told_by_decisions(past):
                        yield past
                elif not item.is_known:
                    self._untold.remove(item)
                    if self._hosts and self._is_told_by_decisions(past):
                        self._figures.not_asked += 1
                    else:
                        yield past
            elif item.turn == time and item.is_over:  # or it is in the line once more, or will be
                if self._going.asked.get(item.instance) is item:
                    self._going.pop(item.instance)
                self._figures.known_from_decisions += 1
                item.turn = -1.0
                yield item.past(time, self._refused.pop(item.queue_id, 0) if item.is_whole else 0)

    def _is_told_by_decisions(self, past: Past) -> bool:
        """Whether the daemon has logged each of its decisions then, and is asked by the host of ``past``."""
        return self._logs_all(past.time) and (not self._hosts or past.mail.host in self._hosts)

    def _logs_all(self, now: float) -> bool:
        return abs(now - self._last_of_debug) <= WAIT_SECONDS

    def _heed(self, decided: Decided) -> None:
        """Note what ``decided`` says of its mail."""
        if decided.verdict in _OF_DEBUG:
            self._last_of_debug = decided.time
        if decided.verdict not in _OF_REQUESTS or not decided.instance or not self._logs_all(decided.time):
            return
        instance = f"{decided.host} {decided.instance}"
        going = self._going
        asked = going.pop(instance) if instance in going.asked else AskedMail(instance, decided)
        asked.add(decided, self._units.get(decided.rule or DEFAULT, ""))
        going.heed(instance, asked)
        if asked.mail is None and not asked.is_whole:
            self._join(asked, self._untold.take(asked))
        self._have_turn(asked, decided.time)

    def _of_postfix(self, past: Past) -> None:
        mail = past.mail
        instance = self._going.of(mail) if past.is_accepted else None
        if instance is not None:
            asked = self._going.asked[instance]
            self._join(asked, mail)
            # Its turn is where it was asked about last, unless that has passed: its content took longer.
            self._have_turn(asked, asked.last if mail.time - asked.last <= JOIN_SECONDS else mail.time)
            return
        told = _Told(past)
        if past.is_accepted:
            self._untold.add(told)
        elif mail.queue_id:
            self._refused[mail.queue_id] = past.refused
            if len(self._refused) > MOST_WAITING:
                self._refused.popitem(last=False)
        self._put(past.time, past.number, told)

    def _join(self, asked: AskedMail, mail: Mail | None) -> None:
        if mail is not None:
            asked.mail = mail
            self._hosts.add(mail.host)

    def _have_turn(self, asked: AskedMail, time: float) -> None:
        asked.turn = time
        self._put(time, 0, asked)

    def _give_up(self, since: float) -> None:
        """Have a turn what nothing has come of ``since`` then (Unix seconds): Postfix tells of no such mail."""
        asked = self._going.asked
        while asked:
            first = next(iter(asked.values()))
            if first.last >= since and len(asked) <= MOST_WAITING:
                break
            self._going.pop(first.instance)
            if not first.is_over:
                first.is_given_up = True
                self._have_turn(first, first.last)


def _sender_of(one: Mail | Decided) -> _Sender:
    return (one.client_address, one.sasl_username, one.sender)
