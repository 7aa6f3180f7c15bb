"""Accounts look stolen for reasons that can be told, and whoever has the habit of what it does does not."""

from __future__ import annotations

from datetime import UTC, date

import pytest

from policyd_rate_limit.rehearsal import stolen
from policyd_rate_limit.rehearsal.habits import MOST_DAYS, MOST_PLACES, Day, Habits

BEGIN = 1_795_996_800  # Mon 2026-11-30 00:00
DAY = 86_400


def network_of(address: str) -> str:
    return address.rpartition(".")[0]


class Week:
    """Accounts of whom hundred send three mails a day, on each of seven days."""

    def __init__(self, country_of: dict[str, str] | None = None) -> None:
        self._mails: list[tuple[float, str, str, int, int]] = []
        self._country_of = country_of
        for number in range(100):
            self.send(f"user{number}", days=range(7), mails=3)

    def send(
        self,
        name: str,
        *,
        days: range,
        mails: int,
        recipients: int = 1,
        networks: int = 1,
        seconds: int = 3000,
        refused: int = 0,
    ) -> None:
        for day in days:
            for at in range(mails):
                time = BEGIN + day * DAY + 36_000 + at * seconds / mails
                self._mails.append((time, name, f"10.0.{at % networks}.1", recipients, refused))

    def suspects(self) -> dict[str, stolen.Suspect]:
        country_of = self._country_of
        habits = Habits(UTC, network_of, (lambda address: country_of.get(address, "")) if country_of else None)
        for time, name, address, recipients, refused in sorted(self._mails):
            habits.add(name, time, address, recipients, refused)
        return {suspect.name: suspect for suspect in stolen.find(habits)}


def test_nobody_looks_stolen_where_nobody_does_anything_unusual() -> None:
    assert Week().suspects() == {}


def test_far_more_than_usual_in_many_mails() -> None:
    week = Week()
    week.send("user7", days=range(3, 4), mails=300, refused=1)
    suspect = week.suspects()["user7"]
    assert (suspect.day, suspect.recipients, suspect.mails, suspect.usual) == (date(2026, 12, 3), 303, 303, 3)
    assert suspect.reasons == (
        "303 recipients in 303 mails, 101 times as many recipients as on its usual day, which has 3",
        "300 of these recipients were refused by a limit then",
    )


@pytest.mark.parametrize(
    ("mails", "recipients"), [(1, 500), (9, 60), (40, 1), (90, 1)], ids=["one to many", "few", "not far", "not so many"]
)
def test_what_honest_people_do_once(mails: int, recipients: int) -> None:
    week = Week()
    week.send("user7", days=range(3, 4), mails=mails, recipients=recipients)
    assert week.suspects() == {}


def test_who_has_the_habit_of_many_mails() -> None:
    week = Week()
    week.send("newsletter", days=range(7), mails=400)
    assert week.suspects() == {}


def test_many_networks_at_once_with_more_than_usual() -> None:
    week = Week()
    week.send("user7", days=range(3, 4), mails=40, recipients=3, networks=10)
    assert week.suspects()["user7"].reasons == (
        "123 recipients in 43 mails, 41 times as many recipients as on its usual day, which has 3",
        "from 10 networks within an hour, usually from 1",
    )


def test_many_networks_as_ever_or_with_no_more_mails() -> None:
    week = Week()
    week.send("train", days=range(7), mails=20, networks=20)
    week.send("train", days=range(3, 4), mails=150, networks=20)
    week.send("tourist", days=range(7), mails=30)
    week.send("tourist", days=range(3, 4), mails=80, networks=9)
    assert week.suspects() == {}


def test_many_networks_over_a_day_are_no_reason() -> None:
    week = Week()
    week.send("user7", days=range(3, 4), mails=10, recipients=11, networks=10, seconds=12 * 3600)
    assert week.suspects() == {}


def test_an_account_that_was_never_active_before() -> None:
    week = Week()
    week.send("new", days=range(3, 4), mails=200)
    assert week.suspects() == {}, "from one place it may be anybody's first newsletter"
    week.send("dormant", days=range(3, 4), mails=200, networks=12)
    assert week.suspects()["dormant"].reasons == (
        "200 recipients in 200 mails, and before and after it was hardly ever active",
        "from 12 networks within an hour, a person is in 1",
    )


def test_many_countries_within_a_day() -> None:
    countries = {f"10.0.{number}.1": code for number, code in enumerate(("DE", "BR", "VN", "IN", "ZA"))}
    week = Week(countries)
    week.send("user7", days=range(3, 4), mails=30, recipients=5, networks=5)
    assert week.suspects()["user7"].reasons[1:] == (
        "from 5 countries within a day (BR, DE, IN, VN, ZA), usually from 1",
    )
    week.send("tunnel", days=range(7), mails=30, recipients=5, networks=5)
    assert week.suspects().keys() == {"user7"}


def test_domains_of_recipients_are_told_where_it_looks_stolen_for_another_reason() -> None:
    habits = Habits(UTC, network_of)
    for day in range(5):
        for number in range(50):
            habits.add(f"user{number}", BEGIN + day * DAY, "10.0.0.1", 2, 0, ("a@x.example", "b@X.example"))
    for at in range(300):
        habits.add("user7", BEGIN + 4 * DAY + at, "10.0.0.1", 1, 0, (f"a@d{at}.example", "root"))
    for at in range(60):
        habits.add("user8", BEGIN + 4 * DAY + at, "10.0.0.1", 1, 0, (f"a@d{at}.example",))
    (suspect,) = stolen.find(habits)
    assert suspect.reasons[1:] == (f"to at least {MOST_PLACES} domains, usually to 1",)
    assert habits.accounts["user8"].days[-1].domains == 61


def test_more_stolen_than_a_hundredth_of_a_small_office() -> None:
    week = Week()
    for number in range(5):
        week.send(f"user{number}", days=range(2, 3), mails=300 + number)
    assert list(week.suspects()) == ["user4", "user3", "user2", "user1", "user0"]


def test_habits_are_bounded() -> None:
    habits = Habits(UTC, network_of, most_accounts=10)
    for number in range(12):
        habits.add(f"user{number}", BEGIN, "10.0.0.1", number + 1, 0)
    assert len(habits.accounts) <= 10
    assert habits.forgotten == 12 - len(habits.accounts)
    assert "user0" not in habits.accounts
    for day in range(MOST_DAYS + 5):
        for at in range(2 if day else 2 * MOST_PLACES):
            habits.add("user11", BEGIN + (1 + day) * DAY + at, f"10.{at // 256}.{at % 256}.1", 1, 0)
    days = habits.accounts["user11"].days
    assert len(days) == MOST_DAYS
    assert days[-1] == Day(days[-1].ordinal, 2, 2, 0, 2, 0, 0)


def test_networks_of_one_hour_are_told_apart_up_to_a_bound() -> None:
    habits = Habits(UTC, network_of)
    for at in range(2 * MOST_PLACES):
        habits.add("user", BEGIN + at, f"10.{at // 256}.{at % 256}.1", 1, 0)
    habits.add("user", BEGIN + 3600, "", 1, 0)
    assert habits.accounts["user"].days == [
        Day(habits.accounts["user"].days[0].ordinal, 513, 513, 0, MOST_PLACES, 0, 0)
    ]
