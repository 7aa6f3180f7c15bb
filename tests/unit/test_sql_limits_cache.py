"""Limits by id from a table: what is remembered, what is shared, and what happens when the table is out of reach."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables import cache as sql_limits_module
from policyd_rate_limit.tables.cache import MOST_IDS, RETRY_SECONDS, QueryFailed, Unreachable, look_up
from policyd_rate_limit.tables.limits import SqlLimits, limits_of_column
from support.wait import PATIENCE, until

TTL = 60.0
HOUR = 3600
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


class Lookups:
    """:class:`SqlLimits` over a table; the clock stands until it is moved."""

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
        self.limits.ask(ids, answered.set_result, self.now)
        return await asyncio.wait_for(answered, PATIENCE)

    def ask_at_once(self, *ids: str) -> Limits | None:
        """The answer, which comes before the call returns."""
        answers: list[Limits | None] = []
        self.limits.ask(ids, answers.append, self.now)
        (answer,) = answers
        return answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.limits.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            self.table.gate.set()
            await self.limits.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_result_is_used_until_its_time_is_over() -> None:
    lookups = Lookups()
    lookups.table.rows["alice"] = "[[5, 60]]"

    async with lookups.running():
        assert await lookups.ask("alice") == FIVE
        lookups.table.rows["alice"] = "[[7, 60]]"
        lookups.now += TTL - 1
        assert lookups.ask_at_once("alice") == FIVE
        assert lookups.table.asked == ["alice"]
        lookups.now += 1
        assert await lookups.ask("alice") == (Limit(7, 60),)
        assert lookups.table.asked == ["alice", "alice"]
    assert lookups.table.closed
    assert threading.get_ident() not in lookups.table.threads
    assert len(lookups.table.threads) == 1


async def test_that_there_is_no_row_is_remembered_too() -> None:
    lookups = Lookups()

    async with lookups.running():
        assert await lookups.ask("alice", "Alice") is None
        assert lookups.ask_at_once("alice", "Alice") is None
        assert lookups.table.asked == ["alice", "Alice"]
        lookups.now += TTL
        lookups.table.rows["alice"] = "[]"
        assert await lookups.ask("alice", "Alice") == ()


def test_the_first_id_that_has_limits_counts() -> None:
    table = Table()
    table.rows |= {"alice": None, "Alice": "1/1m", "ALICE": "2/1m"}
    assert look_up(table, ("alice", "Alice", "ALICE"), limits_of_column) == (Limit(1, 60),)
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
    assert look_up(table, ("alice",), limits_of_column) == limits


@pytest.mark.parametrize("value", ["", "nonsense", "[[5]]", "[[5, -1]]", b"\xff", 5, 5.0, "None", "[" * 5000, {}])
def test_what_are_no_limits(value: object) -> None:
    table = Table()
    table.rows["alice"] = value
    with pytest.raises(ValueError):
        look_up(table, ("alice",), limits_of_column)


def test_text_of_the_table_is_never_run(tmp_path: Any) -> None:
    victim = tmp_path / "victim"
    table = Table()
    for text in (f"[open({str(victim)!r}, 'w')]", f"[[__import__('pathlib').Path({str(victim)!r}).touch(), 60]]"):
        table.rows["alice"] = text
        with pytest.raises(ValueError):
            look_up(table, ("alice",), limits_of_column)
    assert not victim.exists()


@pytest.mark.parametrize("identifier", ["a\0b", "a\udcffb"])
def test_what_no_database_can_hold_is_not_asked(identifier: str) -> None:
    table = Table()
    table.rows["b"] = "[]"
    assert look_up(table, (identifier, "b"), limits_of_column) == ()
    assert table.asked == ["b"]


async def test_equal_lookups_are_shared() -> None:
    lookups = Lookups()
    lookups.table.rows["alice"] = "[[5, 60]]"
    lookups.table.gate.clear()

    async with lookups.running():
        asked = [asyncio.ensure_future(lookups.ask("alice")) for _ in range(20)]
        await asyncio.to_thread(lookups.table.entered.wait, PATIENCE)
        asked += [asyncio.ensure_future(lookups.ask("alice")) for _ in range(20)]
        await asyncio.sleep(0)
        lookups.table.gate.set()
        assert await asyncio.gather(*asked) == [FIVE] * 40
        assert lookups.table.asked == ["alice"]


async def test_the_number_of_ids_is_bounded_and_those_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_limits_module, "MOST_IDS", 100)
    lookups = Lookups()

    assert MOST_IDS == 65_536
    async with lookups.running():
        for number in range(150):
            await lookups.ask(f"id{number}")
            lookups.ask_at_once("id0")
        assert len(lookups.table.asked) == 150
        lookups.ask_at_once("id149")
        lookups.ask_at_once("id51")
        await lookups.ask("id50")
        assert len(lookups.table.asked) == 151


async def test_a_slow_lookup_holds_up_nobody_for_long(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups(timeout=WAIT)
    lookups.table.rows |= {"alice": "[[5, 60]]", "bob": "[[6, 60]]"}

    async with lookups.running():
        lookups.now = 100.0
        lookups.table.gate.clear()
        alice, bob = asyncio.ensure_future(lookups.ask("alice")), asyncio.ensure_future(lookups.ask("bob"))
        assert await alice is None
        assert await bob is None
        # Others do not wait at all.
        assert [lookups.ask_at_once(f"other{number}") for number in range(100)] == [None] * 100
        assert lookups.table.asked == ["alice"]
        lookups.table.gate.set()
        # What came too late is used from now on.
        while lookups.ask_at_once("alice") is None:
            await asyncio.sleep(0)
        assert lookups.ask_at_once("alice") == FIVE
    assert len([line for line in warnings(caplog) if "no answer within 0.05 s" in line]) == 1
    assert lookups.table.asked == ["alice"]  # nobody waited for the others any more


async def test_a_failing_lookup_leaves_what_was_known_last(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups()
    lookups.table.rows["alice"] = "[[5, 60]]"

    async with lookups.running():
        assert await lookups.ask("alice") == FIVE
        lookups.now += 1_000_000
        lookups.table.error = Unreachable("it is away")
        assert await lookups.ask("alice") == FIVE
        assert lookups.ask_at_once("alice") == FIVE
        assert lookups.ask_at_once("bob") is None
        for _ in range(10):
            lookups.now += RETRY_SECONDS
            assert await lookups.ask("alice") == FIVE
        assert len(lookups.table.asked) == 12
        lookups.now += RETRY_SECONDS
        lookups.table.error = None
        lookups.table.rows["alice"] = "[[7, 60]]"
        assert await lookups.ask("alice") == (Limit(7, 60),)
        assert await lookups.ask("bob") is None
    fails, works = warnings(caplog)
    assert "it is away" in fails
    assert works == "sql_limits_by_id works again"


async def test_a_refused_query_is_a_matter_of_that_id(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups()
    lookups.table.error = QueryFailed("illegal mix of collations")

    async with lookups.running():
        assert await lookups.ask("alice") is None
        assert lookups.ask_at_once("alice") is None
        lookups.table.error = None
        lookups.table.rows["bob"] = "[[5, 60]]"
        assert await lookups.ask("bob") == FIVE
        for number in range(10):  # a client who chooses such ids does not fill the log
            lookups.table.error = QueryFailed("illegal mix of collations")
            assert await lookups.ask(f"other{number}") is None
            lookups.table.error = None
            assert await lookups.ask(f"more{number}") is None
    assert len(warnings(caplog)) == 2


async def test_a_fault_of_ours_is_a_failure_as_well(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups()
    lookups.table.error = RuntimeError("a bug")

    async with lookups.running():
        assert await lookups.ask("alice") is None
    assert "RuntimeError: a bug" in caplog.text


async def test_wrong_text_is_said_and_leaves_what_was_known(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups()
    lookups.table.rows["alice"] = "[[5, 60]]"

    async with lookups.running():
        assert await lookups.ask("alice") == FIVE
        lookups.table.rows["alice"] = "[[5, 'fortnight']]"
        for _ in range(3):
            lookups.now += TTL
            assert await lookups.ask("alice") == FIVE
        lookups.now += RETRY_SECONDS
        assert await lookups.ask("alice") == FIVE
    lines = warnings(caplog)
    assert len(lines) == 3
    assert all("'alice'" in line and "fortnight" in line for line in lines)


async def test_longer_windows_are_needed_before_they_are_used() -> None:
    lookups = Lookups()
    week, day = 7 * 24 * HOUR, 24 * HOUR
    lookups.table.rows |= {"a": f"[[5, {week}]]", "b": f"[[5, {day}]]", "c": "[[5, 60]]"}

    async with lookups.running():
        assert lookups.limits.keep_seconds == HOUR
        for name in "cba":
            await lookups.ask(name)
        assert lookups.needed == [day, week]
        assert lookups.limits.keep_seconds == week


async def test_an_answer_that_fails_does_not_keep_the_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups()
    lookups.table.gate.clear()

    def fail(_: Limits | None) -> None:
        raise ValueError("a broken answer")

    async with lookups.running():
        lookups.limits.ask(("alice",), fail, lookups.now)
        asked = asyncio.ensure_future(lookups.ask("alice"))
        await asyncio.sleep(0)
        lookups.table.gate.set()
        assert await asked is None
    assert "a broken answer" in caplog.text


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_limits_module, "IDLE_SECONDS", 0.001)
    lookups = Lookups()

    async with lookups.running():
        await until(lambda: lookups.table.closed)
        assert await lookups.ask("alice") is None


async def test_it_ends_while_a_lookup_hangs() -> None:
    lookups = Lookups(timeout=WAIT)

    lookups.limits.start(asyncio.get_running_loop())
    lookups.table.gate.clear()
    assert await lookups.ask("alice") is None
    await lookups.limits.stop()
    lookups.table.gate.set()
