"""Deciding, against a model that keeps all that was ever admitted and adds it up each time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Verdict, Warned, free_in, refusal
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.ledger import Ledger, one_more
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits, windows_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS, Mails
from policyd_rate_limit.domain.sweeping import SWEEPS
from support.demands import demand_of
from support.examples import examples
from support.sharing import keys_that_share

T0 = 1_700_000_000.0
LIMITS: dict[str, Limits] = {
    "user:a": (Limit(4, 10), Limit(7, 60)),
    "domain:a": (Limit(9, 30),),
    "server": (Limit(12, 5), Limit(30, 600)),
    "mail": (Limit(5, PER_MAIL),),
    "mail:a": (Limit(4, PER_MAIL), Limit(7, 10), Limit(15, 60)),
}
OF_VALUES: dict[str, Limits] = {
    "outside/distinct-recipient|user:a": (Limit(2, 10), Limit(3, 60)),
    "places/distinct-client_address|user:a": (Limit(3, 30),),
}
UNITS = ("", "bytes|")
EVERYTHING = {**LIMITS, **OF_VALUES}
GENEROUS: Limits = (Limit(10**6, 10), Limit(10**6, 100), Limit(10**6, 10_000))


@dataclass
class Charged:
    """What was admitted: ``amount`` of it is left."""

    counter: str
    time: float
    amount: int
    mail: str
    part: str


@dataclass
class Model:
    """SPEC 3 and 4, in the simplest way."""

    charged: list[Charged] = field(default_factory=list)
    values: list[tuple[str, str, float]] = field(default_factory=list)  # counter, value and time, each time it came

    def window(self, counter: str, seconds: int, now: float) -> set[str]:
        """Different values of ``counter`` in the last ``seconds``."""
        return {
            value
            for name, value, time in self.values
            if name == counter and math.ceil(time) + seconds > math.floor(now)
        }

    def usage(self, counter: str, limits: Limits, now: float) -> tuple[int, ...]:
        if counter in OF_VALUES:
            return tuple(len(self.window(counter, limit.seconds, now)) for limit in limits)
        return tuple(
            sum(
                charged.amount
                for charged in self.charged
                if charged.counter == counter and math.ceil(charged.time) + limit.seconds > math.floor(now)
            )
            if limit.seconds != PER_MAIL
            else 0
            for limit in limits
        )

    def of_mail(self, counter: str, mail: str) -> int:
        """What ``mail`` was charged, less what was given back."""
        return sum(one.amount for one in self.charged if mail and one.mail == mail and one.counter == counter)

    def explained(self, charge: Charge, mail: str, now: float) -> tuple[int, ...]:
        """What counts for each limit of ``charge``."""
        in_windows = self.usage(charge.counter, windows_of(charge.limits), now)
        of_mail = self.of_mail(charge.counter, mail)
        return in_windows if len(in_windows) == len(charge.limits) else (of_mail, *in_windows)

    def count_value(self, charge: Charge, now: float) -> int:
        """Have the value of ``charge`` have come now; whether it had not in this second."""
        again = any(
            (name, value, math.ceil(time)) == (charge.counter, charge.part, math.ceil(now))
            for name, value, time in self.values
        )
        self.values.append((charge.counter, charge.part, now))
        return int(not again)

    def decide(self, demand: Demand, now: float) -> Verdict:
        of_mail = [charged for charged in self.charged if demand.mail and charged.mail == demand.mail]
        missing = []
        exceeded = []
        for index, charge in enumerate(demand.charges):
            if charge.is_distinct:
                kept = [self.window(charge.counter, limit.seconds, now) | {charge.part} for limit in charge.limits]
                more = [limit for limit, each in zip(charge.limits, kept, strict=True) if len(each) > limit.maximum]
                if more:
                    exceeded.append(Exceeded(index, more[0]))
                missing.append(0 if more else 1)
                continue
            before = [charged for charged in of_mail if charged.counter == charge.counter]
            cost = charge.cost
            if charge.settles:
                cost -= sum(charged.amount for charged in before)
            elif any(charged.part == charge.part for charged in before):
                cost = 0
            used = self.explained(charge, demand.mail, now)
            over = [limit for limit, use in zip(charge.limits, used, strict=True) if use + cost > limit.maximum]
            if cost > 0 and over:
                exceeded.append(Exceeded(index, over[0]))
                cost = 0
            missing.append(cost)
        for one in exceeded:
            if demand.charges[one.charge].refuses:
                return Verdict((), tuple(exceeded), one)
        warned = []
        for index, (charge, cost) in enumerate(zip(demand.charges, missing, strict=True)):
            if charge.is_distinct and cost:
                former_use = self.usage(charge.counter, charge.limits, now)
                missing[index] = self.count_value(charge, now)
                use = self.usage(charge.counter, charge.limits, now)
                for limit, less, more_of_it in zip(charge.limits, former_use, use, strict=True):
                    if 100 * less < limit.maximum * charge.warn <= 100 * more_of_it:
                        warned.append(Warned(index, limit, more_of_it))
                continue
            windows = windows_of(charge.limits) if cost > 0 and charge.warn else ()
            for limit, former in zip(windows, self.usage(charge.counter, windows, now), strict=True):
                if 100 * former < limit.maximum * charge.warn <= 100 * (former + cost):
                    warned.append(Warned(index, limit, former + cost))
            if cost > 0:
                self.charged.append(Charged(charge.counter, now, cost, demand.mail, charge.part))
            for charged in reversed([c for c in of_mail if c.counter == charge.counter]):
                taken = min(max(-cost, 0), charged.amount)
                charged.amount -= taken
                cost += taken
        return Verdict(tuple(missing), tuple(exceeded), None, tuple(warned))


def rebuilt(entries: list[Entry], now: float, max_keys: int = 1000) -> Ledger:
    ledger = Ledger(max_keys)
    ledger.advance(now)
    for entry in entries:
        ledger.apply(entry)
    return ledger


def charges_of(limits: dict[str, Limits], refuse: tuple[bool, ...]) -> st.SearchStrategy[tuple[Charge, ...]]:
    """Of several rules: each has its own counter, its own way of being counted once, and refuses or not."""
    ways = [("", True), ("a", False), ("b", False), ("c", False)]

    def charge(key: str, unit: str, cost: int, way: tuple[str, bool], refuses: bool, warn: int) -> Charge:
        if key in OF_VALUES:
            return Charge(key, 0, limits[key], "abcdef"[cost - 1], False, refuses, warn=warn)
        return Charge(unit + key, cost, limits[key], *way, refuses, warn=warn)

    charges = st.builds(
        charge,
        st.sampled_from(sorted(limits)),
        st.sampled_from(UNITS),
        st.integers(1, 6),
        st.sampled_from(ways),
        st.sampled_from(refuse),
        st.sampled_from([0, 1, 50, 60, 99]),
    )
    return st.lists(charges, min_size=1, max_size=3, unique_by=lambda charge: charge.counter).map(tuple)


def demands_of(limits: dict[str, Limits], refuse: tuple[bool, ...] = (True, True, False)) -> st.SearchStrategy[Demand]:
    return st.builds(Demand, charges_of(limits, refuse), st.sampled_from(["", "m1", "m2", "m3"]))


@given(
    st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(0, 20)), demands_of(EVERYTHING), st.sampled_from([0, 0, 0, 1, 2])),
        max_size=40,
    )
)
def test_admits_and_counts_what_the_model_does(steps: list[tuple[float, Demand, int]]) -> None:
    now = T0
    model, entries = Model(), list[Entry]()
    ledger = rebuilt(entries, now)
    for seconds, demand, restarts in steps:
        now += seconds
        ledger.advance(now)
        written = len(entries)
        verdict = ledger.decide(demand, entries)
        assert verdict == model.decide(demand, now)
        # All or none, and nothing but what was admitted is written.
        assert verdict.admitted or len(entries) == written
        for _ in range(restarts):
            ledger = rebuilt(entries, now)
        for key, limits in OF_VALUES.items():
            usage = ledger.usage(key, limits)
            assert usage == model.usage(key, limits, now)
            assert all(used <= limit.maximum for used, limit in zip(usage, limits, strict=True))
        for key, limits in LIMITS.items():
            for unit in UNITS:
                usage = ledger.usage(unit + key, limits)
                assert usage == model.usage(unit + key, limits, now)
                assert all(used <= limit.maximum for used, limit in zip(usage, limits, strict=True))
                for mail in ("m1", "m2", "m3") if limits[0].is_per_mail else ():
                    assert model.of_mail(unit + key, mail) <= limits[0].maximum


SHARED: dict[str, Limits] = dict(zip(keys_that_share(len(LIMITS)), LIMITS.values(), strict=True))


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.floats(0, 20)), demands_of(SHARED, (True,)), st.sampled_from([0, 0, 1, SWEEPS])
        ),
        max_size=40,
    ),
    st.integers(0, 2),
)
def test_beyond_max_keys_nothing_is_admitted_that_the_model_refuses(
    steps: list[tuple[float, Demand, int]], max_keys: int
) -> None:
    """With mails that are settled, several charges in a demand, and restarts.

    All of them refuse: what a rule lets pass is not counted in it, where it is exceeded too early as elsewhere.
    """
    now = T0
    model, entries = Model(), list[Entry]()
    ledger = rebuilt(entries, now, max_keys)
    for seconds, demand, sweeps in steps:
        now += seconds
        ledger.advance(now)
        for _ in range(sweeps):
            ledger.windows.sweep(600)
        if sweeps == 1:
            ledger = rebuilt(entries, now, max_keys)
        verdict = ledger.decide(demand, entries)
        if verdict.admitted:
            expected = model.decide(demand, now)  # which warns later of what others count, too
            assert (expected.counted, expected.exceeded) == (verdict.counted, verdict.exceeded)
        for key, limits in SHARED.items():
            for unit in UNITS:
                kept, exact = ledger.windows.usage(unit + key, limits), model.usage(unit + key, limits, now)
                assert all(mine >= least for mine, least in zip(kept, exact, strict=True))


@given(
    st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(0, 20)), demands_of(EVERYTHING)), max_size=30),
    demands_of(EVERYTHING),
)
def test_what_is_explained_comes_true(steps: list[tuple[float, Demand]], asked: Demand) -> None:
    """A demand is refused until the time that is explained, and admitted then; nothing is counted by asking."""
    now = T0
    model, entries = Model(), list[Entry]()
    ledger = rebuilt(entries, now)
    for seconds, demand in steps:
        now += seconds
        ledger.advance(now)
        ledger.decide(demand, entries)
        model.decide(demand, now)
    usages = ledger.explain(asked)
    assert [(usage.counter, usage.limit, usage.used) for usage in usages] == [
        (charge.counter, limit, used)
        for charge in asked.charges
        for limit, used in zip(charge.limits, model.explained(charge, asked.mail, now), strict=True)
    ]
    wait = free_in(usages)
    if asked.mail and any(charged.mail == asked.mail for charged in model.charged):
        return  # some of it was counted before, and costs nothing again
    if not all(charge.refuses for charge in asked.charges):
        return  # it may be admitted before
    ledger.advance(math.floor(now) + (600 if wait is None else max(0, wait - 1)))
    if wait != 0:
        assert not ledger.decide(asked, entries).admitted
    if wait is not None:
        ledger.advance(math.floor(now) + wait)
        assert ledger.decide(asked, entries).admitted


def both(recipients: int) -> tuple[Charge, ...]:
    """Recipients, and twice as much of another unit."""
    return Charge("k", recipients, GENEROUS), Charge("bytes|k", 2 * recipients, GENEROUS)


THREE_MAILS = st.sampled_from(["m1", "m2", "m3"])
# A part of a mail costs the same whenever it comes.
real_demands = st.one_of(
    st.builds(
        demand_of, st.just(both(1)), st.sampled_from(["m1", "m2", "m3"]), st.sampled_from("abcd"), st.just(False)
    ),
    st.builds(demand_of, st.integers(1, 6).map(both), st.sampled_from(["m1", "m2", "m3"]), st.just(""), st.just(True)),
)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.floats(0, 20), st.floats(0, 2.0 * REMEMBERED_SECONDS)),
            real_demands,
            st.sampled_from([False, False, True]),
        ),
        max_size=40,
    )
)
@settings(max_examples=examples(50))
@example(
    # Memory takes what was charged twice for what is charged now, and the window of 10 seconds holds none of it.
    [
        *((0.0, demand_of(both(1), "m1", part), False) for part in "baaaa"),
        (10.0, demand_of(both(3), "m1", settles=True), False),
    ]
)
def test_what_is_forgotten_errs_to_the_strict_side(steps: list[tuple[float, Demand, bool]]) -> None:
    """With a memory of next to nothing, and restarts that remember the last mails alone.

    A mail that was charged twice is not charged once more for what comes later: a window that has begun since may lack
    as much as those before held too much.
    """
    now = T0
    model, entries = Model(), list[Entry]()
    twice: list[tuple[str, float, int]] = []  # counter, when, how much
    ledger = forgetful(rebuilt([], now), entries)
    for seconds, demand, restart in steps:
        now += seconds
        if restart:
            ledger = forgetful(rebuilt([], now), entries)
        ledger.advance(now)
        verdict = ledger.decide(demand, entries)
        assert verdict.admitted
        exact_costs = model.decide(demand, now).counted
        for charge, cost, exact_cost in zip(demand.charges, verdict.counted, exact_costs, strict=True):
            if cost > max(exact_cost, 0):
                twice.append((charge.counter, now, cost - max(exact_cost, 0)))
        for counter in ("k", "bytes|k"):
            kept = ledger.windows.usage(counter, GENEROUS)
            exact = model.usage(counter, GENEROUS, now)
            before = [
                sum(
                    amount
                    for name, time, amount in twice
                    if name == counter and math.ceil(time) + limit.seconds <= math.floor(now)
                )
                for limit in GENEROUS
            ]
            assert all(mine + less >= least for mine, less, least in zip(kept, before, exact, strict=True))


def forgetful(ledger: Ledger, entries: list[Entry]) -> Ledger:
    """``ledger`` with ``entries`` and next to no memory for mails."""
    ledger.mails = Mails(per_generation=3, most_of_a_mail=2)
    for entry in entries:
        ledger.apply(entry)
    return ledger


@given(st.lists(st.tuples(st.floats(0, 20), demands_of({"k": GENEROUS, **OF_VALUES})), max_size=20))
@settings(max_examples=examples(30))
def test_the_snapshot_rebuilds_windows_and_values(steps: list[tuple[float, Demand]]) -> None:
    now, entries = T0, list[Entry]()
    ledger = rebuilt(entries, now)
    for seconds, demand in steps:
        now += seconds
        ledger.advance(now)
        ledger.decide(demand, entries)
    copy = rebuilt(list(ledger.snapshot()), now)
    for counter in ("k", "bytes|k"):
        assert copy.windows.usage(counter, GENEROUS) == ledger.windows.usage(counter, GENEROUS)
    assert sorted(copy.values.all()) == sorted(ledger.values.all())
    assert sorted(copy.charges()) == sorted(ledger.charges())
    assert set(copy.counters()) == set(ledger.counters()) == {counter for counter, *_ in ledger.charges()}
    for counter in (*ledger.counters(), "nobody", *OF_VALUES):
        of_counter = [(date, amount) for one, date, amount in ledger.charges() if one == counter]
        assert ledger.charges_of(counter) == of_counter == sorted(of_counter)


def charge(cost: int, key: str = "k", limits: Limits = GENEROUS) -> tuple[Charge, ...]:
    return (Charge(key, cost, limits),)


PER_MAIL_LIMITS: Limits = (Limit(3, PER_MAIL), Limit(5, 60))


def decide(ledger: Ledger, cost: int, *how: Any, limits: Limits = PER_MAIL_LIMITS, **options: Any) -> Verdict:
    return ledger.decide(demand_of(charge(cost, limits=limits), *how, **options), [])


def test_one_recipient_too_many_is_refused_and_the_others_stand() -> None:
    ledger = rebuilt([], T0)
    assert [decide(ledger, 1, "m", part).admitted for part in "abcd"] == [True, True, True, False]
    assert decide(ledger, 1, "m", "e") == refusal(PER_MAIL_LIMITS[0])
    for part in "abc":  # known, and free
        assert decide(ledger, 1, "m", part) == Verdict((0,))
    assert decide(ledger, 4, "m", settles=True) == refusal(PER_MAIL_LIMITS[0])
    assert decide(ledger, 3, "m", settles=True) == Verdict((0,))
    # The next mail is none of its business; the windows are.
    assert [decide(ledger, 1, "n", part).admitted for part in "abc"] == [True, True, False]
    assert decide(ledger, 1, "n", "c") == refusal(PER_MAIL_LIMITS[1])


def test_without_an_id_each_request_is_a_mail() -> None:
    ledger = rebuilt([], T0)
    limits = PER_MAIL_LIMITS[:1]
    for settles in (False, True):
        assert [decide(ledger, 3, settles=settles, limits=limits).admitted for _ in range(5)] == [True] * 5
        assert decide(ledger, 4, settles=settles, limits=limits) == refusal(limits[0])


def test_what_a_mail_gave_back_it_may_be_charged_again() -> None:
    ledger = rebuilt([], T0)
    limits = PER_MAIL_LIMITS[:1]
    assert [decide(ledger, 1, "m", part, limits=limits).admitted for part in "abcd"] == [True, True, True, False]
    assert decide(ledger, 1, "m", settles=True, limits=limits) == Verdict((-2,))
    assert [decide(ledger, 1, "m", part, limits=limits).admitted for part in "cdef"] == [True, True, True, False]


def test_a_mail_that_was_admitted_stays_so_within_lower_limits() -> None:
    """Nothing is asked of it that it was charged."""
    ledger = rebuilt([], T0)
    assert decide(ledger, 3, "m", settles=True).admitted
    lower = (Limit(1, PER_MAIL),)
    assert decide(ledger, 3, "m", settles=True, limits=lower) == Verdict((0,))
    assert decide(ledger, 2, "m", settles=True, limits=lower) == Verdict((-1,))
    assert decide(ledger, 3, "m", settles=True, limits=lower) == refusal(lower[0])


def test_a_limit_per_mail_is_explained_by_what_its_mail_was_charged() -> None:
    ledger = rebuilt([], T0)
    for part in "ab":
        assert decide(ledger, 1, "m", part).admitted
    assert decide(ledger, 2, "n", settles=True).admitted

    def explained(cost: int, mail: str, settles: bool = False) -> list[tuple[int, int | None]]:
        usages = ledger.explain(demand_of(charge(cost, limits=PER_MAIL_LIMITS), mail, "c", settles))
        assert [usage.limit for usage in usages] == list(PER_MAIL_LIMITS)
        return [(usage.used, usage.free_in) for usage in usages]

    assert explained(1, "m") == [(2, 0), (4, 0)]
    assert explained(2, "m") == [(2, None), (4, 60)]
    assert explained(3, "m", settles=True) == [(2, 0), (4, 0)]
    assert explained(4, "m", settles=True) == [(2, None), (4, 60)]
    assert explained(1, "n") == [(2, 0), (4, 0)]
    assert explained(3, "other") == explained(3, "") == [(0, 0), (4, 60)]
    assert explained(4, "") == [(0, None), (4, 60)]
    assert free_in(ledger.explain(demand_of(charge(2, limits=PER_MAIL_LIMITS), "m", "c"))) is None


@pytest.mark.parametrize("window", [0, 60, 2 * REMEMBERED_SECONDS])
def test_the_windows_keep_what_a_limit_per_mail_counts_as_long_as_mails_are_remembered(window: int) -> None:
    """Whatever other limits and ids need; so does what was only read."""
    limits = (Limit(9, PER_MAIL), Limit(9, window))[: 2 if window else 1]
    ledger = rebuilt([Entry("read", 1, int(T0), "", "")], T0)
    long_ones = (Limit(9, 86_400),)
    for key, its in (("k", limits), ("other", long_ones)):
        for second in (0, 1):
            ledger.advance(T0 + second)
            assert ledger.decide(Demand(charge(1, key, its)), []).admitted
    needed = max(window, REMEMBERED_SECONDS)
    ledger.trim(charge(1, "read", limits)[0])
    for seconds, known in ((needed - 1, ["k", "other", "read"]), (needed + 1, ["other"])):
        ledger.advance(T0 + seconds)
        for _ in range(SWEEPS):
            ledger.windows.sweep(1)
        assert sorted(ledger.windows) == known


def test_what_has_expired_takes_no_room() -> None:
    """Of a counter that is always in use, whose only limit is per mail."""
    ledger = rebuilt([], T0)
    limits = (Limit(9, PER_MAIL),)
    for second in range(3 * REMEMBERED_SECONDS):
        ledger.advance(T0 + second)
        assert ledger.decide(Demand(charge(1, limits=limits)), []).admitted
    assert REMEMBERED_SECONDS <= len(list(ledger.windows.charges())) <= 2 * REMEMBERED_SECONDS + 2
    for trimmed in (charge(0, limits=limits), charge(0, limits=(Limit(1, 10),))):
        ledger.trim(trimmed[0])
    assert len(list(ledger.windows.charges())) <= 20
    assert ledger.windows.usage("k", (*limits, Limit(1, 10))) == (0, 10)


def warned(ledger: Ledger, *, cost: int, mail: str = "", settles: bool = False) -> list[tuple[int, int]]:
    """Maximum and use of the limits that are warned of when so much is charged."""
    limits = (Limit(100, PER_MAIL), Limit(7, 60), Limit(10, 600))
    (charge,) = demand_of((Charge("a", cost, limits, warn=75),), mail, settles=settles).charges
    verdict = ledger.decide(Demand((charge,), mail), [])
    return [(one.limit.maximum, one.used) for one in verdict.warned]


def test_each_window_warns_once_as_it_gets_there() -> None:
    """75 per cent of 7 are 5.25: the sixth is the first beyond."""
    ledger = rebuilt([], T0)
    assert [warned(ledger, cost=1) for _ in range(8)] == [[], [], [], [], [], [(7, 6)], [], []]
    ledger.advance(T0 + 60)
    assert warned(ledger, cost=1) == [(10, 8)]
    assert warned(ledger, cost=2) == []
    ledger.advance(T0 + 1_000)
    assert warned(ledger, cost=7) == [(7, 7)]
    ledger.advance(T0 + 2_000)
    assert warned(ledger, cost=11) == []  # refused


def test_what_is_given_back_may_be_warned_of_again() -> None:
    ledger = rebuilt([], T0)
    assert warned(ledger, cost=6, mail="m", settles=True) == [(7, 6)]
    assert warned(ledger, cost=6, mail="m", settles=True) == []
    assert warned(ledger, cost=2, mail="m", settles=True) == []
    assert warned(ledger, cost=7, mail="m", settles=True) == [(7, 7)]


def test_nothing_is_warned_of_where_another_charge_refuses() -> None:
    ledger = rebuilt([], T0)
    warning, refusing = Charge("a", 9, (Limit(10, 60),), warn=80), Charge("b", 9, (Limit(1, 60),))
    verdict = ledger.decide(Demand((warning, refusing)), [])
    assert (verdict.admitted, verdict.warned) == (False, ())
    verdict = ledger.decide(Demand((warning, replace(refusing, refuses=False))), [])
    assert verdict.warned == (Warned(0, Limit(10, 60), 9),)
    assert verdict.exceeded == (Exceeded(1, Limit(1, 60)),)


def test_one_charge_too_many_refuses_all() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    charges = (Charge("a", 1, (Limit(9, 60),)), Charge("b", 1, (Limit(2, 60),)))
    for settles in (False, True):
        verdicts = [ledger.decide(demand_of(charges, f"{settles}{n}", settles=settles), entries) for n in range(3)]
        assert verdicts[2] == refusal(Limit(2, 60), 1)
    assert ledger.windows.usage("a", (Limit(9, 60),)) == (2,)
    assert len(entries) == 4


def test_a_mail_of_many_recipients_is_admitted_as_any_other() -> None:
    """However many they are: by the first charge of an id, and by a later one."""
    for cost in (1, 255, 256, 257, 1_000, 50_000):
        ledger = Ledger(10)
        ledger.advance(T0)
        limit = Limit(3 * cost - 1, 60)
        demand = Demand(charge(cost, limits=(limit,)))
        verdicts = [ledger.decide(demand, []) for _ in range(3)]
        assert verdicts == [Verdict((cost,)), Verdict((cost,)), refusal(limit)]


def test_settling_up_against_a_limit_leaves_what_was_charged() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    limits = (Limit(3, 60),)
    for part in "ab":
        assert ledger.decide(demand_of(charge(1, limits=limits), "m", part), entries).admitted
    assert ledger.decide(demand_of(charge(1, limits=limits), "other"), entries).admitted
    for recipients in (3, 4):
        settles = demand_of(charge(recipients, limits=limits), "m", settles=True)
        assert ledger.decide(settles, entries) == refusal(limits[0])
    assert ledger.windows.usage("k", limits) == (3,)


def test_what_lowered_limits_forbid_now_is_not_asked_of_a_mail_that_was_charged() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    assert ledger.decide(demand_of(charge(5), "m", settles=True), entries).admitted
    for cost in (5, 4):
        assert ledger.decide(demand_of(charge(cost, limits=(Limit(1, 60),)), "m", settles=True), entries).admitted


def test_a_step_back_between_the_stages_of_a_mail_gives_back_its_own_charges() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    for part in "ab":
        ledger.decide(demand_of(charge(1), "m", part), entries)
    ledger.advance(T0 - 500)
    ledger.advance(T0 - 450)
    ledger.decide(demand_of(charge(1), "other", "x"), entries)
    ledger.advance(T0 + 1)
    assert ledger.decide(demand_of(charge(1), "m", settles=True), entries).counted == (-1,)
    # One of the mail's, dated at the step back, and the other mail's, 50 s later.
    assert list(ledger.windows.charges()) == [("k", int(T0) - 500, 1), ("k", int(T0) - 450, 1)]


def test_what_another_daemon_counts_after_a_step_back() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    for second in (0, 1):
        ledger.advance(T0 + second)
        ledger.decide(demand_of(charge(1), f"mail{second}", "a"), entries)
    ledger.advance(T0 - 500)
    ledger.apply(Entry("k", 2, ledger.windows.date, "other", "a"))
    assert list(ledger.windows.charges()) == [("k", int(T0) - 500, 4)]


def test_an_entry_of_nothing_changes_nothing_but_is_remembered() -> None:
    """A part that cost nothing, of a mail that was settled before: asked again, it is known."""
    ledger = rebuilt([Entry("k", 2, int(T0), "m", "a"), Entry("k", 0, int(T0), "m", "b")], T0)
    assert ledger.windows.usage("k", GENEROUS)[-1] == 2
    assert ledger.decide(demand_of(charge(1), "m", "b"), []) == Verdict((0,))


def test_a_mail_is_not_remembered_for_an_old_entry_of_nothing() -> None:
    """Or a part that comes again when all else of its mail is forgotten would cost nothing."""
    ledger = rebuilt([Entry("k", 0, int(T0) - REMEMBERED_SECONDS, "m", "b")], T0)
    assert len(ledger.mails) == 0


def test_clear_forgets_everything() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    ledger.decide(demand_of(charge(1), "m", "a"), entries)
    ledger.clear()
    assert len(ledger.windows) == 0
    assert len(ledger.mails) == 0


def test_a_restarted_ledger_remembers_the_mails_of_the_last_moments() -> None:
    entries = [Entry("k", 1, int(T0) - age, f"mail{age}", "a") for age in range(0, 2000, 100)]
    ledger = rebuilt(entries, T0)
    assert len(ledger.mails) == REMEMBERED_SECONDS // 100
    assert ledger.windows.usage("k", GENEROUS)[-1] == len(entries)


def test_the_newest_charges_are_given_back_first() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    for number, part in enumerate("abc"):
        ledger.advance(T0 + 10 * number)
        ledger.decide(demand_of(charge(1), "m", part), entries)
    ledger.decide(demand_of(charge(1), "m", settles=True), entries)
    assert list(ledger.windows.charges()) == [("k", int(T0), 1)]
    assert [entry.amount for entry in entries] == [1, 1, 1, -1, -1]
    assert all(before.date >= after.date for before, after in pairwise(entries[3:]))


def test_a_reset_gives_back_all_of_one_counter_and_nothing_else() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    both = (Charge("k", 2, GENEROUS), Charge("other", 2, GENEROUS))
    for number in range(3):
        ledger.advance(T0 + 10 * number)
        ledger.decide(demand_of(both, f"m{number}", "a"), entries)
        ledger.decide(Demand(charge(1)), entries)
    ledger.decide(demand_of((replace(both[0], cost=1), both[1]), "m1", settles=True), entries)
    given_back: list[Entry] = []
    ledger.reset("k", ["m0", "m1", "m2", "unknown"], given_back)
    assert sum(entry.amount for entry in given_back) == -8
    assert {entry.counter for entry in given_back} == {"k"}
    for one in (ledger, rebuilt([*entries, *given_back], T0 + 20)):
        assert one.windows.usage("k", GENEROUS) == (0, 0, 0)
        assert one.windows.usage("other", GENEROUS)[-1] == 6
        again: list[Entry] = []
        one.reset("k", ["m0", "m1", "m2"], again)
        assert again == [Entry("k", 0, int(T0) + 19, "", RESET)]


def test_a_reset_takes_back_what_only_others_know_of() -> None:
    """Whose configuration has longer windows; but not what they count at the same time, nor what others share."""
    own, shared, other = keys_that_share(3)
    entries: list[Entry] = []
    with_longer_windows = rebuilt(entries, T0, max_keys=1)
    for number, key in enumerate((own, shared, other)):
        with_longer_windows.advance(T0 + 10 * number)
        assert with_longer_windows.decide(Demand(charge(2, key)), entries).admitted
    with_longer_windows.advance(T0 + 60)
    assert with_longer_windows.decide(Demand(charge(1, own)), entries).admitted
    for key in (own, shared):
        given_back: list[Entry] = []
        rebuilt([], T0 + 60).reset(key, [], given_back)
        for entry in given_back:
            with_longer_windows.apply(entry)
    # Two who share a counter keep what may be the other's.
    assert [with_longer_windows.windows.usage(key, GENEROUS)[-1] for key in (own, shared, other)] == [1, 4, 4]


def test_what_a_reset_gave_back_a_mail_does_not_give_back_again() -> None:
    entries: list[Entry] = []
    ledger = rebuilt(entries, T0)
    ledger.decide(demand_of(charge(5), "m", "a"), entries)
    ledger.reset("k", ["m"], entries)
    ledger.decide(demand_of(charge(3), "other", "a"), entries)
    assert ledger.decide(demand_of(charge(1), "m", settles=True), entries).counted == (1,)
    assert ledger.windows.usage("k", GENEROUS)[-1] == 4


PLACES = "places/distinct-client_address|user:a"
THREE_PLACES: Limits = (Limit(3, 60),)


def from_place(place: str, *others: Charge, limits: Limits = THREE_PLACES, mail: str = "", **options: Any) -> Demand:
    return Demand((Charge(PLACES, 0, limits, place, **options), *others), mail)


def test_a_value_is_counted_whatever_mail_it_comes_with() -> None:
    entries: list[Entry] = []
    ledger = rebuilt([], T0)
    assert [ledger.decide(from_place(place, mail=f"m{place}"), entries).admitted for place in "abcad"] == [
        *(True,) * 4,
        False,
    ]
    assert [(entry.amount, entry.mail, entry.part) for entry in entries] == [(1, "", "a"), (1, "", "b"), (1, "", "c")]
    assert len(ledger.mails) == 0


def test_what_is_refused_is_neither_counted_nor_moved() -> None:
    """By another rule, or by that of the values."""
    entries: list[Entry] = []
    ledger = rebuilt([], T0)
    full = Charge("k", 2, (Limit(1, 60),))
    assert ledger.decide(from_place("a"), entries).counted == (1,)
    assert ledger.decide(from_place("a"), entries).counted == (0,)  # in the same second
    ledger.advance(T0 + 30)
    assert ledger.decide(from_place("a", full), entries) == refusal(full.limits[0], 1)
    assert ledger.decide(from_place("b", full), entries) == refusal(full.limits[0], 1)
    one_place = ledger.decide(from_place("b", charge(1)[0], limits=(Limit(1, 60),)), entries)
    assert one_place == refusal(Limit(1, 60))
    assert [(entry.counter, entry.part, entry.date) for entry in entries] == [(PLACES, "a", math.ceil(T0))]
    assert ledger.usage("k", GENEROUS) == (0, 0, 0)
    ledger.advance(T0 + 61)
    assert ledger.usage(PLACES, THREE_PLACES) == (0,)


def test_a_reset_of_values_reaches_whoever_counts_more() -> None:
    entries: list[Entry] = []
    ledger = rebuilt([], T0)
    for place in "ab":
        ledger.decide(from_place(place), entries)
    elsewhere = Entry(PLACES.replace("alice", "bob") + "b", 1, int(T0), "", "a")
    ledger.apply(elsewhere)
    other = rebuilt([*entries, Entry(PLACES, 1, int(T0) - 1_000, "", "c")], T0 + 1)
    ledger.advance(T0 + 1)
    given_back: list[Entry] = []
    ledger.reset(PLACES, (), given_back)
    assert sum(entry.amount for entry in given_back) == -2
    for entry in given_back:
        other.apply(entry)
    assert not list(other.counters())
    assert list(ledger.counters()) == [elsewhere.counter]
    other.apply(Entry(PLACES, 0, int(T0), "", "what a later version may mean"))
    assert not list(other.counters())


def test_a_counter_of_values_without_one_is_as_any_other() -> None:
    """A database may hold anything."""
    ledger = rebuilt([Entry(PLACES, 2, int(T0), "", ""), Entry("user:x/distinct-y|z", 2, int(T0), "", "part")], T0)
    assert len(ledger.values) == 0
    assert len(ledger.windows) == 2


def test_sweeping_and_trimming_forget_values() -> None:
    ledger = rebuilt([], T0)
    entries: list[Entry] = []
    for second in range(4):
        ledger.advance(T0 + second)
        ledger.decide(from_place(str(second), limits=(Limit(10, 60),)), entries)
    ledger.advance(T0 + 4)
    ledger.trim(from_place("x", limits=(Limit(10, 3),)).charges[0])
    assert len(ledger.values) == 2
    ledger.advance(T0 + 100)
    for _ in range(SWEEPS):
        ledger.sweep(60)
    assert len(ledger.values) == 0


def test_one_more_is_a_value_that_is_not_there() -> None:
    ledger = rebuilt([], T0)
    for place in "abc":
        ledger.decide(from_place(place), [])
    (usage,) = ledger.explain(Demand((one_more(PLACES, THREE_PLACES),)))
    assert (usage.used, usage.free_in) == (3, 60)
    assert one_more("user:a", THREE_PLACES) == Charge("user:a", 1, THREE_PLACES)
    assert one_more(PLACES, THREE_PLACES).most == Charge("k", 1, ()).most == 1
    assert Charge("k", 0, (), settles=True).most == 0
