"""Peaks are exact to the second, as those are that limits count, and what had to go for want of room is told."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.windows import Windows
from policyd_rate_limit.rehearsal.peaks import Peaks
from policyd_rate_limit.rehearsal.readable import LADDER, readable

BEGIN = 1_795_993_200
MAILS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 400, width=32), st.integers(1, 30)), min_size=1, max_size=60
)


def most_of(mails: list[tuple[str, float, int]], name: str, seconds: int) -> int:
    """The most in any window, each looked at from each mail: a mail is dated up, and judged by the second it is in."""
    mine = [(time, amount) for one, time, amount in mails if one == name]
    return max(
        sum(amount for time, amount in mine[: at + 1] if math.ceil(time) > math.floor(now) - seconds)
        for at, (now, _) in enumerate(mine)
    )


@given(MAILS)
@settings(max_examples=60)
def test_peaks_are_those_of_every_window_there_is(mails: list[tuple[str, float, int]]) -> None:
    mails.sort(key=lambda mail: mail[1])
    mails = [(name, BEGIN + time, amount) for name, time, amount in mails]
    peaks = Peaks((7, 60, 300))
    for name, time, amount in mails:
        peaks.add(name, time, amount)
    for name, sent in peaks.ids.items():
        assert list(sent.peaks) == [most_of(mails, name, seconds) for seconds in (7, 60, 300)]
        assert sent.amount == sum(amount for one, _, amount in mails if one == name)
    assert peaks.mails == len(mails)
    assert not peaks.is_crowded


@given(MAILS)
@settings(max_examples=40)
def test_a_limit_at_the_peak_refuses_nothing_and_one_below_does(mails: list[tuple[str, float, int]]) -> None:
    mails = sorted(((name, BEGIN + time, amount) for name, time, amount in mails), key=lambda mail: mail[1])
    peaks = Peaks((60,))
    for name, time, amount in mails:
        peaks.add(name, time, amount)
    for short, refused in ((0, False), (1, True)):
        windows, found = Windows(), set()
        for name, time, amount in mails:
            windows.advance(time)
            if windows.exceeded(name, amount, (Limit(peaks.ids[name].peaks[0] - short, 60),)):
                found.add(name)
            else:
                windows.add(name, windows.date, amount)
        assert found == (peaks.ids.keys() if refused else set())


def test_the_curve_tells_ids_exactly_and_mails_at_the_most() -> None:
    peaks = Peaks((60,))
    for at in range(12):
        peaks.add("busy", BEGIN + at, 1)
    peaks.add("calm", BEGIN + 20, 3)
    curve = {maximum: (ids, mails) for maximum, ids, mails in peaks.curve(0)}
    assert curve[1] == (2, 11 + 1)
    assert curve[3] == (1, 9)
    assert curve[10] == (1, 2)
    assert curve[12] == (0, 0)
    assert list(curve)[-1] == 12


def test_the_least_active_go_and_their_peaks_still_count() -> None:
    peaks = Peaks((60, 3600), most_ids=16)
    for number in range(40):
        for at in range(number + 1):
            peaks.add(f"id{number}", BEGIN + 1000 * number + at, 1)
    assert len(peaks.ids) <= 16
    assert "id39" in peaks.ids
    assert "id0" not in peaks.ids
    assert peaks.forgotten.times + len(peaks.ids) == 40
    assert peaks.sorted_peaks(1) == list(range(1, 41))
    assert peaks.sorted_peaks(1, frozenset({"id39"})) == list(range(1, 40))


def test_more_at_once_than_there_is_room_for_is_told_and_no_peak_is_too_low() -> None:
    peaks = Peaks((60,), most_ids=8)
    for number in range(4000):
        peaks.add(f"id{number}", BEGIN + number / 4000, 1)
    peaks.add("late", BEGIN + 2, 5)
    assert peaks.is_crowded
    assert all(sent.peaks[0] >= sent.amount for sent in peaks.ids.values())


@pytest.mark.parametrize(
    ("number", "round_number"), [(0, 1), (1, 1), (7.5, 8), (11, 12), (61, 80), (100, 100), (340.5, 400)]
)
def test_round_numbers_are_rounded_up(number: float, round_number: int) -> None:
    assert readable(number) == round_number


def test_round_numbers_rise_by_a_third_at_the_most() -> None:
    assert readable(10**15) == LADDER[-1]
    for one, after in pairwise(LADDER):
        assert one < after <= max(one + 1, math.ceil(one * 4 / 3))
