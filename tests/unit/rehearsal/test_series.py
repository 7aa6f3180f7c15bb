"""Mails over time in a bounded number of steps."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.rehearsal.series import MOST_STEPS, Steps

Came = tuple[float, bool, bool]


def of(came: list[Came], most_steps: int = MOST_STEPS) -> Steps:
    steps, now = Steps(most_steps), 1_790_000_000.0
    for pause, refused, before in came:
        now += pause
        steps.add(now, refused=refused, refused_before=before)
    return steps


def test_a_minute_is_the_shortest_step() -> None:
    series = of([(0, False, False), (59, True, False), (120, True, True)]).series()
    assert (series.seconds, series.begin % 60) == (60, 0)
    assert (series.mails, series.refused, series.refused_before) == ((1, 1, 0, 1), (0, 1, 0, 1), (0, 0, 0, 1))


def test_no_mails_are_no_steps() -> None:
    assert Steps().series().mails == ()


def test_years_between_two_mails_take_no_memory_and_no_time() -> None:
    series = of([(0, True, False), (50 * 366 * 86_400, False, False)]).series()
    assert len(series.mails) <= MOST_STEPS
    assert (sum(series.mails), sum(series.refused)) == (2, 1)


@given(
    st.lists(
        st.tuples(st.floats(0, 100) | st.floats(0, 1_000_000), st.booleans(), st.booleans()), min_size=1, max_size=60
    )
)
def test_each_mail_is_in_the_step_of_its_time(came: list[Came]) -> None:
    series = of(came, 10).series()
    assert len(series.mails) <= 10
    assert series.begin % series.seconds == 0
    expected: list[Counter[int]] = [Counter(), Counter(), Counter()]
    now = 1_790_000_000.0
    for pause, refused, before in came:
        now += pause
        step = int(now - series.begin) // series.seconds
        for counts, counts_it in zip(expected, (True, refused, before), strict=True):
            counts[step] += counts_it
    for told, counts in zip((series.mails, series.refused, series.refused_before), expected, strict=True):
        assert list(told) == [counts[step] for step in range(len(told))]
        assert sum(told) == counts.total()
