"""How far apart batches begin, and for whom they wait."""

from __future__ import annotations

import pytest

from policyd_rate_limit.storage.engine.pacing import (
    DISTANCE_SECONDS,
    LEAST_CLIENTS,
    PERIOD_SECONDS,
    Pace,
)

LONG_AGO = 1_000.0


def busy(clients: int) -> tuple[Pace, float]:
    """A pace after a period in which ``clients`` asked, and when its last batch began."""
    pace = Pace(lambda: clients)
    pace.begin(LONG_AGO)
    now = LONG_AGO + PERIOD_SECONDS
    pace.begin(now)
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
    pace, now = busy(LEAST_CLIENTS)
    assert pace.enough == LEAST_CLIENTS // 2
    pace, now = busy(40)
    assert pace.enough == 20
    assert pace.delay(now, 20) <= 0


def test_the_clients_are_counted_again_each_period() -> None:
    counts = [40, 40, 16, 1]
    pace = Pace(lambda: counts.pop(0))
    now, found = LONG_AGO, []
    while counts:
        pace.begin(now)
        found.append(pace.enough)
        pace.begin(now + PERIOD_SECONDS / 2)
        assert pace.enough == found[-1]
        now += PERIOD_SECONDS
    assert found == [1, 20, 8, 1]


def test_clients_from_before_a_quiet_time_are_not_waited_for() -> None:
    pace, now = busy(40)
    now += 3 * PERIOD_SECONDS
    pace.begin(now)
    assert pace.clients == 0
    assert pace.delay(now, 1) <= 0
