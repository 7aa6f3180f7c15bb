"""What Redis refuses for the keys of one id is that id's matter alone: the others are counted, over all daemons."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import msgpack
import pytest
from redis import Redis

from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from policyd_rate_limit.storage.contract import Refused
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.inquiry import terms_of
from storage.daemon import LIMIT, Daemon, ask, found, spool_files
from storage.redis_database import RedisDatabase
from storage.redis_stores import ask as ask_store
from storage.stores import HOUR, PATIENCE, Clock, demand
from support.actors import TESTER

WRONG = "user:alice"


@pytest.fixture
def redis(tmp_path: pathlib.Path, redis_url: str) -> RedisDatabase:
    """An empty prefix."""
    return RedisDatabase(tmp_path, redis_url)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """An administrator's."""
    with contextlib.closing(Redis.from_url(redis_url, protocol=2)) as client:
        yield client


def key_of(database: RedisDatabase, counter: str) -> str:
    return f"{database.user}:c:{{{len(counter)}:{counter}}}"


def of_another_type(database: RedisDatabase, client: Redis) -> str:
    key = key_of(database, WRONG)
    client.set(key, "what somebody has put there")
    return key


def damaged(database: RedisDatabase, client: Redis) -> str:
    key = key_of(database, WRONG)
    client.hset(key, "m", b"\xc1")
    return key


def cut(database: RedisDatabase, client: Redis) -> str:
    key = key_of(database, WRONG)
    client.hset(key, "m", b"\x98\x01")
    return key


def out_of_reach(database: RedisDatabase, client: Redis) -> str:
    """The user may touch the keys of bob only, and that of nobody."""
    client.acl_setuser(
        database.user,
        enabled=True,
        nopass=True,
        reset_keys=True,
        keys=[f"{database.user}:[cm]:{{8:user:bob}}*", key_of(database, ""), f"{database.user}:{{*"],
        commands=["+@all"],
    )
    return ""


TROUBLES = (of_another_type, damaged, cut, out_of_reach)
Trouble = Callable[[RedisDatabase, Redis], str]


@pytest.fixture(params=TROUBLES, ids=lambda trouble: trouble.__name__)
def trouble(request: pytest.FixtureRequest) -> Trouble:
    """What somebody does to the key of alice."""
    made: Trouble = request.param
    return made


def mend(database: RedisDatabase, client: Redis, key: str) -> None:
    if key:
        client.delete(key)
    else:
        client.acl_setuser(
            database.user, enabled=True, nopass=True, keys=[f"{database.user}:*"], commands=["+@all"], reset=False
        )


def test_the_others_are_counted_over_all_daemons(
    redis: RedisDatabase, client: Redis, clock: Clock, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """Bob has one limit over two daemons; alice has hers in each, from memory."""
    one, two = Daemon(redis, clock), Daemon(redis, clock)
    trouble(redis, client)
    both = (demand(WRONG, LIMIT), demand("user:bob", 2 * LIMIT), demand(WRONG, LIMIT), demand("user:bob", 2 * LIMIT))
    totals = [[0, 0], [0, 0]]
    for _ in range(LIMIT + 1):
        for number, daemon in enumerate((one, two)):
            answers = daemon.ask(*both)
            totals[number][0] += answers[0] + answers[2]
            totals[number][1] += answers[1] + answers[3]
    assert [total[0] for total in totals] == [LIMIT, LIMIT]
    assert sum(total[1] for total in totals) == 2 * LIMIT
    assert one.engine.waiting == 0
    assert one.engine.away_since is None
    assert [record for record in caplog.messages if "away" in record or "limits go on" in record] == []
    named = [record for record in caplog.messages if record.startswith(f"the database refuses what concerns {WRONG}: ")]
    assert len(named) == 2  # each daemon once
    one.close()
    two.close()


def test_what_is_set_aside_outlives_the_daemon_and_is_stored_once_it_can_be(
    redis: RedisDatabase, client: Redis, clock: Clock, trouble: Trouble
) -> None:
    key = trouble(redis, client)
    first = Daemon(redis, clock)
    assert ask(first, WRONG, 4) == 4
    assert ask(first, "user:bob", 2) == 2
    first.die()
    daemon = Daemon(redis, clock)
    assert daemon.used(WRONG) == 4
    assert ask(daemon, WRONG, 3) == 3
    assert ask(daemon, "user:bob", 1) == 1
    daemon.wait()
    assert daemon.engine.waiting == 0
    daemon.close()
    assert len(spool_files(redis.home)) == 1
    third = Daemon(redis, clock)
    assert ask(third, WRONG, LIMIT) == LIMIT - 7
    mend(redis, client, key)
    third.monotonic.now += HOUR
    third.wait()
    assert found(redis, clock, WRONG, "user:bob") == [LIMIT, 3]
    assert ask(third, WRONG, 1) == 0
    third.close()
    assert spool_files(redis.home) == []


def test_a_replay_of_an_outage_sets_aside_what_is_refused(
    redis: RedisDatabase, client: Redis, clock: Clock, trouble: Trouble
) -> None:
    """The database comes back for the others; before, it never did."""
    daemon = Daemon(redis, clock)
    assert ask(daemon, "user:bob", 1) == 1
    with redis.outage():
        for _ in range(3):
            daemon.ask(demand(WRONG, LIMIT), demand("user:bob", LIMIT))
    key = trouble(redis, client)
    daemon.wait()
    assert daemon.engine.away_since is None
    assert daemon.engine.waiting == 0
    assert ask(daemon, "user:bob", LIMIT) == LIMIT - 4
    assert ask(daemon, WRONG, LIMIT) == LIMIT - 3
    mend(redis, client, key)
    assert found(redis, clock, "user:bob") == [LIMIT]
    daemon.close()


def test_what_one_batch_has_settled_in_two_steps_is_replayed_whole(redis: RedisDatabase, clock: Clock) -> None:
    """DATA and END-OF-MESSAGE of one mail are one settlement to the mail, of what both have counted."""
    daemon = Daemon(redis, clock)
    assert daemon.ask(demand()) == [True]
    asked = [demand(maximum=LIMIT, cost=cost, mail="m", settles=True) for cost in (2, 5)]
    with redis.outage():
        assert daemon.ask(*asked) == [True, True]
    daemon.wait()
    assert daemon.engine.waiting == 0
    assert found(redis, clock, "user:a") == [1 + 5]
    daemon.close()
    later = Daemon(redis, clock)
    assert later.ask(asked[1]) == [True]
    assert later.charged["user:a"] == 0
    assert ask(later, "user:a", LIMIT) == LIMIT - 6
    later.close()


@pytest.mark.parametrize("trouble", [of_another_type, damaged, cut], ids=lambda trouble: trouble.__name__)
def test_a_reset_frees_it(redis: RedisDatabase, client: Redis, clock: Clock, trouble: Trouble) -> None:
    trouble(redis, client)
    with contextlib.closing(RedisAdministration(redis.config, longest=HOUR, timeout=PATIENCE)) as administration:
        assert administration.reset(WRONG, TESTER) == 0
    daemon = Daemon(redis, clock)
    assert ask(daemon, WRONG, 1) == 1
    assert daemon.engine._aside.records == ()
    assert found(redis, clock, WRONG) == [1]
    daemon.close()


def test_administration_leaves_it_out(
    redis: RedisDatabase, client: Redis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """``top`` and ``history`` of all go on."""
    daemon = Daemon(redis, clock)
    assert ask(daemon, "user:bob", 2) == 2
    of_another_type(redis, client)
    administration = RedisAdministration(redis.config, longest=HOUR, timeout=PATIENCE)
    with contextlib.closing(administration):
        assert {entry.counter: entry.amount for entry in administration.entries(None, 0)} == {"user:bob": 2}
        assert list(administration.entries([WRONG], 0)) == []
        assert f"what is counted for {WRONG!r} cannot be read" in caplog.messages[0]
    daemon.close()


def test_a_mail_of_another_type(redis: RedisDatabase, client: Redis, clock: Clock) -> None:
    """The key of one mail: the mail is decided from memory, its counter stays with the server."""
    daemon = Daemon(redis, clock)
    client.rpush(f"{redis.user}:m:{{8:user:bob}}m", "what somebody has put there")
    asked = demand("user:bob", LIMIT, mail="m", part="a")
    assert daemon.ask(demand("user:bob", LIMIT, mail="first", part="a"), asked, asked) == [True] * 3
    assert ask(daemon, "user:bob", 1) == 1
    assert daemon.engine.away_since is None
    assert found(redis, clock, "user:bob") == [2]
    daemon.close()


def test_an_expired_one_is_dropped(redis: RedisDatabase, client: Redis, clock: Clock) -> None:
    daemon = Daemon(redis, clock)
    of_another_type(redis, client)
    assert ask(daemon, WRONG, 2) == 2
    clock.now += 2 * HOUR
    daemon.monotonic.now += HOUR
    daemon.wait()
    daemon.close()
    assert spool_files(redis.home) == []


def test_a_server_that_refuses_everybody_is_away(redis: RedisDatabase, client: Redis, clock: Clock) -> None:
    """Rights that are missing for all: nothing is set aside, all of it waits for the database."""
    daemon = Daemon(redis, clock)
    assert ask(daemon, "user:bob", 1) == 1
    client.acl_setuser(
        redis.user, enabled=True, nopass=True, keys=[f"{redis.user}:*"], commands=["+@all", "-hset"], reset=False
    )
    assert ask(daemon, "user:bob", 2) == 2
    assert daemon.engine.away_since is not None
    assert daemon.engine._aside.records == ()
    mend(redis, client, "")
    daemon.wait()
    assert found(redis, clock, "user:bob") == [3]
    daemon.close()


def test_the_store_says_which(redis: RedisDatabase, client: Redis, clock: Clock) -> None:
    with contextlib.closing(redis.store(clock)) as store:
        of_another_type(redis, client)
        with pytest.raises(Refused) as refused:
            ask_store(store, demand("user:bob"), demand(WRONG, 1), demand(WRONG, 1))
        assert [verdict.admitted for verdict in refused.value.verdicts] == [True, True, False]
        assert list(refused.value.reasons) == [WRONG]
        assert "WRONGTYPE" in refused.value.reasons[WRONG]
        assert refused.value.unkept == [1]
        (record,) = refused.value.records
        assert [(entry.counter, entry.amount) for entry in record.dated_until(1 << 40)] == [(WRONG, 1)]


def test_a_charge_that_warns_has_no_limit_per_mail_by_that() -> None:
    """Compiled as well: to the script 0 would be a limit per mail that refuses everything, and false is none."""
    limits = (Limit(10, 60), Limit(7, 600))
    terms = msgpack.unpackb(terms_of("charge", b"", ((1, limits, False, True, 0, 75),)))
    assert terms[2][3] is False
    assert terms[2][4] == [8, 6]
    terms = msgpack.unpackb(terms_of("charge", b"", ((1, (Limit(5, PER_MAIL), *limits), False, True, 0, 75),)))
    assert terms[2][3:] == [5, [8, 6]]
