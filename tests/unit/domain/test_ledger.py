"""Deciding: what a mail was charged, what is given back, what is warned of, what a restart knows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Exceeded, Verdict, Warned, free_in, refusal
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.domain.sweeping import SWEEPS
from support.demands import demand_of
from support.ledgers import GENEROUS, T0, rebuilt
from support.sharing import keys_that_share


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
