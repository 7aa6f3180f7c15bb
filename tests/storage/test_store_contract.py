"""What every store keeps, over one table of databases: see :mod:`policyd_rate_limit.storage.contract`."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Usage, Verdict, Warned, refusal
from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, longest_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.domain.values import MOST_VALUES
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.record import Record, in_records, pack
from storage.daemon import open_descriptors
from storage.stores import (
    HOUR,
    PATIENCE,
    PLACES,
    START,
    Clock,
    Database,
    admitted,
    demand,
    new_memory,
    seen,
    usage,
    values_in,
)
from support.wait import wait_until

LIMIT = 100


def ask_for(database: Database, seconds_limit: int, batches: int, batch: int) -> int:
    """Another daemon: how many of its mails of one user are admitted."""
    store = database.store(time.time)
    total = 0
    for _ in range(batches):
        total += sum(admitted(store, *(demand("user:hot", seconds_limit) for _ in range(batch))))
    store.close()
    return total


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


# --- Mails


def test_a_part_of_a_mail_is_charged_once_by_all_daemons(database: Database, clock: Clock) -> None:
    """Postfix asks again, and it may ask another daemon."""
    one, two = database.store(clock), database.store(clock)
    for store in (one, two, one):
        assert admitted(store, *(demand(mail="m", part=part) for part in "aabb")) == [True] * 4
        assert usage(store, ["user:a"]) == {"user:a": 2}
    one.close()
    late = database.store(clock)
    assert admitted(late, demand(mail="m", part="b")) == [True]
    assert usage(late, ["user:a"]) == usage(two, ["user:a"]) == {"user:a": 2}
    late.close()
    two.close()


def test_the_same_part_of_a_mail_is_charged_to_another_user(database: Database, clock: Clock) -> None:
    """SPEC: charged once is what the same id sends again. An instance that a second user names too is no free mail."""
    one, two = database.store(clock), database.store(clock)
    for key in ("user:a", "user:b"):
        for store in (one, two, one):
            assert admitted(store, demand(key, 2, mail="m", part="r")) == [True]
    assert usage(one, ["user:a", "user:b"]) == {"user:a": 1, "user:b": 1}
    assert admitted(two, demand("user:b", 2, mail="m", part="s"), demand("user:b", 2, mail="m", part="t")) == [
        True,
        False,
    ]
    assert admitted(two, demand("user:a", 2, mail="m", settles=True, cost=2)) == [True]
    assert usage(one, ["user:a", "user:b"]) == {"user:a": 2, "user:b": 2}
    assert admitted(one, demand("user:c", 1, mail="m", settles=True, cost=2)) == [False]
    one.close()
    two.close()


@pytest.mark.parametrize("recipients", [1, 3, 5])
def test_a_mail_is_settled_by_another_daemon(database: Database, clock: Clock, recipients: int) -> None:
    """Up or down from what others were asked about, even from what was charged seconds before, and only once."""
    one, two = database.store(clock), database.store(clock)
    assert admitted(one, demand(mail="m", part="a"), demand(mail="m", part="b")) == [True, True]
    clock.now += 5
    assert admitted(two, demand(mail="m", part="c")) == [True]
    settled = demand(mail="m", settles=True, cost=recipients)
    for store in (two, one, two):
        assert admitted(store, settled) == [True]
        assert usage(store, ["user:a"]) == {"user:a": recipients}
    one.close()
    two.close()
    clock.now = START + HOUR + 1
    three = database.store(clock)
    assert usage(three, ["user:a"])["user:a"] <= recipients
    three.close()


# --- Limits per mail

TWO_OF_A_MAIL = Limit(2, PER_MAIL)


def of_mail(mail: str, part: str, *more: Limit, cost: int = 1) -> Demand:
    """A recipient of ``mail``, or with an empty ``part`` all of them, within two and ``more``."""
    return Demand((Charge("user:a", cost, (TWO_OF_A_MAIL, *more), part, not part),), mail)


def test_a_limit_per_mail_bounds_each_mail_over_daemons(database: Database, clock: Clock) -> None:
    """The one recipient too many is refused, and later the whole mail; the next mail is another one."""
    store, other = database.store(clock), database.store(clock)
    five = Limit(5, HOUR)
    assert admitted(store, of_mail("m", "a", five)) == [True]
    assert admitted(other, of_mail("m", "b", five), of_mail("m", "c", five)) == [True, False]
    assert store.admit([of_mail("m", "c", five)], (), PATIENCE) == [refusal(TWO_OF_A_MAIL)]
    assert admitted(store, of_mail("m", "a", five), of_mail("m", "b", five)) == [True, True]
    for cost, is_admitted in ((3, False), (2, True), (1, True), (2, True)):
        assert admitted(other, of_mail("m", "", five, cost=cost)) == [is_admitted]
        clock.now += 1
    assert admitted(other, of_mail("n", "a", five), of_mail("n", "b", five), of_mail("n", "c", five)) == [
        True,
        True,
        False,
    ]
    # Whose recipients are too many for its window alone; and without an id, each is a mail of its own.
    assert store.admit([of_mail("o", "", five, cost=2)], (), PATIENCE) == [refusal(five)]
    assert admitted(store, of_mail("", "a", five), of_mail("", "", cost=3), of_mail("", "", cost=2)) == [
        True,
        False,
        True,
    ]
    assert usage(store, ["user:a"]) == {"user:a": 7}
    store.close()
    other.close()


def test_a_limit_per_mail_alone_needs_no_window(database: Database, clock: Clock) -> None:
    """It holds for as long as mails are remembered, also by daemons that start meanwhile."""
    longest = longest_of((TWO_OF_A_MAIL,))
    for part, is_admitted in (("a", True), ("b", True), ("c", False), ("a", True)):
        store = database.store(clock, longest=longest)
        assert admitted(store, of_mail("m", part)) == [is_admitted]
        store.close()
        clock.now += REMEMBERED_SECONDS // 3 - 2
    assert clock.now > START + REMEMBERED_SECONDS


def test_a_limit_per_mail_is_explained_by_what_its_mail_was_charged(database: Database, clock: Clock) -> None:
    """Of a mail that is too large already: never. With other limits, and without."""
    store = database.store(clock)
    hour = Limit(9, HOUR)

    def explained(*asked: Demand) -> list[list[tuple[Limit, int, int | None]]]:
        return [[usage[1:] for usage in usages] for usages in store.explain(asked)]

    assert admitted(store, of_mail("m", "a", hour), of_mail("n", "", hour, cost=2)) == [True, True]
    assert explained(of_mail("m", "b", hour), of_mail("n", "b"), of_mail("o", "", hour, cost=3)) == [
        [(TWO_OF_A_MAIL, 1, 0), (hour, 3, 0)],
        [(TWO_OF_A_MAIL, 2, None)],
        [(TWO_OF_A_MAIL, 0, None), (hour, 3, 0)],
    ]
    assert explained(of_mail("m", "", cost=2), of_mail("m", "", cost=3), of_mail("", "b")) == [
        [(TWO_OF_A_MAIL, 1, 0)],
        [(TWO_OF_A_MAIL, 1, None)],
        [(TWO_OF_A_MAIL, 0, 0)],
    ]
    store.close()


def test_pending_records_tell_what_their_mails_were_charged(database: Database, clock: Clock) -> None:
    """As they were decided while the database was away."""
    store = database.store(clock)
    assert admitted(store, of_mail("m", "a")) == [True]
    memory = new_memory(clock)
    memory.advance()
    (verdict,), record = memory.decide([of_mail("m", "b")])
    assert verdict.admitted
    assert record is not None
    for _ in range(2):
        (verdict,) = store.admit([of_mail("m", "c")], [record], PATIENCE)
        assert verdict == refusal(TWO_OF_A_MAIL)
    # Another daemon knows it from the database.
    store.close()
    store = database.store(clock)
    assert admitted(store, of_mail("m", "c"), of_mail("m", "b"), of_mail("n", "c")) == [False, True, True]
    store.close()


def test_a_mail_that_another_charge_refuses_is_charged_nothing(database: Database, clock: Clock) -> None:
    """Per mail or not, whichever comes first; what refuses nobody is not counted beyond its limit."""
    store = database.store(clock)
    (of_user,) = of_mail("m", "a").charges
    watched = Charge("watch|user:a", 1, (Limit(1, PER_MAIL), Limit(9, HOUR)), "a", refuses=False)
    of_domain = Charge("domain:d", 1, (Limit(1, HOUR),), "a")
    parts = [
        Demand(tuple(replace(charge, part=part) for charge in (of_user, watched, of_domain)), "m") for part in "ab"
    ]
    assert admitted(store, *parts) == [True, False]
    wider = [replace(one, charges=one.charges[:2]) for one in parts]
    (verdict,) = store.admit(wider[1:], (), PATIENCE)
    assert verdict == Verdict((1, 0), (Exceeded(1, Limit(1, PER_MAIL)),))
    assert usage(store, ["user:a", "watch|user:a", "domain:d"]) == {"user:a": 2, "watch|user:a": 1, "domain:d": 1}
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


# --- Durability

KEYS = ("user:a", "user:b", "user:c", "user:d")
LIMITS = (Limit(5, 60), Limit(12, HOUR))
WAYS = [("", False), ("p1", False), ("p2", False), ("", True)]
demands = st.builds(
    Demand,
    st.lists(
        st.builds(
            lambda key, cost, way, refuses: Charge(key, cost, LIMITS, way[0], way[1], refuses),
            st.sampled_from(KEYS),
            st.integers(1, 5),
            st.sampled_from(WAYS),
            st.sampled_from([True, True, False]),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda charge: charge.counter,
    ).map(tuple),
    st.sampled_from(["", "m1", "m2", "m3"]),
)
batches = st.lists(
    st.tuples(st.sampled_from([0, 0.5, 1, 59, 60, 61, HOUR - 100]), st.lists(demands, max_size=8), st.booleans()),
    max_size=8,
)


@given(batches=batches)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_the_next_daemon_knows_what_this_one_did(
    database: Database, batches: list[tuple[float, list[Demand], bool]]
) -> None:
    """All windows of all keys, for any demands, over two daemons that take turns."""
    clock = Clock(START + 1000 * HOUR * next(_numbers))
    stores = [database.store(clock), database.store(clock)]
    for seconds, demands, which in batches:
        clock.now += seconds
        stores[which].admit(demands, (), PATIENCE)
    stores.append(database.store(clock))
    for seconds, most in ((60, 6), (HOUR, 13)):
        one, two, late = (usage(store, KEYS, seconds=seconds, most=most) for store in stores)
        assert one == two == late
        assert max(late.values()) < most
    for store in stores:
        store.close()


_numbers = iter(range(1 << 30))  # examples share a database: each lives in a time of its own


# --- Records that wait


def kept(clock: Clock, *demands: Demand) -> list[Record]:
    """What a daemon keeps while its database is away, one record for each of ``demands``."""
    memory = new_memory(clock)
    memory.advance()
    records = []
    for one in demands:
        _, record = memory.decide([one])
        assert record is not None
        records.append(record)
    return records


def test_pending_records_count_before_the_demands(database: Database, clock: Clock) -> None:
    """In the same transaction, for this daemon and for all."""
    pending = kept(clock, demand(cost=4), demand("user:b", cost=2), demand(cost=5))
    store = database.store(clock)
    assert [verdict.admitted for verdict in store.admit([demand(cost=2), demand()], pending, PATIENCE)] == [False, True]
    other = database.store(clock)
    for one in (store, other):
        assert usage(one, ["user:a", "user:b"]) == {"user:a": 10, "user:b": 2}
        one.close()


def test_pending_records_count_once_whatever_is_there_already(database: Database, clock: Clock) -> None:
    """None, some or all of them, in this run or an earlier one, stored by this daemon or another."""
    pending = kept(clock, *(demand(maximum=100, cost=cost) for cost in (1, 2, 3, 4)))
    store = database.store(clock)
    for known, expected in ((1, 1), (1, 1), (3, 6), (4, 10), (4, 10)):
        store.admit((), pending[:known], PATIENCE)
        assert usage(store, ["user:a"]) == {"user:a": expected}
        other = database.store(clock)
        other.admit((), pending[:known], PATIENCE)
        assert usage(other, ["user:a"]) == {"user:a": expected}
        other.close()
        store.admit((), (), PATIENCE)
    store.reload()
    store.admit((), pending, PATIENCE)
    assert usage(store, ["user:a"]) == {"user:a": 10}
    store.close()


def test_pending_records_of_several_writers(database: Database, clock: Clock) -> None:
    """As after two daemons that died; their numbers are independent."""
    first, second = kept(clock, demand(), demand()), kept(clock, demand(cost=2), demand(cost=3))
    store = database.store(clock)
    mixed = [first[0], second[0], first[1], second[1]]
    store.admit((), mixed, PATIENCE)
    store.admit((), [*second, *first, *mixed], PATIENCE)
    assert usage(store, ["user:a"]) == {"user:a": 7}
    store.close()


def test_pending_records_count_at_their_dates(database: Database, clock: Clock) -> None:
    """Not at the date of the replay, and never in the future."""
    pending = kept(clock, demand(cost=2))
    clock.now += 100
    pending += kept(clock, demand(cost=3))
    clock.now += 10 * HOUR
    pending += kept(clock, demand(cost=4))
    clock.now = START + HOUR
    store = database.store(clock)
    store.admit((), pending, PATIENCE)
    for now, expected in ((HOUR, 9), (HOUR + 1, 7), (HOUR + 101, 4), (2 * HOUR, 4), (2 * HOUR + 1, 0)):
        clock.now = START + now
        late = database.store(clock)
        assert usage(late, ["user:a"]) == usage(store, ["user:a"]) == {"user:a": expected}, now
        late.close()
    store.close()


# --- Away


def test_while_the_database_is_away_nothing_is_decided(database: Database, clock: Clock) -> None:
    """The error is StoreUnavailable, nothing is counted, and what waits still has to."""
    store, pending = database.store(clock), kept(clock, demand(cost=2))
    with database.outage():
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.admit([demand()], pending, 0.0)
    store.admit([demand()], pending, PATIENCE)
    assert usage(store, ["user:a"]) == {"user:a": 3}
    with database.outage(), pytest.raises(StoreUnavailable):
        store.admit([demand()], (), 0.0)
    assert usage(store, ["user:a"]) == {"user:a": 3}
    store.probe(PATIENCE)
    assert admitted(store, demand(cost=7), demand()) == [True, False]
    store.close()


def test_what_others_count_while_one_is_away_counts(database: Database, clock: Clock) -> None:
    """It reads that before it decides."""
    one, two = database.store(clock), database.store(clock)
    assert admitted(one, demand(cost=3)) == [True]
    with database.outage(), pytest.raises(StoreUnavailable):
        one.admit([demand()], (), 0.0)
    assert admitted(two, demand(cost=6)) == [True]
    assert admitted(one, demand(cost=2), demand()) == [False, True]
    one.close()
    two.close()


def test_reloading_changes_nothing(database: Database, clock: Clock) -> None:
    """Memory is what the database says, before and after; it need not be there at that moment."""
    store = database.store(clock)
    store.reload()
    store.admit([demand(cost=3), demand("user:b", mail="m", part="p")], (), PATIENCE)
    store.reload()
    assert usage(store, ["user:a", "user:b"]) == {"user:a": 3, "user:b": 1}
    store.reload()
    assert admitted(store, demand("user:b", mail="m", part="p"), demand(cost=8)) == [True, False]
    assert usage(store, ["user:a", "user:b"]) == {"user:a": 3, "user:b": 1}
    store.close()


# --- The end


def test_closing_leaves_nothing(database: Database, clock: Clock) -> None:
    """No thread and no descriptor, after work, after an outage, and without either."""
    with database.outage():
        pass
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(3):
        database.store(clock).close()
        store = database.store(clock)
        store.admit([demand(maximum=1000)] * 100, (), PATIENCE)
        store.maintain()
        with database.outage(), pytest.raises(StoreUnavailable):
            store.admit([demand()], (), 0.0)
        store.probe(PATIENCE)
        store.close()
    wait_until(lambda: threading.active_count() == threads, "the threads that have done their work end")
    assert open_descriptors() == descriptors


# --- --clean


def clean(database: Database, clock: Clock) -> int:
    """``--clean``; how many entries it deletes."""
    store = database.store(clock)
    deleted = store.clean(PATIENCE)
    store.close()
    return deleted


def test_clean_deletes_what_is_older_than_twice_the_longest_window(database: Database, clock: Clock) -> None:
    """It counts entries, what counts goes on counting, and the daemons go on where they were."""
    each = 0 if database.expires else 3
    store = database.store(clock)
    for seconds in range(0, 4 * HOUR, HOUR // 2):
        clock.now = START + seconds
        assert admitted(store, *(demand(f"user:{number}", 100) for number in range(3))) == [True] * 3
    assert clean(database, clock) == 3 * each  # at 0, 0.5 and 1 hours; that of 1.5 hours is not 2 hours old
    assert clean(database, clock) == 0
    assert usage(store, ["user:0"]) == {"user:0": 3}
    clock.now += 1
    assert clean(database, clock) == each
    clock.now += 100 * HOUR
    assert clean(database, clock) == 4 * each
    assert clean(database, clock) == 0
    assert admitted(store, demand("user:0", 1), demand("user:0", 1)) == [True, False]
    late = database.store(clock)
    assert usage(late, ["user:0"]) == {"user:0": 1}
    late.close()
    store.close()


def test_looking_back_when_windows_become_longer(database: Database, clock: Clock) -> None:
    """What lay in the shorter window counts, and where there is a log, what lay before it, too."""
    store = database.store(clock)
    for seconds in (0, 100, 200):
        clock.now = START + seconds
        assert admitted(store, demand("user:alice", 100, seconds=60), demand("user:bob", 100)) == [True] * 2
    before = 1 if database.expires else 3
    store.look_back(2 * HOUR)
    longer = demand("user:alice", before + 1, seconds=2 * HOUR)
    assert admitted(store, longer, longer, demand("user:bob", 3)) == [True, False, False]
    store.close()


def test_clean_before_the_first_start(database: Database, clock: Clock) -> None:
    """There is nothing, and that is no error."""
    store = database.store(clock)
    assert store.clean(PATIENCE) == 0
    store.close()
    store = database.store(clock)
    assert admitted(store, demand()) == [True]
    store.close()


def test_clean_beside_daemons_that_admit(database: Database) -> None:
    """Neither is held up, and the limit stays exact."""
    old = Clock(time.time() - 10 * HOUR)
    store = database.store(old)
    for number in range(1000):
        store.admit([demand(f"user:{number}")], (), PATIENCE)
    store.close()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        totals = [pool.submit(ask_for, database, LIMIT, 60, 1) for _ in range(2)]
        cleaner = database.store(time.time)
        deleted = cleaner.clean(PATIENCE)
        cleaner.close()
        assert sum(total.result() for total in totals) == LIMIT
    assert deleted == (0 if database.expires else 1000)


# --- Different values


def test_different_values_are_counted_once_over_daemons(database: Database, clock: Clock) -> None:
    """In a batch, by another daemon, and by one that starts; what is seen again is admitted, and stays longer."""
    one, other = database.store(clock), database.store(clock)
    assert admitted(one, *map(seen, "aabab")) == [True] * 5
    clock.now += 60
    assert admitted(other, *map(seen, "acdbd")) == [True, True, False, True, False]
    clock.now += 2
    starting = database.store(clock)
    for store in (one, other, starting):
        assert values_in(store) == [3]
        assert admitted(store, *map(seen, "dcd")) == [False, True, False]
    clock.now += HOUR - 61  # those of the beginning would have left
    assert [values_in(store) for store in (one, other)] == [[3], [3]]
    clock.now += 60
    assert admitted(one, *map(seen, "de")) == [True, True]
    assert values_in(other) == [3]
    for store in (one, other, starting):
        store.close()


def test_a_refused_mail_counts_and_moves_no_value(database: Database, clock: Clock) -> None:
    store = database.store(clock)
    nothing = Charge("user:a", 1, (Limit(0, HOUR),))
    watched = replace(nothing, refuses=False)
    assert admitted(store, seen("a"), seen("b", 3, nothing), seen("c", 3, watched)) == [True, False, True]
    clock.now += 60
    (verdict,) = store.admit([seen("a", 3, nothing)], (), PATIENCE)
    assert verdict == refusal(nothing.limits[0], 1)
    (verdict,) = store.admit([seen("c", 3, watched)], (), PATIENCE)
    assert (verdict.counted, [one.charge for one in verdict.exceeded]) == ((1, 0), [1])
    assert values_in(store) == [2]
    clock.now += HOUR - 59
    assert values_in(store) == [1]
    # A rule of values that lets pass what exceeds it counts what it would admit.
    rule = replace(seen("x").charges[0], refuses=False, limits=(Limit(1, HOUR),))
    asked = [Demand((replace(rule, part=digest(part)), Charge("user:b", 1, (Limit(9, HOUR),)))) for part in "cxc"]
    assert [one.counted for one in store.admit(asked, (), PATIENCE)] == [(1, 1), (0, 1), (0, 1)]
    assert values_in(store) == [1]
    store.close()


def test_values_that_were_admitted_elsewhere_are_brought_in_once(database: Database, clock: Clock) -> None:
    """In any order, and however often."""
    store = database.store(clock)
    now = int(clock.now)
    entries = [
        Entry(PLACES, 1, now - age, "", digest(value)) for value, age in (("a", 5), ("b", 50), ("a", 70), ("old", HOUR))
    ]
    record = pack(7, 1, now, [*entries, Entry(PLACES, 0, now, "", ""), Entry("user:a", 2, now, "", "")])
    assert admitted(store) == []
    store.admit([], [record], PATIENCE)
    store.admit([], [record, pack(8, 1, now, entries)], PATIENCE)
    assert values_in(store) == [2]
    assert usage(store, ["user:a"]) == {"user:a": 2}
    clock.now += HOUR - 50
    assert values_in(store) == [1]
    assert admitted(store, *map(seen, "bcd")) == [True, True, False]
    starting = database.store(clock)
    assert values_in(starting) == [3]
    starting.close()
    store.close()


def test_values_are_explained(database: Database, clock: Clock) -> None:
    store = database.store(clock)
    limits = (Limit(2, 50), Limit(3, HOUR))
    for value in "abc":
        clock.now += 30
        assert admitted(store, Demand((Charge(PLACES, 0, limits, digest(value)),))) == [True]
    asked = [Demand((Charge(PLACES, 0, limits, digest(value)),)) for value in "abcx"]
    for _ in range(2):
        found = store.explain(asked)
        assert [[(usage.used, usage.free_in) for usage in usages] for usages in found] == [
            # The first of them are dated at the end of the second in which they came.
            [(2, 21), (3, 0)],
            [(2, 0), (3, 0)],
            [(2, 0), (3, 0)],
            [(2, 21), (3, HOUR - 59)],
        ]
    store.close()


def test_no_counter_holds_more_values_than_its_bound(database: Database, clock: Clock) -> None:
    """Whatever the limits of an override are."""
    store = database.store(clock)
    now = int(clock.now)
    entries = [Entry(PLACES, 1, now, "", f"value {number}") for number in range(MOST_VALUES)]
    numbers = itertools.count(1)
    store.admit([], list(in_records(entries, lambda some: pack(9, next(numbers), now, some))), PATIENCE)
    generous = Limit(10 * MOST_VALUES, 60)
    (verdict,) = store.admit([Demand((Charge(PLACES, 0, (generous,), "another"),))], (), PATIENCE)
    assert verdict == refusal(generous)
    assert admitted(store, Demand((Charge(PLACES, 0, (generous,), "value 17"),))) == [True]
    clock.now += 120
    kept = Charge(PLACES, 0, (generous,), "another", keep_seconds=HOUR)
    assert store.admit([Demand((kept,))], (), PATIENCE) == [refusal(generous)]
    assert admitted(store, Demand((replace(kept, part="value 17"),))) == [True]
    store.close()
