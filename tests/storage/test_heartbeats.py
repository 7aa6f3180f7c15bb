"""The heartbeats of daemons in every store: who is at work, who fell silent, who ended."""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Iterator

import pytest

from policyd_rate_limit.storage import heartbeat as heartbeats
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.engine.exchange import Exchange
from policyd_rate_limit.storage.engine.mailbox import Mailbox
from policyd_rate_limit.storage.heartbeat import BEAT_SECONDS, FORGOTTEN_SECONDS, Heartbeat, Introduction
from policyd_rate_limit.storage.log import daemons as of_log
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.redis import daemons as of_redis
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.node import Command
from policyd_rate_limit.storage.redis.store import RedisStore
from policyd_rate_limit.storage.redis.tables import RedisTables
from storage.administered import Administered, AdministeredLog, AdministeredRedis
from storage.logs import Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_database import RedisDatabase
from storage.stores import PATIENCE, Clock

LOGS: dict[str, type[Logs]] = {"sqlite": SqliteLogs, "postgresql": PostgresqlLogs, "mariadb": MariadbLogs}
MX1 = Introduction("mx1", "unix:ratelimit/policy", 4711, "2.0.0")
MX2 = Introduction("mx2\ud800'é", "inet:192.0.2.2:8552", 12, "1.9")


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


def begun(database: Administered) -> Store:
    """The store of a daemon that has reached its database."""
    store = database.store()
    store.admit([], (), PATIENCE)
    return store


def heard(database: Administered) -> list[Heartbeat]:
    """All that is known."""
    return database.administration().heartbeats() or []


def backdate(database: Administered, beat: Heartbeat, seconds: int) -> None:
    """Have ``beat`` been heard so long ago."""
    old = beat._replace(heard=beat.heard - seconds)
    if isinstance(database, AdministeredLog):
        of_log.beat(database.logs.open(), old, PATIENCE, is_first=False)
    else:
        administration = database.administration()
        assert isinstance(administration, RedisAdministration)
        RedisTables(administration.keys.prefix, administration.run).daemons.beat(old, is_first=False)


def test_each_daemon_is_known_until_it_ends(database: Administered) -> None:
    one, two = begun(database), begun(database)
    assert not heard(database)
    one.beat(MX1, 3_600, 0)
    two.beat(MX2, 5, 7)
    found = {beat.host: beat for beat in heard(database)}
    now = time.time()
    assert [(beat.host, beat.socket, beat.process, beat.version) for _, beat in sorted(found.items())] == [MX1, MX2]
    assert abs(found["mx1"].heard - now) < 30
    assert found["mx1"].heard - found["mx1"].since == 3_600
    assert (found["mx1"].waiting, found[MX2.host].waiting) == (0, 7)
    two.beat(MX2, 25, 0)
    (again,) = (beat for beat in heard(database) if beat.host == MX2.host)
    assert (again.run, again.waiting) == (found[MX2.host].run, 0)
    two.leave()
    assert [beat.host for beat in heard(database)] == ["mx1"]


def test_who_is_started_in_the_place_of_one_that_was_killed_is_known_instead(database: Administered) -> None:
    killed, neighbour = begun(database), begun(database)
    killed.beat(MX1, 9, 0)
    neighbour.beat(MX1._replace(socket="unix:other"), 9, 0)
    successor = begun(database)
    successor.beat(MX1._replace(process=4712), 0, 0)
    assert sorted(beat.process for beat in heard(database)) == [4711, 4712]
    # Of two that call themselves the same, both stay: each says again that it is there.
    killed.beat(MX1, 29, 0)
    successor.beat(MX1._replace(process=4712), 20, 0)
    assert sorted(beat.process for beat in heard(database)) == [4711, 4711, 4712]


def test_who_is_silent_for_a_day_is_forgotten(database: Administered) -> None:
    one, two, three = begun(database), begun(database), begun(database)
    for number, store in enumerate((one, two, three)):
        store.beat(MX1._replace(host=f"mx{number}"), 0, 0)
    first, second, _ = sorted(heard(database), key=lambda beat: beat.host)
    backdate(database, first, FORGOTTEN_SECONDS - 600)
    backdate(database, second, FORGOTTEN_SECONDS + 600)
    assert [beat.host for beat in heard(database)] == ["mx2", "mx0", "mx1"]
    three.clean_trails()
    assert [beat.host for beat in heard(database)] == ["mx2", "mx0"]


def test_no_more_than_so_many_are_kept(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (heartbeats, of_log, of_redis):
        monkeypatch.setattr(module, "MOST_DAEMONS", 2)
    stores = [begun(database) for _ in range(4)]
    for number, store in enumerate(stores):
        store.beat(MX1._replace(host=f"mx{number}"), 0, 0)
        (own,) = (beat for beat in _everybody(database) if beat.host == f"mx{number}")
        backdate(database, own, 100 * (4 - number))
    assert [beat.host for beat in heard(database)] == ["mx3", "mx2"]
    stores[0].clean_trails()
    assert sorted(beat.host for beat in _everybody(database)) == ["mx2", "mx3"]


def _everybody(database: Administered) -> list[Heartbeat]:
    with pytest.MonkeyPatch.context() as unbound:
        for module in (of_log, of_redis):
            unbound.setattr(module, "MOST_DAEMONS", 1_000)
        return heard(database)


@pytest.mark.parametrize("kind", [PostgresqlLogs, MariadbLogs])
def test_where_no_table_may_be_made_nothing_is_known_and_nothing_else_is_lost(
    kind: type[Logs], tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = AdministeredLog(kind(tmp_path))
    try:
        store = begun(database)
        assert isinstance(store, LogStore)
        refused = "CREATE TABLE refused ("  # stands for a right that is missing
        with monkeypatch.context() as without:
            without.setattr(type(store._log), "ADDED", (("policyd_daemon", refused),))
            caplog.clear()
            for _ in range(2):
                store.beat(MX1, 0, 0)
            assert database.administration().heartbeats() is None
            told = [message for message in caplog.messages if "at work" in message]
            assert len(told) == 1, caplog.messages
        assert store.overrides() == []  # the connection goes on
        other = begun(database)
        other.beat(MX1, 0, 0)
        assert [beat.host for beat in heard(database)] == ["mx1"]
        # A table that is taken away while a daemon is at work comes back.
        database.logs.execute("DROP TABLE policyd_daemon")
        with pytest.raises(Exception, match="policyd_daemon"):
            other.beat(MX1, 20, 0)
        other.admit([], (), PATIENCE)
        other.beat(MX1, 40, 0)
        assert [beat.host for beat in heard(database)] == ["mx1"]
    finally:
        database.close()


def test_where_redis_does_not_allow_it_that_is_said_and_no_outage(
    tmp_path: pathlib.Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = AdministeredRedis(RedisDatabase(tmp_path, redis_url))
    try:
        store, administration = begun(database), database.administration()
        assert isinstance(administration, RedisAdministration)
        key = f"{administration.keys.prefix}:{{administration}}:daemons".encode()
        administration.run([Command(key, "SET", key, "of another type")])
        caplog.clear()
        for _ in range(2):
            store.beat(MX1, 0, 0)
        store.leave()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert administration.heartbeats() is None
        assert isinstance(store, RedisStore)
    finally:
        database.close()


def test_what_cannot_be_understood_is_left_out(database: Administered, caplog: pytest.LogCaptureFixture) -> None:
    store = begun(database)
    store.beat(MX1, 0, 0)
    (beat,) = heard(database)
    for number, words in enumerate(("[", "[1]", '{"host": 1}', '["a","b","c","d",1,2]')):
        run = f"{number:032x}"
        if isinstance(database, AdministeredLog):
            values = f"'{run}', '{run}', {beat.heard}, '{words}'"
            database.logs.execute(f"INSERT INTO policyd_daemon (id, place, heard, words) VALUES ({values})")
        else:
            administration = database.administration()
            assert isinstance(administration, RedisAdministration)
            key = f"{administration.keys.prefix}:{{administration}}:daemons".encode()
            administration.run([Command(key, "HSET", key, run, words)])
    assert heard(database) == [beat]
    assert sum("left out" in message for message in caplog.messages) == 4


class Beaten(LogStore):
    """Notes the heartbeats, and has no database."""

    def __init__(self) -> None:
        self.beats: list[tuple[Introduction, int, int]] = []
        self.has_left = False

    def beat(self, who: Introduction, uptime: int, waiting: int) -> None:
        self.beats.append((who, uptime, waiting))

    def leave(self) -> None:
        self.has_left = True

    def overrides(self) -> None:
        return None

    def clean_trails(self) -> bool:
        return False


def test_a_daemon_says_so_every_some_seconds_once_it_knows_who_it_is(clock: Clock) -> None:
    store, mailbox = Beaten(), Mailbox(clock)
    exchange = Exchange(store, mailbox, clock, lambda: 3)
    exchange.maintain(away=False)
    assert store.beats == []
    mailbox.introduction = MX1
    _maintained(exchange, clock, int(BEAT_SECONDS))
    assert [(uptime, waiting) for _, uptime, waiting in store.beats] == [(1, 3)]
    _maintained(exchange, clock, 3 * int(BEAT_SECONDS), away=True)
    assert len(store.beats) == 1
    _maintained(exchange, clock, 2)  # the outage is over
    assert len(store.beats) == 2
    exchange.end()
    assert store.has_left


def _maintained(exchange: Exchange, clock: Clock, seconds: int, *, away: bool = False) -> None:
    for _ in range(seconds):
        clock.now += 1
        exchange.maintain(away=away)
