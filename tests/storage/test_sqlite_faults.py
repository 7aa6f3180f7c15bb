"""Nothing is lost and nothing counts twice, at whatever statement SQLite fails or the process dies."""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from policyd_rate_limit.domain.charge import Demand
from storage.daemon import Daemon, spool_files
from storage.faults import DAMAGE, ERRORS, Fault, connections_with
from storage.stores import START, Clock, SqliteDatabase, demand, usage
from support.old_databases import make_1_2_0

LIMIT = 6
EARLIER = {"user:alice": 3, "user:bob": 1, "user:carol": LIMIT}
KEYS = ("user:alice", "user:bob", "user:carol", "user:dave", "user:eve")


def batches() -> Iterator[list[Demand]]:
    """Mails of five users, some to several recipients, asked about at RCPT and at DATA."""
    for number in range(4):
        yield [demand(key, LIMIT) for key in KEYS]
        yield [demand("user:eve", LIMIT, mail=f"mail{number}", part=part) for part in "ab"]
        yield [
            demand("user:eve", LIMIT, mail=f"mail{number}", settles=True, cost=1 + number % 3),
            demand("user:dave", LIMIT, cost=2),
        ]


def used_by_another(database: SqliteDatabase) -> None:
    """Another daemon has been here before."""
    store = database.store(Clock())
    for key, mails in EARLIER.items():
        for _ in range(mails):
            store.admit([demand(key, LIMIT)], (), 0.0)
    store.close()


def of_1_2_0(database: SqliteDatabase) -> None:
    """The old version has been here before."""
    mails = [(key.removeprefix("user:"), int(START) - 60, 1) for key, mails in EARLIER.items() for _ in range(mails)]
    make_1_2_0(database.path, mails)


@pytest.fixture(scope="module", params=[used_by_another, of_1_2_0])
def used(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database file with :data:`EARLIER` in it."""
    database = SqliteDatabase(tmp_path_factory.mktemp("used"))
    request.param(database)
    return database.path.read_bytes()


def copy(content: bytes, home: pathlib.Path) -> SqliteDatabase:
    """A database with ``content`` in a new directory."""
    home.mkdir()
    database = SqliteDatabase(home)
    database.path.write_bytes(content)
    return database


def left_in(database: SqliteDatabase, clock: Clock) -> dict[str, int]:
    """What the next daemon finds."""
    store = database.store(clock)
    found = usage(store, KEYS)
    store.close()
    return found


def total(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sum of ``counts`` for each key."""
    return {key: sum(count.get(key, 0) for count in counts) for key in KEYS}


START_AND_FIRST_BATCHES = 60
"""Points; what comes after them repeats itself."""


def points(kind: str, length: int) -> Iterator[int]:
    """The points at which errors of ``kind`` are tried. Those that mean the same to the daemon share them."""
    dense = length == 1 and kind in ("IOERR", "CORRUPT")
    yield from range(1, START_AND_FIRST_BATCHES, 1 if dense else 5)
    yield from itertools.count(START_AND_FIRST_BATCHES, 5 if dense else 9)


@pytest.mark.parametrize("length", [1, 30], ids=["once", "for a while"])
@pytest.mark.parametrize("too_late", [False, True], ids=["before it is done", "after it is done"])
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_at_any_statement(
    memory_directory: pathlib.Path, used: bytes, clock: Clock, kind: str, too_late: bool, length: int
) -> None:
    """What the database says in the end is what was there before and what was admitted, for every statement."""
    for first in points(kind, length):
        fault = Fault(kind, first, length, too_late=too_late)
        database = copy(used, memory_directory / str(first))
        with connections_with(fault):
            daemon = Daemon(database, clock)
            for demands in batches():
                daemon.ask(*demands)
                daemon.wait()
            if not fault.met:
                assert first > 100
                daemon.close()
                return
            while fault.passed < fault.points.stop:
                daemon.wait()
            daemon.wait()
            daemon.close()
        assert spool_files(database.path.parent) == [], first
        found = left_in(database, clock)
        if kind in DAMAGE and (length > 1 or b"CREATE TABLE mail_count" in used):
            # What was there before may be past reading; of tables of the old version nothing is read then.
            assert all(
                daemon.charged[key] <= found[key] <= EARLIER.get(key, 0) + daemon.charged[key] for key in KEYS
            ), (first, found, daemon.charged)
        else:
            assert found == total(EARLIER, daemon.charged), first


def test_death_at_any_statement(memory_directory: pathlib.Path, used: bytes, clock: Clock) -> None:
    """What was answered is counted, and at most one batch more: the one that was being decided."""
    template = memory_directory / "template"
    template.write_bytes(used)
    program = pathlib.Path(__file__).with_name("dying.py")
    subprocess.run([sys.executable, program, template, memory_directory], check=True)
    deaths = list(memory_directory.glob("*/answers"))
    assert len(deaths) > 80
    for answers in deaths:
        answered = answers.read_text().splitlines()
        charged = json.loads(answered[-1]) if answered else {}
        heir = Daemon(SqliteDatabase(answers.parent), clock)
        heir.wait()
        heir.close()
        assert spool_files(answers.parent) == [], answers
        found = left_in(SqliteDatabase(answers.parent), clock)
        more = {key: found[key] - counted for key, counted in total(EARLIER, charged).items()}
        assert more == dict.fromkeys(KEYS, 0) or more in outcomes(len(answered)), answers


def outcomes(batch: int) -> list[dict[str, int]]:
    """All that one of :func:`batches` can add to the counts, with whatever is admitted of it."""
    choices = []
    for asked in next(itertools.islice(batches(), batch, None), []):
        (charge,) = asked.charges
        costs = range(-2, 4) if charge.settles else (0, charge.cost)
        choices.append([(charge.counter, cost) for cost in costs])
    return [
        {key: sum(cost for counter, cost in choice if counter == key) for key in KEYS}
        for choice in itertools.product(*choices)
    ]
