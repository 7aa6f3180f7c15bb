"""Different values in every store, over one table of databases: see :mod:`policyd_rate_limit.storage.contract`."""

from __future__ import annotations

import itertools
from dataclasses import replace

from policyd_rate_limit.domain.charge import Charge, Demand, refusal
from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.values import MOST_VALUES
from policyd_rate_limit.storage.record import in_records, pack
from storage.stores import HOUR, PATIENCE, PLACES, Clock, Database, admitted, seen, usage, values_in


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
