"""Tables in databases, as rules ask them: what is text, what is remembered, and what holds while nothing is known."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import threading
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from policyd_rate_limit.domain.rules.facts import Answer
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.cache import RETRY_SECONDS, QueryFailed, Unreachable
from policyd_rate_limit.tables.source import LONGEST_TEXT, BlockingSource, CachedSource, text_of_column
from support.wait import PATIENCE, until

TTL = 60.0
WAIT = 0.2  # seconds that somebody waits for a table that hangs
LATE = 2.0  # seconds that a machine may be busy with something else
ZONE = datetime.timezone(datetime.timedelta(hours=1))


class Table:
    """A table in a database that may refuse, vanish or hang."""

    def __init__(self) -> None:
        self.rows: dict[str, object] = {}
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    def first_column(self, identifier: str) -> object:
        self.asked.append(identifier)
        assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.rows.get(identifier)

    def close(self) -> None:
        self.is_closed = True


class Plans:
    """The table ``plan`` as a source; the clock stands until it is moved."""

    def __init__(self, timeout: float = PATIENCE) -> None:
        self.now = 100.0
        self.table = Table()
        self.source = CachedSource(
            "plan",
            self.table,
            ttl=TTL,
            timeout=timeout,
            may_log=Throttle(60, lambda: self.now).hit,
            clock=lambda: self.now,
        )

    async def ask(self, value: str) -> str | None:
        answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.source.ask(value, answered.set_result, self.now)
        return await asyncio.wait_for(answered, PATIENCE)

    def ask_at_once(self, value: str) -> str | None:
        """The answer, which comes before the call returns."""
        answers: list[str | None] = []
        self.source.ask(value, answers.append, self.now)
        (answer,) = answers
        return answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.source.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            self.table.gate.set()
            await self.source.stop()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


TEXTS = [
    ("business", "business"),
    ("", ""),
    ("Größe", "Größe"),
    (b"business", "business"),
    ("Größe".encode(), "Größe"),
    (bytearray(b"business"), "business"),
    (memoryview(b"business"), "business"),
    (0, "0"),
    (-7, "-7"),
    (1.5, "1.5"),
    (Decimal("12.50"), "12.50"),
    (datetime.date(2026, 11, 25), "2026-11-25"),
    (datetime.datetime(2026, 11, 25, 12, 0, 1), "2026-11-25T12:00:01"),
    (datetime.datetime(2026, 11, 25, 12, tzinfo=ZONE), "2026-11-25T12:00:00+01:00"),
    ("x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
    ("ä" * LONGEST_TEXT, "ä" * LONGEST_TEXT),
    (("ä" * LONGEST_TEXT).encode(), "ä" * LONGEST_TEXT),
]


@pytest.mark.parametrize(("column", "text"), TEXTS)
def test_what_a_column_holds_is_text(column: object, text: str) -> None:
    assert text_of_column(column) == text


@pytest.mark.parametrize("column", [b"\xff", b"\xc3", bytearray(b"a\x80")])
def test_bytes_that_are_not_utf8_are_no_text(column: object) -> None:
    with pytest.raises(UnicodeDecodeError):
        text_of_column(column)


@pytest.mark.parametrize("column", ["x" * (LONGEST_TEXT + 1), b"x" * (LONGEST_TEXT + 1), 10**LONGEST_TEXT])
def test_a_long_text_is_none(column: object) -> None:
    with pytest.raises(ValueError, match=f"expected at most {LONGEST_TEXT} characters, found {LONGEST_TEXT + 1}"):
        text_of_column(column)


async def test_each_kind_of_column_is_asked_for_and_remembered() -> None:
    plans = Plans()
    plans.table.rows = {f"id{number}": column for number, (column, _) in enumerate(TEXTS)}

    async with plans.running():
        for number, (_, text) in enumerate(TEXTS):
            assert plans.source.known(f"id{number}") is None
            assert await plans.ask(f"id{number}") == text
            assert plans.source.known(f"id{number}") == Answer(text)
    assert len(plans.table.asked) == len(TEXTS)
    assert plans.table.is_closed


async def test_what_it_says_is_believed_until_its_time_is_over() -> None:
    plans = Plans()
    plans.table.rows["alice"] = "trial"

    async with plans.running():
        assert await plans.ask("alice") == "trial"
        plans.table.rows["alice"] = "business"
        plans.now += TTL - 0.001
        assert plans.source.known("alice") == Answer("trial")
        assert plans.ask_at_once("alice") == "trial"
        plans.now += 0.001
        assert plans.source.known("alice") is None
        assert await plans.ask("alice") == "business"
        assert plans.table.asked == ["alice", "alice"]


@pytest.mark.parametrize("rows", [{}, {"alice": None}], ids=["no row", "NULL"])
async def test_that_it_says_nothing_is_remembered_as_long(rows: dict[str, object]) -> None:
    plans = Plans()
    plans.table.rows = rows

    async with plans.running():
        assert await plans.ask("alice") is None
        plans.now += TTL - 0.001
        assert plans.source.known("alice") == Answer(None)
        assert plans.ask_at_once("alice") is None
        assert plans.table.asked == ["alice"]
        plans.now += 0.001
        assert plans.source.known("alice") is None
        plans.table.rows = {"alice": "business"}
        assert await plans.ask("alice") == "business"


async def test_an_empty_text_is_not_nothing() -> None:
    plans = Plans()
    plans.table.rows["alice"] = ""

    async with plans.running():
        assert await plans.ask("alice") == ""
        assert plans.source.known("alice") == Answer("")


async def test_what_is_no_text_leaves_what_was_known_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plans = Plans()
    plans.table.rows["alice"] = "trial"

    async with plans.running():
        assert await plans.ask("alice") == "trial"
        for column in ("x" * (LONGEST_TEXT + 1), b"\xff"):
            plans.table.rows |= {"alice": column, "bob": column}
            plans.now += TTL
            assert await plans.ask("alice") == "trial"
            assert await plans.ask("bob") is None
        # Nothing is wrong with the table: it is asked about others, and nothing works again.
        plans.table.rows["carol"] = "business"
        assert await plans.ask("carol") == "business"
    lines = warnings(caplog)
    assert [line.split(":")[0] for line in lines] == [f"tables.plan for {name!r}" for name in ("alice", "bob") * 2]
    assert all("found 1001" in line for line in lines[:2])
    assert all("utf-8" in line for line in lines[2:])


@pytest.mark.parametrize(
    "error", [Unreachable("it is away"), QueryFailed("no such table: mailbox")], ids=["away", "refused"]
)
async def test_a_table_that_fails_says_what_it_said_last(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    plans = Plans()
    plans.table.rows["alice"] = "trial"

    async with plans.running():
        assert await plans.ask("alice") == "trial"
        assert await plans.ask("bob") is None
        plans.table.error = error
        for _ in range(20):
            plans.now += TTL
            assert await plans.ask("alice") == "trial"
            assert plans.ask_at_once("alice") == "trial"  # nor is it asked again at once
            plans.now += RETRY_SECONDS
            assert await plans.ask("never") is None
            assert plans.ask_at_once("never") is None
        assert len(plans.table.asked) == 42
        (fails,) = warnings(caplog)
        assert (
            fails
            == f"tables.plan fails: {error}; until it works again, what it said last is used, else nothing is known"
        )
        plans.table.error = None
        plans.table.rows = {"alice": "business", "bob": "trial", "never": "trial"}
        plans.now += RETRY_SECONDS
        assert [await plans.ask(value) for value in ("alice", "bob", "never")] == ["business", "trial", "trial"]
        for _ in range(3):
            plans.now += TTL
            assert await plans.ask("alice") == "business"
    assert warnings(caplog)[1:] == ["tables.plan works again"]


async def test_a_table_that_hangs_holds_up_nobody_for_longer_than_its_timeout(caplog: pytest.LogCaptureFixture) -> None:
    plans = Plans(timeout=WAIT)
    plans.table.rows |= {"alice": "trial", "bob": "trial"}

    async with plans.running():
        # A machine that is busy may take longer than the timeout for this.
        await until(lambda: _is_known(plans, "alice"))
        plans.now += TTL
        plans.table.gate.clear()
        began = time.monotonic()
        values = ["alice", *(f"id{number}" for number in range(50)), "bob"]
        answers = await asyncio.gather(*(plans.ask(value) for value in values))
        assert time.monotonic() - began < WAIT + LATE
        assert answers == ["trial"] + [None] * 51
        # Whoever comes now does not wait at all.
        assert plans.ask_at_once("alice") == "trial"
        assert plans.ask_at_once("carol") is None
        plans.table.gate.set()
        plans.now += RETRY_SECONDS
        plans.table.rows["alice"] = "business"
        await until(lambda: _is_known(plans, "bob"))
        await until(lambda: _says(plans, "alice", "business"))
    told = warnings(caplog)
    assert told[0].startswith("tables.plan fails: no answer within 0.2 s; until it works again, what it said last")
    assert "tables.plan works again" in told


async def test_who_has_waited_for_other_tables_does_not_wait_for_as_long_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plans = Plans(timeout=10)
    plans.table.rows |= {"alice": "business", "bob": "trial"}
    async with plans.running():
        assert await plans.ask("alice") == "business"
        plans.now += TTL
        plans.table.gate.clear()
        answers: list[str | None] = []
        plans.source.ask("alice", answers.append, plans.now - 10)
        assert answers == ["business"], "no time is left to ask, and this was known last"
        others = [asyncio.get_running_loop().create_future() for _ in range(2)]
        plans.source.ask("bob", others[0].set_result, plans.now)
        plans.source.ask("bob", answers.append, plans.now - 9.95)
        plans.source.ask("bob", others[1].set_result, plans.now)
        plans.source.ask("alice", answers.append, plans.now - 9.95)
        await until(lambda: answers[1:] == [None, "business"])
        assert not any(other.done() for other in others)
        plans.table.gate.set()
        assert await asyncio.wait_for(asyncio.gather(*others), PATIENCE) == ["trial", "trial"]
        assert await plans.ask("alice") == "business"
    assert not warnings(caplog), "it was not the table that was slow"
    assert answers == ["business", None, "business"]


def _is_known(plans: Plans, value: str) -> bool:
    return _says(plans, value, "trial")


def _says(plans: Plans, value: str, text: str) -> bool:
    """Whether the table is known to say ``text`` of ``value``; asks it, if not, and if that may be tried again."""
    answer = plans.source.known(value)
    if answer is not None and answer.text == text:
        return True
    plans.now += TTL
    plans.source.ask(value, lambda _: None, plans.now)
    return False


def test_a_command_waits_for_each_answer_and_is_told_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    table.rows |= {"alice": datetime.date(2026, 11, 25), "bob": "x" * (LONGEST_TEXT + 1)}
    source = BlockingSource("created", table)

    assert source.known("alice") == Answer("2026-11-25")
    answers: list[str | None] = []
    for value in ("alice", "bob", "carol"):
        source.ask(value, answers.append, 0.0)
    assert answers == ["2026-11-25", None, None]
    (told,) = warnings(caplog)
    assert told.startswith("tables.created for 'bob': expected at most 1000 characters, found 1001; it does not count")
    table.error = Unreachable("it is away")
    with pytest.raises(Unreachable, match="it is away"):
        source.known("alice")
    source.close()
    assert table.is_closed
