"""The probe: what it says of a database that is away, as that comes and goes."""

from __future__ import annotations

import pytest

from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.engine.backoff import Backoff
from policyd_rate_limit.storage.engine.probe import Probe


class Clock:
    """Seconds, which stand until they are set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Database:
    """Is there, or is not, as the test says."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.looks = 0

    def look(self) -> None:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble


def reached(probe: Probe, clock: Clock) -> bool:
    """What is found by one look, whose time has come."""
    clock.now += Backoff.MOST
    assert not probe.has_reached()  # it has only begun
    probe.join()
    return probe.has_reached()


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), ZeroDivisionError()], ids=["away", "unforeseen"])
def test_what_was_reached_before_says_nothing_of_now(trouble: Exception) -> None:
    """A batch that relied on it would wait for the whole time-out, again and again."""
    clock, database = Clock(), Database()
    probe = Probe(database.look, clock)
    probe.lost()
    for _ in range(2):
        assert reached(probe, clock)
        database.trouble = trouble
        assert not reached(probe, clock)
        database.trouble = None


def test_a_look_that_fails_makes_the_next_one_wait() -> None:
    """For longer each time, up to a bound."""
    clock, database = Clock(), Database()
    probe = Probe(database.look, clock)
    database.trouble = StoreUnavailable("away")
    for failures in range(8):
        assert not reached(probe, clock)
        assert database.looks == failures + 1
        clock.now += 0.4 * min(Backoff.FIRST * 2**failures, Backoff.MOST)
        assert not probe.has_reached()
        probe.join()
        assert database.looks == failures + 1
