"""The windows against a model that keeps every charge and adds them all up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.limits import LARGEST, Limit, Limits
from policyd_rate_limit.domain.sweeping import LONGEST_SWEPT, SHARDS, SWEEPS
from policyd_rate_limit.domain.windows import OVERFLOW_BUCKETS, Windows
from support.examples import examples
from support.sharing import keys_that_share

KEYS_THAT_SHARE = keys_that_share(4)
T0 = 1_700_000_000.0
TWO = (Limit(3, 10), Limit(5, 60))


class Model:
    """The same, in the simplest way: (time, amount) of everything ever admitted, for one key."""

    def __init__(self) -> None:
        self.charges: list[tuple[float, int]] = []

    def step_back(self, now: float) -> None:
        """What lies in the future has happened just now."""
        self.charges = [(min(time, now), amount) for time, amount in self.charges]

    def forget(self, seconds: int, now: float) -> None:
        """What has left a window of so many seconds is forgotten, whatever the clock will show later."""
        self.charges = [charge for charge in self.charges if math.ceil(charge[0]) + seconds > math.floor(now)]

    def used(self, seconds: int, now: float) -> int:
        return sum(amount for time, amount in self.charges if math.ceil(time) + seconds > math.floor(now))

    def exceeded(self, cost: int, limits: Limits, now: float) -> Limit | None:
        return next((limit for limit in limits if self.used(limit.seconds, now) + cost > limit.maximum), None)


def charge(windows: Windows, key: str, cost: int, limits: Limits) -> bool:
    """Count ``cost`` where that is within ``limits``, as the ledger does; whether it is."""
    if windows.exceeded(key, cost, limits) is not None:
        return False
    windows.add(key, windows.date, cost)
    return True


limits_lists = st.lists(st.builds(Limit, st.integers(0, 12), st.integers(1, 40)), min_size=1, max_size=4).map(tuple)
costs = st.integers(1, 5)
steps = st.floats(0, 15, allow_nan=False)


@given(limits_lists, st.lists(st.tuples(steps, costs), max_size=80))
def test_admits_exactly_what_the_model_admits(limits: Limits, requests: list[tuple[float, int]]) -> None:
    windows, model, now = Windows(), Model(), T0
    for step, cost in requests:
        now += step
        windows.advance(now)
        expected = model.exceeded(cost, limits, now)
        assert windows.exceeded("k", cost, limits) == expected
        if expected is None:
            windows.add("k", windows.date, cost)
            model.charges.append((now, cost))
        assert windows.usage("k", limits) == tuple(model.used(limit.seconds, now) for limit in limits)


@given(limits_lists, st.lists(st.tuples(steps, costs), max_size=80))
def test_never_more_than_the_limit_in_any_window(limits: Limits, requests: list[tuple[float, int]]) -> None:
    windows, now = Windows(), T0
    admitted: list[tuple[float, int]] = []
    for step, cost in requests:
        now += step
        windows.advance(now)
        if charge(windows, "k", cost, limits):
            admitted.append((now, cost))
    for limit in limits:
        for end, _ in admitted:
            inside = sum(cost for time, cost in admitted if end - limit.seconds < time <= end)
            assert inside <= limit.maximum


@given(limits_lists, st.lists(st.tuples(steps, costs, st.booleans()), max_size=60), costs)
def test_the_outlook_is_what_comes_true(limits: Limits, requests: list[tuple[float, int, bool]], cost: int) -> None:
    """Charges are counted whether they are admitted or not, as when limits have been lowered since."""
    windows, model, now = Windows(), Model(), T0
    for step, amount, always in requests:
        now += step
        windows.advance(now)
        if always or windows.exceeded("k", amount, limits) is None:
            windows.add("k", windows.date, amount)
            model.charges.append((now, amount))
    for limit, (used, free_in) in zip(limits, windows.outlook("k", cost, limits), strict=True):
        assert used == model.used(limit.seconds, now)
        free = [model.exceeded(cost, (limit,), math.floor(now) + later) is None for later in range(limit.seconds + 2)]
        assert free_in == (free.index(True) if any(free) else None)


def test_the_outlook_on_many_seconds_is_exact() -> None:
    seconds = 12_345
    windows = Windows()
    for second in range(seconds - 1):
        windows.advance(T0 + second)
        windows.add("k", windows.date, 1)
    limit = Limit(seconds, seconds)
    for cost in (2, 3, 100, 4_096, 4_097, seconds):
        # The charge of the first second leaves after two more, and so on.
        assert windows.outlook("k", cost, (limit,)) == ((seconds - 1, cost),)
    assert windows.outlook("k", seconds + 1, (limit,)) == ((seconds - 1, None),)


def test_totals_never_outgrow_their_integers() -> None:
    windows = Windows()
    for second in range(3_000):
        windows.advance(T0 + second)
        assert charge(windows, "k", LARGEST, (Limit(LARGEST, 1),))
    windows.add("k", windows.date, 1)
    assert windows.usage("k", (Limit(LARGEST, 1),)) == (LARGEST + 1,)


@given(st.integers(1, 5), st.integers(1, 100), st.floats(0, 0.999))
def test_strict_by_less_than_a_second(maximum: int, seconds: int, fraction: float) -> None:
    limits = (Limit(maximum, seconds),)
    windows = Windows()
    windows.advance(T0 + fraction)
    for _ in range(maximum):
        assert charge(windows, "k", 1, limits)
    windows.advance(T0 + fraction + seconds - 0.001)
    assert not charge(windows, "k", 1, limits)
    windows.advance(math.ceil(T0 + fraction) + seconds)
    assert charge(windows, "k", 1, limits)


@given(
    st.lists(limits_lists, min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), costs, st.floats(-100, 100, allow_nan=False)), max_size=60
    ),
)
def test_clock_steps_and_changing_limits(all_limits: list[Limits], requests: list[tuple[int, int, int, float]]) -> None:
    """Between a model that forgets nothing, and one that forgets for good what has left the longest window once."""
    windows, now = Windows(), T0
    strict: dict[str, Model] = {}
    lenient: dict[str, Model] = {}
    for number, which, cost, step in requests:
        key = f"k{number}"
        limits = all_limits[which % len(all_limits)]
        now = max(now + step, 1.0)
        stepped_back = windows.advance(now)
        for model in (*strict.values(), *lenient.values()):
            if stepped_back:
                model.step_back(now)
        remembers = strict.setdefault(key, Model())
        forgets = lenient.setdefault(key, Model())
        longest = max(limit.seconds for limit in limits)
        forgets.forget(longest, now)
        found = windows.exceeded(key, cost, limits)
        usage = windows.usage(key, limits)
        for used, limit in zip(usage, limits, strict=True):
            assert forgets.used(limit.seconds, now) <= used <= remembers.used(limit.seconds, now)
        assert (found is None) == all(used + cost <= limit.maximum for used, limit in zip(usage, limits, strict=True))
        if found is None:
            windows.add(key, windows.date, cost)
            remembers.charges.append((now, cost))
            forgets.charges.append((now, cost))


def test_a_step_back_grants_nothing() -> None:
    windows = Windows()
    windows.advance(T0)
    for _ in range(3):
        assert charge(windows, "k", 1, TWO)
    for back in (1, 30, 3_600, 86_400):
        windows.advance(T0 - back)
        assert not charge(windows, "k", 1, TWO)


def test_nobody_is_locked_out_longer_than_the_window_after_a_wrong_step_forward() -> None:
    windows = Windows()
    windows.advance(T0 + 1e8)
    for _ in range(3):
        assert charge(windows, "k", 1, TWO)
    windows.advance(T0)
    assert not charge(windows, "k", 1, TWO)
    # Nobody looks at the key in between: the window counts from the mend all the same.
    windows.advance(T0 + 10)
    assert charge(windows, "k", 1, TWO)


def test_several_steps_back_in_a_row() -> None:
    windows = Windows()
    for moment in (T0 + 1000, T0 + 500, T0 + 700, T0 + 100):
        windows.advance(moment)
        windows.add(f"k{moment}", windows.date, 3)
    windows.advance(T0)
    for moment in (T0 + 1000, T0 + 500, T0 + 700, T0 + 100):
        assert windows.usage(f"k{moment}", TWO) == (3, 3)
    windows.advance(T0 + 60)
    for moment in (T0 + 1000, T0 + 500, T0 + 700, T0 + 100):
        assert windows.usage(f"k{moment}", TWO) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), min_size=1, max_size=40), st.randoms())
def test_charges_come_in_any_order(charges: list[tuple[int, int]], random: object) -> None:
    """As from a spool file that is replayed."""
    limits = (Limit(10**6, 20), Limit(10**6, 40))
    ordered, shuffled = Windows(), Windows()
    for windows in (ordered, shuffled):
        windows.advance(T0 + 50)
    for age, amount in sorted(charges, reverse=True):
        ordered.add("k", int(T0) + 50 - age, amount)
    for index, (age, amount) in enumerate(charges):
        shuffled.add("k", int(T0) + 50 - age, amount)
        if index % 3 == 0:
            shuffled.exceeded("k", 1, limits)
    expected = tuple(sum(a for age, a in charges if age < limit.seconds) for limit in limits)
    assert ordered.usage("k", limits) == shuffled.usage("k", limits) == expected
    # What decides is not what lies there, but what is kept of its sums.
    for windows in (ordered, shuffled):
        assert tuple(used for used, _ in windows.outlook("k", 1, limits)) == expected
        assert windows.usage("k", limits) == expected


@pytest.mark.parametrize("seconds", [1, 50], ids=["a short log", "a long one"])
def test_what_is_told_late_does_not_count_in_a_window_that_it_has_left(seconds: int) -> None:
    limits = (Limit(2, 10), Limit(3 * seconds + 2, 60))
    windows = Windows()
    windows.advance(T0)
    for date in range(int(T0) - seconds + 1, int(T0) + 1):
        windows.add("k", date, 3)
    assert windows.exceeded("k", 1, limits) == limits[0]
    windows.advance(T0 + 10)
    assert windows.exceeded("k", 1, limits) is None
    windows.add("k", int(T0), 1)  # by another daemon, which was cut off from the database
    assert windows.exceeded("k", 2, limits) == limits[1]
    assert windows.outlook("k", 1, limits) == ((0, 0), (3 * seconds + 1, 0))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=20),
    st.data(),
)
def test_give_back_restores_what_was_charged(charges: list[tuple[int, int]], data: st.DataObject) -> None:
    limits = (Limit(10**6, 10), Limit(10**6, 40))
    windows, now = Windows(), T0
    kept: list[tuple[int, int]] = []
    for step, amount in charges:
        now += step
        windows.advance(now)
        windows.exceeded("k", 1, limits)
        windows.add("k", windows.date, amount)
        returned = data.draw(st.integers(0, amount))
        date = windows.date
        now += data.draw(st.integers(0, 9))
        windows.advance(now)
        if data.draw(st.booleans()):
            windows.exceeded("k", 1, limits)
        windows.give_back("k", date, returned)
        kept.append((date, amount - returned))
        windows.exceeded("k", 1, limits)
        assert windows.usage("k", limits) == tuple(
            sum(a for date, a in kept if date + limit.seconds > now) for limit in limits
        )


def test_give_back_never_takes_from_what_is_newer() -> None:
    windows = Windows()
    windows.advance(T0)
    windows.give_back("k", int(T0), 1)
    windows.add("k", int(T0), 2)
    windows.give_back("k", int(T0) - 5, 1)
    assert windows.usage("k", TWO) == (2, 2)


def test_what_is_given_back_beyond_its_own_second_is_taken_from_those_before() -> None:
    windows = Windows()
    for second in range(4):
        windows.advance(T0 + second)
        windows.add("k", windows.date, 2)
    windows.give_back("k", int(T0) + 2, 5)
    limits = tuple(Limit(9, seconds) for seconds in (1, 2, 3, 4))
    assert windows.usage("k", limits) == (2, 2, 2, 3)
    windows.give_back("k", int(T0) + 1, 5)
    assert windows.usage("k", limits) == (2, 2, 2, 2)


def test_give_back_after_a_step_back() -> None:
    windows = Windows()
    windows.advance(T0)
    windows.add("k", windows.date, 3)
    windows.advance(T0 - 100)
    windows.give_back("k", int(T0), 2)
    assert windows.usage("k", TWO) == (1, 1)


@pytest.mark.parametrize("cost", [4, 100])
def test_what_costs_more_than_the_limit_never_passes(cost: int) -> None:
    windows = Windows()
    windows.advance(T0)
    assert windows.exceeded("k", cost, TWO) == TWO[0]


def test_no_limits_exceed_nothing() -> None:
    windows = Windows()
    windows.advance(T0)
    windows.add("k", windows.date, 7)
    assert windows.exceeded("k", 10**9, ()) is None
    assert windows.usage("k", TWO) == (7, 7)


def test_memory_of_a_key_is_bounded_by_its_longest_window() -> None:
    limits = (Limit(10**6, 5), Limit(10**6, 50))
    windows = Windows()
    for second in range(10_000):
        windows.advance(T0 + second)
        charge(windows, "k", 1, limits)
    assert len(list(windows.charges())) <= 2 * 50 + 2


def test_expired_keys_are_forgotten() -> None:
    windows = Windows()
    windows.advance(T0)
    for number in range(1000):
        # The second look tells the windows of this key's limits.
        charge(windows, f"k{number}", 1, TWO)
        charge(windows, f"k{number}", 1, TWO)
    windows.add("from another daemon", windows.date, 1)
    assert len(windows) == len(set(windows)) == 1001
    windows.advance(T0 + 60)
    for _ in range(SHARDS):
        windows.sweep(longest=100)
    assert [key for key, _, _ in windows.charges()] == [*windows] == ["from another daemon"]
    windows.advance(T0 + 100)
    for _ in range(SHARDS):
        windows.sweep(longest=100)
    assert len(windows) == 0


def test_what_was_counted_in_a_future_that_is_none_is_forgotten_like_all_else() -> None:
    windows = Windows()
    windows.advance(T0 + 1e6)
    windows.add("k", windows.date, 1)
    windows.advance(T0)
    windows.advance(T0 + 99)
    for _ in range(SWEEPS):
        windows.sweep(longest=100)
    assert len(windows) == 1
    windows.advance(T0 + 100)
    for _ in range(SWEEPS):
        windows.sweep(longest=100)
    assert len(windows) == 0


@pytest.mark.parametrize(("longest", "calls"), [(60, SWEEPS), (LONGEST_SWEPT, SWEEPS), (4 * LONGEST_SWEPT, 4 * SWEEPS)])
def test_looking_at_all_keys_takes_the_longer_the_longer_windows_are(longest: int, calls: int) -> None:
    windows = Windows()
    windows.advance(T0)
    for number in range(5_000):
        windows.add(f"k{number}", windows.date, 1)
    windows.advance(T0 + longest)
    left = []
    for _ in range(calls):
        windows.sweep(longest)
        left.append(len(windows))
    assert left[-1] == 0
    assert 1_500 < left[calls // 2] < 3_500
    assert max(before - after for before, after in pairwise([5_000, *left])) < 100


def test_who_has_longer_windows_now_is_not_forgotten_after_the_shorter_ones() -> None:
    windows = Windows()
    windows.advance(T0)
    shorter, longer = (Limit(10, 60),), (Limit(10, 61),)
    for limits in (shorter, shorter, longer):
        assert charge(windows, "k", 1, limits)
    windows.advance(T0 + 60)
    for _ in range(SHARDS):
        windows.sweep(longest=61)
    assert windows.usage("k", longer) == (3,)


def test_beyond_max_keys_the_error_is_to_the_strict_side() -> None:
    windows = Windows(max_keys=100)
    windows.advance(T0)
    keys = [f"k{number}" for number in range(100 + 3 * OVERFLOW_BUCKETS)]
    admitted = {key: sum(charge(windows, key, 1, TWO) for _ in range(4)) for key in keys}
    assert len(windows) == 100
    assert 0 < windows.overflowing <= OVERFLOW_BUCKETS
    assert all(admitted[key] == 3 for key in keys[:100])
    assert all(admitted[key] <= 3 for key in keys)
    # When room is free again, a key whose charges lie in a common log goes on being held to them.
    late = next(key for key in keys[100:] if admitted[key] == 3)
    windows.advance(T0 + 9)
    windows.max_keys = 10**6
    assert not charge(windows, late, 1, TWO)
    windows.advance(T0 + 60)
    for _ in range(SHARDS):
        windows.sweep(longest=60)
    assert windows.overflowing == 0
    assert charge(windows, late, 1, TWO)
    assert len(windows) == 1


def test_a_common_log_is_forgotten_once_all_of_it_has_left_the_longest_window() -> None:
    windows = Windows(max_keys=0)
    windows.advance(T0)
    charge(windows, "k", 1, TWO)
    windows.advance(T0 + 60)
    assert windows.exceeded("k", 1, TWO) is None
    for longest in (100, 60):
        assert windows.overflowing == 1
        for _ in range(SWEEPS):
            windows.sweep(longest)
    assert windows.overflowing == 0


def test_who_shares_a_log_with_shorter_windows_is_held_to_the_longer_ones() -> None:
    """20 an hour, beside ids of 3 in 2 seconds."""
    hour, brief = (Limit(20, 3600),), (Limit(3, 2),)
    first, *others = keys_that_share(3)
    windows = Windows(max_keys=0)
    admitted = 0
    for minute in range(59):
        windows.advance(T0 + 60 * minute)
        admitted += sum(charge(windows, first, 1, hour) for _ in range(2))
        windows.advance(T0 + 60 * minute + 2)
        for key in others:
            windows.exceeded(key, 1, brief)
        for _ in range(SWEEPS):
            windows.sweep(longest=3600)
    assert admitted == 20
    assert windows.usage(first, brief) == (0,)
    # What nobody's window holds any more is no burden.
    windows.advance(T0 + 3600 + 60 * 9)
    for _ in range(SWEEPS):
        windows.sweep(longest=3600)
    assert windows.usage(first, (Limit(20, 10**6),)) == (0,)
    assert windows.overflowing == 0


def test_whoever_has_a_log_of_its_own_is_not_held_to_a_common_one_until_that_is_forgotten() -> None:
    own, other = keys_that_share(2)
    windows = Windows(max_keys=1)
    windows.advance(T0)
    assert charge(windows, own, 1, TWO)
    windows.advance(T0 + 60)
    windows.add(other, windows.date, 2)
    assert windows.outlook(own, 2, TWO) == ((0, 0), (0, 0))
    for _ in range(SWEEPS):
        windows.sweep(longest=60)
    assert windows.outlook(own, 2, TWO) == ((2, 10), (2, 0))
    assert not charge(windows, own, 2, TWO)


shared_steps = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 50), st.floats(-20, 0))
shared_acts = st.one_of(
    st.tuples(st.just("charge"), costs),
    st.tuples(st.just("charge"), costs),
    st.tuples(st.just("add"), costs),
    st.tuples(st.just("give back"), costs),
    st.tuples(st.just("sweep"), st.integers(1, 2 * SWEEPS)),
    st.tuples(st.just("outlook"), costs),
)


@given(
    st.lists(limits_lists, min_size=2, max_size=4),
    st.integers(0, 2),
    st.lists(st.tuples(shared_steps, st.integers(0, 3), shared_acts), max_size=80),
)
@settings(max_examples=examples(300))
def test_whoever_shares_a_log_is_never_refused_too_late(
    all_limits: list[Limits], max_keys: int, steps: list[tuple[float, int, tuple[str, int]]]
) -> None:
    """Each key has a model of its own, and none is admitted what that would refuse.

    Whatever the others' limits are, what other daemons count (``add``) and what is given back.
    """
    windows, now = Windows(max_keys=max_keys), T0
    windows.advance(now)
    keys = KEYS_THAT_SHARE[: len(all_limits)]
    models = {key: Model() for key in keys}
    longest = max(limit.seconds for limits in all_limits for limit in limits)
    for step, which, (act, amount) in steps:
        now += step
        if windows.advance(now):
            for model in models.values():
                model.step_back(now)
        for key, limits in zip(keys, all_limits, strict=True):
            models[key].forget(max(limit.seconds for limit in limits), now)
        key, limits = keys[which % len(keys)], all_limits[which % len(keys)]
        model = models[key]
        if act == "sweep":
            for _ in range(amount):
                windows.sweep(longest)
        elif act == "outlook":
            windows.outlook(key, amount, limits)
        elif act == "give back":
            for index, (time, counted) in enumerate(model.charges):
                taken = min(counted, amount)
                windows.give_back(key, math.ceil(time), taken)
                model.charges[index] = time, counted - taken
                amount -= taken
        elif act == "add" or model.exceeded(amount, limits, now) is None:
            if act == "add":
                windows.add(key, windows.date, amount)
            if act == "add" or charge(windows, key, amount, limits):
                model.charges.append((now, amount))
        else:
            assert not charge(windows, key, amount, limits)
        for key, limits in zip(keys, all_limits, strict=True):
            used = windows.usage(key, limits)
            least = tuple(models[key].used(limit.seconds, now) for limit in limits)
            assert all(mine >= exact for mine, exact in zip(used, least, strict=True))
            assert all(mine >= exact for (mine, _), exact in zip(windows.outlook(key, 1, limits), least, strict=True))


def test_keys_may_be_long_and_strange() -> None:
    windows = Windows()
    windows.advance(T0)
    for key in ("x" * 100_000, "\udcff\udc80", "😀'\"; DROP TABLE", ""):
        for _ in range(3):
            assert charge(windows, key, 1, TWO)
        assert not charge(windows, key, 1, TWO)


def test_the_snapshot_rebuilds_the_windows() -> None:
    windows, copy = Windows(), Windows()
    windows.advance(T0)
    windows.add("a", windows.date, 2)
    windows.add("a", windows.date - 20, 1)
    windows.add("b", windows.date, 3)
    windows.give_back("b", windows.date, 3)
    windows.advance(T0 - 5)
    copy.advance(T0 - 5)
    for key, date, amount in windows.charges():
        copy.add(key, date, amount)
    assert copy.usage("a", TWO) == windows.usage("a", TWO) == (2, 3)
    assert len(copy) == 1


def test_what_is_redated_joins_what_was_charged_then() -> None:
    windows = Windows()
    for date, amount in ((90, 1), (100, 2), (105, 4)):
        windows.advance(date)
        windows.add("k", date, amount)
    windows.advance(100)
    assert windows.charges_of("k") == [(90, 1), (100, 6)]
    assert windows.usage("k", (Limit(9, 5), Limit(9, 60))) == (6, 7)


def test_a_step_back_redates_what_one_key_was_charged() -> None:
    windows = Windows()
    windows.advance(T0)
    windows.add("a", windows.date, 2)
    windows.add("a", windows.date - 20, 1)
    windows.advance(T0 - 5)
    assert windows.charges_of("a") == [(int(T0) - 20, 1), (int(T0) - 5, 2)]
    assert windows.charges_of("b") == []


def test_sweeping_drops_what_has_expired_where_that_is_most_of_a_counter() -> None:
    windows = Windows(10)
    windows.advance(0)
    windows.exceeded("k", 1, (Limit(10, 60),))
    for date in (*range(1, 10), 100):
        windows.advance(date)
        windows.add("k", date, 1)
    for _ in range(SWEEPS):
        windows.sweep(longest=60)
    assert [date for _, date, _ in windows.charges()] == [100]
