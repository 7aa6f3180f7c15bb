"""The script decides as the ledger does: the same demands, at the same times, have the same verdicts.

The script takes its time from the store's ``clock`` here, which only tests give it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis import Redis

from policyd_rate_limit.domain.charge import Charge, Demand, Usage
from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger, one_more
from policyd_rate_limit.domain.limits import PER_MAIL, Limit, Limits, windows_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis.keys import LANES
from policyd_rate_limit.storage.redis.node import script
from policyd_rate_limit.storage.redis.source import constants, source, text
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.stores import Clock, new_memory
from support.demands import demand_of
from support.examples import examples
from support.redis_servers import External, RedisServer

Server = RedisServer | External

T0 = 1_700_000_000.25
LIMITS: dict[str, Limits] = {
    "user:a": (Limit(4, 10), Limit(7, 60)),
    "domain:a": (Limit(9, 30),),
    "server": (Limit(12, 5), Limit(30, 600), Limit(40, 3000)),
    "mail": (Limit(5, PER_MAIL),),
    "mail:a": (Limit(4, PER_MAIL), Limit(7, 10), Limit(60, 3000)),
    "outside/distinct-recipient|user:a": (Limit(2, 10), Limit(3, 60), Limit(9, 3000)),
    "places/distinct-client_address|user:a": (Limit(3, 30),),
}
LONGEST = 3000
WRITER = 1
MANY_MARKS = 16  # as the script has it
_prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The server that the environment names need not be durable."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def new_store(server: Server, clock: Clock, longest: int = LONGEST) -> RedisStore:
    config = {"url": server.url, "prefix": next(_prefixes)}
    return RedisStore(config, new_memory(clock), longest=longest, timeout=20.0, clock=clock)


MAILS = st.sampled_from(["", "m1", "m2"])  # whoever sends them: another user's is another mail


def demand_on(keys: tuple[str, ...]) -> st.SearchStrategy[Demand]:
    """Of one rule for each of ``keys``: with its own way of being counted once, and refusing or not."""

    def charge(key: str, cost: int, way: tuple[str, bool], refuses: bool, warn: int) -> Charge:
        if is_distinct(key):
            return Charge(key, 0, LIMITS[key], "vwxyz"[cost - 1], False, refuses, warn=warn)
        return Charge(key, cost, LIMITS[key], *way, refuses, warn=warn)

    ways = st.sampled_from([("", True), ("a", False), ("b", False), ("c", False)])
    refuse = st.sampled_from([True, True, False])
    warn = st.sampled_from([0, 0, 1, 50, 60, 99])
    charges = st.tuples(*(st.builds(charge, st.just(key), st.integers(1, 5), ways, refuse, warn) for key in keys))
    return st.builds(Demand, charges, MAILS)


DEMANDS = st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, max_size=3, unique=True).map(tuple).flatmap(demand_on)
FORWARD = st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 20), st.floats(0, 700))
EXAMPLES = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
)


def remembered(demands: list[Demand], clock: Clock) -> list[Demand]:
    """``demands``, with mails of the time in which the server remembers them: the ledger forgets none of a few."""
    now = int(clock.now // REMEMBERED_SECONDS)
    return [replace(demand, mail=demand.mail and f"{demand.mail}.{now}") for demand in demands]


@EXAMPLES
@given(steps=st.lists(st.tuples(FORWARD, st.lists(DEMANDS, min_size=1, max_size=4)), max_size=30))
def test_decides_and_explains_as_the_ledger_does(server: Server, steps: list[tuple[float, list[Demand]]]) -> None:
    clock = Clock(T0)
    store, ledger = new_store(server, clock), Ledger(1000)
    for seconds, demands in steps:
        clock.now += seconds
        ledger.advance(clock.now)
        demands = remembered(demands, clock)
        assert store.admit(demands, (), 1.0) == [ledger.decide(demand, []) for demand in demands]
        assert store.explain(demands) == [ledger.explain(demand) for demand in demands]
    store.close()


PLAIN = DEMANDS.map(
    lambda demand: replace(
        demand,
        charges=tuple(one if one.is_distinct else replace(one, part="a", settles=False) for one in demand.charges),
    )
)  # what is given back in a batch would let others pass that were refused when it was asked first


@EXAMPLES
@given(steps=st.lists(st.tuples(FORWARD, st.lists(PLAIN, min_size=1, max_size=12)), min_size=1, max_size=8))
def test_a_batch_that_is_asked_again_is_answered_alike_and_counts_nothing(
    server: Server, steps: list[tuple[float, list[Demand]]]
) -> None:
    """Its answers were lost, or those of its last demands: it comes once more as it was, or some of it by itself."""
    clock = Clock(T0)
    store, ledger = new_store(server, clock), Ledger(1000)
    store.admit((), (), 1.0)
    for number, (seconds, demands) in enumerate(steps, 1):
        clock.now += seconds
        ledger.advance(clock.now)
        demands = [  # of a mail each: another demand that is charged would let one pass that was refused
            replace(demand, mail=demand.mail and f"{at}.{demand.mail}")
            for at, demand in enumerate(remembered(demands, clock))
        ]
        expected = [ledger.decide(demand, []) for demand in demands]
        explained = [in_windows(ledger.explain(demand)) for demand in demands]
        for part in (len(demands), len(demands), 1 + number % len(demands)):
            batch = store._inquire(demands[:part])
            batch.number, batch._common = number, (WRITER.to_bytes(8, "big"), number, LONGEST, store._link.time)
            store._exchange(batch.ask())
            batch.take()
            for question, verdict in zip(batch.questions, expected, strict=False):
                assert question.result.counted == verdict.counted
                assert question.result.warned == verdict.warned
                found, told = ({one.charge for one in of.exceeded} for of in (question.result, verdict))
                assert found == told if verdict.admitted else found >= told  # others were admitted since
            # What mails were charged is told from memory, to which nobody tells the answers here.
            assert [in_windows(usages) for usages in store.explain(demands)] == explained
    store.close()


def in_windows(usages: Sequence[Usage]) -> list[Usage]:
    return [usage for usage in usages if not usage.limit.is_per_mail]


BROKEN = demand_on(("user:a",)).map(
    lambda demand: replace(demand, charges=(replace(demand.charges[0], counter="broken"),))
)


@EXAMPLES
@given(
    steps=st.lists(
        st.tuples(
            FORWARD, st.lists(st.one_of(DEMANDS, BROKEN), min_size=1, max_size=5), st.sampled_from(["", "", "set"])
        ),
        max_size=20,
    )
)
def test_a_key_of_no_use_changes_nothing_for_the_others(
    server: Server, steps: list[tuple[float, list[Demand], str]]
) -> None:
    """Wherever it stands in a batch; it is itself decided by memory, which knows as much where there is one daemon."""
    clock = Clock(T0)
    store, ledger = new_store(server, clock), Ledger(1000)
    key = store._keys.counter("broken")
    blamed: set[str] = set()
    with server.client() as client:
        client.set(key, "what somebody has put there")
        for seconds, demands, damage in steps:
            clock.now += seconds
            ledger.advance(clock.now)
            demands = remembered(demands, clock)
            if damage:
                client.delete(key)
                client.hset(key, "m", "\x7f")
            try:
                verdicts = store.admit(demands, (), 1.0)
            except Refused as refused:
                verdicts = refused.verdicts
                blamed |= set(refused.reasons)
            assert verdicts == [ledger.decide(demand, []) for demand in demands]
    assert blamed <= {"broken"}
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_decides_what_most_demands_are_as_the_ledger_does(server: Server, seed: int) -> None:
    """One counter, shorter windows that come and go, events of the same second and of long ago."""
    chance = random.Random(seed)
    clock = Clock(T0)
    store, ledger = new_store(server, clock), Ledger(1000)
    longest = Limit(40, LONGEST)  # memory keeps no more than that one asks for
    limits: Limits = (Limit(4, 10), longest)
    for step in range(120):
        clock.now += chance.choice((0.0, 0.0, 0.3, 1.0, 5.0, 6.0, 11.0, 61.0, 700.0))
        if chance.random() < 0.1:
            limits = (Limit(chance.randint(1, 3), chance.choice((5, 60))), longest)
            if chance.random() < 0.3:
                limits += (Limit(20, LONGEST),)
        cost, mail = chance.randint(1, 2), chance.choice(("", f"m{step // 3}"))
        demands = [
            demand_of((Charge("user:a", cost, limits),), mail, chance.choice("ab"))
            for _ in range(chance.choice((1, 1, 1, 2)))
        ]
        demands = remembered(demands, clock)
        ledger.advance(clock.now)
        assert store.admit(demands, (), 1.0) == [ledger.decide(demand, []) for demand in demands], step
        assert store.explain(demands) == [ledger.explain(demand) for demand in demands], step
    store.close()


@EXAMPLES
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 40),  # seconds ago
            st.lists(st.tuples(st.sampled_from(sorted(LIMITS)), st.integers(-3, 5), st.integers(0, 30)), max_size=4),
            st.lists(DEMANDS, max_size=2),
            FORWARD,
        ),
        max_size=15,
    )
)
def test_replays_as_the_ledger_does(
    server: Server, steps: list[tuple[int, list[tuple[str, int, int]], list[Demand], float]]
) -> None:
    """Records with dates in any order, from another daemon, each brought in twice."""
    clock = Clock(T0)
    store, ledger = new_store(server, clock), Ledger(1000)
    for number, (ago, amounts, demands, seconds) in enumerate(steps, 1):
        ledger.advance(clock.now)
        demands = remembered(demands, clock)
        date = ledger.windows.date - ago
        entries = [
            Entry(key, amount // abs(amount), date - before, "", "vwxyz"[abs(amount) - 1])
            if is_distinct(key)
            else Entry(key, amount, date - before, "", "")
            for key, amount, before in amounts
            if amount
        ]
        record = pack(WRITER, number, date, entries)
        store.admit((), [record], 1.0)
        store._replays.forget()
        assert store.admit(demands, [record], 1.0) == decided(ledger, entries, demands)
        clock.now += seconds
    store.close()


@EXAMPLES
@given(
    steps=st.lists(
        st.tuples(FORWARD, DEMANDS, st.sampled_from(["one", "other", "replayed"]), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_daemons_replays_and_restarts_decide_as_one_ledger_does(
    server: Server, steps: list[tuple[float, Demand, str, bool]]
) -> None:
    """Two daemons that ask, and may be new ones, and a third whose database is away: it knows what they do."""
    clock = Clock(T0)
    ledger = Ledger(1000)
    config = {"url": server.url, "prefix": next(_prefixes)}

    def started() -> RedisStore:
        return RedisStore(config, new_memory(clock), longest=LONGEST, timeout=20.0, clock=clock)

    stores = {name: started() for name in ("one", "other", "replayed")}
    for number, (seconds, one, which, restarts) in enumerate(steps, 1):
        clock.now += seconds
        ledger.advance(clock.now)
        (asked,) = remembered([one], clock)
        if restarts:
            stores[which].close()
            stores[which] = started()
        if which == "replayed":
            entries: list[Entry] = []
            ledger.decide(asked, entries)
            stores[which].admit((), [pack(WRITER, number, ledger.windows.date, entries)], 1.0)
        else:
            assert stores[which].admit([asked], (), 1.0) == [ledger.decide(asked, [])]
    for store in stores.values():
        store.close()


def test_what_a_limit_per_mail_alone_counts_expires(server: Server) -> None:
    """With the memory of mails, of a counter that is always in use; and so does all of it."""
    clock = Clock(T0)
    store = new_store(server, clock)
    limits = (Limit(2, PER_MAIL),)
    for number in range(4 * REMEMBERED_SECONDS // 10):
        verdicts = store.admit([Demand((Charge("mail", 1, limits, part),), f"m{number}") for part in "abc"], (), 1.0)
        assert [verdict.admitted for verdict in verdicts] == [True, True, False]
        clock.now += 10
    assert events(server, store, "mail") <= 2 * REMEMBERED_SECONDS // 10 + 2 * LANES
    with server.client() as client:
        assert REMEMBERED_SECONDS <= client.ttl(store._keys.counter("mail")) <= 2 * REMEMBERED_SECONDS
    store.close()


def decided(ledger: Ledger, entries: list[Entry], demands: list[Demand]) -> list[object]:
    by_counter = sorted(entries, key=lambda entry: entry.counter)
    for entry in by_counter:
        ledger.apply(entry)
    return [ledger.decide(demand, []) for demand in demands]


STEPS = st.one_of(st.floats(-2, 2), st.floats(-100, 100), st.floats(0, 30), st.floats(-5000, 5000))
MOST_USED = 2**10


@EXAMPLES
@given(steps=st.lists(st.tuples(STEPS, st.lists(DEMANDS, min_size=1, max_size=3)), min_size=1, max_size=10))
def test_a_clock_that_steps_back_grants_nothing(server: Server, steps: list[tuple[float, list[Demand]]]) -> None:
    """A step back lowers no window, and what was charged before it leaves within one window."""
    clock = Clock(T0)
    store = new_store(server, clock)
    for seconds, demands in steps:
        before = used(store)
        clock.now += seconds
        if seconds < 0:
            assert all(now >= then for then, now in zip(before, used(store), strict=True))
        store.admit(demands, (), 1.0)
    used(store)  # or what is dated in the future would stay there until then
    clock.now += LONGEST + 1
    assert set(used(store)) == {0}
    store.close()


def used(store: RedisStore) -> list[int]:
    """What lies in each window of each key; nothing is counted by asking."""
    never = Charge("never", 1, (Limit(0, 1),))
    windows = [(key, limit.seconds) for key, limits in LIMITS.items() for limit in windows_of(limits)]
    low = [0] * len(windows)  # the lowest maximum that admits one more is what is used, and one
    high = [MOST_USED] * len(windows)
    while low != high:
        middle = [(least + most) // 2 for least, most in zip(low, high, strict=True)]
        probes = [
            Demand((replace(one_more(key, ()), limits=(Limit(maximum + 1, seconds),)), never))
            for (key, seconds), maximum in zip(windows, middle, strict=True)
        ]
        for index, verdict in enumerate(store.admit(probes, (), 1.0)):
            if len(verdict.exceeded) == 1:
                high[index] = middle[index]
            else:
                low[index] = min(middle[index] + 1, high[index])
    return low


def test_an_id_that_keeps_trying_is_free_one_window_after_the_clock_was_mended(server: Server) -> None:
    clock = Clock(T0 + 86400)
    store = new_store(server, clock)
    limits = (Limit(2, 60),)
    asks = [Demand((Charge("user:eager", 1, limits),))]
    assert [store.admit(asks, (), 1.0)[0].admitted for _ in range(3)] == [True, True, False]
    clock.now = T0
    answers = []
    for _ in range(62):
        answers.append(store.admit(asks, (), 1.0)[0].admitted)
        clock.now += 1.0
    assert answers.index(True) == 61
    store.close()


def events(server: Server, store: RedisStore, key: str) -> int:
    with server.client() as client:
        return int(client.hlen(store._keys.counter(key)))


def test_a_check_costs_what_has_expired_since_the_last_one(server: Server) -> None:
    """100,000 seconds with a charge: the script's own count of what it reads, not a stopwatch."""
    clock = Clock(T0)
    store = new_store(server, clock, longest=200_000)
    limits = (Limit(10**6, 10), Limit(10**6, 200_000))
    entries = [Entry("user:busy", 1, int(T0) - 100_000 + second, "", "") for second in range(100_000)]
    records = [
        pack(WRITER, number, int(T0), entries[first : first + 5000])
        for number, first in enumerate(range(0, len(entries), 5000), 1)
    ]
    store.admit((), records, 20.0)
    with server.client() as client:
        for reads in (100_000, 2, 2):
            before = calls(client)
            store.admit([Demand((Charge("user:busy", 1, limits),))], (), 1.0)
            assert calls(client) - before <= reads + 20
            clock.now += 1.0
    assert events(server, store, "user:busy") > 100_000
    clock.now += 300_000
    store.admit([Demand((Charge("user:busy", 1, limits),))], (), 1.0)
    assert events(server, store, "user:busy") <= 1 + 2 * LANES  # with what two writers did last
    store.close()


def test_what_a_refusal_has_passed_over_is_written_and_what_explaining_has_is_not(server: Server) -> None:
    clock = Clock(T0 + 200)
    asked = [Demand((Charge("user:busy", 2, (Limit(1, 150), Limit(10**6, 10_000))),))]
    entries = [Entry("user:busy", 1, int(T0) + number, "", "") for number in range(200)]
    store, other = new_store(server, clock, longest=10_000), new_store(server, clock, longest=10_000)
    other._keys = store._keys
    store.admit((), [pack(WRITER, 1, int(clock.now), entries)], 20.0)
    with server.client() as client:

        def refuse() -> None:
            assert not store.admit(asked, (), 1.0)[0].admitted

        def explain() -> None:
            assert [usage.used for usage in other.explain(asked)[0]] == [0, 200]

        refuse()
        clock.now += 200
        for ask, reads, writes in ((explain, 100, 0), (refuse, 100, 1), (refuse, 0, 0)):
            read, written = calls(client), calls(client, "hset")
            ask()
            assert reads <= calls(client) - read <= 2 * reads + 4
            assert calls(client, "hset") - written == writes
    store.close()
    other.close()


def calls(client: Redis, command: str = "hget") -> int:
    """How often a command was called, in scripts too."""
    info: dict[str, dict[str, int]] = client.info("commandstats")
    return info.get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_a_counter_forgets_daemons_that_are_gone(server: Server) -> None:
    """What their last batches did matters no longer than what they counted."""
    clock = Clock(T0)
    prefix = next(_prefixes)
    limits = (Limit(100, 60),)
    fields = []
    for _ in range(30):
        store = RedisStore(
            {"url": server.url, "prefix": prefix}, new_memory(clock), longest=60, timeout=20.0, clock=clock
        )
        assert store.admit([Demand((Charge("user:a", 1, limits),))], (), 1.0)[0].admitted
        fields.append(events(server, store, "user:a"))
        store.close()
        clock.now += 10.0
    assert max(fields) < 35


def test_marks_are_looked_through_when_there_are_many_and_one_is_new(server: Server) -> None:
    """That reads all of a counter: not for a few, and not for what marks nothing, such as a reset."""
    clock = Clock(T0)
    prefix = next(_prefixes)
    asks = [Demand((Charge("user:a", 1, (Limit(100, 60),)),))]

    def new_daemon() -> RedisStore:
        config = {"url": server.url, "prefix": prefix}
        return RedisStore(config, new_memory(clock), longest=60, timeout=20.0, clock=clock)

    def marks(client: Redis) -> int:
        speaker: Any = client
        fields: list[bytes] = speaker.execute_command("HKEYS", key, NEVER_DECODE=True)
        return sum(field.startswith(b"b") for field in fields)

    with server.client() as client, contextlib.ExitStack() as stores:
        looked = calls(client, "hkeys")
        asked_here = 0
        for number in range(1, MANY_MARKS + 1):
            store = stores.enter_context(contextlib.closing(new_daemon()))
            key = store._keys.counter("user:a")
            assert store.admit(asks, (), 1.0)[0].admitted
            assert marks(client) == number
            asked_here += 1
            clock.now += 31.0  # so that most of them count no more
        assert calls(client, "hkeys") - looked == asked_here
        one_more = stores.enter_context(contextlib.closing(new_daemon()))
        assert one_more.admit(asks, (), 1.0)[0].admitted
        assert calls(client, "hkeys") - looked == asked_here + 1
        assert marks(client) == 2  # its own, and that of 31 s ago
        looked = calls(client, "hkeys")
        for _ in range(MANY_MARKS):
            store = stores.enter_context(contextlib.closing(new_daemon()))
            assert store.admit(asks, (), 1.0)[0].admitted
        assert marks(client) == 2 + MANY_MARKS
        assert calls(client, "hkeys") > looked
        looked = calls(client, "hkeys")
        one_more._run([script([key], (b"", 0, 60, one_more._link.time, "reset"))], time.monotonic() + 20)
        assert calls(client, "hkeys") == looked


def test_the_script_remembers_mails_as_long_as_the_ledger() -> None:
    known = constants(text())
    assert int(known["REMEMBERED"]) == REMEMBERED_SECONDS
    assert known["REMEMBERED_TEXT"] == f"'{REMEMBERED_SECONDS}'"
    assert int(known["MANY_MARKS"]) == MANY_MARKS


def test_the_script_has_each_constant_in_place() -> None:
    """One that is not would be a variable that nobody has set, which the server refuses only where it is reached."""
    names = re.findall(r"\b[A-Z][A-Z_]+\b", re.sub(r"'(?:\\.|[^'\\])*'", "", source().decode()))
    assert set(names) == {"ARGV", "KEYS", "OF_SERVER"}
