"""How far apart batches begin, and for whom they wait."""

from __future__ import annotations

import pytest

from policyd_rate_limit.storage.pace import DISTANCE_SECONDS, LEAST_CLIENTS, PERIOD_SECONDS, Pace

LONG_AGO = 1_000.0


def busy(clients: int, demands: int = 1_000) -> tuple[Pace, float]:
    """A pace after a period in which ``clients`` made ``demands``, and when its last batch began."""
    pace = Pace(lambda: clients)
    pace.begin(LONG_AGO, 1)
    now = LONG_AGO + PERIOD_SECONDS
    pace.begin(now, demands)
    return pace, now


def test_the_first_batch_begins_at_once() -> None:
    assert Pace(lambda: 100).delay(LONG_AGO, 1) <= 0


@pytest.mark.parametrize("clients", [0, 1, 3, 7])
def test_few_clients_never_wait_for_each_other(clients: int) -> None:
    pace, now = busy(clients)
    assert pace.delay(now, 1) <= 0


def test_batches_of_many_clients_keep_a_distance() -> None:
    pace, now = busy(40)
    assert pace.delay(now, 1) == pytest.approx(DISTANCE_SECONDS)
    assert pace.delay(now + DISTANCE_SECONDS / 4, 9) == pytest.approx(DISTANCE_SECONDS * 3 / 4)
    assert pace.delay(now + 1.01 * DISTANCE_SECONDS, 1) <= 0


def test_half_of_the_clients_are_enough() -> None:
    pace, now = busy(40)
    assert pace.enough == 20
    assert pace.delay(now, 20) <= 0


def test_the_clients_are_counted_anew_each_period() -> None:
    counts = [40, 40, 16, 1]
    pace = Pace(lambda: counts.pop(0))
    now, found = LONG_AGO, []
    while counts:
        pace.begin(now, 1)
        found.append(pace.enough)
        pace.begin(now + PERIOD_SECONDS / 2, 1)
        assert pace.enough == found[-1]
        now += PERIOD_SECONDS
    assert found == [1, 20, 8, 1]


def test_clients_from_before_a_rest_are_not_waited_for() -> None:
    pace, now = busy(40)
    now += 3 * PERIOD_SECONDS
    pace.begin(now, 1)
    assert pace.delay(now, 1) <= 0
    assert not pace.rests


@pytest.mark.parametrize("clients", [LEAST_CLIENTS, 40, 1_000])
def test_whoever_waits_rests_while_fewer_are_expected_than_are_enough(clients: int) -> None:
    enough = clients // 2
    per_period = (enough - 1) * PERIOD_SECONDS / DISTANCE_SECONDS
    assert busy(clients, int(0.9 * per_period))[0].rests
    assert not busy(clients, int(1.1 * per_period) + 1)[0].rests


def test_few_clients_are_not_rested_for() -> None:
    assert not busy(LEAST_CLIENTS - 1, 1)[0].rests


def test_more_than_expected_end_the_rests_until_the_next_period() -> None:
    pace, now = busy(40, 1)
    found = []
    for after, demands in ((0.01, 19), (0.02, 20), (0.03, 1), (PERIOD_SECONDS + 0.01, 1)):
        pace.begin(now + after, demands)
        found.append(pace.rests)
    assert found == [True, False, False, True]
