"""What one database holds, brought into another one: see :mod:`policyd_rate_limit.storage.copying`."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from policyd_rate_limit.domain.counting import digest
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.windows import Windows
from policyd_rate_limit.errors import StoreUnavailable, SystemRefusal
from policyd_rate_limit.storage import copying
from policyd_rate_limit.storage.administration import Administration, Hits, HourOfHits, Override
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.copying import Copied, Sums, changes, without_debts
from policyd_rate_limit.storage.log import copying as log_copying
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis import copying as redis_copying
from storage.administered import Administered, AdministeredLog, AdministeredRedis
from storage.hit_rows import THIS_HOUR, row
from storage.logs import Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_database import RedisDatabase
from storage.stores import HOUR, PATIENCE, PLACES, admitted, date_in, demand, seen, usage, values_in
from support.actors import TESTER

LOGS: dict[str, type[Logs]] = {"sqlite": SqliteLogs, "postgresql": PostgresqlLogs, "mariadb": MariadbLogs}
KINDS = ("sqlite", "postgresql", "mariadb", "redis")
EVIL = ("user:" + "x" * 290, "user:\U0001f4a9\u00e9\u0000", "user:\ud800", "user:'\"\\%s%%;--\n", "user:${}:1")
BLOCK = (Limit(0, 1),)
TWO = (Limit(2, 60), Limit(9, HOUR))


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[Administered, Administered]]:
    """Two empty databases, of the kinds that the test names."""
    with contextlib.ExitStack() as opened:
        made: list[Administered] = []
        for name, kind in zip(("old", "new"), request.param, strict=True):
            home = tmp_path / name
            home.mkdir()
            if kind == "redis":
                made.append(AdministeredRedis(RedisDatabase(home, request.getfixturevalue("redis_url"))))
            else:
                made.append(AdministeredLog(LOGS[kind](home)))
            opened.callback(made[-1].close)
        yield made[0], made[1]


every_pair = pytest.mark.parametrize(
    "databases",
    [pytest.param(pair, id="-to-".join(pair)) for pair in itertools.product(KINDS, KINDS)],
    indirect=True,
)
# One of each way in which counts are brought.
each_way = pytest.mark.parametrize(
    "databases",
    [
        pytest.param(pair, id="-to-".join(pair))
        for pair in (
            ("sqlite", "postgresql"),
            ("postgresql", "mariadb"),
            ("redis", "sqlite"),
            ("mariadb", "redis"),
            ("redis", "redis"),
        )
    ],
    indirect=True,
)


def copy(old: Administered, new: Administered) -> Copied:
    source, target = old.administration(), new.administration()
    return copying.copy(source, target, (old.copier(source), new.copier(target)), TESTER)


def seconds(database: Administered) -> dict[tuple[str, int], int]:
    """How much lies in each second of each counter."""
    found: Counter[tuple[str, int]] = Counter()
    for entry in database.administration().entries(None, 0):
        found[entry.counter, entry.date] += entry.amount
    return {place: amount for place, amount in found.items() if amount}


# --- Counts


@every_pair
def test_counts_once_however_often(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    before, after = old.store(), new.store()
    assert admitted(before, demand(cost=3), demand("user:b", cost=2), *map(demand, EVIL)) == [True] * (2 + len(EVIL))
    admitted(before, demand("user:m", mail="m", part="a"), demand("user:m", mail="m", part="b"))
    admitted(before, demand("user:r", cost=7))
    assert old.administration().reset("user:r", TESTER) == 7
    assert admitted(after, demand("user:b", cost=1)) == [True]

    expected = {"user:a": 3, "user:b": 3, "user:m": 2, "user:r": 0, **dict.fromkeys(EVIL, 1)}
    assert copy(old, new).counts > 0
    for store in (after, new.store()):  # one that has been there, and one that comes
        assert usage(store, expected) == expected
    assert copy(old, new).counts == 0

    # Between the copy and the end of the old daemons: more, a mail that turns out cheaper, a reset.
    admitted(before, demand(cost=2), demand("user:c", cost=4), demand("user:m", mail="m", settles=True, cost=1))
    assert old.administration().reset(EVIL[0], TESTER) == 1
    admitted(after, demand("user:c", cost=1), demand(cost=1))
    expected |= {"user:a": 6, "user:c": 5, "user:m": 1, EVIL[0]: 0}
    assert copy(old, new).counts > 0
    for store in (after, new.store()):
        assert usage(store, expected) == expected
    assert copy(old, new).counts == 0
    assert usage(new.store(), expected) == expected
    assert usage(old.store(), ["user:a", "user:b", "user:c"]) == {"user:a": 5, "user:b": 2, "user:c": 4}


@each_way
def test_each_count_in_its_second(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    now = date_in(0)
    past = [Entry(f"user:{number % 3}", 1 + number, now - 7 * number, "", "") for number in range(40, -1, -1)]
    old.store().admit([], [pack(1, number, entry.date, [entry]) for number, entry in enumerate(past, 1)], PATIENCE)
    expected = seconds(old)
    assert expected == {(entry.counter, entry.date): entry.amount for entry in past}
    copy(old, new)
    copy(old, new)
    assert seconds(new) == expected


@every_pair
def test_there_and_back(databases: tuple[Administered, Administered]) -> None:
    """Whoever goes back brings along what was admitted meanwhile, and nothing that came from there."""
    old, new = databases
    admitted(old.store(), demand(cost=3))
    copy(old, new)
    admitted(new.store(), demand(cost=2), demand("user:b", cost=1))
    copy(new, old)
    assert usage(old.store(), ["user:a", "user:b"]) == {"user:a": 5, "user:b": 1}
    copy(old, new)
    copy(new, old)
    for database in databases:
        assert usage(database.store(), ["user:a", "user:b"]) == {"user:a": 5, "user:b": 1}


@each_way
def test_beside_daemons_that_count(databases: tuple[Administered, Administered]) -> None:
    """Both are in use; in the end, once the old one is not any more, every count is there once."""
    old, new = databases
    given: list[Counter[str]] = [Counter(), Counter()]

    def count(store: Store, total: Counter[str], most: int) -> None:
        for number in range(most):
            key = f"user:{number % 5}"
            total[key] += sum(admitted(store, demand(key, 10_000)))

    threads = [
        threading.Thread(target=count, args=(database.store(), total, 60))
        for database, total in zip(databases, given, strict=True)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        copy(old, new)
    for thread in threads:
        thread.join()
    copy(old, new)
    expected = given[0] + given[1]
    assert sum(expected.values()) == 120
    found: Counter[str] = Counter()
    for (key, _), amount in seconds(new).items():
        found[key] += amount
    assert found == expected
    assert usage(new.store(), expected) == expected
    assert copy(old, new).counts == 0


@each_way
def test_a_copy_that_is_cut_short_goes_on_where_it_was(
    databases: tuple[Administered, Administered], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = databases
    store = old.store()
    for number in range(9):
        admitted(store, *(demand(f"user:{number}-{other}", cost=2) for other in range(3)))
    monkeypatch.setattr(log_copying, "RECORDS_PER_STEP", 2)
    monkeypatch.setattr(log_copying, "ENTRIES_PER_STEP", 4)
    monkeypatch.setattr(log_copying, "COUNTERS_PER_PAGE", 5)
    monkeypatch.setattr(redis_copying, "SCRIPTS_PER_EXCHANGE", 2)

    def cut(administration: Administration) -> None:
        """Its connection breaks with the third step from now on."""
        if isinstance(administration, LogAdministration):
            log = administration.open()
            left = iter(range(2))

            def commit(real: object = log.commit) -> None:
                assert callable(real)
                real()
                if next(left, None) is None:
                    raise StoreUnavailable("gone, after it was done")

            monkeypatch.setattr(log, "commit", commit)
        else:
            exchanges = iter(range(4))
            run = administration.run  # type: ignore[attr-defined]

            def exchange(commands: Sequence[object]) -> float:
                took = float(run(commands))
                if next(exchanges, None) is None:
                    raise StoreUnavailable("gone, after it was done")
                return took

            monkeypatch.setattr(administration, "run", exchange)

    def dying(administration: Administration) -> copying.Copier:
        """Whose connection breaks while counts are brought."""
        copier = new.copier(administration)
        begin = copier.begin

        def cut_and_begin(source: int, takes: Callable[[str], bool]) -> None:
            cut(administration)
            begin(source, takes)

        monkeypatch.setattr(copier, "begin", cut_and_begin)
        return copier

    source, target = old.administration(), new.administration()
    with pytest.raises(StoreUnavailable):
        copying.copy(source, target, (old.copier(source), dying(target)), TESTER)
    some = len(seconds(new))
    assert 0 < some < 27
    again = copy(old, new)
    assert seconds(new) == seconds(old)
    assert again.counts < 27
    assert copy(old, new).counts == 0


@pytest.mark.parametrize("databases", [("postgresql", "redis"), ("redis", "sqlite")], indirect=True)
def test_more_than_memory_holds_goes_in_parts(
    databases: tuple[Administered, Administered], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = databases
    admitted(old.store(), *(demand(f"user:{number}") for number in range(30)))
    copy(old, new)
    monkeypatch.setattr(copying, "SECONDS_AT_ONCE", 7)
    admitted(old.store(), *(demand(f"user:{number}") for number in range(20, 40)))
    copy(old, new)
    assert seconds(new) == seconds(old)
    assert copy(old, new).counts == 0


@each_way
def test_an_old_database_that_is_emptied_takes_nothing_back(databases: tuple[Administered, Administered]) -> None:
    """Whoever copies once more, out of habit, from what was thrown away has not opened the gate."""
    old, new = databases
    store = old.store()
    admitted(store, demand(cost=5))
    old.administration().set_override(Override("user:b", BLOCK, date_in()), TESTER)
    copy(old, new)
    store.close()
    if isinstance(old, AdministeredLog):
        old.logs.execute("DELETE FROM policyd_batch")
        old.logs.execute("DELETE FROM policyd_override")
        old.logs.execute("DELETE FROM policyd_hit")
    else:
        assert isinstance(old, AdministeredRedis)
        with contextlib.closing(Redis.from_url(old.database.config["url"])) as client:
            client.delete(*client.scan_iter(f"{old.database.user}:*"))
    admitted(old.store(), demand(cost=1))
    copy(old, new)
    assert usage(new.store(), ["user:a"])["user:a"] >= 6
    assert [override.key for override in new.administration().overrides()] == ["user:b"]


@pytest.mark.parametrize("databases", [("redis", "sqlite"), ("redis", "redis")], indirect=True)
def test_names_that_redis_does_not_keep(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    long = "user:" + "x" * 310
    admitted(old.store(), demand(long, cost=2), demand(cost=1))
    copied = copy(old, new)
    keeps = isinstance(new, AdministeredRedis)  # which finds it by its digest as well
    assert copied.skipped == (0 if keeps else 1)
    assert usage(new.store(), [long, "user:a"]) == {long: 2 if keeps else 0, "user:a": 1}


@pytest.mark.parametrize("databases", [("redis", "redis")], indirect=True)
@pytest.mark.parametrize("broken", [0, 1])
def test_a_key_of_another_type_holds_up_no_other(databases: tuple[Administered, Administered], broken: int) -> None:
    old, new = databases
    admitted(old.store(), demand(cost=2), demand("user:b", cost=3))
    spoilt = databases[broken]
    assert isinstance(spoilt, AdministeredRedis)
    with contextlib.closing(Redis.from_url(spoilt.database.config["url"])) as client:
        key = spoilt.database.user + ":c:{6:user:a}"
        client.delete(key)
        client.set(key, "something else")
    copied = copy(old, new)
    assert copied.refused == 1
    assert usage(new.store(), ["user:b"]) == {"user:b": 3}


@pytest.mark.parametrize("databases", [("sqlite", "sqlite")], indirect=True)
def test_a_record_that_cannot_be_understood_is_left_out(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    assert isinstance(old, AdministeredLog)
    store = old.store()
    admitted(store, demand(cost=2))
    old.logs.execute("UPDATE policyd_batch SET entries = '[[1]]'")
    admitted(store, demand("user:b", cost=3))
    copied = copy(old, new)
    assert (copied.refused, copied.counts) == (1, 1)
    assert usage(new.store(), ["user:b"]) == {"user:b": 3}


# --- Overrides and hits


@each_way
def test_overrides_once(databases: tuple[Administered, Administered]) -> None:
    one, two = (database.administration() for database in databases)
    block, allow, long = (
        Override("user:a", BLOCK, date_in()),
        Override("user:b", TWO, date_in(60), "é\n"),
        Override(EVIL[2], (), date_in(90)),
    )
    for override in (block, allow, long):
        one.set_override(override, TESTER)
    own = Override("user:o", TWO, date_in(70))
    two.set_override(own, TESTER)
    assert copy(*databases).overrides == 3
    assert two.overrides() == sorted([block, allow, long, own])
    # Since then the administrator has ended one in the new database, changed another, and one in the old one.
    two.remove_override("user:b", TESTER)
    changed = Override("user:a", TWO, date_in(80))
    two.set_override(changed, TESTER)
    longer = long._replace(until=date_in(99))
    one.set_override(longer, TESTER)
    copied = copy(*databases)
    assert (copied.overrides, copied.kept) == (1, [])
    assert two.overrides() == sorted([changed, longer, own])
    one.set_override(block._replace(until=date_in(500)), TESTER)
    assert copy(*databases).kept == ["user:a"]
    one.remove_override(EVIL[2], TESTER)
    assert copy(*databases).revoked == 1
    assert two.overrides() == sorted([changed, own])
    assert copy(*databases).overrides == 0


@each_way
def test_hits_once(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    one, two = old.administration(), new.administration()
    now = date_in(0)
    hits = [Hits("user:a", 60, 5, now), Hits("user:a", HOUR, 1, now), Hits(EVIL[1], 60, 2, now - 9)]
    one.add_hits(hits)
    assert copy(old, new).hits == 8
    assert sorted(two.hits()) == sorted(hits)
    assert copy(old, new).hits == 0
    one.add_hits([Hits("user:a", 60, 2, now + 1)])
    two.add_hits([Hits("user:a", 60, 1, now)])
    assert copy(old, new).hits == 2
    assert Hits("user:a", 60, 8, now + 1) in two.hits()
    # The old database has its hits reported; what comes then is new.
    one.forget_hits(one.hits())
    assert copy(old, new).hits == 0
    one.add_hits([Hits("user:a", 60, 3, now + 2)])
    assert copy(old, new).hits == 3
    assert copy(old, new).hits == 0
    assert {(hit.key, hit.seconds): hit.hits for hit in two.hits()} == {
        ("user:a", 60): 11, ("user:a", HOUR): 1, (EVIL[1], 60): 2
    }  # fmt: skip
    two.forget_hits(two.hits())
    assert two.hits() == []
    assert copy(old, new).hits == 0


# --- Hit history and audit trail


def past(database: Administered) -> list[tuple[str, int]]:
    return sorted((one.key, one.hits) for one in database.administration().hit_history(0))


def told(database: Administered) -> list[tuple[str, str]]:
    return [(one.action, one.subject) for one in database.administration().audit()]


@each_way
def test_both_trails_once(databases: tuple[Administered, Administered]) -> None:
    """Also where the new one goes on, and is then brought back."""
    old, new = databases
    one, two = old.store(), new.store()
    for store in (one, two):
        store.admit([], (), PATIENCE)
    one.add_history([row("user:a", 3), row("user:b", hour=THIS_HOUR - HOUR), row(EVIL[1])])
    two.add_history([row("user:a", 4)])
    old.administration().note(TESTER, "web-user", "carol")
    old.administration().note(TESTER, "web-user", EVIL[2])
    copied = copy(old, new)
    assert (copied.history, copied.audit) == (5, 2)
    assert past(new) == sorted([("user:a", 7), ("user:b", 1), (EVIL[1], 1)])
    assert told(new) == [("copy-to", "from another database"), ("web-user", EVIL[2]), ("web-user", "carol")]
    assert "history 5" in new.administration().audit(most=1)[0].detail
    copied = copy(old, new)
    assert (copied.history, copied.audit) == (0, 0)
    one.add_history([row("user:a", 2, at=50)])
    two.add_history([row("user:a", 1)])
    old.administration().note(TESTER, "web-user", "dave")
    copied = copy(old, new)
    assert (copied.history, copied.audit) == (2, 1)
    [latest] = database_rows(new, "user:a")
    assert (latest.hits, latest.last) == (10, THIS_HOUR + 50)
    # Back again: what came from there is known there.
    copied = copy(new, old)
    assert copied.history == 5
    assert [what for what in told(old) if what[0] != "copy-to"] == [
        ("web-user", name) for name in ("dave", EVIL[2], "carol")
    ]
    assert past(old) == past(new)
    copied = copy(old, new)
    assert copied.history == 0


def database_rows(database: Administered, key: str) -> list[HourOfHits]:
    return list(database.administration().hit_history(0, keys=[key]))


# --- What is refused


@pytest.mark.parametrize("databases", [("sqlite", "sqlite"), ("redis", "redis")], indirect=True)
def test_a_database_is_not_copied_to_itself(databases: tuple[Administered, Administered]) -> None:
    old, _ = databases
    admitted(old.store(), demand(cost=3))
    with pytest.raises(SystemRefusal, match="the same database"):
        copy(old, old)
    assert usage(old.store(), ["user:a"]) == {"user:a": 3}


@pytest.mark.parametrize("databases", [("sqlite", "sqlite")], indirect=True)
@pytest.mark.parametrize("ahead", [-6, 6])
def test_clocks_that_differ_are_refused(
    databases: tuple[Administered, Administered], ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (database.administration() for database in databases)
    copiers = databases[0].copier(one), databases[1].copier(two)
    monkeypatch.setattr(two, "now", lambda: one.now() + ahead)
    with pytest.raises(
        SystemRefusal, match="clock of the new database is [67] s " + ("ahead of" if ahead > 0 else "behind")
    ):
        copying.copy(one, two, copiers, TESTER)


# --- Sums


def test_what_is_to_be_changed() -> None:
    found = Sums("user:a", {10: 3, 12: 0, 13: 5}, whole_since=10, reset=4)
    assert changes(found, {}) == [("user:a", 10, 0, 3), ("user:a", 13, 0, 5)]
    assert changes(found, {10: 3, 12: 2, 13: 6}) == [("user:a", 12, 2, 0), ("user:a", 13, 6, 5)]
    # Of 11 it is known that nothing is left, of 9 to 5 nothing, of 4 that it was taken back.
    assert changes(found, {4: 1, 5: 1, 9: 1, 10: 3, 11: 1, 13: 5}) == [("user:a", 4, 1, 0), ("user:a", 11, 1, 0)]


@st.composite
def counted_and_given_back(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Dates and amounts; what is given back of a second was counted in it or before."""
    log: list[tuple[int, int]] = []
    for date, amount in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(-5, 5)), max_size=12)):
        windows = windows_of(log)
        there = sum(held for _, when, held in windows.charges() if when <= date)
        log.append((date, max(amount, -there)))
    return log


def windows_of(log: list[tuple[int, int]]) -> Windows:
    windows = Windows()
    windows.advance(9)
    for date, amount in log:
        if amount > 0:
            windows.add("a", date, amount)
        else:
            windows.give_back("a", date, -amount)
    return windows


@given(counted_and_given_back())
@example([(4, 1), (5, 2), (5, -3)])
@example([(3, 1), (4, 1), (5, -2)])
def test_debts_are_paid_by_older_seconds(log: list[tuple[int, int]]) -> None:
    amounts: Counter[int] = Counter()
    for date, amount in log:
        amounts[date] += amount
    found = without_debts(amounts)
    assert all(amount >= 0 for amount in found.values())
    assert sum(found.values()) == sum(amount for *_, amount in windows_of(log).charges())
    if all(amount >= 0 for amount in amounts.values()):
        assert found == amounts


# --- Different values


@every_pair
def test_values_once_however_often(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    before, after = old.store(), new.store()
    other = "outside/distinct-recipient|user:b"
    assert admitted(before, *map(seen, "aab"), seen("x", key=other), demand(cost=3)) == [True] * 5
    assert admitted(after, *map(seen, "bc")) == [True] * 2
    assert copy(old, new).counts > 0
    for store in (after, new.store()):  # one that has been there, and one that comes
        assert values_in(store, PLACES, other) == [3, 1]
        assert usage(store, ["user:a"]) == {"user:a": 3}
        assert admitted(store, seen("d")) == [False]
    assert copy(old, new).counts == 0
    # Between the copy and the end of the old daemons: more, and a reset.
    admitted(before, seen("y", key=other))
    assert old.administration().reset(PLACES, TESTER) == 2
    copy(old, new)
    for number, store in enumerate((after, new.store())):
        left, of_other = values_in(store, PLACES, other)
        assert left <= 2 + number  # as with all counts, what came here before the reset may have gone with it
        assert of_other == 2
        assert admitted(store, seen("d")) == [True]
        assert values_in(old.store(), PLACES, other) == [0, 2]
    # What was taken back in the new one is not brought anew.
    assert new.administration().reset(other, TESTER) == 2
    copy(old, new)
    assert values_in(new.store(), other) == [0]


@every_pair
def test_values_there_and_back(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    admitted(old.store(), *map(seen, "ab"))
    copy(old, new)
    admitted(new.store(), *map(seen, "bc"))
    copy(new, old)
    copy(old, new)
    for database in databases:
        assert values_in(database.store()) == [3]
        assert sorted({entry.part for entry in database.administration().entries([PLACES], 0)}) == sorted(
            map(digest, "abc")
        )


@each_way
def test_each_value_in_its_second(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    now = date_in(0)
    past = [Entry(PLACES, 1, now - 7 * number, "", f"v{number % 9}") for number in range(40, -1, -1)]
    old.store().admit([], [pack(1, number, entry.date, [entry]) for number, entry in enumerate(past, 1)], PATIENCE)
    newest = {entry.part: entry.date for entry in past}
    for _ in range(2):
        copy(old, new)
        found: dict[str, int] = {}
        for entry in new.administration().entries([PLACES], 0):
            found[entry.part] = max(entry.date, found.get(entry.part, 0))
        assert found == newest


@pytest.mark.parametrize("databases", [("redis", "redis"), ("redis", "sqlite")], indirect=True)
def test_values_of_another_type_hold_up_no_other(databases: tuple[Administered, Administered]) -> None:
    old, new = databases
    other = "outside/distinct-recipient|user:b"
    admitted(old.store(), seen("a"), seen("b", key=other))
    assert isinstance(old, AdministeredRedis)
    with contextlib.closing(Redis.from_url(old.database.config["url"])) as client:
        key = f"{old.database.user}:v:{{{len(PLACES)}:{PLACES}}}"
        assert client.delete(key) == 1
        client.set(key, "something else")
    assert copy(old, new).refused == 1
    assert values_in(new.store(), PLACES, other) == [0, 1]
