"""What a database with a log refuses of one id is that id's matter alone; what is too long for a row is split."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Hits, Override
from policyd_rate_limit.storage.engine.engine import Engine
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.log import tables as log_tables
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.store import CHARACTERS_PER_TRANSACTION, LogStore
from policyd_rate_limit.storage.record import CHARACTERS_PER_RECORD
from policyd_rate_limit.storage.replica import Memory
from storage.daemon import opened, probed, spool_files
from storage.logs import TIMEOUT, Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.stores import HOUR, Clock, demand, new_memory, usage

WRONG = "user:alice"
LIMIT = 10
LOGS: dict[str, Callable[[pathlib.Path], Logs]] = {
    "sqlite": SqliteLogs,
    "postgresql": PostgresqlLogs,
    "mariadb": MariadbLogs,
}
# Triggers that let nothing of WRONG in: as somebody might have them who keeps an audit of his tables.
TRIGGERS: dict[type[Logs], tuple[str, ...]] = {
    SqliteLogs: (
        "CREATE TRIGGER audit BEFORE INSERT ON policyd_batch WHEN NEW.entries LIKE '%{wrong}%' "
        "BEGIN SELECT RAISE(ABORT, 'not into my table'); END",
    ),
    PostgresqlLogs: (
        "CREATE OR REPLACE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.entries LIKE '%{wrong}%' THEN RAISE 'not into my table'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER audit BEFORE INSERT ON policyd_batch FOR EACH ROW EXECUTE FUNCTION audit()",
    ),
    MariadbLogs: (
        "CREATE TRIGGER audit BEFORE INSERT ON policyd_batch FOR EACH ROW "
        "IF NEW.entries LIKE '%{wrong}%' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not into my table'; END IF",
    ),
}
UNDO: dict[type[Logs], str] = {
    SqliteLogs: "DROP TRIGGER audit",
    PostgresqlLogs: "DROP TRIGGER audit ON policyd_batch",
    MariadbLogs: "DROP TRIGGER audit",
}


@pytest.fixture(params=LOGS)
def any_logs(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Logs]:
    """An empty database of each kind that keeps a log."""
    made = LOGS[request.param](tmp_path)
    yield made
    made.close()


class DaemonsOnOneDatabase:
    """Daemons on one database."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs
        self.monotonic = Clock(0.0)
        self.memories: list[Memory] = []
        logs.ready()

    def store(self, memory: Memory | None = None) -> LogStore:
        return LogStore(
            self.logs.open, memory or new_memory(time.time), longest=HOUR, counters_of_old_id=lambda old_id: ()
        )

    def daemon(self, mailbox: Mailbox | None = None) -> Engine:
        memory = new_memory(time.time)
        self.memories.append(memory)
        directory = self.logs.directory / "journals"
        return opened(
            self.store(memory), memory, directory, journal_size=1 << 24, monotonic=self.monotonic, mailbox=mailbox
        )

    def try_again(self, daemon: Engine) -> None:
        """The time of the next try comes, and the database is there."""
        self.monotonic.now += 10
        daemon.maintain()
        probed(daemon)

    def found(self, *keys: str) -> list[int]:
        """What a daemon that starts now finds in the database."""
        with contextlib.closing(self.store()) as store:
            return list(usage(store, keys).values())

    def spool_files(self) -> list[str]:
        return spool_files(self.logs.directory / "journals")

    def refuse(self, wrong: str = WRONG) -> None:
        self.logs.execute(*(statement.replace("{wrong}", wrong) for statement in TRIGGERS[type(self.logs)]))

    def take(self) -> None:
        self.logs.execute(UNDO[type(self.logs)])


@pytest.fixture
def daemons(any_logs: Logs) -> DaemonsOnOneDatabase:
    """Daemons on an empty database."""
    return DaemonsOnOneDatabase(any_logs)


def mails(key: str, maximum: int = LIMIT) -> Demand:
    return demand(key, maximum)


def admitted(daemon: Engine, *demands: Demand) -> list[bool]:
    return [verdict.admitted for verdict in daemon.admit(demands)]


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Who is said to be refused."""
    said = "the database refuses what concerns "
    return [line.removeprefix(said).partition(": ")[0] for line in caplog.messages if line.startswith(said)]


def test_the_others_are_counted_over_all_daemons(
    daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = daemons.daemon(), daemons.daemon()
    daemons.refuse()
    both = [mails(WRONG), mails("user:bob", 2 * LIMIT)] * 2
    totals = [0, 0]
    for _ in range(LIMIT):
        for daemon in (one, two):
            answers = admitted(daemon, *both)
            totals[0] += answers[0] + answers[2]
            totals[1] += answers[1] + answers[3]
    assert totals == [2 * LIMIT, 2 * LIMIT]  # alice has her limit in each
    assert names(caplog) == [WRONG, WRONG]
    assert "not into my table" in caplog.text
    assert one.away_since is None
    assert two.away_since is None
    assert [record for record in caplog.records if "limits go on" in record.getMessage()] == []
    one.close()
    two.close()


def test_what_is_set_aside_outlives_the_daemon_and_is_stored_once_it_can_be(daemons: DaemonsOnOneDatabase) -> None:
    one = daemons.daemon()
    daemons.refuse()
    assert admitted(one, *[mails(WRONG)] * 4, mails("user:bob")) == [True] * 5
    one.close()
    assert daemons.found(WRONG, "user:bob") == [0, 1]
    assert len(daemons.spool_files()) == 1
    two = daemons.daemon()
    assert admitted(two, *[mails(WRONG)] * 3, mails("user:bob")) == [True] * 4
    assert two.waiting == 0
    two._store.reload()  # reloading keeps what was set aside
    assert admitted(two, *[mails(WRONG)] * 4) == [True] * 3 + [False]
    daemons.monotonic.now += HOUR
    two.maintain()
    assert daemons.found(WRONG, "user:bob") == [0, 2]
    daemons.take()
    daemons.monotonic.now += HOUR
    two.maintain()
    assert daemons.found(WRONG, "user:bob") == [LIMIT, 2]
    assert admitted(two, mails(WRONG), mails("user:bob")) == [False, True]
    two.close()
    assert daemons.spool_files() == []


def test_a_replay_of_an_outage_sets_aside_what_is_refused(
    daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """Among many others in many records, which are stored once."""
    daemon = daemons.daemon()
    daemons.refuse("")
    others = [f"user:{number}" for number in range(40)]
    for first in range(0, 40, 8):
        admitted(daemon, *(mails(key) for key in (*others[first : first + 8], WRONG)))
    assert daemon.waiting == 5
    daemons.take()
    daemons.refuse()
    daemons.try_again(daemon)
    assert admitted(daemon, mails("user:bob")) == [True]
    assert daemon.waiting == 0
    assert names(caplog) == [WRONG]
    assert daemons.found(*others, "user:bob", WRONG) == [1] * 41 + [0]
    assert admitted(daemon, *[mails(WRONG)] * 6) == [True] * 5 + [False]
    daemon.close()


def test_a_database_that_refuses_everybody_is_away(
    daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = daemons.daemon()
    daemons.refuse("")
    assert admitted(daemon, mails(WRONG), mails("user:bob")) == [True, True]
    assert daemon.away_since is not None
    assert names(caplog) == []
    assert daemon.waiting == 1
    daemons.take()
    daemons.try_again(daemon)
    assert admitted(daemon) == []
    assert daemons.found(WRONG, "user:bob") == [1, 1]
    daemon.close()


def test_a_spool_file_of_its_own_that_is_full_refuses_only_this_id(
    daemons: DaemonsOnOneDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("policyd_rate_limit.storage.engine.aside.ASIDE_BYTES", 600)
    daemon = daemons.daemon()
    daemons.refuse()
    answers = [admitted(daemon, mails(WRONG), mails("user:bob")) for _ in range(6)]
    assert all(bob for _, bob in answers)
    assert [alice for alice, _ in answers] == sorted((alice for alice, _ in answers), reverse=True)
    assert {alice for alice, _ in answers} == {True, False}
    assert "no more of it is admitted" in caplog.text
    daemon.close()


LONG = [f"user:{number}" + "\udcff" * 16_000 for number in range(20)]  # as long as a line may be, not UTF-8


def test_a_batch_that_is_long_is_split(daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """A row takes what a server with small packets takes, too; a restarted daemon has all of it, once."""
    daemon = daemons.daemon()
    assert admitted(daemon, *(mails(key) for key in LONG)) == [True] * len(LONG)
    assert admitted(daemon, *(mails(key) for key in LONG)) == [True] * len(LONG)
    assert caplog.messages == []
    longest = max(len(str(entries)) for (entries,) in daemons.logs.execute("SELECT entries FROM policyd_batch"))
    assert longest <= CHARACTERS_PER_RECORD
    assert daemons.found(*LONG) == [2] * len(LONG)
    daemon.close()


def test_what_is_long_and_perhaps_committed_counts_once(
    daemons: DaemonsOnOneDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer is lost: of its parts this daemon knows that they are its own, when it reads them."""
    daemon = daemons.daemon()
    assert admitted(daemon, mails("user:bob")) == [True]
    log = type(daemons.logs.opened[-1])
    commit = log.commit

    def unanswered(self: Any) -> None:
        monkeypatch.setattr(log, "commit", commit)
        self.commit()
        raise LogError("nobody knows whether it is done")

    monkeypatch.setattr(log, "commit", unanswered)
    assert admitted(daemon, *(mails(key) for key in LONG)) == [True] * len(LONG)
    assert daemon.waiting == 1
    daemons.try_again(daemon)
    assert admitted(daemon, mails("user:bob")) == [True]
    assert daemon.waiting == 0
    assert list(usage(daemon._store, LONG).values()) == [1] * len(LONG)
    daemon.close()
    assert daemons.found(*LONG) == [1] * len(LONG)


def test_a_long_replay_is_split_and_stored_once(
    daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """In several transactions; offered twice, as after a commit whose answer was lost."""
    daemon = daemons.daemon()
    daemons.refuse("")
    for _ in range(5):
        assert admitted(daemon, *(mails(key) for key in LONG)) == [True] * len(LONG)
    records = list(daemon._spool.records)
    assert sum(len(record.entries) for record in records) > CHARACTERS_PER_TRANSACTION
    daemons.take()
    daemons.try_again(daemon)
    assert admitted(daemon, mails("user:bob")) == [True]
    with contextlib.closing(daemons.store()) as other:
        assert other.admit((), records, TIMEOUT) == []
    assert daemons.found(*LONG, "user:bob") == [5] * len(LONG) + [1]
    [outage] = [record for record in caplog.records if record.levelno > logging.WARNING]
    assert "limits go on from memory" in outage.getMessage()
    daemon.close()


@pytest.fixture
def small_packets(tmp_path: pathlib.Path) -> Iterator[MariadbLogs]:
    """A server that takes 16 KiB at once."""
    logs = MariadbLogs(tmp_path)
    assert logs.server.home  # no server that others use at the same time
    ((before,),) = logs.execute("SELECT @@GLOBAL.max_allowed_packet")
    logs.execute("SET GLOBAL max_allowed_packet = 16384")
    try:
        yield logs
    finally:
        logs.server.admin(f"SET GLOBAL max_allowed_packet = {before}")
        logs.close()


def test_a_server_with_small_packets(small_packets: MariadbLogs, caplog: pytest.LogCaptureFixture) -> None:
    """Batches are split; one entry that is too long for it is set aside, and counts in memory."""
    daemons = DaemonsOnOneDatabase(small_packets)
    daemon, other = daemons.daemon(), daemons.daemon()
    keys = [f"user:{number}@" + "x" * 300 for number in range(200)]
    asked = [mails(key, 3) for key in keys] + [mails(LONG[0], 1)]
    assert admitted(daemon, *asked) == [True] * 201
    assert admitted(other, *asked[:-1]) == [True] * 200
    assert admitted(daemon, *asked) == [True] * 200 + [False]
    assert admitted(other, *asked[:-1]) == [False] * 200
    (name,) = names(caplog)
    assert name.startswith("user:0\\udcff")
    assert len(name) < 400
    assert daemon.away_since is None
    assert daemons.found(*keys[:20]) == [3] * 20
    daemon.close()
    assert len(daemons.spool_files()) == 2  # the other is still open
    other.close()


def test_hits_of_long_ids_are_kept(daemons: DaemonsOnOneDatabase) -> None:
    """In statements that no server finds too long."""
    log = daemons.logs.ready()
    hits = [Hits(key, 60, 1, 1) for key in LONG]
    log_tables.add_hits(log, hits, TIMEOUT)
    assert sorted(log_tables.hits(log, lambda old_id: old_id)) == sorted(hits)


def test_hits_of_one_id_that_are_refused_keep_back_nobody_elses(
    daemons: DaemonsOnOneDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the overrides."""
    mailbox = Mailbox(time.time)
    daemon = daemons.daemon(mailbox)
    log = daemons.logs.ready()
    triggers = [statement.replace("{wrong}", "alice") for statement in TRIGGERS[type(daemons.logs)]]
    daemons.logs.execute(
        *(part.replace("policyd_batch", "policyd_hit").replace("NEW.entries", "NEW.counter") for part in triggers)
    )
    daemons.monotonic.now += 10
    for key in ("user:a", WRONG, "user:b", "user:c"):
        mailbox.hit(key, Limit(1, HOUR))
    assert admitted(daemon, mails("user:bob")) == [True]
    daemon.maintain()
    found = log_tables.hits(daemons.logs.ready(), lambda old_id: old_id)
    assert [(hit.key, hit.hits) for hit in found] == [("user:a", 1), ("user:b", 1), ("user:c", 1)]
    assert "the database refuses the hits of 'user:alice'" in caplog.text
    assert mailbox.take() == []
    override = Override("user:bob", (Limit(0, 1),), 1 << 40)
    log_tables.set_override(log, override, 0, TIMEOUT)
    mailbox.hit(WRONG, Limit(1, HOUR))  # alone: whether it is for everybody is not to be told
    heard: list[list[Override]] = []
    mailbox.subscribe(lambda overrides, _: heard.append(overrides))
    for _ in range(3):
        daemons.monotonic.now += 10
        assert len(admitted(daemon, mails("user:bob"))) == 1
        daemon.maintain()
    assert heard[-1] == [override]
    daemon.close()
