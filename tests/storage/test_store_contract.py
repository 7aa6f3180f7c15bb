"""What every store decides, over one table of databases: see :mod:`policyd_rate_limit.storage.contract`."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict, Warned, refusal
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from policyd_rate_limit.storage.contract import Store
from storage.stores import HOUR, PATIENCE, START, Clock, Database, admitted, ask_for, demand, usage

LIMIT = 100


# --- Exactness


@pytest.mark.parametrize(("batches", "batch"), [(40, 1), (8, 7)])
def test_a_limit_is_exact_over_daemons_in_threads(database: Database, batches: int, batch: int) -> None:
    """Four daemons that ask as fast as they can."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        totals = [pool.submit(ask_for, database, LIMIT, batches, batch) for _ in range(4)]
        assert sum(total.result() for total in totals) == LIMIT


def test_a_limit_is_exact_over_processes(database: Database) -> None:
    """Each process locks against the others, not only against its own threads."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        totals = [pool.submit(ask_for, database, LIMIT, 60, 1) for _ in range(3)]
        assert sum(total.result() for total in totals) == LIMIT


def warnings_of(database: Database, limits: tuple[Limit, ...], batches: int, batch: int) -> list[Limit]:
    """Another daemon: the limits that it is told to warn of when it asks for mails of one user."""
    store = database.store(time.time)
    found = []
    for _ in range(batches):
        verdicts = store.admit([Demand((Charge("user:hot", 1, limits, warn=80),))] * batch, (), PATIENCE)
        found += [one.limit for verdict in verdicts for one in verdict.warned]
    store.close()
    return found


@pytest.mark.parametrize(("batches", "batch"), [(40, 1), (8, 7)])
def test_each_limit_is_warned_of_once_over_daemons(database: Database, batches: int, batch: int) -> None:
    """Four that ask as fast as they can, each of which comes close to the limits by what the others count."""
    limits = (Limit(LIMIT, HOUR), Limit(2 * LIMIT, HOUR + 1))  # of which the first is reached
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        told = [pool.submit(warnings_of, database, limits, batches, batch) for _ in range(4)]
        assert [limit for one in told for limit in one.result()] == [limits[0]]


def test_a_warning_tells_what_is_used_by_all_daemons(database: Database, clock: Clock) -> None:
    one, other = database.store(clock), database.store(clock)
    limits = (Limit(50, PER_MAIL), Limit(10, 60), Limit(12, 600))

    def told(store: Store, cost: int, mail: str, warn: int = 75) -> tuple[Warned, ...]:
        demands = [Demand((Charge("user:b", 1, limits), Charge("user:a", cost, limits, "part", warn=warn)), mail)]
        (verdict,) = store.admit(demands, (), PATIENCE)
        return verdict.warned

    assert told(one, 4, "m1") == ()
    assert told(other, 3, "m2") == ()
    assert told(one, 1, "m3") == (Warned(1, limits[1], 8),)
    assert told(one, 1, "m3") == ()
    assert told(other, 2, "m4") == (Warned(1, limits[2], 10),)
    assert told(other, 1, "m5") == ()  # refused
    clock.now += 61
    assert told(one, 1, "m6") == ()  # in the longer window more was used all the time
    assert told(other, 1, "m7", warn=0) == ()
    one.close()
    other.close()


def test_demands_are_decided_in_order(database: Database, clock: Clock) -> None:
    """Within one batch too; what is refused leaves room for what comes after it."""
    store = database.store(clock)
    assert admitted(store, demand(cost=7), demand(cost=4), demand(cost=3), demand(cost=1)) == [True, False, True, False]
    assert admitted(store) == []
    store.close()


def test_a_refusal_says_which_limit_of_whom(database: Database, clock: Clock) -> None:
    """The first in the order of the charges and of their limits."""
    store = database.store(clock)
    limits = (Limit(5, 60), Limit(7, HOUR))
    both = Demand((Charge("user:a", 6, (Limit(9, 60),)), Charge("domain:d", 6, limits)))
    (verdict,) = store.admit([both], (), PATIENCE)
    assert verdict == refusal(Limit(5, 60), 1)
    (verdict,) = store.admit([demand(cost=4)], (), PATIENCE)
    assert verdict == Verdict((4,))
    store.close()


def test_a_decision_is_explained(database: Database, clock: Clock) -> None:
    """What lies in each window, by whichever daemon, and when the same is admitted; nothing is counted by asking."""
    store, other = database.store(clock), database.store(clock)
    limits = (Limit(5, 60), Limit(7, HOUR))
    mail = Demand((Charge("user:a", 2, limits), Charge("domain:d", 2, (Limit(1, 60),))))
    assert store.explain([]) == []
    assert store.explain([mail]) == [
        (Usage("user:a", limits[0], 0, 0), Usage("user:a", limits[1], 0, 0), Usage("domain:d", Limit(1, 60), 0, None))
    ]
    one = Demand(mail.charges[:1])
    assert admitted(other, one) == [True]
    clock.now += 10
    assert admitted(store, one, one) == [True, False]
    for _ in range(2):
        (usages,) = store.explain([one])
        # The first is dated at the end of its second; it leaves the shorter window 60 s after that.
        assert usages == (Usage("user:a", limits[0], 4, 51), Usage("user:a", limits[1], 4, 0))
    assert admitted(store, *[Demand((Charge("user:a", 1, limits),))] * 2) == [True, False]
    clock.now += 50.75
    assert admitted(store, one) == [True]
    (usages, others) = store.explain([one, demand("user:b", 3)])
    assert usages == (Usage("user:a", limits[0], 5, 10), Usage("user:a", limits[1], 7, HOUR - 60))
    assert others == (Usage("user:b", Limit(3, HOUR), 0, 0),)
    store.close()
    other.close()


def test_a_settlement_is_explained_by_what_is_missing(database: Database, clock: Clock) -> None:
    """Of three recipients, one is charged already."""
    store = database.store(clock)
    assert admitted(store, demand(maximum=3, mail="m", part="a"), demand(maximum=3, mail="n", part="a")) == [True] * 2
    settles = demand(maximum=3, mail="m", cost=3, settles=True)
    assert admitted(store, settles) == [False]
    assert store.explain([settles]) == [(Usage("user:a", Limit(3, HOUR), 2, HOUR + 1),)]
    store.close()


def test_a_demand_is_admitted_as_a_whole_or_not_at_all(database: Database, clock: Clock) -> None:
    """What refuses one charge leaves the others uncounted."""
    store = database.store(clock)
    user = Charge("user:a", 1, (Limit(9, HOUR),))
    domain = Charge("domain:d", 2, (Limit(5, HOUR),))
    both = Demand((user, domain))
    assert admitted(store, both, both, both) == [True, True, False]
    assert usage(store, ["user:a", "domain:d"]) == {"user:a": 2, "domain:d": 4}
    store.close()


def test_units_of_one_key_are_counted_apart(database: Database, clock: Clock) -> None:
    """Mails and bytes of one user, for instance."""
    store = database.store(clock)
    mails, size = (Demand((Charge(counter, 5, (Limit(5, HOUR),)),)) for counter in ("user:a", "bytes|user:a"))
    assert admitted(store, mails, size, mails, size) == [True, True, False, False]
    store.close()


ODD_TEXT = ("user:" + "x" * 5000, "user:\u00e4\U0001f40d", "user:\udcff\udc80", "user:'\";--", "user:\0\n")


@pytest.mark.parametrize("key", ODD_TEXT, ids=lambda key: ascii(key)[:30])
def test_any_text_is_a_key(database: Database, clock: Clock, key: str) -> None:
    """Of any length, in any script, with bytes that are no text; and it is found again."""
    for expected in (True, False):
        store = database.store(clock)
        assert admitted(store, demand(key, 1)) == [expected]
        assert admitted(store, demand(key + "x", 1)) == [expected]
        store.close()


# --- Time


def test_a_charge_counts_for_its_window_and_less_than_a_second_more(database: Database, clock: Clock) -> None:
    """Never for less, for the daemon that made it and for others; also for the first batch of a daemon."""
    one, two = database.store(clock), database.store(clock)
    assert admitted(one, demand(maximum=1, seconds=10)) == [True]
    for now, expected in ((START + 9.99, False), (START + 10.74, False), (START + 10.75, True)):
        clock.now = now
        late = database.store(clock)
        for store in (one, two, late):
            assert usage(store, ["user:a"], seconds=10) == {"user:a": 0 if expected else 1}
        late.close()
    assert admitted(two, demand(maximum=1, seconds=10), demand(maximum=1, seconds=10)) == [True, False]
    one.close()
    two.close()


def test_a_clock_that_steps_back_grants_nothing(database: Database, clock: Clock) -> None:
    """And locks nobody out for longer than the window, whoever reads what, before or after."""
    clock.now = START + 100 * HOUR
    one, two = database.store(clock), database.store(clock)
    assert admitted(one, demand(cost=4)) == admitted(two, demand(cost=3)) == [True]
    clock.now = START
    late = database.store(clock)
    for store in (one, two, late):
        assert usage(store, ["user:a"]) == {"user:a": 7}
    assert admitted(two, demand(cost=3), demand()) == [True, False]
    clock.now = START + HOUR
    assert usage(one, ["user:a"]) == {"user:a": 10}
    clock.now += 1
    later = database.store(clock)
    for store in (one, two, late, later):
        assert usage(store, ["user:a"]) == {"user:a": 0}
        store.close()


def test_a_clock_that_steps_forward_and_is_mended(database: Database, clock: Clock) -> None:
    """What was admitted while it was wrong counts from when it is mended."""
    store = database.store(clock)
    assert admitted(store, demand(cost=4)) == [True]
    clock.now += 1000 * HOUR
    assert admitted(store, demand(cost=5)) == [True]
    clock.now -= 1000 * HOUR
    assert usage(store, ["user:a"])["user:a"] in (5, 9)
    store.close()
    clock.now += 10
    store = database.store(clock)
    assert usage(store, ["user:a"])["user:a"] in (5, 9)
    assert admitted(store, demand(cost=6)) == [False]
    clock.now += HOUR + 1
    assert usage(store, ["user:a"]) == {"user:a": 0}
    store.close()
