"""How far apart batches begin, and for whom they wait."""

from __future__ import annotations

import pytest

from policyd_rate_limit.storage.engine.pacing import (
    DISTANCE_SECONDS,
    LEAST_CLIENTS,
    LEAST_REST_SECONDS,
    PERIOD_SECONDS,
    Pace,
)

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


def test_the_clients_are_counted_again_each_period() -> None:
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
    assert not pace.rest(DISTANCE_SECONDS, 1)


def test_a_rest_ends_when_as_many_are_expected_as_are_enough() -> None:
    pace, _ = busy(40, demands=100)  # one in a millisecond
    assert pace.rest(DISTANCE_SECONDS, 9) == pytest.approx(0.010)
    assert pace.rest(0.005, 9) == 0.005
    assert pace.rest(DISTANCE_SECONDS, 19) == 0


def test_a_rest_that_is_not_worth_it_is_not_taken() -> None:
    pace, _ = busy(40, demands=100)
    assert pace.rest(LEAST_REST_SECONDS, 1) == LEAST_REST_SECONDS
    assert pace.rest(0.99 * LEAST_REST_SECONDS, 1) == 0
    assert busy(40, demands=10_000)[0].rest(DISTANCE_SECONDS, 1) == 0


def test_few_clients_are_not_rested_for() -> None:
    assert not busy(LEAST_CLIENTS - 1, demands=1)[0].rest(DISTANCE_SECONDS, 1)


def test_when_all_wait_there_is_no_rest_until_the_next_period() -> None:
    pace, now = busy(40, demands=1)
    found = []
    for after, demands in ((0.01, 39), (0.02, 40), (0.03, 1), (PERIOD_SECONDS + 0.01, 1)):
        pace.begin(now + after, demands)
        found.append(pace.rest(DISTANCE_SECONDS, 1) > 0)
    assert found == [True, False, False, True]
