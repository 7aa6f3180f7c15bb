"""The memory of one daemon: each record once, by a clock that may step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.replica import Memory
from storage.stores import HOUR, START, Clock, demand, new_memory, seen

KEYS = ("user:a", "user:b", "user:c")
SECOND = int(START) + 1
LIMITS = demand().charges[0].limits


def opened(clock: Clock) -> Memory:
    """A memory that has looked at the clock."""
    memory = new_memory(clock)
    memory.advance()
    return memory


def usage(memory: Memory, key: str = "user:a") -> int:
    """What lies in the window of ``key``."""
    (used,) = memory.ledger.windows.usage(key, LIMITS)
    return used


def test_a_record_counts_once(clock: Clock) -> None:
    """However often it is applied, in whatever batch it comes again."""
    memory = opened(clock)
    records = [pack(9, number, SECOND, [Entry("user:a", number, SECOND, "", "")]) for number in (1, 2, 3)]
    for record in (*records, *records, records[0], records[2]):
        memory.apply(record)
    assert usage(memory) == 6


def test_writers_are_told_apart(clock: Clock) -> None:
    """Two with equal numbers are two records."""
    memory = opened(clock)
    for writer in (1, 2, 2, 1):
        memory.apply(pack(writer, 1, SECOND, [Entry("user:a", 1, SECOND, "", "")]))
    assert usage(memory) == 2
    assert len({new_memory(clock).writer for _ in range(100)}) == 100


def test_own_records_do_not_count_again(clock: Clock) -> None:
    """What was decided here is counted already when it is read back."""
    memory = opened(clock)
    verdicts, record = memory.decide([demand(cost=3), demand(cost=9)])
    assert [verdict.admitted for verdict in verdicts] == [True, False]
    assert record is not None
    memory.apply(record)
    assert usage(memory) == 3
    memory.forget()
    assert usage(memory) == 0
    memory.apply(record)
    memory.apply(record)
    assert usage(memory) == 3


def test_what_is_refused_makes_no_record(clock: Clock) -> None:
    """Nor does what was charged before."""
    memory = opened(clock)
    assert memory.decide([demand(cost=11)])[1] is None
    assert memory.decide([])[1] is None
    first = demand(mail="m", part="p")
    assert memory.decide([first])[1] is not None
    assert memory.decide([first])[1] is None
    assert usage(memory) == 1


def test_numbers_grow_through_everything(clock: Clock) -> None:
    """Forgetting included: they are what tells records apart."""
    memory = opened(clock)
    numbers = []
    for _ in range(3):
        _, record = memory.decide([demand(maximum=100)])
        assert record is not None
        numbers.append(record.number)
        memory.forget()
    numbers.append(memory.record([]).number)
    memory.spacing = 3
    numbers.append(memory.record([]).number)
    numbers.append(memory.next_number(1))
    assert numbers == [1, 2, 3, 4, 7, 8]


def test_forgetting_keeps_the_time(clock: Clock) -> None:
    """To the fraction: what is charged right after it is dated at the end of the second, as before."""
    memory = opened(clock)
    before = memory.date
    memory.forget()
    assert memory.date == before == SECOND
    _, record = memory.decide([demand()])
    assert record is not None
    assert record.date == SECOND


def test_marks_stand_for_what_is_in_the_ledger(clock: Clock) -> None:
    """Whoever reads them counts none of those records again, and nothing else changes."""
    memory = opened(clock)
    foreign = [pack(9, number, SECOND, [Entry("user:a", 1, SECOND, "", "")]) for number in (1, 2, 3)]
    memory.apply(foreign[0])
    memory.apply(foreign[1])
    _, own = memory.decide([demand()])
    assert own is not None
    other = opened(clock)
    for mark in memory.marks():
        assert mark.size == 0
        other.apply(mark)
    for record in (*foreign, own):
        other.apply(record)
    assert usage(other) == 1  # the third of the foreign ones


def test_the_shared_clock_is_kept_while_it_is_away() -> None:
    """How far it is from the own one, in both directions."""
    clock = Clock()
    for ahead in (-1000.5, 0.0, 86400.25):
        memory = new_memory(clock)
        memory.synchronise(START + ahead)
        dated = memory.date
        clock.now += 60
        memory.advance()
        assert memory.date == dated + 60
        clock.now -= 60


demands = st.lists(
    st.builds(
        demand,
        st.sampled_from(KEYS),
        st.just(20),
        cost=st.integers(1, 5),
        mail=st.sampled_from(["", "m1", "m2"]),
        part=st.sampled_from(["", "p1", "p2"]),
        settles=st.booleans(),
    ),
    max_size=6,
)
batches = st.lists(st.tuples(demands, st.integers(-100, 2 * HOUR)), max_size=12)


@given(batches=batches, steps_back=st.booleans(), asked=st.booleans())
@example(batches=[([demand(cost=4)], 0), ([demand()], HOUR + 1), ([], -1)], steps_back=True, asked=False)
def test_records_rebuild_what_made_them(batches: list[tuple[list[Demand], int]], steps_back: bool, asked: bool) -> None:
    """Another memory that applies the records decides alike, and so does one that applies each twice.

    What has left the window of an id is forgotten for good once somebody asks about it (``asked``: about all, all the
    time): if the clock steps back then, it does not come back. Whoever only applies records may remember it, and is the
    stricter one; whoever reads later cannot know what was dated when.
    """
    clock = Clock()
    memory, other, late = opened(clock), opened(clock), opened(clock)
    records = []
    for batch, seconds in batches:
        clock.now += seconds if steps_back else abs(seconds)
        for one in (memory, other):
            one.advance()
            for key in KEYS if asked else ():
                one.ledger.windows.exceeded(key, 1, LIMITS)
        _, record = memory.decide(batch)
        if record is not None:
            records.append(record)
            other.apply(record)
            other.apply(record)
    late.advance()
    for record in itertools.chain(records, records):
        late.apply(record)
    for key in KEYS:
        assert usage(other, key) >= usage(memory, key)
        if asked or not steps_back:
            assert usage(other, key) == usage(memory, key)
        assert usage(late, key) == usage(memory, key) or steps_back


def test_it_is_said_once_a_minute_that_there_is_no_room_for_new_values(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(Ledger(2), clock)  # room for ten values of one counter
    memory.advance()
    decided, _ = memory.decide([seen(str(number), 100) for number in range(13)])
    assert [verdict.admitted for verdict in decided] == [True] * 10 + [False] * 3
    for _ in range(3):
        memory.sweep(HOUR)
    (record,) = caplog.records
    said = "no room for 3 new values of rules with count: distinct, which counts as exceeded: 10 values in memory, and"
    assert record.getMessage().startswith(said)
    assert memory.decide([seen("10", 100), seen("3", 100)])[0][1].admitted
    for passed, lines in ((59, 1), (1, 2)):
        clock.now += passed
        memory.advance()
        memory.sweep(HOUR)
        assert len(caplog.records) == lines
    assert "no room for 1 new value of rules" in caplog.messages[-1]
    kept = memory.leave()
    memory.take_back(kept)
    assert len(memory.ledger.values) == 10
