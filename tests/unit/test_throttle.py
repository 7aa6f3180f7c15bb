"""What is said once in a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.system.throttle import Throttle


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_throttle_says_it_once_per_interval() -> None:
    clock = Clock()
    throttle = Throttle(60, clock)
    assert throttle.hit() == (True, 0)
    assert throttle.hit() == (False, 1)
    clock.now += 59.9
    assert throttle.hit() == (False, 2)
    clock.now += 0.1
    assert throttle.hit() == (True, 2)
    clock.now += 60
    assert throttle.hit() == (True, 0)


def test_throttle_keeps_keys_apart() -> None:
    throttle = Throttle(60, Clock())
    assert throttle.hit("a") == (True, 0)
    assert throttle.hit("b") == (True, 0)
    assert throttle.hit("a") == (False, 1)


def test_throttle_lets_the_keys_beyond_its_bound_share_one_turn() -> None:
    clock = Clock()
    throttle = Throttle(60, clock, keys=2)
    assert [throttle.hit(key)[0] for key in "abcdef"] == [True, True, True, False, False, False]
    clock.now += 60
    # What was not said about those that are forgotten by now is told with what is said next.
    assert throttle.hit("g") == (True, 3)
    assert throttle.hit("h") == (True, 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.text("abcdefgh", max_size=1))))
def test_throttle_is_bounded_in_keys_and_in_what_is_said(hits: list[tuple[int, str]]) -> None:
    clock = Clock()
    throttle = Throttle(60, clock, keys=4)
    said: list[float] = []
    for wait, key in hits:
        clock.now += wait
        if throttle.hit(key)[0]:
            said.append(clock.now)
        assert len(throttle._said) <= 5
        assert sum(clock.now - moment < 60 for moment in said) <= 5
