"""Which accounts look stolen in the past: those that one day did what they never do, each with the reasons.

Two things make an account suspect. It sends far more than it is used to, in many mails, and more than nearly everybody
ever does. Or it sends more than it is used to from many networks within an hour, or countries within a day, which a
person is not in. One mail to many, such as an announcement once a year, is neither; nor is a newsletter, which has the
habit of it, nor somebody who travels and writes as much as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from statistics import median
from typing import Final, NamedTuple

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.rehearsal.habits import MOST_PLACES, Day, Habit, Habits

HABIT_FACTOR: Final = 20
"""So many times the recipients of its usual day are far beyond its habit."""

MAILS_FACTOR: Final = 5
"""So many times the mails of its usual day: it was no single mail to many."""

LEAST_RECIPIENTS: Final = 100
"""Below so many recipients in a day nothing is suspect."""

LEAST_DAYS: Final = 3
"""An account has a habit when it was active on so many other days."""

EVERYBODY: Final = 0.99
"""What is suspect is more than so large a part of all accounts have on their strongest day."""

LEAST_EXCEPTED: Final = 5
"""Where a hundredth of all accounts is less than this, so many may stand out."""

NETWORKS: Final = 8
"""So many networks within one hour are more than a person is in, with a telephone, an office and a home."""

NETWORKS_FACTOR: Final = 4
"""And so many times as many as usual: a service that sends from many hosts has the habit of it."""

COUNTRIES: Final = 4
"""So many countries within one day are more than a person is in."""

COUNTRIES_MORE: Final = 3
"""And so many more than usual: whose mail comes by a VPN has the habit of it."""

SPREAD_FACTOR: Final = 5
"""With so many places, so many times the usual recipients are enough to be suspect."""

DOMAINS: Final = 20
"""Recipients in so many domains within one day are told as a reason; alone they are none."""

DOMAINS_FACTOR: Final = 5
"""And in so many times as many as usual."""

REFUSED: Final = 20
"""So many recipients refused in that day are told likewise."""


MOST_COUNTRIES: Final = 12
"""The most countries that are named."""


class Suspect(NamedTuple):
    """An account that looks stolen: the day on which it does, what it sent then and usually, and why in words."""

    name: str
    day: date
    recipients: int
    mails: int
    usual: float
    reasons: tuple[str, ...]


class _Usual(NamedTuple):
    """The day that an account is used to: the median of its other days."""

    recipients: float
    mails: float
    networks: float
    countries: float
    domains: float


def find(habits: Habits) -> list[Suspect]:
    """The accounts that look stolen, those first that have sent most on that day."""
    strongest = {name: max(habit.days, key=_recipients) for name, habit in habits.accounts.items()}
    everybody = _of_everybody([day.recipients for day in strongest.values()])
    found = []
    for name, peak in strongest.items():
        if peak.recipients >= LEAST_RECIPIENTS:
            habit = habits.accounts[name]
            usual = _usual(habit, peak)
            reasons = tuple(_reasons(habit, peak, usual, is_beyond_all=peak.recipients > everybody))
            if reasons:
                day = date.fromordinal(peak.ordinal)
                often = usual.recipients if usual is not None else 0
                found.append(Suspect(name, day, peak.recipients, peak.mails, often, reasons))
    found.sort(key=lambda suspect: (-suspect.recipients, suspect.name))
    return found


def _recipients(day: Day) -> int:
    return day.recipients


def _of_everybody(recipients: list[int]) -> int:
    """What nearly all accounts stay within on their strongest day."""
    if not recipients:
        return 0
    recipients.sort()
    excepted = max(len(recipients) - math.ceil(EVERYBODY * len(recipients)), LEAST_EXCEPTED)
    return recipients[max(0, len(recipients) - 1 - excepted)]


def _usual(habit: Habit, peak: Day) -> _Usual | None:
    """Without the strongest day; None: it has no habit."""
    others = [day for day in habit.days if day.ordinal != peak.ordinal]
    if len(others) < LEAST_DAYS:
        return None
    return _Usual(
        median(day.recipients for day in others),
        median(day.mails for day in others),
        median(day.networks for day in others),
        median(day.countries for day in others),
        median(day.domains for day in others),
    )


def _reasons(habit: Habit, peak: Day, usual: _Usual | None, *, is_beyond_all: bool) -> Iterator[str]:
    is_far_beyond = (
        usual is not None
        and is_beyond_all
        and peak.recipients >= HABIT_FACTOR * usual.recipients
        and peak.mails >= MAILS_FACTOR * usual.mails
    )
    # Who has no habit is held against what everybody does.
    is_more = is_beyond_all if usual is None else peak.recipients >= SPREAD_FACTOR * usual.recipients
    places = tuple(_places(habit, peak, usual)) if is_more else ()
    if not is_far_beyond and not places:
        return
    sent = f"{quantity(peak.recipients, 'recipient')} in {quantity(peak.mails, 'mail')}"
    if usual is None:
        yield f"{sent}, and before and after it was hardly ever active"
    else:
        times = peak.recipients / max(1, usual.recipients)
        yield f"{sent}, {times:.0f} times as many recipients as on its usual day, which has {usual.recipients:g}"
    yield from places
    domains = usual.domains if usual is not None else 1
    if peak.domains >= max(DOMAINS, DOMAINS_FACTOR * domains):
        most = "at least " if peak.domains == MOST_PLACES else ""
        yield f"to {most}{peak.domains} domains{f', usually to {domains:g}' if usual is not None else ''}"
    if peak.refused >= REFUSED:
        yield f"{peak.refused} of these recipients were refused by a limit then"


def _places(habit: Habit, peak: Day, usual: _Usual | None) -> Iterator[str]:
    """From where it came, where that is more than a person is in."""
    networks, countries = (usual.networks, usual.countries) if usual is not None else (1, 1)
    often = "usually from" if usual is not None else "a person is in"
    if peak.networks >= max(NETWORKS, NETWORKS_FACTOR * networks):
        yield f"from {peak.networks} networks within an hour, {often} {networks:g}"
    if peak.countries >= max(COUNTRIES, COUNTRIES_MORE + countries):
        names = ", ".join(sorted(habit.countries)[:MOST_COUNTRIES]) if len(habit.countries) == peak.countries else ""
        yield f"from {peak.countries} countries within a day{f' ({names})' if names else ''}, {often} {countries:g}"
