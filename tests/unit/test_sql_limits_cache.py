"""Limits by id from a table: what is remembered, what is shared, and what happens when the table is out of reach."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from policyd_rate_limit.domain.limits import LARGEST, Limit, Limits
from policyd_rate_limit.storage import sql_limits as sql_limits_module
from policyd_rate_limit.storage.sql_limits import (
    MOST_IDS,
    MOST_KEEPING,
    RETRY_SECONDS,
    QueryFailed,
    SqlLimits,
    Unreachable,
    look_up,
)
from policyd_rate_limit.system.throttle import Throttle

TTL = 60.0
HOUR = 3600
PATIENCE = 20.0  # seconds, for a machine that is very busy
WAIT = 0.05  # seconds that somebody waits for a lookup that hangs
FIVE = (Limit(5, 60),)


class Table:
    """A table in a database that may refuse, vanish or hang."""

    def __init__(self) -> None:
        self.rows: dict[str, object] = {}
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.closed = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def first_column(self, identifier: str) -> object:
        self.asked.append(identifier)
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.rows.get(identifier)

    def close(self) -> None:
        self.closed += 1


class World:
    """An event loop with :class:`SqlLimits` over a table; the clock stands until it is moved."""

    def __init__(self, timeout: float = PATIENCE) -> None:
        self.now = 100.0
        self.table = Table()
        self.needed: list[int] = []
        self.limits = SqlLimits(
            self.table,
            ttl=TTL,
            timeout=timeout,
            longest=HOUR,
            need=self.needed.append,
            may_log=Throttle(60, lambda: self.now).hit,
            clock=lambda: self.now,
        )

    async def ask(self, *ids: str) -> Limits | None:
        answered: asyncio.Future[Limits | None] = asyncio.get_running_loop().create_future()
        self.limits.ask(ids, answered.set_result)
        return await asyncio.wait_for(answered, PATIENCE)

    def ask_at_once(self, *ids: str) -> Limits | None:
        """The answer, which comes before the call returns."""
        answers: list[Limits | None] = []
        self.limits.ask(ids, answers.append)
        (answer,) = answers
        return answer

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        async def body() -> None:
            self.limits.start(asyncio.get_running_loop())
            try:
                await test()
            finally:
                self.table.gate.set()
                await self.limits.stop()

        asyncio.run(body())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_result_is_used_until_its_time_is_over() -> None:
    world = World()
    world.table.rows["alice"] = "[[5, 60]]"

    async def test() -> None:
        assert await world.ask("alice") == FIVE
        world.table.rows["alice"] = "[[7, 60]]"
        world.now += TTL - 1
        assert world.ask_at_once("alice") == FIVE
        assert world.table.asked == ["alice"]
        world.now += 1
        assert await world.ask("alice") == (Limit(7, 60),)
        assert world.table.asked == ["alice", "alice"]

    world.run(test)
    assert world.table.closed
    assert threading.get_ident() not in world.table.threads
    assert len(world.table.threads) == 1


def test_that_there_is_no_row_is_remembered_too() -> None:
    world = World()

    async def test() -> None:
        assert await world.ask("alice", "Alice") is None
        assert world.ask_at_once("alice", "Alice") is None
        assert world.table.asked == ["alice", "Alice"]
        world.now += TTL
        world.table.rows["alice"] = "[]"
        assert await world.ask("alice", "Alice") == ()

    world.run(test)


def test_the_first_id_that_has_limits_counts() -> None:
    table = Table()
    table.rows |= {"alice": None, "Alice": "1/1m", "ALICE": "2/1m"}
    assert look_up(table, ("alice", "Alice", "ALICE")) == (Limit(1, 60),)
    assert table.asked == ["alice", "Alice"]


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("[[5, 60]]", FIVE),
        (b"[[5, 60]]", FIVE),
        (bytearray(b" [(5, '1m')] "), FIVE),
        (memoryview(b"5/1m"), FIVE),
        ([[5, 60]], FIVE),
        ("[]", ()),
        ("[[5, 60], [9, 86400]]", (Limit(5, 60), Limit(9, 86400))),
    ],
)
def test_limits_in_any_spelling(value: object, limits: Limits) -> None:
    table = Table()
    table.rows["alice"] = value
    assert look_up(table, ("alice",)) == limits


@pytest.mark.parametrize("value", ["", "nonsense", "[[5]]", "[[5, -1]]", b"\xff", 5, 5.0, "None", "[" * 5000, {}])
def test_what_are_no_limits(value: object) -> None:
    table = Table()
    table.rows["alice"] = value
    with pytest.raises(ValueError):
        look_up(table, ("alice",))


def test_text_of_the_table_is_never_run(tmp_path: Any) -> None:
    victim = tmp_path / "victim"
    table = Table()
    for text in (f"[open({str(victim)!r}, 'w')]", f"[[__import__('pathlib').Path({str(victim)!r}).touch(), 60]]"):
        table.rows["alice"] = text
        with pytest.raises(ValueError):
            look_up(table, ("alice",))
    assert not victim.exists()


@pytest.mark.parametrize("identifier", ["a\0b", "a\udcffb"])
def test_what_no_database_can_hold_is_not_asked(identifier: str) -> None:
    table = Table()
    table.rows["b"] = "[]"
    assert look_up(table, (identifier, "b")) == ()
    assert table.asked == ["b"]


def test_equal_lookups_are_shared() -> None:
    world = World()
    world.table.rows["alice"] = "[[5, 60]]"
    world.table.gate.clear()

    async def test() -> None:
        asked = [asyncio.ensure_future(world.ask("alice")) for _ in range(20)]
        await asyncio.to_thread(world.table.entered.wait, PATIENCE)
        asked += [asyncio.ensure_future(world.ask("alice")) for _ in range(20)]
        await asyncio.sleep(0)
        world.table.gate.set()
        assert await asyncio.gather(*asked) == [FIVE] * 40
        assert world.table.asked == ["alice"]

    world.run(test)


def test_the_number_of_ids_is_bounded_and_those_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_limits_module, "MOST_IDS", 100)
    world = World()

    async def test() -> None:
        for number in range(150):
            await world.ask(f"id{number}")
            world.ask_at_once("id0")
        assert len(world.table.asked) == 150
        world.ask_at_once("id149")
        world.ask_at_once("id51")
        await world.ask("id50")
        assert len(world.table.asked) == 151

    assert MOST_IDS == 65_536
    world.run(test)


def test_a_slow_lookup_holds_up_nobody_for_long(caplog: pytest.LogCaptureFixture) -> None:
    world = World(timeout=WAIT)
    world.table.rows |= {"alice": "[[5, 60]]", "bob": "[[6, 60]]"}

    async def test() -> None:
        world.now = 100.0
        world.table.gate.clear()
        alice, bob = asyncio.ensure_future(world.ask("alice")), asyncio.ensure_future(world.ask("bob"))
        assert await alice is None
        assert await bob is None
        # Others do not wait at all.
        assert [world.ask_at_once(f"other{number}") for number in range(100)] == [None] * 100
        assert world.table.asked == ["alice"]
        world.table.gate.set()
        # What came too late is used from now on.
        while world.ask_at_once("alice") is None:
            await asyncio.sleep(0)
        assert world.ask_at_once("alice") == FIVE

    world.run(test)
    assert len([line for line in warnings(caplog) if "no answer within 0.05 s" in line]) == 1
    assert world.table.asked == ["alice"]  # nobody waited for the others any more


def test_a_failing_lookup_leaves_what_was_known_last(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.rows["alice"] = "[[5, 60]]"

    async def test() -> None:
        assert await world.ask("alice") == FIVE
        world.now += 1_000_000
        world.table.error = Unreachable("it is away")
        assert await world.ask("alice") == FIVE
        assert world.ask_at_once("alice") == FIVE
        assert world.ask_at_once("bob") is None
        for _ in range(10):
            world.now += RETRY_SECONDS
            assert await world.ask("alice") == FIVE
        assert len(world.table.asked) == 12
        world.now += RETRY_SECONDS
        world.table.error = None
        world.table.rows["alice"] = "[[7, 60]]"
        assert await world.ask("alice") == (Limit(7, 60),)
        assert await world.ask("bob") is None

    world.run(test)
    fails, works = warnings(caplog)
    assert "it is away" in fails
    assert works == "sql_limits_by_id works again"


def test_a_refused_query_is_a_matter_of_that_id(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.error = QueryFailed("illegal mix of collations")

    async def test() -> None:
        assert await world.ask("alice") is None
        assert world.ask_at_once("alice") is None
        world.table.error = None
        world.table.rows["bob"] = "[[5, 60]]"
        assert await world.ask("bob") == FIVE
        for number in range(10):  # a client who chooses such ids does not fill the log
            world.table.error = QueryFailed("illegal mix of collations")
            assert await world.ask(f"other{number}") is None
            world.table.error = None
            assert await world.ask(f"more{number}") is None

    world.run(test)
    assert len(warnings(caplog)) == 2


def test_a_fault_of_ours_is_a_failure_as_well(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.error = RuntimeError("a bug")

    async def test() -> None:
        assert await world.ask("alice") is None

    world.run(test)
    assert "RuntimeError: a bug" in caplog.text


def test_wrong_text_is_said_and_leaves_what_was_known(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.rows["alice"] = "[[5, 60]]"

    async def test() -> None:
        assert await world.ask("alice") == FIVE
        world.table.rows["alice"] = "[[5, 'fortnight']]"
        for _ in range(3):
            world.now += TTL
            assert await world.ask("alice") == FIVE
        world.now += RETRY_SECONDS
        assert await world.ask("alice") == FIVE

    world.run(test)
    lines = warnings(caplog)
    assert len(lines) == 3
    assert all("'alice'" in line and "fortnight" in line for line in lines)


def test_longer_windows_are_needed_before_they_are_used() -> None:
    world = World()
    week, day = 7 * 24 * HOUR, 24 * HOUR
    world.table.rows |= {"a": f"[[5, {week}]]", "b": f"[[5, {day}]]", "c": "[[5, 60]]"}

    async def test() -> None:
        assert world.limits.keeping(FIVE) == (*FIVE, Limit(LARGEST, HOUR))
        for name in "cba":
            await world.ask(name)
        assert world.needed == [day, week]
        assert world.limits.keeping(()) == ()
        assert world.limits.keeping(FIVE) == (*FIVE, Limit(LARGEST, week))
        assert world.limits.keeping(FIVE) is world.limits.keeping(FIVE)
        longest = (*FIVE, Limit(9, week))
        assert world.limits.keeping(longest) == longest
        for number in range(MOST_KEEPING + 1):
            world.limits.keeping((Limit(number, 60),))

    world.run(test)


def test_an_answer_that_fails_does_not_keep_the_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.gate.clear()

    def fail(_: Limits | None) -> None:
        raise ValueError("a broken answer")

    async def test() -> None:
        world.limits.ask(("alice",), fail)
        asked = asyncio.ensure_future(world.ask("alice"))
        await asyncio.sleep(0)
        world.table.gate.set()
        assert await asked is None

    world.run(test)
    assert "a broken answer" in caplog.text


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_limits_module, "IDLE_SECONDS", 0.001)
    world = World()

    async def test() -> None:
        for _ in itertools.count():
            if world.table.closed:
                break
            await asyncio.sleep(0.001)
        assert await world.ask("alice") is None

    world.run(test)


def test_it_ends_while_a_lookup_hangs() -> None:
    world = World(timeout=WAIT)

    async def test() -> None:
        world.limits.start(asyncio.get_running_loop())
        world.table.gate.clear()
        assert await world.ask("alice") is None
        await world.limits.stop()

    asyncio.run(test())
    world.table.gate.set()
