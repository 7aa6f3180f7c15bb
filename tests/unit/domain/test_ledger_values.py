"""Deciding about different values."""

from __future__ import annotations

import math
from typing import Any

from policyd_rate_limit.domain.charge import Charge, Demand, refusal
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.sweeping import SWEEPS
from support.ledgers import GENEROUS, T0, rebuilt

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
    one_place = ledger.decide(from_place("b", Charge("k", 1, GENEROUS), limits=(Limit(1, 60),)), entries)
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
