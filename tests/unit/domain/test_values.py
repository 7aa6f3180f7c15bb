"""The values against a model that keeps all that was ever admitted, and looks through it."""

from __future__ import annotations

import gc
import math
import tracemalloc
from binascii import b2a_base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.clock import Clock
from policyd_rate_limit.domain.counting import DIGEST_CHARACTERS, digest
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits
from policyd_rate_limit.domain.sweeping import SHARDS, SWEEPS
from policyd_rate_limit.domain.values import MOST_VALUES, VALUE_CHARACTERS, Values

T0 = 1_700_000_000.0
TWO = (Limit(2, 10), Limit(3, 60))
NAMES = "abcdefgh"
DIGESTS = {name: digest(name) for name in NAMES}


class Model:
    """The same, in the simplest way: (time, name) of all that was ever admitted, for one key."""

    def __init__(self) -> None:
        self.admitted: list[tuple[float, str]] = []

    def step_back(self, now: float) -> None:
        self.admitted = [(min(time, now), name) for time, name in self.admitted]

    def window(self, seconds: int, now: float) -> set[str]:
        return {name for time, name in self.admitted if math.ceil(time) + seconds > math.floor(now)}

    def exceeded(self, name: str, limits: Limits, now: float) -> Limit | None:
        return next((one for one in limits if len(self.window(one.seconds, now) | {name}) > one.maximum), None)


class Counting:
    """Values, and the clock that they are counted by."""

    def __init__(self, max_keys: int = 1_000) -> None:
        self.clock = Clock()
        self.clock.advance(T0)
        self.values = Values(self.clock, max_keys)

    def charge(self, key: str, name: str, limits: Limits, keep: int = 0) -> bool:
        """Admit ``name`` where that is within ``limits``, as the ledger does; whether it is."""
        if self.values.exceeded(key, digest(name), limits, keep) is not None:
            return False
        self.values.add(key, self.clock.date, digest(name))
        return True

    def sweep(self, longest: int, times: int = SWEEPS) -> None:
        for _ in range(times):
            self.values.sweep(longest)


limits_lists = st.lists(st.builds(Limit, st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=3).map(tuple)
names = st.sampled_from(NAMES)
steps = st.one_of(st.just(0.0), st.floats(0, 15, allow_nan=False))


@given(
    st.lists(limits_lists, min_size=1, max_size=3), st.lists(st.tuples(steps, names, st.integers(0, 2)), max_size=60)
)
def test_admits_exactly_what_the_model_admits(all_limits: list[Limits], requests: list[tuple[float, str, int]]) -> None:
    """Also where limits change; and the outlook is what comes true."""
    counting, model, now = Counting(), Model(), T0
    longest = max(limit.seconds for limits in all_limits for limit in limits)
    for step, name, which in requests:
        now += step
        counting.clock.advance(now)
        limits = all_limits[which % len(all_limits)]
        expected = model.exceeded(name, limits, now)
        used = tuple(len(model.window(limit.seconds, now)) for limit in limits)
        assert counting.values.usage("k", limits) == used
        for limit, (found, free_in) in zip(limits, counting.values.outlook("k", DIGESTS[name], limits), strict=True):
            assert found == len(model.window(limit.seconds, now))
            free = [
                model.exceeded(name, (limit,), math.floor(now) + later) is None for later in range(limit.seconds + 2)
            ]
            assert free_in == (free.index(True) if any(free) else None)
        assert counting.values.exceeded("k", DIGESTS[name], limits, longest) == expected
        if expected is None:
            is_new = (math.ceil(now), name) not in {(math.ceil(time), name) for time, name in model.admitted}
            assert counting.values.add("k", counting.clock.date, DIGESTS[name]) is is_new
            model.admitted.append((now, name))


@given(limits_lists, st.lists(st.tuples(steps, names), max_size=60))
def test_never_more_different_values_than_the_limit_in_any_window(
    limits: Limits, requests: list[tuple[float, str]]
) -> None:
    counting, now = Counting(), T0
    admitted: list[tuple[float, str]] = []
    for step, name in requests:
        now += step
        counting.clock.advance(now)
        if counting.charge("k", name, limits):
            admitted.append((now, name))
    for limit in limits:
        for end, _ in admitted:
            inside = {name for time, name in admitted if end - limit.seconds < time <= end}
            assert len(inside) <= limit.maximum


@given(
    st.lists(limits_lists, min_size=1, max_size=2),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), names, st.floats(-100, 100, allow_nan=False)), max_size=50
    ),
)
def test_clock_steps_and_changing_limits(all_limits: list[Limits], requests: list[tuple[int, int, str, float]]) -> None:
    """A step back grants nothing: what lies in the windows is what a model has there that mends all its dates."""
    counting, now = Counting(), T0
    longest = max(limit.seconds for limits in all_limits for limit in limits)
    models: dict[str, Model] = {}
    for number, which, name, step in requests:
        key, limits = f"k{number}", all_limits[which % len(all_limits)]
        now = max(now + step, 1.0)
        if counting.clock.advance(now):
            for model in models.values():
                model.step_back(now)
        else:
            for model in models.values():  # what has left the longest window is forgotten, whatever the clock will show
                model.admitted = [one for one in model.admitted if math.ceil(one[0]) + longest > math.floor(now)]
            counting.sweep(longest)
        model = models.setdefault(key, Model())
        used = counting.values.usage(key, limits)
        assert used == tuple(len(model.window(limit.seconds, now)) for limit in limits)
        assert counting.values.exceeded(key, DIGESTS[name], limits, longest) == model.exceeded(name, limits, now)
        if model.exceeded(name, limits, now) is None:
            counting.values.add(key, counting.clock.date, DIGESTS[name])
            model.admitted.append((now, name))


def test_a_value_that_is_seen_again_moves_to_the_newer_second() -> None:
    counting = Counting()
    assert counting.charge("k", "a", TWO)
    counting.clock.advance(T0 + 5)
    assert counting.charge("k", "b", TWO)
    counting.clock.advance(T0 + 9)
    assert counting.charge("k", "a", TWO)
    assert not counting.charge("k", "c", TWO)
    counting.clock.advance(T0 + 15)  # b is gone, a is not
    assert counting.charge("k", "c", TWO)
    assert not counting.charge("k", "b", TWO)
    counting.clock.advance(T0 + 19)
    assert counting.charge("k", "b", TWO)


def test_where_limits_have_become_lower_no_value_stays_by_being_seen_again() -> None:
    counting = Counting()
    for name in "abc":
        assert counting.charge("k", name, (Limit(3, 60),))
    lower = (Limit(2, 60),)
    for later in (1, 59):
        counting.clock.advance(T0 + later)
        assert not any(counting.charge("k", name, lower) for name in "abcd")
    counting.clock.advance(T0 + 60)
    assert [counting.charge("k", name, lower) for name in "abcd"] == [True, True, False, False]
    assert not counting.charge("k", "a", (Limit(0, 60),))


@given(st.lists(st.tuples(st.integers(0, 50), names), min_size=1, max_size=40), st.randoms())
def test_values_come_in_any_order(admitted: list[tuple[int, str]], random: object) -> None:
    """As from a spool file that is replayed, and more than once."""
    limits = tuple(Limit(9, seconds) for seconds in (10, 25, 60))
    ordered, shuffled = Counting(), Counting()
    for counting in (ordered, shuffled):
        counting.clock.advance(T0 + 50)
    for age, name in sorted(admitted, reverse=True):
        ordered.values.add("k", int(T0) + 50 - age, DIGESTS[name])
    for _ in range(2):
        for age, name in admitted:
            shuffled.values.add("k", int(T0) + 50 - age, DIGESTS[name])
    expected = tuple(len({name for age, name in admitted if age < limit.seconds}) for limit in limits)
    assert ordered.values.usage("k", limits) == shuffled.values.usage("k", limits) == expected
    assert sorted(ordered.values.all()) == sorted(shuffled.values.all())
    assert [date for _, date, _ in shuffled.values.all()] == sorted(date for _, date, _ in shuffled.values.all())


def test_what_is_taken_back_is_what_was_not_admitted_since() -> None:
    counting = Counting()
    for second, name in enumerate("aba"):
        counting.clock.advance(T0 + second)
        assert counting.charge("k", name, TWO)
    date = int(T0)
    counting.values.remove("k", date, digest("a"))  # it was admitted later
    counting.values.remove("k", date + 9, digest("c"))
    counting.values.remove("nobody", date, digest("a"))
    assert counting.values.usage("k", TWO) == (2, 2)
    counting.values.remove("k", date + 1, digest("b"))
    assert [(date, value) for _, date, value in counting.values.all()] == [(date + 2, digest("a"))]
    counting.values.remove("k", date + 2, digest("a"))
    assert list(counting.values) == []
    assert len(counting.values) == 0


def test_all_up_to_a_second_is_forgotten() -> None:
    counting = Counting()
    for second, name in enumerate("abc"):
        counting.values.add("k", int(T0) + second, digest(name))
    counting.values.empty("k", int(T0) + 1)
    counting.values.empty("nobody", int(T0) + 1)
    assert list(counting.values.all()) == [("k", int(T0) + 2, digest("c"))]
    counting.values.empty("k", int(T0) + 2)
    assert list(counting.values) == []


def test_what_is_no_digest_is_a_value_as_well() -> None:
    """A database may hold anything."""
    counting = Counting()
    odd = ["", "reset", "x" * VALUE_CHARACTERS, "é" * VALUE_CHARACTERS, "=" * VALUE_CHARACTERS, "\udcff", "a" * 5_000]
    for value in odd:
        assert counting.values.add("k", int(T0), value)
        assert not counting.values.add("k", int(T0), value)
    assert counting.values.usage("k", (Limit(1, 60),)) == (len(odd),)
    again = Counting()
    for key, date, value in counting.values.all():
        again.values.add(key, date, value)
    assert all(not again.values.add("k", int(T0), value) for value in odd)


def test_values_are_digests() -> None:
    assert DIGEST_CHARACTERS == VALUE_CHARACTERS


def test_two_neighbours_that_make_up_a_third_are_no_third() -> None:
    """Whoever could choose digests would gain nothing."""
    counting = Counting()
    first, second = bytes(range(18)), bytes(range(100, 118))
    between = first[12:] + int(T0).to_bytes(6, "big") + second[:6]
    for number, value in enumerate((first, second, between), 1):
        written = b2a_base64(value, newline=False).decode()
        assert counting.values.outlook("k", written, (Limit(9, 60),)) == ((number - 1, 0),)
        assert counting.values.exceeded("k", written, (Limit(number - 1, 60),)) == Limit(number - 1, 60)
        assert counting.values.add("k", int(T0), written)
        assert not counting.values.add("k", int(T0), written)
    assert counting.values.usage("k", TWO) == (3, 3)


def test_a_limit_per_mail_means_nothing() -> None:
    counting = Counting()
    limits = (Limit(1, PER_MAIL), Limit(2, 60))
    assert [counting.charge("k", name, limits) for name in "abc"] == [True, True, False]
    assert counting.values.usage("k", limits) == (0, 2)
    assert [counting.charge("other", name, ()) for name in "abc"] == [True] * 3


def test_values_of_short_windows_are_kept_as_long_as_others_may_hold() -> None:
    counting = Counting()
    brief, hour = (Limit(1, 10),), (Limit(3, 3600),)
    for minute, name in enumerate("abc"):
        counting.clock.advance(T0 + 60 * minute)
        assert counting.charge("k", name, brief, keep=3600)
    counting.sweep(10)
    assert counting.values.usage("k", hour) == (3,)
    assert not counting.charge("k", "d", hour)


def test_one_counter_has_a_bound_whatever_its_limits_are() -> None:
    counting = Counting(max_keys=10_000)
    generous = (Limit(10**6, 10),)
    for number in range(MOST_VALUES):
        if number % 100 == 0:
            counting.clock.advance(T0 + number // 100)
        assert counting.charge("k", str(number), generous, keep=3600)
    assert counting.values.exceeded("k", digest("another"), generous, 3600) == generous[0]
    assert counting.values.turned_away == 0  # it is a bound of this counter
    # The first hundred leave what is kept 3,600 s after they came, 99 s ago.
    assert counting.values.outlook("k", digest("another"), generous, 3600) == ((1000, 3600 - 99),)
    assert counting.values.outlook("k", digest("0"), generous, 3600) == ((1000, 0),)
    assert counting.values.outlook("k", digest("another"), generous) == ((1000, 0),)
    assert counting.charge("k", "0", generous, keep=3600)
    assert counting.values.exceeded("k", digest("another"), generous) is None  # nobody needs the others any more
    many = Counting(max_keys=10_000)
    for number in range(MOST_VALUES):
        many.values.add("k", int(T0) + number // 5_000, str(number))
    assert many.values.outlook("k", "new", (Limit(10**6, 60),)) == ((MOST_VALUES, 60),)


def test_memory_of_a_key_is_bounded_by_its_longest_window() -> None:
    counting = Counting()
    for second in range(3_000):
        counting.clock.advance(T0 + second)
        assert counting.charge("k", str(second), (Limit(100, 5), Limit(100, 50)))
    assert len(counting.values) <= 2 * 50 + 2


def test_expired_keys_are_forgotten() -> None:
    counting = Counting()
    for number in range(300):
        assert counting.charge(f"k{number}", "a", TWO)
        assert counting.charge(f"k{number}", "b", TWO)  # the second look tells the windows of this key's limits
    counting.values.add("from another daemon", counting.clock.date, "a")
    counting.clock.advance(T0 + 60)
    counting.sweep(100, SHARDS)
    assert list(counting.values) == ["from another daemon"]
    assert len(counting.values) == 1
    counting.clock.advance(T0 + 100)
    counting.sweep(100, SHARDS)
    assert len(counting.values) == 0


def test_trimming_drops_what_nobody_needs() -> None:
    counting = Counting()
    for second in range(4):
        counting.values.add("k", int(T0) + second, str(second))
    counting.clock.advance(T0 + 4)
    counting.values.trim("k", 4)
    assert len(counting.values) == 4  # most of it is needed
    counting.values.trim("k", 3)
    counting.values.trim("nobody", 3)
    assert len(counting.values) == 2


def test_where_there_is_no_room_a_new_value_is_refused_and_a_known_one_is_not() -> None:
    counting = Counting(max_keys=4)  # room for 40: of two counters with 20 values in all
    limits = (Limit(100, 60),)
    for number in range(10):
        assert counting.charge("one", str(number), limits)
        assert counting.charge("two", str(number), limits)
    assert counting.values.turned_away == 0
    assert counting.values.exceeded("one", digest("another"), limits) == limits[0]
    assert counting.values.exceeded("three", digest("0"), limits) == limits[0]
    assert counting.values.turned_away == 2
    # Who makes room is not known: all of the first window is sure to, for whom there is room in the others.
    more = (*limits, Limit(200, 3600))
    assert counting.values.outlook("one", digest("another"), more) == ((10, 60), (10, 0))
    assert counting.values.outlook("three", digest("0"), limits) == ((0, 60),)
    assert counting.values.outlook("one", digest("3"), limits) == ((10, 0),)
    assert counting.values.outlook("one", digest("another"), (Limit(5, 60), Limit(0, 10))) == ((10, 60), (10, None))
    assert counting.values.outlook("one", digest("another"), ()) == ()
    counting.clock.advance(T0 + 30)
    assert counting.charge("one", "3", limits)
    assert counting.values.exceeded("nobody", digest("0"), ()) is None  # whoever is unlimited is not counted
    counting.clock.advance(T0 + 60)
    counting.sweep(60)
    assert len(counting.values) == 1
    assert counting.charge("three", "0", limits)


def test_what_others_admitted_and_there_was_no_room_for_has_new_values_refused_as_long_as_it_counts() -> None:
    """Nobody knows to whose window it belongs."""
    counting = Counting(max_keys=2)
    for number in range(11):
        counting.values.add("one", int(T0), str(number))
    assert len(counting.values) == 10
    limits = (Limit(100, 30), Limit(100, 60))
    counting.clock.advance(T0 + 29)
    counting.values.empty("one", int(T0))
    assert counting.values.exceeded("one", "new", limits) == limits[0]
    assert counting.values.outlook("one", "new", limits) == ((0, 1), (0, 31))
    counting.clock.advance(T0 + 59)
    assert counting.values.exceeded("one", "new", limits) == limits[1]
    assert counting.values.outlook("one", "new", limits) == ((0, 0), (0, 1))
    assert counting.values.turned_away == 2
    counting.clock.advance(T0 + 60)
    assert counting.values.exceeded("one", "new", limits) is None
    assert counting.values.exceeded("one", "new", (Limit(100, 30),)) is None
    counting = Counting(max_keys=0)
    counting.values.add("one", int(T0) + 10**8, "0")
    counting.clock.advance(T0 + 1)
    assert counting.values.exceeded("one", "new", limits) == limits[0]
    counting.clock.advance(T0 + 62)
    counting.values._room = 100
    assert counting.values.exceeded("one", "new", limits) is None  # a clock that was wrong locks nobody out


def test_before_the_epoch_and_long_after_it() -> None:
    clock = Clock()
    values = Values(clock, 100)
    assert values.exceeded("k", "a", (Limit(1, 60),)) is None
    values.add("k", -5, "a")
    assert values.exceeded("k", "b", (Limit(1, 60),)) == Limit(1, 60)
    values.add("k", 2**60, "b")
    assert values.usage("k", (Limit(1, 60),)) == (2,)


@pytest.mark.parametrize("back", [1, 3_600])
def test_a_step_back_grants_nothing_and_locks_nobody_out(back: int) -> None:
    counting = Counting()
    assert counting.charge("k", "a", TWO)
    assert counting.charge("k", "b", TWO)
    counting.clock.advance(T0 - back)
    assert not counting.charge("k", "c", TWO)
    counting.clock.advance(T0 - back + 10)
    assert counting.charge("k", "c", TWO)


@pytest.mark.parametrize("number", [10, 100])
def test_memory_of_values(number: int) -> None:
    """100 values of each of 100,000 counters take less than 400 MB: 3,300 bytes for each counter."""
    counters = 6_000 // number
    keys = [f"addresses/distinct-client_address|user:user{counter:06d}@example.org" for counter in range(counters)]
    gc.collect()
    tracemalloc.start()
    try:
        counting = Counting(max_keys=10**6)
        empty = tracemalloc.get_traced_memory()[0]
        limits = (Limit(number, 86_400),)
        for one in range(number):
            for key in keys:
                assert counting.charge(key, f"{key}{one}", limits)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    names = sum(map(len, keys)) + 49 * counters  # which others hold here
    assert (taken + names) / counters <= 300 + 30 * number
