"""The audit trail of every store: who has changed what, entered with the change."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import time
from collections.abc import Iterator, Sequence

import pytest
from redis import Redis

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import AUDIT_DAYS, Actor, AuditEntry, OriginalEntry, Override
from policyd_rate_limit.storage.log import audit_trail as of_log
from policyd_rate_limit.storage.log import hit_history as of_hits
from policyd_rate_limit.storage.redis import audit_trail as of_redis
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.node import Command
from policyd_rate_limit.storage.redis.tables import RedisTables
from storage.administered import Administered, AdministeredLog, AdministeredRedis
from storage.hit_rows import row
from storage.logs import Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_database import RedisDatabase
from storage.stores import PATIENCE, admitted, date_in, demand
from support.actors import TESTER

LOGS: dict[str, type[Logs]] = {"sqlite": SqliteLogs, "postgresql": PostgresqlLogs, "mariadb": MariadbLogs}
BLOCK = (Limit(0, 1),)
UNTIL = 2_000_000_000  # 2033-05-18 03:33:20 UTC
WEB = Actor("carol\ud800\u0000'", "192.0.2.7 by the web page")
DAY = 86_400


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "redis"])
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Administered]:
    """An empty database of each kind."""
    made: Administered
    if request.param == "redis":
        made = AdministeredRedis(RedisDatabase(tmp_path, request.getfixturevalue("redis_url")))
    else:
        made = AdministeredLog(LOGS[request.param](tmp_path))
    yield made
    made.close()


@pytest.fixture(params=["postgresql", "mariadb"])
def served(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[AdministeredLog]:
    """An empty database on each server with SQL."""
    made = AdministeredLog(LOGS[request.param](tmp_path))
    yield made
    made.close()


def told(entries: list[AuditEntry]) -> list[tuple[str, ...]]:
    """What happened, without when."""
    return [(one.who, one.action, one.subject, one.detail, one.note) for one in entries]


def test_each_change_is_entered(database: Administered) -> None:
    admitted(database.store(), demand(cost=3))
    administration = database.administration()
    assert administration.audit() == []
    administration.set_override(Override("user:a", BLOCK, UNTIL, "stolen\n"), TESTER)
    administration.set_override(Override("user:b", (Limit(5, 60), Limit(9, DAY)), UNTIL), WEB)
    administration.set_override(Override("user:b", (), UNTIL), WEB)
    assert administration.remove_override("user:a", WEB, "has a new password")
    assert not administration.remove_override("user:a", WEB)
    assert administration.reset("user:a", TESTER, "and a new computer") == 3
    administration.note(TESTER, "web-user", "carol", "operate", "new")
    found = administration.audit()
    until = "until 2033-05-18 03:33:20 UTC"
    assert told(found) == [
        ("tester", "web-user", "carol", "operate", "new"),
        ("tester", "reset", "user:a", "3 mails taken back", "and a new computer"),
        (WEB.who, "revoke", "user:a", "nothing was in force", ""),
        (WEB.who, "revoke", "user:a", "", "has a new password"),
        (WEB.who, "allow", "user:b", f"unlimited {until}", ""),
        (WEB.who, "allow", "user:b", f"5/1m, 9/1d {until}", ""),
        ("tester", "block", "user:a", until, "stolen\n"),
    ]
    assert {one.from_where for one in found} == {TESTER.from_where, WEB.from_where}
    assert all(abs(one.date - time.time()) < 60 for one in found)
    numbers = [one.number for one in found]
    assert numbers == sorted(set(numbers), reverse=True)
    # Page by page, and about some subjects.
    assert administration.audit(most=3) == found[:3]
    assert administration.audit(most=3, before=numbers[2]) == found[3:6]
    assert administration.audit(before=numbers[-1]) == []
    assert administration.audit(subjects=["user:b", "nobody"], most=1) == found[4:5]
    assert administration.audit(subjects=["USER:B"]) == administration.audit(subjects=()) == []
    assert administration.audit(since=date_in(60)) == []
    assert database.administration().audit(since=date_in(-60)) == found


def test_what_is_too_long_is_cut(database: Administered) -> None:
    administration = database.administration()
    administration.note(Actor("w" * 999, "\U0001f4a9" * 999), "a" * 99, "s" * 20_000, "\ud800" * 2_000, "n" * 2_000)
    [entry] = administration.audit()
    assert [len(text) for text in entry[2:]] == [320, 320, 64, 10_000, 1_000, 1_000]


def test_administrators_at_the_same_time_have_numbers_of_their_own(database: Administered) -> None:
    def change(number: int) -> None:
        administration = database.administration()
        for turn in range(8):
            administration.set_override(Override(f"user:{number}", BLOCK, UNTIL, str(turn)), TESTER)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(change, range(3)))
    found = database.administration().audit()
    assert len({one.number for one in found}) == len(found) == 24
    for number in range(3):
        assert [one.note for one in found if one.subject == f"user:{number}"] == [
            str(turn) for turn in range(7, -1, -1)
        ]


@pytest.mark.parametrize("kind", LOGS)
def test_what_cannot_be_entered_is_not_done(tmp_path: pathlib.Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change and its entry are one transaction."""
    database = AdministeredLog(LOGS[kind](tmp_path))
    admitted(database.store(), demand(cost=3))
    administration = database.administration()
    administration.set_override(Override("user:a", BLOCK, UNTIL), TESTER)
    kept = administration.overrides()
    monkeypatch.setattr(of_log, "_INSERT_OWN", of_log._INSERT_OWN.replace("policyd_audit", "policyd_nowhere"))
    for change in (
        lambda: administration.set_override(Override("user:b", BLOCK, UNTIL), TESTER),
        lambda: administration.remove_override("user:a", TESTER),
        lambda: administration.reset("user:a", TESTER),
    ):
        with pytest.raises(StoreError):
            change()
    monkeypatch.undo()
    assert administration.overrides() == kept
    assert len(administration.audit()) == 1
    assert sum(entry.amount for entry in administration.entries(["user:a"], 0)) == 3
    database.close()


def test_in_redis_too(tmp_path: pathlib.Path, redis_url: str) -> None:
    """A trail of another type fails the script, which has changed nothing then."""
    database = AdministeredRedis(RedisDatabase(tmp_path, redis_url))
    admitted(database.store(), demand(cost=3))
    administration = database.administration()
    with contextlib.closing(Redis.from_url(redis_url)) as client:
        client.set(f"{database.database.user}:{{administration}}:audit", "something else")
    for change in (
        lambda: administration.set_override(Override("user:b", BLOCK, UNTIL), TESTER),
        lambda: administration.remove_override("user:a", TESTER),
        lambda: administration.reset("user:a", TESTER),
    ):
        with pytest.raises(StoreError, match="WRONGTYPE"):
            change()
    assert administration.overrides() == []
    assert sum(entry.amount for entry in administration.entries(["user:a"], 0)) == 3
    database.close()


def test_what_redis_is_told_twice_counts_once(tmp_path: pathlib.Path, redis_url: str) -> None:
    """As where a connection breaks before the answer, and all is sent again."""
    database = AdministeredRedis(RedisDatabase(tmp_path, redis_url))
    administration = database.administration()
    assert isinstance(administration, RedisAdministration)

    def run_twice(commands: Sequence[Command]) -> None:
        administration.run(commands)
        if commands[0].arguments[0] == "EVALSHA":
            administration.run([Command(one.key, *one.arguments) for one in commands])

    tables = RedisTables(database.database.user, run_twice)
    tables.history.add([row(hits=3), row("user:b")])
    tables.history.add([row(hits=2)])
    assert sorted(one.hits for one in administration.hit_history(0)) == [1, 5]
    for number in range(3):
        tables.audit.enter(AuditEntry(0, 1, "w", "f", "a", str(number), "", ""))
    assert [one.subject for one in administration.audit()] == ["2", "1", "0"]
    brought = [
        OriginalEntry(7, number, AuditEntry(number, 1, "w", "f", "a", f"o{number}", "", "")) for number in (1, 2)
    ]
    tables.audit.bring(brought)
    assert [one.subject for one in administration.audit()] == ["o2", "o1", "2", "1", "0"]
    database.close()


@pytest.mark.parametrize("by_command", [True, False])
def test_what_is_too_old_goes(database: Administered, by_command: bool) -> None:
    store = database.store()
    store.admit([], (), PATIENCE)
    administration = database.administration()
    now = administration.now()
    assert administration.audit() == []  # the tables are there then
    for age in (AUDIT_DAYS + 9, AUDIT_DAYS + 1, AUDIT_DAYS - 1, 0):
        entry = AuditEntry(0, now - age * DAY, "w", "f", "a", f"{age}", "", "")
        if isinstance(database, AdministeredLog):
            log = database.logs.open()
            log.write([of_log.entering(entry)], PATIENCE)
        else:
            administration._tables.audit.enter(entry)  # type: ignore[attr-defined]  # of Redis
    if by_command:
        store.clean(PATIENCE)
    else:
        assert not store.clean_trails()
    assert [one.subject for one in administration.audit()] == ["0", f"{AUDIT_DAYS - 1}"]
    administration.note(TESTER, "a", "next")
    assert [one.subject for one in administration.audit()] == ["next", "0", f"{AUDIT_DAYS - 1}"]


def test_of_too_many_the_oldest_go(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_log, "MOST_AUDIT_ENTRIES", 3)
    monkeypatch.setattr(of_redis, "MOST_AUDIT_ENTRIES", 3)
    store = database.store()
    store.admit([], (), PATIENCE)
    administration = database.administration()
    for number in range(8):
        administration.note(TESTER, "a", str(number))
    while store.clean_trails():
        pass
    assert [one.subject for one in administration.audit()] == ["7", "6", "5"]


# --- Databases of the version before, which has neither table and ignores them


def make_old(database: AdministeredLog) -> None:
    """Leave what the version before does."""
    admitted(database.store(), demand(cost=3))
    for table in (of_log.TABLE, of_hits.TABLE):
        database.logs.execute(f"DROP TABLE IF EXISTS {table}")


@pytest.mark.parametrize("by_daemon", [True, False])
@pytest.mark.parametrize("kind", LOGS)
def test_a_database_of_the_version_before_gets_both(tmp_path: pathlib.Path, kind: str, by_daemon: bool) -> None:
    database = AdministeredLog(LOGS[kind](tmp_path))
    make_old(database)
    administration = database.administration()
    if by_daemon:
        store = database.store()
        admitted(store, demand())
        store.add_history([row()])
        assert not store.clean_trails()
    else:
        administration.set_override(Override("user:a", BLOCK, UNTIL), TESTER)
        assert [one.action for one in administration.audit()] == ["block"]
    assert len(list(administration.hit_history(0))) == by_daemon
    assert administration.reset("user:a", TESTER) == (4 if by_daemon else 3)
    database.close()


def test_without_the_right_to_make_tables_limits_hold(
    served: AdministeredLog, caplog: pytest.LogCaptureFixture
) -> None:
    """No history is kept, which is said once; and nothing is changed that the trail could not tell."""
    make_old(served)
    database, user = served.logs.database, served.logs.config["user"]  # type: ignore[attr-defined]  # of servers
    if isinstance(served.logs, PostgresqlLogs):
        served.logs.execute(f"ALTER DATABASE {database} OWNER TO postgres")
    else:
        served.logs.execute(f"REVOKE CREATE ON {database}.* FROM {user}")
    store = served.store()
    assert admitted(store, demand()) == [True]
    for _ in range(2):
        store.add_history([row()])
        assert not store.clean_trails()
    store.clean(PATIENCE)
    assert admitted(store, demand()) == [True]
    assert len([message for message in caplog.messages if "no hit history is kept" in message]) == 1
    administration = served.administration()
    assert administration.overrides() == []
    with pytest.raises(StoreError, match="tables of hit history and audit trail cannot be made"):
        administration.set_override(Override("user:a", BLOCK, UNTIL), TESTER)
    assert administration.overrides() == []
