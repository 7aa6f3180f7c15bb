"""Who is limited and who is close, as a watcher keeps it, against what reading everything anew says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.admin import remembering, watching
from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.admin.leaders import HOUR
from policyd_rate_limit.admin.picture import Picture, Seen
from policyd_rate_limit.admin.refusals import AGAIN_SECONDS, ALL_AGAIN_SECONDS, Refusals, Sum, is_would_be
from policyd_rate_limit.admin.remembering import CLOSE, Memory
from policyd_rate_limit.admin.senders import Sender
from policyd_rate_limit.admin.watching import Watcher
from policyd_rate_limit.domain.charge import free_in
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.limits import BLOCKED, Limit, Limits
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.storage.administration import Administration, HitDetails, HourOfHits, MayNotList, Override
from support.examples import examples
from support.policies import subjects
from support.wait import wait_until

NOW = 1_000_000
USUAL = (Limit(5, 60), Limit(8, 600))
NAMES = ("alice", "bob", "carol", "dave")


class Store:
    """What lies in a store, as one in memory says it, with a clock that the test moves."""

    def __init__(self) -> None:
        self.all: list[Entry] = []
        self.time = NOW
        self.in_force: dict[str, Override] = {}
        self.failure: Exception | None = None
        self.gives_back = True
        self.opened = 0
        self.history: list[HourOfHits] = []
        self.histories_read: list[int] = []

    def now(self) -> int:
        if self.failure is not None:
            raise self.failure
        return self.time

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        return (one for one in list(self.all) if one.date >= since and (keys is None or one.counter in keys))

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        read = 0
        while True:
            page = self.all[read : read + 3]
            read += len(page)
            found = [one for one in page if one.date >= since and (self.gives_back or one.amount > 0)]
            if found or not page:
                yield found

    def heartbeats(self) -> None:
        return None

    def hit_history(self, since: int) -> Iterator[HourOfHits]:
        self.histories_read.append(since)
        return (one for one in self.history if one.hour > since - HOUR)

    def overrides(self) -> list[Override]:
        return [one for one in self.in_force.values() if one.until > self.time]

    @contextlib.contextmanager
    def desk(self, table: Any = None) -> Iterator[Desk]:
        self.opened += 1
        yield desk(self, table)


def desk(store: Store, table: Any = None, *, max_ids: int = 1_000) -> Desk:
    everybody = subjects(USUAL, limits_by_id={"carol": (Limit(3, 30),), "dave": ()})
    rules = [Rule(DEFAULT, everybody, stages(None))]
    return Desk(cast("Administration", store), everybody, rules, longest=600, table=table, max_ids=max_ids)


def charge(name: str, date: int = NOW, amount: int = 1) -> Entry:
    return Entry(f"user:{name}", amount, date, "", "")


def looked(memory: Memory) -> Picture:
    *_, picture = memory.look()
    return picture


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, "what the watcher is to find")


def names(senders: Sequence[Sender]) -> set[str]:
    return {one.key.removeprefix("user:") for one in senders}


def seen(memory: Memory, key: str, limits: Limits) -> Seen:
    found = memory.seen(key, limits)
    assert found is not None
    return found


steps = st.lists(
    st.one_of(
        st.tuples(st.just("mails"), st.sampled_from(NAMES), st.integers(1, 6)),
        st.tuples(st.just("back"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("later"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("allow"), st.sampled_from(NAMES), st.integers(0, 9)),
        st.tuples(st.just("revoke"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("reset"), st.sampled_from(NAMES), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("recounts", [False, True], ids=["all is told", "charges alone are told"])
@settings(max_examples=examples(60))
@given(steps=steps)
def test_those_limited_and_close_are_found_as_if_all_were_read_anew(recounts: bool, steps: list[Any]) -> None:
    store = Store()
    memory = Memory(desk(store), recounts=recounts)
    store.gives_back = not recounts
    for what, whom, much in [*steps, ("look", 0, 0)]:
        if what == "mails":
            store.all.append(charge(whom, store.time, much))
        elif what == "later":
            store.time += whom
        elif what == "allow":
            limits: Limits = (BLOCKED,) if not much else (Limit(much, 300),)
            store.in_force[f"user:{whom}"] = Override(f"user:{whom}", limits, store.time + 120, "")
        elif what == "revoke":
            store.in_force.pop(f"user:{whom}", None)
        elif what == "back" and store.all and not recounts:
            given = store.all[whom % len(store.all)]
            if given.amount > 0:
                store.all.append(replace(given, amount=-given.amount))
        elif what == "reset" and not recounts:
            store.all.append(Entry(f"user:{whom}", 0, store.time - 1, "", RESET))
        elif what == "reset":  # there the counter is emptied, and nothing says so
            store.all = [replace(one, amount=0) if one.counter == f"user:{whom}" else one for one in store.all]
        elif what == "look":
            picture = looked(memory)
            fresh = looked(Memory(desk(store), recounts=False))
            assert picture._replace(ids=0) == fresh._replace(ids=0)  # those swept away are no more than those on record
            for one in (*picture.limited, *picture.close):
                key, in_force = one.key, one.in_force
                assert seen(memory, key, in_force.limits).usages == one.usages
                within = [used / limit.maximum for _, limit, used, _ in one.usages]
                assert max(within) >= CLOSE
                assert (free_in(one.usages) == 0) == (one in picture.close)
                assert not any(limit == BLOCKED for limit in in_force.limits)


def test_what_one_id_was_charged() -> None:
    store = Store()
    store.all = [charge("alice", NOW - 700), charge("alice", NOW - 20, 2), charge("bob"), charge("alice", NOW)]
    memory = Memory(desk(store), recounts=False)
    assert looked(memory).ids == 2
    alice = seen(memory, "user:alice", USUAL)
    assert [usage.used for usage in alice.usages] == [3, 3]
    assert alice.charges == [(NOW - 700, 1), (NOW - 20, 2), (NOW, 1)]
    assert seen(memory, "user:nobody", USUAL).charges == []


def test_what_has_left_the_windows_takes_no_room() -> None:
    store = Store()
    memory = Memory(desk(store), recounts=False)
    for _ in range(3 * HOUR // 60):
        store.time += 60
        store.all.append(charge("alice", store.time))
        looked(memory)
    assert HOUR // 60 <= len(seen(memory, "user:alice", ()).charges) <= 2 * HOUR // 60 + 2


def test_while_it_is_read_further_back_nothing_is_said_of_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "TOLD_SECONDS", -1.0)
    store = Store()
    store.all = [charge("alice", NOW - 2 * HOUR, 2), *(charge("alice") for _ in range(5))]
    memory = Memory(desk(store), recounts=False)
    looked(memory)
    assert [used for _, used in seen(memory, "user:alice", USUAL).charges] == [5]
    store.in_force["user:alice"] = Override("user:alice", (Limit(10, 3 * HOUR),), NOW + 60, "")
    looks = memory.look()
    assert next(looks).read == 3
    assert memory.seen("user:alice", USUAL) is None
    assert [*looks][-1].is_complete
    assert [used for _, used in seen(memory, "user:alice", USUAL).charges] == [2, 5]


def test_limits_of_the_table_are_looked_up_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MOST_LOOKUPS", 2)
    asked: list[str] = []

    def table(ids: Sequence[str]) -> Limits | None:
        asked.append(ids[0])
        return (Limit(2, 60),) if ids[0] in ("bob", "erin") else None

    store = Store()
    store.all = [charge(name, NOW, 2) for name in ("alice", "bob", "dan", "erin")]
    memory = Memory(desk(store, table), recounts=False)
    looked(memory)
    assert sorted(asked) == ["alice", "bob"]
    assert names(looked(memory).limited) == {"bob", "erin"}
    assert sorted(asked) == ["alice", "bob", "dan", "erin"]
    looked(memory)
    assert len(asked) == 4
    store.time += remembering.KNOWN_SECONDS - 10
    looked(memory)
    store.time += 11
    looked(memory)
    looked(memory)
    assert sorted(asked[4:]) == ["alice", "bob", "dan", "erin"]


def test_of_too_many_it_is_told_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MOST_CLOSE", 2)
    store = Store()
    store.all = [charge(f"user{number}", NOW, 5) for number in range(5)]
    memory = Memory(desk(store, max_ids=4), recounts=False)
    picture = looked(memory)
    assert (len(picture.limited), picture.more, picture.ids, picture.crowded) == (2, 3, 4, True)
    assert not looked(Memory(desk(store), recounts=False)).crowded


def test_the_first_reading_says_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "TOLD_SECONDS", -1.0)
    store = Store()
    store.all = [charge("alice", NOW, 1) for _ in range(7)]
    memory = Memory(desk(store), recounts=False)
    *reading, last = memory.look()
    assert [one.read for one in reading] == [3, 6, 7]
    assert not any(one.is_complete for one in reading)
    assert last.is_complete
    assert [one.read for one in memory.look()] == [None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.01)


@contextlib.contextmanager
def watched(store: Store, **options: Any) -> Iterator[Watcher]:
    others = set(threading.enumerate())  # of other tests, that serve pages
    watcher = Watcher(store.desk, **options)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()
        assert "watcher" not in [thread.name for thread in threading.enumerate() if thread not in others]


@pytest.mark.usefixtures("quick")
def test_an_outage_leaves_the_last_known_and_ends() -> None:
    store = Store()
    store.all = [charge("alice", NOW, 5)]
    with watched(store) as watcher:
        assert watcher.refresh(10.0)
        assert names(watcher.picture().limited) == {"alice"}
        assert watcher.seen("user:alice", USUAL) is not None
        store.failure = StoreUnavailable("no answer in time")
        until(lambda: watcher.picture().failure)
        away = watcher.picture()
        assert (away.failure, names(away.limited)) == ("no answer in time", {"alice"})
        until(lambda: watcher.seen("user:alice", USUAL) is None)
        until(lambda: watcher.age(watcher.picture()) > 0.05)
        store.all.append(charge("bob", NOW, 5))
        store.failure = None
        until(lambda: names(watcher.picture().limited) == {"alice", "bob"})
        assert watcher.picture().failure is None
        assert store.opened > 1


@pytest.mark.usefixtures("quick")
def test_a_store_that_hides_its_ids_is_told_apart_from_one_that_is_away() -> None:
    store = Store()
    store.failure = MayNotList("the user may not list keys")
    with watched(store) as watcher:
        until(lambda: watcher.picture().hidden)
        assert watcher.picture().failure is None
        assert not watcher.picture().is_complete


@pytest.mark.usefixtures("quick")
def test_a_fault_ends_no_watching(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.failure = ZeroDivisionError("none of ours")
    with watched(store) as watcher:
        until(lambda: watcher.picture().failure)
        assert "none of ours" in str(watcher.picture().failure)
        store.failure = None
        assert watcher.refresh(10.0)
        until(lambda: watcher.picture().failure is None)
    assert "cannot be followed" in caplog.text


def test_what_was_changed_is_seen_at_once_though_looks_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 300.0)
    store = Store()
    with watched(store) as watcher:
        until(lambda: watcher.picture().is_complete)
        for name in NAMES[:2]:
            store.all.append(charge(name, NOW, 5))
            assert watcher.refresh(10.0)
            assert name in names(watcher.picture().limited)


@pytest.mark.usefixtures("quick")
def test_while_nobody_asks_looks_are_rare_and_the_next_to_ask_sees_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "UNWATCHED_LOOK_SECONDS", 300.0)
    times = [0.0]
    store = Store()
    with watched(store, clock=lambda: times[0]) as watcher:
        until(lambda: watcher.picture().is_complete)
        watcher.wake(0)
        unwatched = []
        for times[0] in (watching.UNWATCHED_SECONDS, watching.UNWATCHED_SECONDS + 1):
            unwatched.append(watcher.is_unwatched)
        assert unwatched == [False, True]
        watcher.refresh(10.0)  # the look that was due is over, and the next one is far away
        store.all.append(charge("alice", NOW, 5))
        assert watcher.picture().limited == ()
        watcher.wake(10.0)
        assert names(watcher.picture().limited) == {"alice"}
        store.all.append(charge("bob", NOW, 5))
        until(lambda: names(watcher.picture().limited) == {"alice", "bob"})


@pytest.mark.usefixtures("quick")
def test_where_the_store_knows_better_nothing_is_said_from_memory() -> None:
    store = Store()
    store.all = [charge("alice", NOW, 5)]
    with watched(store, recounts=True) as watcher:
        until(lambda: names(watcher.picture().limited) == {"alice"})
        assert watcher.seen("user:alice", USUAL) is None


def hour_of(hour: int, key: str, kind: str, hits: int) -> HourOfHits:
    return HourOfHits(hour, key, Limit(5, 60), kind, hits, hour, hour + 9, HitDetails("", "", "", "", ""))


def test_refusals_are_added_up_by_rule_and_what_comes_later_is_found() -> None:
    store, refusals = Store(), Refusals()
    now = NOW - NOW % HOUR + 100
    this, before, long_ago = now - 100, now - 100 - HOUR, now - 100 - 40 * HOUR
    store.history = [
        hour_of(long_ago, "user:alice", "refused", 7),
        hour_of(before, "user:alice", "refused", 2),
        hour_of(before, "user:bob", "refused", 3),
        hour_of(this, "net|client:192.0.2.0/24", "would-refuse", 4),
    ]
    was_read = refusals.is_read
    refusals.read(cast("Administration", store), now)
    assert (was_read, refusals.is_read) == (False, True)
    assert list(refusals.since(now - 2 * HOUR)) == [
        Sum(before, DEFAULT, "refused", 5),
        Sum(this, "net", "would-refuse", 4),
    ]
    assert [is_would_be(one) for one in refusals.since(before)] == [False, True]
    store.history += [hour_of(before, "user:carol", "refused", 1), hour_of(long_ago, "user:carol", "refused", 1)]
    refusals.read(cast("Administration", store), now + AGAIN_SECONDS - 1)
    assert len(store.histories_read) == 1
    refusals.read(cast("Administration", store), now + AGAIN_SECONDS)
    assert len(store.histories_read) == 2
    assert list(refusals.since(0))[:2] == [Sum(long_ago, DEFAULT, "refused", 7), Sum(before, DEFAULT, "refused", 6)]
    refusals.read(cast("Administration", store), now + ALL_AGAIN_SECONDS)
    assert next(refusals.since(0)) == Sum(long_ago, DEFAULT, "refused", 8)


def test_of_too_many_sums_the_oldest_hours_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyd_rate_limit.admin.refusals.MOST_SUMS", 2)
    store, refusals = Store(), Refusals()
    this = NOW - NOW % HOUR
    store.history = [hour_of(this - ago * HOUR, f"rule{ago}|user:a", "refused", 1) for ago in range(5)]
    refusals.read(cast("Administration", store), NOW)
    assert [one.rule for one in refusals.since(0)] == ["rule1", "rule0"]


@pytest.mark.usefixtures("quick")
def test_the_configuration_of_later_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "DESK_SECONDS", 0.02)
    store = Store()
    store.all = [charge("bob", NOW, 2)]
    with watched(store) as watcher:
        until(lambda: watcher.picture().is_complete)
        assert watcher.picture().limited == ()
        monkeypatch.setitem(globals(), "USUAL", (Limit(2, 60),))
        until(lambda: names(watcher.picture().limited) == {"bob"})


def test_ids_are_found_by_a_part_of_them() -> None:
    store = Store()
    store.all = [charge(name) for name in ("alice@example.org", "bob@example.org", "user", "carol@example.net")]
    memory = Memory(desk(store), recounts=False)
    looked(memory)
    everybody = memory.matching("example", 10, lambda _: True)
    assert sorted(everybody) == ["user:alice@example.org", "user:bob@example.org", "user:carol@example.net"]
    assert len(memory.matching("example", 2, lambda _: True)) == 2
    assert memory.matching("example", 10, lambda key: key.endswith(".net")) == ["user:carol@example.net"]
    assert memory.matching("user", 10, lambda _: True) == ["user:user"]
    assert memory.matching("", 10, lambda _: True) == memory.matching("zebra", 10, lambda _: True) == []


def test_who_ran_into_a_limit_is_reread_with_the_next_look_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store takes long to be read, as a million counters of Redis do, they need not wait for that."""
    store = Store()
    store.all = [charge("alice", NOW - 30, 2)]
    memory = Memory(desk(store), recounts=True)
    looked(memory)
    follow = store.follow

    def later(since: int) -> Iterator[Sequence[Entry]]:
        yield []
        yield from follow(since)

    store.all.append(charge("alice", NOW - 1, 5))
    memory._pages = later(NOW - 20)  # a slice in which alice is not looked at
    memory.look_at(("user:alice", "others:"))
    assert [one.key for one in looked(memory).limited] == ["user:alice"]
    monkeypatch.setattr(remembering, "MOST_RECOUNTED", 0)
    (limited,) = looked(memory).limited  # what the store tells of her now is known
    assert limited.mails == 7
