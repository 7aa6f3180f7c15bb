"""The hit history of every store: what ran into limits, by hour, of all daemons."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.administration import HISTORY_DAYS, HOUR, HitDetails, HourOfHits
from policyd_rate_limit.storage.contract import Store
from policyd_rate_limit.storage.hit_history import is_of_others, place_of
from policyd_rate_limit.storage.log import hit_history as of_log
from policyd_rate_limit.storage.redis import hit_history as of_redis
from storage.administered import Administered, AdministeredLog, AdministeredRedis
from storage.hit_rows import LIMIT, THIS_HOUR, details, row
from storage.logs import Logs, MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_database import RedisDatabase
from storage.stores import PATIENCE, in_memory

LOGS: dict[str, type[Logs]] = {"sqlite": SqliteLogs, "postgresql": PostgresqlLogs, "mariadb": MariadbLogs}
EVIL = ("user:\U0001f4a9\u00e9\u0000", "user:\ud800", "user:'\"\\%s%%;--\n", "user:${}:1", "r/distinct-x|user:a:b|c")


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


def daemon(database: Administered) -> Store:
    """A store that has reached its database."""
    store = database.store()
    store.admit([], (), PATIENCE)
    return store


def history(database: Administered, since: int = 0) -> list[HourOfHits]:
    return list(database.administration().hit_history(since))


def test_hits_of_one_hour_are_one_row_and_the_last_tells_whose_it_was(database: Administered) -> None:
    one, two = daemon(database), daemon(database)
    assert history(database) == []
    one.add_history([row(at=20, hits=2), row("user:b")])
    two.add_history([row(at=10, hits=3)])
    two.add_history([row(at=30), row(hour=THIS_HOUR - HOUR, at=7), row(kind="would-refuse")])
    assert sorted(history(database)) == sorted(
        [
            row(hour=THIS_HOUR - HOUR, at=7),
            HourOfHits(THIS_HOUR, "user:a", LIMIT, "refused", 6, THIS_HOUR + 10, THIS_HOUR + 30, details("1E")),
            row(kind="would-refuse"),
            row("user:b"),
        ]
    )
    asked = database.administration()
    assert next(found.hour for found in asked.hit_history(0)) == THIS_HOUR - HOUR
    assert {found.key for found in asked.hit_history(THIS_HOUR, keys=["user:b", "user:c"])} == {"user:b"}
    assert [found.kind for found in asked.hit_history(THIS_HOUR + 99, kinds=["would-refuse"])] == ["would-refuse"]
    assert list(asked.hit_history(THIS_HOUR + HOUR)) == list(asked.hit_history(0, keys=())) == []
    assert [found.hits for found in asked.find_queue_id("1E")] == [6]
    assert list(asked.find_queue_id("1e")) == []


def test_limits_and_names_are_told_apart_whatever_they_are(database: Administered) -> None:
    rows = [row(key) for key in EVIL]
    rows += [row()._replace(limit=Limit(maximum, seconds)) for maximum, seconds in ((0, 1), (50, 0), (10, 3600))]
    rows.append(row("user:z")._replace(details=HitDetails("\ud800", "", "\udcff'\\", "\u0000", "x" * 320)))
    daemon(database).add_history(rows)
    assert sorted(history(database)) == sorted(rows)
    assert [found.key for found in database.administration().find_queue_id("\ud800")] == ["user:z"]


def test_daemons_that_write_at_the_same_time_lose_nothing(database: Administered) -> None:
    def write(number: int) -> None:
        store = daemon(database)
        for turn in range(8):
            store.add_history([row(at=turn, hits=2), row(f"user:{turn % 3}", at=number), row(f"user:own{number}")])

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    found = {one.key: one.hits for one in history(database)}
    assert found == {"user:a": 48, "user:0": 9, "user:1": 9, "user:2": 6, **{f"user:own{n}": 8 for n in range(3)}}


def test_for_whom_there_is_no_room_is_added_up_by_rule(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_log, "HISTORY_ROWS_PER_HOUR", 3)
    monkeypatch.setattr(of_redis, "HISTORY_ROWS_PER_HOUR", 3)
    store, other = daemon(database), daemon(database)
    store.add_history([row("user:0"), row("user:1"), row("r|user:2", at=9)])
    other.add_history(
        [row("user:1"), row("user:3", 2, at=7), row("r|user:4"), row("user:5", 3), row("user:6", kind="x")]
    )
    other.add_history([row("user:0"), row("user:7", at=11), row("user:1", hour=THIS_HOUR - HOUR)])
    found = {
        (one.key, one.kind, one.hour): (one.hits, one.first - one.hour, one.last - one.hour)
        for one in history(database)
    }
    assert found == {
        ("user:0", "refused", THIS_HOUR): (2, 5, 5),
        ("user:1", "refused", THIS_HOUR): (2, 5, 5),
        ("r|user:2", "refused", THIS_HOUR): (1, 9, 9),
        ("others:", "refused", THIS_HOUR): (6, 5, 11),
        ("others:", "x", THIS_HOUR): (1, 5, 5),
        ("r|others:", "refused", THIS_HOUR): (1, 5, 5),
        ("user:1", "refused", THIS_HOUR - HOUR): (1, 5, 5),
    }
    assert {one.limit for one in history(database) if "others" in one.key} == {Limit(0, 0)}


_KINDS = ("refused", "would-refuse")
_SOME = st.builds(
    row,
    st.sampled_from([f"{rule}user:{name}" for rule in ("", "r|") for name in "abc"]),
    st.integers(1, 9),
    hour=st.sampled_from([THIS_HOUR, THIS_HOUR - HOUR]),
    at=st.integers(0, HOUR - 1),
    kind=st.sampled_from(_KINDS),
)


@settings(max_examples=25)
@given(calls=st.lists(st.lists(_SOME, max_size=6, unique_by=place_of), max_size=6), most=st.integers(1, 5))
def test_the_script_keeps_what_sql_does(redis_url: str, calls: list[list[HourOfHits]], most: int) -> None:
    """And both what a model says: no hit is lost, no hour has more rows than it may."""
    added: Counter[tuple[int, str, str]] = Counter()
    with (
        tempfile.TemporaryDirectory(dir=in_memory()) as name,
        pytest.MonkeyPatch.context() as patch,
        contextlib.ExitStack() as opened,
    ):
        patch.setattr(of_log, "HISTORY_ROWS_PER_HOUR", most)
        patch.setattr(of_redis, "HISTORY_ROWS_PER_HOUR", most)
        home = pathlib.Path(name)
        both = (AdministeredLog(SqliteLogs(home)), AdministeredRedis(RedisDatabase(home, redis_url)))
        stores = []
        for made in both:
            opened.callback(made.close)
            stores.append(daemon(made))
        for rows in calls:
            for one in rows:
                added[one.hour, prefix_and_key(one.key)[0], one.kind] += one.hits
            for store in stores:
                if rows:
                    store.add_history(rows)
        found, of_script = (sorted(history(made)) for made in both)
    assert [one[:7] for one in found] == [one[:7] for one in of_script]
    kept: Counter[tuple[int, str, str]] = Counter()
    for one in found:
        kept[one.hour, prefix_and_key(one.key)[0], one.kind] += one.hits
    assert kept == added
    rows_of_hours = Counter(one.hour for one in found if not is_of_others(one))
    assert max(rows_of_hours.values(), default=0) <= most


@pytest.mark.parametrize("by_command", [True, False])
def test_what_is_too_old_goes(database: Administered, by_command: bool) -> None:
    store = daemon(database)
    store.maintain()
    oldest = THIS_HOUR - HISTORY_DAYS * 24 * HOUR
    hours = [oldest - HOUR * number for number in range(7)] + [oldest + HOUR, THIS_HOUR]
    store.add_history([row(hour=hour) for hour in hours])
    assert len(history(database)) == 9
    if by_command:
        store.clean(PATIENCE)
    else:
        while store.clean_trails():
            pass
    kept = [one.hour for one in history(database)]
    assert kept[-2:] == [oldest + HOUR, THIS_HOUR]
    assert len(kept) <= 3  # the hour may have changed since


def test_of_too_much_the_oldest_goes(database: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_log, "MOST_HISTORY_ROWS", 4)
    monkeypatch.setattr(of_redis, "MOST_HISTORY_ROWS", 4)
    store = daemon(database)
    store.add_history([row(f"user:{n}", hour=THIS_HOUR - age * HOUR) for age in (3, 2, 1) for n in range(2)])
    while store.clean_trails():
        pass
    assert [one.hour for one in history(database)] == [THIS_HOUR - 2 * HOUR] * 2 + [THIS_HOUR - HOUR] * 2
    assert not store.clean_trails()


def test_it_goes_on_after_the_connection_was_lost(database: Administered) -> None:
    store, administration = daemon(database), database.administration()
    store.add_history([row()])
    assert [one.hits for one in administration.hit_history(0)] == [1]
    database.break_connections()
    if isinstance(database, AdministeredLog):
        with pytest.raises(StoreUnavailable):
            store.add_history([row()])
    store.admit([], (), PATIENCE)
    store.add_history([row()])
    assert [one.hits for one in administration.hit_history(0)] == [2]
