"""Deciding, against a model that keeps all that was ever admitted and adds it up each time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Verdict, Warned, free_in
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits, windows_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS, Mails
from policyd_rate_limit.domain.sweeping import SWEEPS
from support.demands import demand_of
from support.examples import examples
from support.ledgers import GENEROUS, T0, rebuilt
from support.sharing import keys_that_share

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
    """The one rule of counting, in the simplest way."""

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
