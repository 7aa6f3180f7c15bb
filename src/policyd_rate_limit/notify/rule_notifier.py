"""Mails that rules ask for (``notify``): to administrators, and to the user whose mail it was."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.config.rules import USER
from policyd_rate_limit.domain.counter import rule_and_key
from policyd_rate_limit.domain.decision import WOULD_BLOCK, WOULD_REFUSE
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.notify.alert import Alert, Unsent
from policyd_rate_limit.notify.channel import make_channels_of_rules
from policyd_rate_limit.notify.first_hits import FirstHits
from policyd_rate_limit.notify.notifier import is_news, leave
from policyd_rate_limit.notify.outbox import Outbox, end_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.changes import Changes
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.notify.channel import Channel

USER_PAUSES: Final = (2.0,)
"""Seconds before the second and last try of a mail to a user: whom it does not reach keeps nobody else waiting."""

LONGEST_ADDRESS: Final = 254
"""The most characters of the address of a user: RFC 5321, 4.5.3.1.3, without the angle brackets."""

_SETTINGS = ("notify_max_per_hour", "smtp_", "report_from", "rules")
_WORD = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN = re.compile(rf"{_WORD}(?:\.{_WORD})*@{_LABEL}(?:\.{_LABEL})*")


class RuleNotifier(Listener):
    """Sends what the rules of :meth:`configure` ask for: who exceeds one, is warned of or is blocked.

    As with alerts: the first of an id and a limit in its period, and so many an hour. ``host`` is what this machine is
    called; ``clock`` gives Unix seconds. ``mailed`` says who gets a mail about a decision anyhow, in lower case.
    """

    def __init__(self, host: str, clock: Callable[[], float], mailed: Callable[[Decision], frozenset[str]]) -> None:
        self._host = host
        self._mailed = mailed
        self._clock = clock
        self._first_hits = FirstHits(clock)
        self._recipients: Mapping[str, tuple[str, ...]] = {}
        self._outboxes: tuple[Outbox, ...] = ()  # to administrators, to users
        self._ending: tuple[Outbox, ...] = ()

    def configure(self, settings: Settings, channels: tuple[Channel, Channel] | None) -> None:
        """Send what the rules of ``settings`` ask for on ``channels``, to administrators and to users."""
        self._use(_recipients(settings), _started(channels), settings.notify_max_per_hour)

    def prepare(self, change: Changes, undo: ExitStack) -> Callable[[], None]:
        """Make what new settings ask for; what is returned puts it in force. ``undo`` lets go of it."""
        if not any(name.startswith(_SETTINGS) for name in change.changed):
            return leave
        outboxes = _started(make_channels_of_rules(change.settings))
        for outbox in outboxes:
            undo.callback(outbox.stop)
        return partial(self._use, _recipients(change.settings), outboxes, change.settings.notify_max_per_hour)

    def refused(self, counter: str, limit: Limit) -> bool:
        """Whether the rule of ``counter`` wants that told, and it is news."""
        return self._wants(counter) and self._first_hits.hit(counter, limit)

    def exceeded(self, counter: str, limit: Limit, verdict: str) -> bool:  # noqa: ARG002 - whatever has come of it
        return self.refused(counter, limit)

    def noticed(self, decision: Decision) -> None:
        if self._wants(decision.counter) and is_news(self._first_hits, decision):
            self.explained(decision)

    def explained(self, decision: Decision) -> None:
        """Mail what ``decision`` says."""
        recipients = self._recipients.get(rule_and_key(decision.counter)[0], ())
        if not recipients or not self._outboxes:
            return  # a reload has taken them away meanwhile
        to_administrators, to_users = self._outboxes
        mailed = self._mailed(decision)
        others = tuple(one for one in recipients if one != USER and one.lower() not in mailed)
        if others:
            to_administrators.put(self._alert(decision, self._first_hits.take_unsent(), others))
        address = decision.request.sasl_username
        is_shadow = decision.shadow or decision.verdict in (WOULD_REFUSE, WOULD_BLOCK)
        if USER in recipients and not is_shadow and is_plain_address(address):
            to_users.put(self._alert(decision, Unsent(0, ()), (address,))._replace(is_for_user=True))

    def stop(self) -> None:
        """End within STOP_SECONDS, whatever hangs; to be called where waiting holds up nobody."""
        end_all(self._outboxes, self._ending)

    def _wants(self, counter: str) -> bool:
        return bool(self._recipients) and rule_and_key(counter)[0] in self._recipients

    def _alert(self, decision: Decision, unsent: Unsent, to: tuple[str, ...]) -> Alert:
        return Alert(os.urandom(16).hex(), self._clock(), self._host, decision, unsent, to)

    def _use(self, recipients: Mapping[str, tuple[str, ...]], outboxes: tuple[Outbox, ...], per_hour: int) -> None:
        self._ending = (*(outbox for outbox in self._ending if outbox.is_alive()), *self._outboxes)
        for outbox in self._outboxes:
            outbox.stop()
        self._first_hits.per_hour = per_hour
        self._recipients, self._outboxes = recipients, outboxes


def is_plain_address(text: str) -> bool:
    """Whether ``text`` is one mail address with a domain, which needs no quoting: RFC 5321's Dot-string and Domain."""
    return len(text) <= LONGEST_ADDRESS and _PLAIN.fullmatch(text) is not None


def _recipients(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {rule.name: rule.notify for rule in settings.rules if rule.notify}


def _started(channels: tuple[Channel, Channel] | None) -> tuple[Outbox, ...]:
    if channels is None:
        return ()
    outboxes = Outbox(channels[0]), Outbox(channels[1], USER_PAUSES)
    for outbox in outboxes:
        outbox.start()
    return outboxes
