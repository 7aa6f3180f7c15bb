"""Looks at the mails of a log once, as limits would: what each id has sent, and what accounts are used to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.networks import parse_address
from policyd_rate_limit.domain.request import RCPT, Request
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.rehearsal.habits import Habits
from policyd_rate_limit.rehearsal.peaks import Peaks

if TYPE_CHECKING:
    from policyd_rate_limit.rehearsal.past import Past

REMEMBERED_ADDRESSES: Final = 16_384
"""The most addresses of which it is remembered which network they are in."""

_NETWORK_BITS: Final = {4: 24, 6: 48}


class Subject(NamedTuple):
    """A rule that may be suggested: its name, its key, and whether it is for users alone or for mails without one."""

    name: str
    key: str
    of_users: bool
    noun: str
    nouns: str


SUBJECTS: Final = (
    Subject("user", "sasl_username", True, "user", "users"),
    Subject("domain", "sasl_domain", True, "domain of users", "domains of users"),
    Subject("sender", "sender", False, "sender", "senders"),
    Subject("client", "client_address", False, "client", "clients"),
)
"""Whoever has a user name is charged by that and by its domain; other mails by their sender and their client."""

USER: Final = SUBJECTS[0]
DOMAIN: Final = SUBJECTS[1]


class Observed(NamedTuple):
    """One subject, and what all its ids have sent."""

    subject: Subject
    peaks: Peaks


class Observation:
    """All that a log shows of the ``subjects``, in ``windows`` of so many seconds each."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        windows: Sequence[int],
        *,
        zone: tzinfo,
        ipv6_prefix: int,
        country_of: Callable[[str], str] | None = None,
    ) -> None:
        self.observed = tuple(Observed(subject, Peaks(windows)) for subject in subjects)
        self.habits = Habits(zone, lru_cache(REMEMBERED_ADDRESSES)(_network_of), country_of)
        self.mails = 0
        self.recipients = 0
        self.without_subject = 0
        self.began: float | None = None
        self.ended: float | None = None
        self._keys = [(one.subject, parse_key(one.subject.key, ipv6_prefix), one.peaks) for one in self.observed]
        self._user = parse_key(USER.key, ipv6_prefix)

    def look(self, mails: Iterable[Past]) -> None:
        """Look at ``mails``, in the order of time."""
        for past in mails:
            self._look_at(past)

    def _look_at(self, past: Past) -> None:
        mail, time, amount = past.mail, past.time, past.recipient_count
        asked = Request(RCPT, "", "", mail.sasl_username, mail.sender, "", mail.client_address, 0)
        has_user = bool(mail.sasl_username)
        self.mails += 1
        self.recipients += amount
        if self.began is None:
            self.began = time
        self.ended = time
        user = self._user.of(asked).partition(":")[2] if has_user else ""
        is_counted = False
        for subject, key, peaks in self._keys:
            if subject.of_users is has_user:
                name = user if subject is USER else key.of(asked).partition(":")[2]
                if name:
                    peaks.add(name, time, amount)
                    is_counted = True
        if not is_counted:
            self.without_subject += 1
        if user:
            self.habits.add(user, time, mail.client_address, amount, past.refused, past.recipients)


def _network_of(text: str) -> str:
    """The network that the address ``text`` is in, as habits know networks; empty where it is none."""
    address = parse_address(text)
    return "" if address is None else str(address.within(_NETWORK_BITS[address.version]))
