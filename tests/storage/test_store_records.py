"""What every store keeps, brings in, and leaves, over one table of databases.

See :mod:`policyd_rate_limit.storage.contract`.
"""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Charge, Demand
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.record import Record
from storage.daemon import open_descriptors
from storage.stores import HOUR, PATIENCE, START, Clock, Database, admitted, demand, new_memory, usage
from support.wait import wait_until

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
