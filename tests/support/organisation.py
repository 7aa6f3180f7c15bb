"""A made-up organisation: what 5,000 people send in a week, and what is sent with five stolen passwords.

The same seed makes the same people, and each week of theirs the same mails. Among them are those who must not be taken
for stolen: newsletters, which have the habit of many mails; announcements, one mail to many once a week; somebody who
travels; a telephone that changes networks all the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from policyd_rate_limit.maillog.mail import Mail, Origin

MONDAY = int(datetime(2026, 11, 23, tzinfo=UTC).timestamp())
DAY = 86_400
WEEK = 7 * DAY
WORKDAYS = 5
DEPARTMENTS = 12
NEWSLETTERS = 4
ANNOUNCERS = 3
STOLEN = ("burst", "slow", "dormant", "abroad", "allday")


class Person(NamedTuple):
    """Somebody: the user name, mails on a working day, recipients at the most, and networks they are in."""

    name: str
    mails: float
    recipients: int
    networks: tuple[str, ...]


class Organisation:
    """``people`` of whom five are robbed; ``seed`` says who they are."""

    def __init__(self, people: int = 5000, seed: int = 1) -> None:
        self.seed = seed
        chance = random.Random(seed)
        self.people = [self._person(number, chance) for number in range(people - len(STOLEN))]
        self.stolen = frozenset(f"{name}@dep1.example.org" for name in STOLEN)

    @staticmethod
    def _person(number: int, chance: random.Random) -> Person:
        name = f"user{number}@dep{number % DEPARTMENTS}.example.org"
        networks = tuple(f"10.{number % 200}.{part}.{number // 200 + 1}" for part in range(chance.randint(1, 3)))
        if number % 80 == 0:  # an office that writes to many
            return Person(name, chance.uniform(5, 8), 12, networks)
        return Person(name, chance.choice((0.1, 0.2, 0.3, 0.6)), chance.choice((1, 1, 2, 4)), networks)

    def week(self, number: int = 0, *, theft: bool = True) -> list[Mail]:
        """The mails of week ``number``, in the order of time; without ``theft`` the five send as they used to."""
        chance = random.Random(self.seed * 1000 + number)
        begin = MONDAY + number * WEEK
        found = [*self._ordinary(begin, chance), *self._unusual(begin, chance), *self._robbed(begin, chance, theft)]
        found.sort(key=lambda mail: mail.time)
        return found

    def _ordinary(self, begin: int, chance: random.Random) -> Iterator[Mail]:
        for person in self.people:
            for day in range(WORKDAYS):
                count = int(person.mails) + (chance.random() < person.mails % 1)
                for _ in range(count):
                    time = begin + day * DAY + 7 * 3600 + chance.randrange(11 * 3600)
                    yield self._mail(
                        person.name, time, chance.choice(person.networks), chance.randint(1, person.recipients)
                    )

    def _unusual(self, begin: int, chance: random.Random) -> Iterator[Mail]:
        for number in range(NEWSLETTERS):
            for day in range(7):
                start = begin + day * DAY + (5 + number) * 3600
                for at in range(120 + 10 * number):
                    yield self._mail(f"news{number}@lists.example.org", start + at * 2, "192.0.2.25", 1)
        for number in range(ANNOUNCERS):
            name = f"rector{number}@dep2.example.org"
            for day in range(WORKDAYS):
                yield self._mail(name, begin + day * DAY + 36_000, f"10.250.1.{number + 1}", 2)
            yield self._mail(name, begin + (1 + number) * DAY + 40_000, f"10.250.1.{number + 1}", 400)
        for day in range(WORKDAYS):
            for at in range(3):  # who travels, and writes as much as ever
                yield self._mail(
                    "traveller@dep3.example.org", begin + day * DAY + 30_000 + at * 7200, f"198.51.{day}{at}.7", 2
                )
            for at in range(12):  # a telephone on a train, each day
                yield self._mail("train@dep3.example.org", begin + day * DAY + 28_800 + at * 200, f"203.0.{at}.9", 1)

    def _robbed(self, begin: int, chance: random.Random, theft: bool) -> Iterator[Mail]:
        for at, name in enumerate(sorted(self.stolen)):
            kind = name.partition("@")[0]
            if kind != "dormant":
                for day in range(WORKDAYS):
                    for _ in range(3):
                        yield self._mail(
                            name, begin + day * DAY + 30_000 + chance.randrange(20_000), f"10.251.1.{at}", 1
                        )
            if theft:
                yield from self._theft(kind, name, begin + 2 * DAY, chance)

    def _theft(self, kind: str, name: str, begin: int, chance: random.Random) -> Iterator[Mail]:
        mails, seconds, recipients, networks = {
            "burst": (600, 3600, 2, 200),
            "slow": (200, 8 * 3600, 5, 1),
            "dormant": (300, 7200, 1, 60),
            "abroad": (80, 14_400, 20, 9),
            "allday": (240, 20 * 3600, 3, 30),
        }[kind]
        for at in range(mails):
            address = f"100.{chance.randrange(networks)}.{len(kind)}.{chance.randrange(1, 250)}"
            yield self._mail(name, begin + at * seconds // mails, address, recipients)

    @staticmethod
    def _mail(user: str, time: int, address: str, recipients: int) -> Mail:
        return Mail(
            float(time), float(time), Origin.SMTP, "mx", "postfix/submission/smtpd", "4X1", address, "unknown", user,
            "PLAIN", user, "", 4000, recipients,
        )  # fmt: skip


def log_of(mails: Iterable[Mail]) -> str:
    """What Postfix logs of ``mails``, with the dates of RFC 3339."""
    return "".join(line for number, mail in enumerate(mails) for line in _lines(mail, f"{number:X}"))


def _lines(mail: Mail, number: str) -> Iterator[str]:
    date = datetime.fromtimestamp(mail.time, UTC).isoformat(timespec="microseconds")
    queue_id = f"4X{number:0>8}"
    client = f"client=unknown[{mail.client_address}], sasl_method=PLAIN, sasl_username={mail.sasl_username}"
    yield f"{date} mx postfix/submission/smtpd[4711]: {queue_id}: {client}\n"
    sent = f"from=<{mail.sender}>, size={mail.size}, nrcpt={mail.recipient_count} (queue active)"
    yield f"{date} mx postfix/qmgr[815]: {queue_id}: {sent}\n"
    yield f"{date} mx postfix/qmgr[815]: {queue_id}: removed\n"
