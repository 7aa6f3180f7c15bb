"""What was counted by the minute, the hour and the day."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.admin.buckets import STEPS, Bucket, Step, begin_of, buckets

LENGTHS = {"minute": 60, "hour": 3600, "day": 86400}
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = (ZoneInfo("UTC"), BERLIN, ZoneInfo("Asia/Kolkata"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/Havana"))

steps = st.sampled_from(STEPS)
dates = st.integers(0, 2**32)


def at(text: str, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp())


@settings(deadline=None)
@given(dates, steps, st.sampled_from(ZONES))
def test_a_step_begins_on_the_clock_of_the_zone(date: int, step: Step, zone: ZoneInfo) -> None:
    begin = begin_of(date, step, zone)
    # A day on which the clocks are put back has an hour more, an hour as much at the most.
    longest = LENGTHS[step] + (3600 if step != "minute" else 0)
    assert date - longest < begin <= date
    assert begin_of(begin, step, zone) == begin
    first, moment = datetime.fromtimestamp(begin, zone), datetime.fromtimestamp(date, zone)
    assert first.second == 0
    assert first.date() == moment.date()
    if step != "minute" and first.hour == moment.hour:
        assert first.minute == 0


@settings(deadline=None)
@given(st.lists(st.tuples(dates, st.integers(-3, 50))), steps, st.sampled_from(ZONES))
def test_nothing_is_lost_or_counted_twice(charges: list[tuple[int, int]], step: Step, zone: ZoneInfo) -> None:
    found = buckets(charges, step, zone)
    assert sum(bucket.mails for bucket in found) == sum(amount for _, amount in charges)
    assert [bucket.begin for bucket in found] == sorted({bucket.begin for bucket in found})
    for begin, mails in found:
        assert mails == sum(amount for date, amount in charges if begin_of(date, step, zone) == begin) != 0


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-03-28", 24), ("2026-10-25", 25), ("2026-10-24", 24)]
)
def test_days_on_which_the_clocks_are_changed(day: str, hours: int) -> None:
    first = at(day)
    everything = [(second, 1) for second in range(first, first + hours * 3600, 600)]
    assert buckets(everything, "day", BERLIN) == [Bucket(first, hours * 6)]
    assert buckets([(first + hours * 3600, 1)], "day", BERLIN) == [Bucket(at(day) + hours * 3600, 1)]
    by_hour = buckets(everything, "hour", BERLIN)
    assert [bucket.mails for bucket in by_hour] == [6] * hours
    assert [bucket.begin for bucket in by_hour] == list(range(first, first + hours * 3600, 3600))


def test_the_clock_of_this_machine() -> None:
    now = datetime(2026, 11, 22, 14, 31, 5)
    date = round(now.timestamp())
    assert begin_of(date, "minute") == date - 5
    assert begin_of(date, "hour") == date - 5 - 31 * 60
    assert begin_of(date, "day") == round(datetime(2026, 11, 22).timestamp())
