"""What accounts do from day to day: how much they send, from where, to whom, and how much of it is refused.

Beside it a day on which somebody else has the password stands out. Days are those of a zone; networks are those of
IPv4 addresses by /24 and of IPv6 addresses by /48, so that somebody who moves about in one provider's is in few.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from datetime import datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple, final

from policyd_rate_limit.domain.rules.attributes import domain_of

MOST_ACCOUNTS: Final = 100_000
"""The most accounts whose habits are known; then an eighth of them goes, those that have sent least."""

MOST_DAYS: Final = 400
"""The most days of an account; then the oldest goes."""

MOST_PLACES: Final = 256
"""The most networks of an account in one hour that are told apart; countries, and domains of recipients, in one day."""

_HOUR: Final = 3600
_GOING: Final = 8
_FIGURES: Final = 7  # of a day
_FEW: Final = 4

_Places = tuple[str, ...] | set[str]


class Day(NamedTuple):
    """One day on which an account was active.

    ``ordinal``: which day, as :meth:`datetime.date.toordinal` has it. ``refused``: of the ``recipients``. ``networks``:
    the most within one hour of the clock. ``countries``, and ``domains`` of recipients, as far as those are known: in
    all the day.
    """

    ordinal: int
    recipients: int
    mails: int
    refused: int
    networks: int
    countries: int
    domains: int


@final
class Habit:
    """The days of one account; ``countries``: those of the day that had most."""

    __slots__ = ("_countries", "_days", "_domains", "_hour", "_networks", "countries", "total")

    def __init__(self) -> None:
        self.total = 0
        self.countries: frozenset[str] = frozenset()
        self._days = array("q")  # one after the other, the figures of Day
        self._hour = 0
        # Of most accounts one is all that there is: a set takes five times as much as a tuple of that.
        self._networks: _Places = ()
        self._countries: _Places = ()
        self._domains: _Places = ()

    @property
    def days(self) -> list[Day]:
        """Each day, oldest first."""
        days = self._days
        return [Day(*days[at : at + _FIGURES]) for at in range(0, len(days), _FIGURES)]

    def count(self, ordinal: int, recipients: int, refused: int) -> None:
        """Count a mail on the day ``ordinal``, which is no earlier than the one before."""
        days = self._days
        if not days or days[-_FIGURES] != ordinal:
            self._networks = self._countries = self._domains = ()
            days.extend((ordinal, 0, 0, 0, 0, 0, 0))
            if len(days) > _FIGURES * MOST_DAYS:
                del days[:_FIGURES]
        days[-6] += recipients
        days[-5] += 1
        days[-4] += refused
        self.total += recipients

    def come_from(self, network: str, country: str, second: int) -> None:
        """The mail that was counted last came from ``network`` and ``country``, as far as those are known."""
        hour = second // _HOUR
        if hour != self._hour:
            self._networks = ()
            self._hour = hour
        if network and network not in self._networks:
            self._networks = _with(network, self._networks)
            self._days[-3] = max(self._days[-3], len(self._networks))
        if country and country not in self._countries:
            self._countries = _with(country, self._countries)
            self._days[-2] = len(self._countries)
            if len(self._countries) > len(self.countries):
                self.countries = frozenset(self._countries)

    def go_to(self, domain: str) -> None:
        """A recipient of the mail that was counted last is in ``domain``."""
        if domain not in self._domains:
            self._domains = _with(domain, self._domains)
            self._days[-1] = len(self._domains)


def _with(place: str, places: _Places) -> _Places:
    """``places`` and ``place``, unless they are too many."""
    if isinstance(places, set):
        if len(places) < MOST_PLACES:
            places.add(place)
        return places
    return (*places, place) if len(places) < _FEW else {*places, place}


class Habits:
    """The habits of all accounts, with days of ``zone``; ``country_of`` says where an address is, or nothing.

    ``most_accounts`` bounds the memory. An account that went and comes again begins anew.
    """

    def __init__(
        self,
        zone: tzinfo,
        network_of: Callable[[str], str],
        country_of: Callable[[str], str] | None = None,
        most_accounts: int = MOST_ACCOUNTS,
    ) -> None:
        self.zone = zone
        self.accounts: dict[str, Habit] = {}
        self.knows_countries = country_of is not None
        self.forgotten = 0
        self._network_of = network_of
        self._country_of = country_of
        self._most_accounts = most_accounts
        self._ordinal = 0
        self._midnight = 0.0  # the end of that day, Unix seconds

    def add(
        self, name: str, second: float, address: str, recipients: int, refused: int, known: tuple[str, ...] = ()
    ) -> None:
        """``name`` sends a mail to so many ``recipients`` from ``address``, of whom so many were ``refused`` then.

        ``second``: Unix seconds, no earlier than before. ``known``: those whose addresses are known.
        """
        if second >= self._midnight:
            self._begin_day(second)
        habit = self.accounts.get(name)
        if habit is None:
            if len(self.accounts) >= self._most_accounts:
                self._forget()
            habit = self.accounts[name] = Habit()
        habit.count(self._ordinal, recipients, refused)
        if address:
            country = self._country_of(address) if self._country_of is not None else ""
            habit.come_from(self._network_of(address), country, int(second))
        for recipient in known:
            domain = domain_of(recipient)
            if domain:
                habit.go_to(domain)

    def _begin_day(self, second: float) -> None:
        day = datetime.fromtimestamp(second, self.zone).date()
        self._ordinal = day.toordinal()
        self._midnight = datetime.combine(day + timedelta(days=1), time(), self.zone).timestamp()

    def _forget(self) -> None:
        least = sorted(self.accounts, key=lambda name: self.accounts[name].total)
        for name in least[: max(1, len(least) // _GOING)]:
            del self.accounts[name]
            self.forgotten += 1
