"""How ids stand, against what a few lines of arithmetic say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.admin import senders as senders_module
from policyd_rate_limit.admin.buckets import STEPS
from policyd_rate_limit.admin.desk import Desk, InForce, NotAnId
from policyd_rate_limit.admin.history import history
from policyd_rate_limit.admin.overview import counted
from policyd_rate_limit.admin.senders import Sender, Senders
from policyd_rate_limit.admin.standing import share, standings
from policyd_rate_limit.domain.charge import Usage, free_in
from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.storage.administration import (
    Hits,
    Override,
)
from support.admin_desk import NOW, USUAL, Store, Table, charge, desk
from support.policies import subjects

OWN = (Limit(3, 30),)
NAMES = ("alice", "bob", "carol", "dave")
MOST_SECONDS = 700


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """Charges, some of which are given back, in part or whole, later in the log."""
    found = []
    for name, age, amount in draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-1, MOST_SECONDS), st.integers(1, 4)), max_size=25)
    ):
        found.append(charge(name, NOW - age, amount))
        if draw(st.integers(0, 5)) == 0:
            found.append(charge(name, NOW - age, -draw(st.integers(1, amount))))
    return found


def used(log: Sequence[Entry], key: str, seconds: int, now: int) -> int:
    return sum(entry.amount for entry in log if entry.counter == key and entry.date > now - seconds)


def seconds_until_free(log: Sequence[Entry], key: str, limits: Limits, now: int) -> int:
    return next(
        wait
        for wait in range(MOST_SECONDS)
        if all(used(log, key, limit.seconds, now + wait) < limit.maximum for limit in limits)
    )


@settings(deadline=None)
@given(entries())
def test_an_id_stands_as_its_entries_add_up(log: list[Entry]) -> None:
    for name, limits in (("alice", USUAL), ("bob", OWN)):
        (found,) = standings(desk(Store(log), bob=OWN), name)
        assert found.key == f"user:{name}"
        assert found.in_force.limits == limits
        assert [usage.used for usage in found.usages] == [used(log, found.key, one.seconds, NOW) for one in limits]
        assert free_in(found.usages) == seconds_until_free(log, found.key, limits, NOW)


@settings(deadline=None)
@given(entries(), entries(), st.integers(0, 100), st.sampled_from([60, 300, 1_000]), st.booleans())
def test_the_heaviest_are_found_as_they_add_up(
    first: list[Entry], more: list[Entry], later: int, window: int, by_share: bool
) -> None:
    store = Store(first)
    here = desk(store, bob=OWN, carol=())
    senders = Senders(here, window)
    for now, log in ((NOW, first), (NOW + later, [*first, *more])):
        store.time, store.all = now, log
        assert senders.look() == now
        weights = []
        for name in NAMES:
            key = f"user:{name}"
            limits = here.subjects.limits_and_setting(key)[0]
            used_up = max((used(log, key, one.seconds, now) / one.maximum for one in limits), default=0.0)
            mails = used(log, key, window, now)
            if mails or used_up:
                weights.append((-used_up, -mails, key) if by_share else (-mails, -used_up, key))
        expected = [key for *_, key in sorted(weights)]
        for most in (1, 2, 10):
            found = senders.heaviest(most, by_share=by_share)
            assert [sender.key for sender in found] == expected[:most]
        for sender in found:
            limits = here.subjects.limits_and_setting(sender.key)[0]
            assert sender.mails == used(log, sender.key, window, now)
            assert [one.used for one in sender.usages] == [used(log, sender.key, one.seconds, now) for one in limits]
            assert free_in(sender.usages) == seconds_until_free(log, sender.key, limits, now)


def test_a_name_stands_for_all_that_it_may_be_charged_as() -> None:
    store = Store([charge("alice"), Entry("sender:alice", 2, NOW, "", "")])
    store.counted = [Hits("user:alice", 60, 3, NOW), Hits("sender:alice", 600, 1, 0), Hits("user:bob", 60, 1, NOW)]
    user, sender = standings(desk(store, sender=True), "Alice")
    assert (user.key, user.usages[0].used, user.hits) == ("user:alice", 1, (Hits("user:alice", 60, 3, NOW),))
    assert (sender.key, sender.usages[0].used, sender.hits) == ("sender:alice", 2, (Hits("sender:alice", 600, 1, 0),))
    with pytest.raises(NotAnId, match="empty"):
        standings(desk(store), "")


def test_which_limits_are_in_force() -> None:
    store = Store()
    table = Table(alice=(Limit(1, 1),), bob=(Limit(2, 2),))
    here = desk(store, table, alice=OWN, bob=OWN, carol=OWN)
    override = Override("user:alice", (Limit(9, 9),), NOW + 1, "why")
    store.in_force = [override, Override("user:carol", (), NOW, "over")]

    def of(name: str) -> InForce:
        (found,) = standings(here, name)
        assert tuple(usage.limit for usage in found.usages) == found.in_force.limits
        return found.in_force

    assert of("alice") == ((Limit(9, 9),), "override", override, False)
    assert of("bob") == ((Limit(2, 2),), "sql_limits_by_id", None, False)
    assert of("carol") == (OWN, "limits_by_id", None, False)
    assert of("dave") == (USUAL, "limits", None, False)
    store.time += 1
    assert of("alice") == ((Limit(1, 1),), "sql_limits_by_id", None, False)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("Alice", ("alice", "Alice")),
        ("user:Alice", ("alice", "Alice")),
        ("2001:DB8::5", ("2001:db8::5", "2001:db8::/64", "2001:DB8::5")),
        ("client:192.0.2.1", ("192.0.2.1",)),
    ],
)
def test_a_table_may_know_an_id_by_several_spellings(name: str, ids: tuple[str, ...]) -> None:
    table = Table()
    standings(desk(Store(), table), name)
    assert table.asked == [ids]


def test_the_table_is_asked_about_those_who_send_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders_module, "MOST_LOOKUPS", 2)
    monkeypatch.setattr(senders_module, "LOOKS_PER_LOOKUP", 3)
    store = Store([charge("alice", amount=3), charge("bob", amount=2), charge("carol")])
    table = Table(alice=(Limit(100, 60),), bob=(Limit(2, 60),), carol=(Limit(1, 60),))
    senders = Senders(desk(store, table), 60)
    for _ in range(3):
        senders.look()
        found = senders.heaviest(3, by_share=True)
        assert [(one.key, one.in_force.source) for one in found] == [
            ("user:bob", "sql_limits_by_id"),
            ("user:carol", "limits"),
            ("user:alice", "sql_limits_by_id"),
        ]
    assert sorted(table.asked) == [("alice",), ("bob",)]
    table.limits["bob"] = (Limit(200, 60),)
    senders.look()
    assert senders.heaviest(3, by_share=True)[0].key == "user:carol"


def test_a_longer_window_is_read_from_its_beginning() -> None:
    store = Store([charge("alice", NOW - 1_000), charge("alice", NOW - 10)])
    senders = Senders(desk(store), 60)
    senders.look()
    store.in_force = [Override("user:alice", (Limit(10, 2_000),), NOW + 60)]
    senders.look()
    (alice,) = senders.heaviest(10, by_share=True)
    assert alice.mails == 1
    assert alice.usages == (Usage("user:alice", Limit(10, 2_000), 2, 0),)


def test_the_tightest_limit() -> None:
    usages = (Usage("user:alice", Limit(10, 60), 5, 0), Usage("user:alice", Limit(100, 600), 51, 0))
    assert Sender("user:alice", 1, InForce(USUAL, "limits"), usages).tightest == usages[1]
    assert Sender("user:alice", 1, InForce((), "limits"), ()).tightest is None
    assert share(0, Limit(0, 1)) == 1
    assert share(3, Limit(2, 1)) == 1.5


@settings(deadline=None)
@given(entries(), st.sampled_from(STEPS), st.integers(0, 30))
def test_history_holds_all_that_was_counted(log: list[Entry], step: str, last: int) -> None:
    found = history(desk(Store(log)), "alice", step, last=last)  # type: ignore[arg-type] # one of STEPS
    of_alice = [entry for entry in log if entry.counter == "user:alice"]
    assert found.keys == ("user:alice",)
    assert sum(bucket.mails for bucket in found.buckets) == sum(entry.amount for entry in of_alice)
    newest = sorted(of_alice, key=lambda entry: entry.date)  # in the order of the log where they are of one second
    assert [(one.date, one.amount) for one in found.last] == [
        (entry.date, entry.amount) for entry in newest[max(0, len(newest) - last) :]
    ]


def test_dates_that_no_clock_can_have_shown() -> None:
    log = [charge("alice", 2**53 - 1), charge("alice", -(2**53 - 1), mail="instance"), charge("alice")]
    here = desk(Store(log))
    (alice,) = standings(here, "alice")
    assert [usage.used for usage in alice.usages] == [2, 2]
    Senders(here, 60).look()


def test_how_much_is_on_record() -> None:
    store = Store([charge("alice"), charge("alice", NOW - 599), charge("bob", NOW - 601), charge("carol")])
    assert counted(desk(store)) == (600, 3, 2)
    store.in_force = [Override("user:alice", (Limit(1, 3_600),), NOW + 60)]
    assert counted(desk(store)) == (3_600, 4, 3)


def test_what_a_rule_counts_no_longer_is_of_no_rule() -> None:
    everybody = subjects(USUAL)
    here = Desk(
        Store([]), everybody, [Rule("volume", everybody, {}, unit=BYTES)], longest=600, table=None, max_ids=1_000
    )
    assert here.keys("alice") == ("volume/bytes|user:alice",)
    assert here.in_force("volume/bytes|user:alice", None, None) == InForce(USUAL, "rules.volume")
    for before in ("volume|user:alice", "volume/messages|user:alice", "user:alice", "gone/bytes|user:alice"):
        assert here.in_force(before, None, None) == InForce((), "no rule")
