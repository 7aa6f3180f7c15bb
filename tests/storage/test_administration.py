"""What an administrator asks of every store: see :mod:`policyd_rate_limit.storage.administration`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.storage.administration import Hits, Override
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.log import store as log_store
from policyd_rate_limit.storage.log import tables as log_tables
from policyd_rate_limit.storage.redis import administration as of_redis
from policyd_rate_limit.storage.redis import tables as redis_tables
from storage.administered import Administered, AdministeredLog, AdministeredRedis
from storage.logs import Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_database import RedisDatabase
from storage.stores import HOUR, PATIENCE, PLACES, admitted, date_in, demand, seen, usage, values_in
from support.actors import TESTER

LOGS: dict[str, type[Logs]] = {"sqlite": SqliteLogs, "postgresql": PostgresqlLogs, "mariadb": MariadbLogs}
BLOCK = (Limit(0, 1),)
DAY = 24 * HOUR
LONG = "user:" + "x" * 5_000
EVIL = ("user:" + "x" * 290, "user:\U0001f4a9\u00e9\u0000", "user:\ud800", "user:'\"\\%s%%;--\n", "user:${}:1")


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


@pytest.fixture(params=LOGS)
def logged(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[AdministeredLog]:
    """An empty database of each kind that keeps a log."""
    made = AdministeredLog(LOGS[request.param](tmp_path))
    yield made
    made.close()


def counted(entries: Iterator[Entry]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in entries:
        total[entry.counter] += entry.amount
    return {key: amount for key, amount in total.items() if amount}


def add_hits(database: Administered, hits: list[Hits]) -> None:
    store = database.store()
    store.admit([], (), PATIENCE)
    store.add_hits(hits)


# --- Reading


def test_an_empty_database_has_nothing(database: Administered) -> None:
    administration = database.administration()
    assert list(administration.entries(None, 0)) == []
    assert administration.overrides() == []
    assert administration.hits() == []
    assert administration.reset("user:nobody", TESTER) == 0
    assert not administration.remove_override("user:nobody", TESTER)
    assert abs(administration.now() - time.time()) < 5


def test_entries_of_all_and_of_some(database: Administered) -> None:
    store, administration = database.store(), database.administration()
    assert admitted(store, demand("user:a", cost=3), demand("user:b", cost=2)) == [True, True]
    assert admitted(store, demand("user:a", cost=1), *(demand(key) for key in EVIL)) == [True] * 6
    everything = {"user:a": 4, "user:b": 2, **dict.fromkeys(EVIL, 1)}
    assert admitted(database.store(), demand(LONG, cost=2)) == [True]
    assert counted(administration.entries([LONG], 0)) == {LONG: 2}
    assert administration.reset(LONG, TESTER) == 2
    assert counted(administration.entries(None, 0)) == everything
    assert counted(administration.entries(["user:a", EVIL[0]], 0)) == {"user:a": 4, EVIL[0]: 1}
    for key in EVIL:
        assert counted(administration.entries([key], date_in(-60))) == {key: 1}
    assert counted(administration.entries(["user"], 0)) == {}
    assert counted(administration.entries(None, date_in(60))) == {}


def test_what_was_given_back_is_among_the_entries(database: Administered) -> None:
    store, administration = database.store(), database.administration()
    admitted(store, demand(mail="m", part="a"), demand(mail="m", part="b"), demand(mail="m", settles=True, cost=1))
    assert counted(administration.entries(None, 0)) == {"user:a": 1}


def test_following_shows_everything_once(database: Administered) -> None:
    store, administration = database.store(), database.administration()
    pages = administration.follow(0)
    assert list(next(pages)) == []
    seen: Counter[str] = Counter()
    for number in range(3):
        assert admitted(store, *(demand(f"user:{number}", 99) for _ in range(7))) == [True] * 7
        deadline = time.monotonic() + PATIENCE
        while sum(seen.values()) < 7 * (number + 1) and time.monotonic() < deadline:
            seen.update(counted(iter(next(pages))))
    assert seen == {"user:0": 7, "user:1": 7, "user:2": 7}
    assert list(next(pages)) == []


# --- Windows that others judge by


def age(logged: AdministeredLog, seconds: int) -> None:
    """All that was counted is older by ``seconds``."""
    logged.logs.execute(f"UPDATE policyd_batch SET date = date - {seconds}")


def test_clean_leaves_what_a_longer_window_of_another_daemon_needs(database: Administered) -> None:
    """Two configurations on one database: one of a day, one of a minute whose ``--clean`` runs at night."""
    daemon, other = database.store(DAY), database.store(60)
    asked = demand(maximum=1, seconds=DAY)
    assert admitted(daemon, asked) == [True]
    daemon.maintain()
    assert admitted(other, demand("user:b", seconds=60)) == [True]
    other.maintain()
    if isinstance(database, AdministeredLog):
        age(database, DAY // 2)
    assert other.clean(PATIENCE) == 0
    assert admitted(database.store(DAY), asked) == [False]
    if isinstance(database, AdministeredLog):
        age(database, 2 * DAY)
        assert other.clean(PATIENCE) == 2


def test_the_window_of_a_daemon_that_is_gone_is_forgotten(logged: AdministeredLog) -> None:
    """Once nothing that it has counted lies in it."""
    store = logged.store(DAY)
    assert admitted(store, demand()) == [True]
    store.maintain()
    store.maintain()
    ((seconds, expires),) = logged.logs.execute("SELECT seconds, expires FROM policyd_window")
    assert int(seconds) == DAY
    assert DAY + HOUR < int(expires) - time.time() < DAY + 3 * HOUR
    other = logged.store(60)
    age(logged, DAY)
    assert other.clean(PATIENCE) == 0
    logged.logs.execute(f"UPDATE policyd_window SET expires = {int(time.time())}")
    assert other.clean(PATIENCE) == 1
    assert list(logged.logs.execute("SELECT seconds FROM policyd_window")) == []


def test_a_daemon_announces_a_window_that_becomes_longer(logged: AdministeredLog) -> None:
    """By a reload, or by a query; it is one daemon all the same."""
    store = logged.store(60)
    assert admitted(store, demand()) == [True]
    store.maintain()
    store.need(DAY)
    assert admitted(store, demand()) == [True]
    store.maintain()
    assert [int(seconds) for (seconds,) in logged.logs.execute("SELECT seconds FROM policyd_window")] == [DAY]


def test_a_reset_goes_back_as_far_as_any_daemon_looks(logged: AdministeredLog) -> None:
    """Whatever the configuration of who resets."""
    daemon = logged.store(DAY)
    asked = demand(maximum=1, seconds=DAY)
    assert admitted(daemon, asked) == [True]
    daemon.maintain()
    age(logged, DAY // 2)
    assert logged.administration().reset("user:a", TESTER) == 1
    assert admitted(logged.store(DAY), asked) == [True]


# --- Reset


@pytest.mark.parametrize("key", ["user:a", LONG, *EVIL], ids=lambda key: ascii(key)[:20])
def test_a_reset_frees_at_once_in_every_daemon(database: Administered, key: str) -> None:
    one, two, administration = database.store(), database.store(), database.administration()
    assert admitted(one, demand(key, 5, cost=3), demand(key, 5, cost=2), demand("user:b", 5, cost=5)) == [True] * 3
    assert admitted(two, demand(key, 5), demand("user:b", 5)) == [False, False]
    assert administration.reset(key, TESTER) == 5
    assert admitted(two, demand(key, 5, cost=5), demand("user:b", 5)) == [True, False]
    assert admitted(one, demand(key, 5), demand("user:b", 5)) == [False, False]
    assert administration.reset(key, TESTER) == 5
    assert administration.reset(key, TESTER) == 0
    late = database.store()
    assert usage(late, [key, "user:b"]) == {key: 0, "user:b": 5}


def test_a_mail_on_its_way_gives_nothing_back_that_a_reset_has_given_back(database: Administered) -> None:
    one, administration = database.store(), database.administration()
    assert admitted(one, *(demand(mail="m", part=part) for part in "abcd")) == [True] * 4
    assert administration.reset("user:a", TESTER) == 4
    assert admitted(one, demand(mail="other", part="a", cost=3)) == [True]
    assert admitted(one, demand(mail="m", part="a")) == [True]  # known, whatever it counts now
    before = usage(one, ["user:a"])["user:a"]
    assert admitted(one, demand(mail="m", settles=True, cost=1)) == [True]
    assert usage(one, ["user:a"])["user:a"] >= before


def test_resets_while_daemons_count(database: Administered) -> None:
    """What is taken back, and what is left in the end, is what was admitted; no limit is exceeded in between."""
    administration, enough = database.administration(), threading.Event()
    taken_back = 0

    def count(store: Store) -> int:
        total = 0
        while not enough.is_set():
            total += sum(admitted(store, *[demand("user:a", 7)] * 3))
        return total

    stores = [database.store() for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        totals = [pool.submit(count, store) for store in stores]
        try:
            while taken_back <= 5 * 7:
                just_now = administration.reset("user:a", TESTER)
                assert just_now <= 7
                taken_back += just_now
        finally:
            enough.set()
        total = sum(of_one.result() for of_one in totals)
    assert taken_back + administration.reset("user:a", TESTER) == total
    for store in stores:
        assert usage(store, ["user:a"], most=7) == {"user:a": 0}


# --- Overrides


def test_overrides_are_set_replaced_and_removed(database: Administered, caplog: pytest.LogCaptureFixture) -> None:
    one, two = database.administration(), database.administration()
    block, more = (
        Override("user:a", BLOCK, date_in(), "spam"),
        Override("user:a", (Limit(9, 60), Limit(99, HOUR)), date_in(5)),
    )
    one.set_override(block, TESTER)
    assert two.overrides() == [block]
    two.set_override(more, TESTER)
    odd = [Override(key, (), date_in(), key) for key in (LONG, *EVIL)]
    for override in odd:
        one.set_override(override, TESTER)
    assert one.overrides() == two.overrides() == sorted([more, *odd])
    assert one.remove_override("user:a", TESTER)
    assert not two.remove_override("user:a", TESTER)
    for override in odd:
        assert two.remove_override(override.key, TESTER)
    assert one.overrides() == []
    assert caplog.messages == []


def test_daemons_hear_of_each_change_once(database: Administered) -> None:
    store, administration = database.store(), database.administration()
    store.admit([], (), PATIENCE)
    assert not store.overrides()
    one, two = Override("user:a", BLOCK, date_in()), Override("user:b", BLOCK, date_in())
    longer = one._replace(until=one.until + 1)
    for change, expected in (
        (lambda: administration.set_override(one, TESTER), [one]),
        (lambda: administration.set_override(two, TESTER), [one, two]),
        (lambda: administration.set_override(longer, TESTER), [longer, two]),
        (lambda: administration.remove_override("user:a", TESTER), [two]),
        (lambda: administration.remove_override("user:b", TESTER), []),
    ):
        change()
        assert store.overrides() == expected
        assert store.overrides() is None


def test_overrides_by_many_administrators_at_once(database: Administered) -> None:
    def change(number: int) -> None:
        administration = database.administration()
        for turn in range(5):
            administration.set_override(Override("user:all", BLOCK, date_in(), f"{number}.{turn}"), TESTER)
            administration.set_override(Override(f"user:{number}", BLOCK, date_in()), TESTER)
            assert administration.remove_override(f"user:{number}", TESTER)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(change, number) for number in range(4)]:
            done.result()
    (left,) = database.administration().overrides()
    assert left.note.endswith(".4")


def test_an_override_is_changed_only_as_it_was_seen(database: Administered) -> None:
    """Whoever looks first and then writes does not undo what another one, or a daemon, has set in between."""
    store, administration, other = database.store(), database.administration(), database.administration()
    store.admit([], (), PATIENCE)
    first = Override("user:a", (Limit(9, 60), Limit(99, HOUR)), date_in(), "it's \u00fc\ud800")
    lower, block = first._replace(limits=(Limit(5, 60),)), first._replace(limits=BLOCK, note="stolen")
    assert not administration.replace_override(lower, first, TESTER)  # there is none
    assert not administration.end_override(first, TESTER)
    assert administration.replace_override(first, None, TESTER)
    assert not administration.replace_override(lower, None, TESTER)  # there is one
    assert store.block([block]) == 0
    assert other.overrides() == [first]
    assert other.replace_override(block, first, TESTER)
    assert not administration.replace_override(lower, first, TESTER)
    assert not administration.end_override(first, TESTER)
    assert administration.overrides() == [block]
    assert administration.end_override(block, TESTER, "has a new password")
    assert not administration.end_override(block, TESTER)
    assert other.overrides() == []
    ended = first._replace(until=date_in(-5))
    administration.set_override(ended, TESTER)
    assert administration.replace_override(lower, None, TESTER)
    assert store.block([block]) == 0  # a daemon heeds it as it does any other
    assert other.overrides() == [lower]
    told = [(one.action, one.note) for one in administration.audit()]
    assert told == [
        ("allow", lower.note),
        ("allow", ended.note),
        ("revoke", "has a new password"),
        ("block", "stolen"),
        ("allow", first.note),
    ]


def test_of_many_who_replace_the_same_override_at_once_one_does(database: Administered) -> None:
    start = threading.Barrier(4)

    def change(number: int) -> int:
        administration, done = database.administration(), 0
        for turn in range(4):
            seen = {one.key: one for one in administration.overrides()}.get("user:a")
            start.wait(PATIENCE)
            done += administration.replace_override(
                Override("user:a", (Limit(9, 60),), date_in(), f"{number}.{turn}"), seen, TESTER
            )
            start.wait(PATIENCE)
        return done

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = [one.result() for one in [pool.submit(change, number) for number in range(4)]]
    assert sum(done) == 4
    administration = database.administration()
    assert [one.action for one in administration.audit()] == ["allow"] * 4
    assert administration.audit()[0].note == administration.overrides()[0].note


def test_overrides_outlive_tables_that_are_removed(logged: AdministeredLog) -> None:
    store, administration = logged.store(), logged.administration()
    override = Override("user:a", BLOCK, date_in())
    administration.set_override(override, TESTER)
    assert admitted(store, demand(maximum=3, cost=2)) == [True]
    assert store.overrides() == [override]
    administration.close()
    if isinstance(logged.logs, SqliteLogs):
        logged.logs.remove_table()
    else:
        logged.logs.execute("DROP TABLE policyd_batch", "DROP TABLE policyd_override", "DROP TABLE policyd_hit")
    assert admitted(store, demand(maximum=3), demand(maximum=3)) == [True, False]
    store.overrides()
    assert administration.overrides() == [override]


def test_an_override_that_has_ended_is_none(database: Administered) -> None:
    administration = database.administration()
    administration.set_override(Override("user:a", BLOCK, date_in(-1)), TESTER)
    assert administration.overrides() == []
    assert not administration.remove_override("user:a", TESTER)


def test_too_many_overrides_are_refused(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    for tables in (log_tables, redis_tables):
        monkeypatch.setattr(tables, "MOST_OVERRIDES", 3)
    administration = database.administration()
    for number in range(3):
        administration.set_override(Override(f"user:{number}", BLOCK, date_in()), TESTER)
    administration.set_override(Override("user:2", (), date_in()), TESTER)
    with pytest.raises(StoreFull, match="3 overrides"):
        administration.set_override(Override("user:3", BLOCK, date_in()), TESTER)
    assert len(administration.overrides()) == 3


def blocking(key: str, until: int, note: str = "rule person: 5/1h exceeded") -> Override:
    return Override(key, BLOCK, until, note)


def test_daemons_block_where_no_override_is_in_force(database: Administered) -> None:
    """An administrator has decided; and of two daemons the first has."""
    one, two, administration = database.store(), database.store(), database.administration()
    for store in (one, two):
        store.admit([], (), PATIENCE)
        store.overrides()
    until = date_in()
    allowed = Override("user:a", (), until, "mailing")
    by_hand = Override("user:b", BLOCK, until - 1800, "by hand")
    administration.set_override(allowed, TESTER)
    administration.set_override(by_hand, TESTER)
    odd = [blocking(f"person|user:{key}", until) for key in (LONG, *EVIL)]
    first, last = blocking("user:c", until), blocking("user:d", until)
    assert one.block([blocking("user:a", until), blocking("user:b", until), first, *odd]) == 0
    assert two.block([blocking("user:c", until + 60, "later"), last]) == 0
    expected = sorted([allowed, by_hand, first, last, *odd])
    assert administration.overrides() == one.overrides() == two.overrides() == expected
    assert one.block([first]) == 0
    assert one.overrides() is None  # nothing was written


def test_a_block_takes_the_place_of_what_has_ended(database: Administered) -> None:
    store, administration = database.store(), database.administration()
    store.admit([], (), PATIENCE)
    ended, until = date_in(-5), date_in()
    administration.set_override(Override("user:a", (), ended, "ended"), TESTER)
    block = blocking("user:a", until)
    assert store.block([block, blocking("user:b", ended)]) == 0
    assert administration.overrides() == [block]
    assert administration.remove_override("user:a", TESTER)
    assert store.overrides() == []
    assert store.block([block]) == 0
    assert store.overrides() == [block]


def test_an_administrator_is_first_whoever_comes_first(database: Administered) -> None:
    """Daemons that block, while somebody allows."""
    stores = [database.store() for _ in range(3)]
    for store in stores:
        store.admit([], (), PATIENCE)
    names, until = [f"user:{number}" for number in range(20)], date_in()

    def block(store: Store) -> int:
        return sum(store.block([blocking(name, until)]) for name in names)

    administration = database.administration()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        left_out = [pool.submit(block, store) for store in stores]
        for name in names:
            administration.set_override(Override(name, (), until, "allowed"), TESTER)
        assert [one.result() for one in left_out] == [0, 0, 0]
    assert [override.note for override in administration.overrides()] == ["allowed"] * len(names)


def test_daemons_leave_room_for_administrators(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    for tables in (log_tables, redis_tables):
        monkeypatch.setattr(tables, "MOST_BLOCKS", 150)
    store, administration = database.store(), database.administration()
    store.admit([], (), PATIENCE)
    until = date_in()
    administration.set_override(Override("user:000", (), until), TESTER)
    assert store.block([blocking(f"user:{number:03}", until) for number in range(160)]) == 10
    assert len(administration.overrides()) == 150
    assert store.block([blocking("user:a", until), blocking("user:000", until)]) == 1
    administration.set_override(Override("user:b", BLOCK, until), TESTER)
    assert len(administration.overrides()) == 151


def test_nobody_is_blocked_by_a_store_without_its_database(database: Administered) -> None:
    """It says so, and does it once the database is there."""
    store, administration = database.store(), database.administration()
    block = blocking("user:a", date_in())
    for is_there_no_more in (False, True):
        if is_there_no_more:
            database.break_connections()
        with contextlib.suppress(StoreUnavailable):
            store.block([block])
        store.admit([], (), PATIENCE)
    administration.remove_override("user:a", TESTER)
    assert store.block([block]) == 0
    assert administration.overrides() == [block]


# --- Hits


def test_hits_are_added_up_and_forgotten_as_reported(database: Administered) -> None:
    administration, now = database.administration(), date_in(0)
    add_hits(database, [Hits("user:a", 60, 2, now), Hits("user:a", HOUR, 1, now), Hits("user:b", 60, 9, now)])
    add_hits(database, [Hits("user:a", 60, 3, now - 5), *(Hits(key, 60, 1, now) for key in EVIL)])
    hits = administration.hits()
    assert hits[:2] == [Hits("user:b", 60, 9, now), Hits("user:a", 60, 5, now)]
    assert set(hits[2:]) == {Hits("user:a", HOUR, 1, now), *(Hits(key, 60, 1, now) for key in EVIL)}
    assert len(hits) == 3 + len(EVIL)
    add_hits(database, [Hits("user:a", 60, 1, now + 1)])
    administration.forget_hits(hits)
    assert administration.hits() == [Hits("user:a", 60, 1, now + 1)]
    administration.forget_hits([])
    assert len(administration.hits()) == 1


def test_hits_by_many_daemons_at_once(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is counted once, and forgotten once, whoever writes meanwhile."""
    monkeypatch.setattr(log_store, "MAINTENANCE_PATIENCE", PATIENCE)  # the others need the disk, which may be slow
    administration = database.administration()
    stores = [database.store() for _ in range(3)]
    for store in stores:
        store.admit([], (), PATIENCE)

    def write(store: Store) -> None:
        for turn in range(20):
            store.add_hits([Hits(f"user:{number}", 60, 1, turn) for number in random.sample(range(10), 10)])

    forgotten: Counter[str] = Counter()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, store) for store in stores]
        while not all(one.done() for one in writing):
            hits = administration.hits()
            administration.forget_hits(hits)
            forgotten.update({hit.key: hit.hits for hit in hits})
        for one in writing:
            one.result()
    forgotten.update({hit.key: hit.hits for hit in administration.hits()})
    assert forgotten == {f"user:{number}": 60 for number in range(10)}


def test_many_hits_at_once(database: Administered) -> None:
    hits = [Hits(f"user:{number:05}", 60, 1, 1) for number in range(1_001)]
    add_hits(database, hits)
    assert database.administration().hits() == hits


def test_hits_of_1_2_0_count_until_they_are_reported(logged: AdministeredLog) -> None:
    database = logged
    database.store().admit([], (), PATIENCE)
    grant = database.logs.config["user"] if isinstance(database.logs, PostgresqlLogs) else ""
    database.logs.execute(
        "CREATE TABLE limit_report (id varchar(40) NOT NULL, delta int NOT NULL, hit int NOT NULL)",
        "INSERT INTO limit_report VALUES ('joe', 60, 7), ('joe', 60, 1), ('it''s', 60, 2)",
        *([f"ALTER TABLE limit_report OWNER TO {grant}"] if grant else []),
    )
    administration = database.administration()
    add_hits(database, [Hits("user:joe", 60, 4, 99)])
    hits = administration.hits()
    assert hits == [Hits("user:joe", 60, 12, 99), Hits("user:it's", 60, 2, 0)]
    add_hits(database, [Hits("user:joe", 60, 1, 100)])
    administration.forget_hits(hits)
    assert administration.hits() == [Hits("user:joe", 60, 1, 100)]
    assert database.logs.execute("SELECT count(*) FROM limit_report")[0][0] == 0


# --- Faults


def test_a_connection_that_is_lost_is_replaced(database: Administered) -> None:
    administration = database.administration()
    override = Override("user:a", BLOCK, date_in())
    administration.set_override(override, TESTER)
    database.break_connections()
    assert administration.overrides() == [override]
    database.break_connections()
    assert administration.hits() == []


# --- Different values


def test_values_are_seen_and_taken_back(database: Administered) -> None:
    """In every daemon, also in those that have counted nothing of them themselves."""
    store, other, administration = database.store(), database.store(), database.administration()
    long = f"outside/distinct-recipient|user:{'x' * 310}"
    asked = [*map(seen, "abca"), seen("a", key=long), demand(cost=2)]
    assert admitted(store, *asked) == [True] * 6
    assert admitted(other, seen("d")) == [False]
    everything = counted(administration.entries(None, 0))
    assert (everything.pop(PLACES), everything.pop("user:a"), sorted(everything.values())) == (3, 2, [1])
    assert {is_distinct(name) for name in everything} == {True}  # by whatever name
    found = list(administration.entries([PLACES], 0))
    assert sorted(entry.part for entry in found) == sorted(map(digest, "abc"))
    assert {(entry.counter, entry.mail) for entry in found} == {(PLACES, "")}
    assert list(administration.entries([PLACES], date_in(60))) == []
    assert administration.reset(PLACES, TESTER) == 3
    assert administration.reset(PLACES, TESTER) == 0
    assert administration.reset(long, TESTER) == 1
    assert counted(administration.entries([PLACES, long], 0)) == {}
    for one in (store, other, database.store()):
        assert values_in(one, PLACES, long) == [0, 0]
    assert admitted(other, seen("d")) == [True]
    assert values_in(store) == [1]
    assert usage(store, ["user:a"]) == {"user:a": 2}


def test_following_shows_values_that_come_again(database: Administered) -> None:
    store = database.store()
    pages = database.administration().follow(0)
    assert list(next(pages)) == []
    ledger = Ledger(100)
    assert admitted(store, *map(seen, "aba")) == [True] * 3
    deadline = time.monotonic() + PATIENCE
    while len(ledger.values) < 2 and time.monotonic() < deadline:
        for entry in next(pages):
            ledger.apply(entry)
    assert sorted(value for *_, value in ledger.values.all()) == sorted(map(digest, "ab"))


def test_redis_is_looked_at_in_slices_once_all_was_read(
    tmp_path: pathlib.Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows a million counters has something else to do before all have been looked at again."""
    monkeypatch.setattr(of_redis, "COUNTERS_PER_PAGE", 2)
    monkeypatch.setattr(of_redis, "SLICE_SECONDS", 0.0)
    database = AdministeredRedis(RedisDatabase(tmp_path, redis_url))
    try:
        store, administration = database.store(), database.administration()
        keys = [f"user:u{number}" for number in range(40)]
        assert all(admitted(store, *(demand(key=key) for key in keys)))
        pages = administration.follow(0)
        ledger = Ledger(100)
        while len(list(ledger.counters())) < len(keys):
            for entry in next(pages):
                ledger.apply(entry)
        assert sorted(ledger.counters()) == sorted(keys)
        assert all(admitted(store, *(demand(key=key, cost=2) for key in keys)))
        pauses, deadline = 0, time.monotonic() + PATIENCE
        while sum(ledger.usage(key, (Limit(99, HOUR),))[0] for key in keys) < 3 * len(keys):
            assert time.monotonic() < deadline
            page = next(pages)
            pauses += not page
            for entry in page:
                ledger.apply(entry)
        assert pauses > 2
    finally:
        database.close()
