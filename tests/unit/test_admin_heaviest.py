"""Rankings that are kept up: who is ahead now, of all or of those that are known to be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.admin import leaders, ranking
from policyd_rate_limit.admin.heaviest import Heaviest
from policyd_rate_limit.admin.on_record import PARTS, OnRecord
from policyd_rate_limit.admin.ranking import NOTHING, Ranking, Score, best
from policyd_rate_limit.admin.remembering import Memory
from policyd_rate_limit.admin.senders import Sender, Senders
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.storage.administration import Override
from support.admin_desk import NOW, Store, Table, charge, desk
from support.examples import examples

HOUR = 3_600
NAMES = [f"u{number}" for number in range(12)]


@given(
    steps=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 9)), max_size=200),
    falls=st.integers(0, 9),
    most=st.integers(1, 6),
)
@settings(max_examples=examples(200))
def test_the_best_are_those_of_all_as_long_as_they_have_more_than_who_is_not_kept(
    steps: list[tuple[int, int]], falls: int, most: int
) -> None:
    """Scores fall by themselves, and rise only when that is noted."""
    kept, now = Ranking(4), {f"k{key}": NOTHING for key in range(20)}
    for turn, (key, score) in enumerate(steps):
        if turn % 50 == 49:
            kept.begin_pass()
            for one, known in now.items():
                kept.note(one, known)
        now[f"k{key}"] = (float(score), 0.0)
        kept.note(f"k{key}", now[f"k{key}"])
    assert len(kept.kept()) <= 8
    now = {one: (max(0.0, known[0] - (int(one[1:]) % (falls + 1))), 0.0) for one, known in now.items()}
    found = best(kept.ordered(), most, lambda keys: [now[one] for one in keys])
    expected = sorted((one for one in now.values() if one > NOTHING), reverse=True)[:most]
    for at, wanted in enumerate(expected):
        if wanted > kept.most_beyond:
            assert found[at][1] == wanted
    assert [of_one for _, of_one in found] == sorted((now[key_] for key_, _ in found), reverse=True)


def test_no_more_are_asked_for_than_it_takes() -> None:
    ordered = [(f"k{number}", (1_000.0 - number, 0.0)) for number in range(1_000)]
    asked: list[str] = []

    def score_of(keys: list[str]) -> list[Score]:
        asked.extend(keys)
        return [(1_000.0 - int(key[1:]), 0.0) for key in keys]

    assert [key for key, _ in best(ordered, 3, score_of)] == ["k0", "k1", "k2"]  # type: ignore[arg-type]
    assert len(asked) == 100


@pytest.mark.parametrize("kept", [3, 100])
@pytest.mark.parametrize("by_share", [True, False])
@pytest.mark.parametrize("window", [60, 600, HOUR])
def test_it_is_what_whoever_reads_all_finds(
    monkeypatch: pytest.MonkeyPatch, window: int, by_share: bool, kept: int
) -> None:
    monkeypatch.setattr(ranking, "MOST_RANKED", kept)

    def score(one: Sender) -> float:
        return share(one.tightest.used, one.tightest.limit) if by_share and one.tightest else one.mails * (not by_share)

    dice = random.Random(window)
    store = Store()
    everything = desk(store, Table(u3=(Limit(2, 60),)), u4=(), u5=(Limit(4, 600),))
    memory = Memory(everything, recounts=False)
    for round_ in range(12):
        for _ in range(15):
            store.all.append(charge(dice.choice(NAMES), store.time - dice.randrange(30), dice.randrange(1, 4)))
        store.time += dice.randrange(1, 200)
        store.in_force = [
            Override("user:u1", (BLOCKED,), store.time + 300),
            Override("user:u2", (Limit(9, HOUR),), store.time + 5),
        ]
        (picture,) = (one for one in memory.look() if one.is_complete)
        expected = Senders(everything, window)
        expected.look()
        for most in (1, 3, 100)[: 2 if kept == 3 else 3]:
            found = Heaviest(everything, memory, window).best(most, by_share=by_share)
            reader = [one for one in expected.heaviest(99, by_share=by_share) if by_share or one.mails]
            if most < 99:  # which of equals are among them may be another
                assert [score(one) for one in found] == [score(one) for one in reader][:most], (round_, most)
            else:
                assert found == reader, round_
        own = {"user:u1", "user:u5", "user:nobody"}
        found = Heaviest(everything, memory, window).best(5, by_share=by_share, among=own)
        reader = expected.heaviest(5, by_share=by_share, among=own.__contains__)
        assert found == [one for one in reader if by_share or one.mails]
        assert picture.ids >= len(found)


def test_what_was_given_back_is_reread_where_the_store_does_not_tell() -> None:
    store = Store([charge("alice", NOW - 5, 3), charge("bob", NOW - 5, 2)])
    everything = desk(store)
    memory = Memory(everything, recounts=True)
    assert [one.is_complete for one in memory.look()] == [True]
    store.all = [charge("bob", NOW - 5, 2), Entry("user:alice", 0, NOW + 1, "", RESET)]
    found = Heaviest(everything, memory, 600).best(5, by_share=True)
    assert [(one.key, one.mails) for one in found] == [("user:bob", 2)]


def test_a_memory_knows_no_longer_window_than_it_has_read() -> None:
    store = Store([charge("alice")])
    memory = Memory(desk(store), recounts=False)
    assert not memory.knows(60)
    assert [one.is_complete for one in memory.look()] == [True]
    assert memory.knows(HOUR)
    assert not memory.knows(HOUR + 1)


def test_rankings_by_other_windows_are_bounded() -> None:
    found = leaders.Leaders()
    for window in range(1, 20):
        assert found.ranking(window, by_share=False) is None
        found.begin(window)
    assert [limit.seconds for limit in found.windows] == [HOUR, 24 * HOUR, 16, 17, 18, 19]
    assert found.ranking(16, by_share=False) is not None
    found.begin(20)
    assert [limit.seconds for limit in found.windows] == [HOUR, 24 * HOUR, 18, 19, 16, 20]


@given(st.lists(st.integers(0, 5_000), max_size=300), st.integers(1, 5_000))
@settings(max_examples=examples(100))
def test_entries_on_record_are_counted_to_a_part_of_the_time(dates: list[int], since: int) -> None:
    record = OnRecord(5_000)
    for date in sorted(dates):
        record.count(date)
    exact = sum(date >= since for date in dates)
    assert exact <= record.since(since) <= sum(date >= since - 5_000 // PARTS for date in dates)


def test_the_parts_of_the_time_are_bounded() -> None:
    record = OnRecord(PARTS)
    for date in range(10 * PARTS):
        record.count(date)
    assert len(record._parts) <= 2 * PARTS
    assert record.since(9 * PARTS) == PARTS
