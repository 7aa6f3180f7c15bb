"""What every store deletes, and looks back at, over one table of databases.

See :mod:`policyd_rate_limit.storage.contract`.
"""

from __future__ import annotations

import concurrent.futures
import time

from storage.stores import HOUR, PATIENCE, START, Clock, Database, admitted, ask_for, demand, usage

LIMIT = 100


def clean(database: Database, clock: Clock) -> int:
    """``--clean``; how many entries it deletes."""
    store = database.store(clock)
    deleted = store.clean(PATIENCE)
    store.close()
    return deleted


def test_clean_deletes_what_is_older_than_twice_the_longest_window(database: Database, clock: Clock) -> None:
    """It counts entries, what counts goes on counting, and the daemons go on where they were."""
    each = 0 if database.expires else 3
    store = database.store(clock)
    for seconds in range(0, 4 * HOUR, HOUR // 2):
        clock.now = START + seconds
        assert admitted(store, *(demand(f"user:{number}", 100) for number in range(3))) == [True] * 3
    assert clean(database, clock) == 3 * each  # at 0, 0.5 and 1 hours; that of 1.5 hours is not 2 hours old
    assert clean(database, clock) == 0
    assert usage(store, ["user:0"]) == {"user:0": 3}
    clock.now += 1
    assert clean(database, clock) == each
    clock.now += 100 * HOUR
    assert clean(database, clock) == 4 * each
    assert clean(database, clock) == 0
    assert admitted(store, demand("user:0", 1), demand("user:0", 1)) == [True, False]
    late = database.store(clock)
    assert usage(late, ["user:0"]) == {"user:0": 1}
    late.close()
    store.close()


def test_looking_back_when_windows_become_longer(database: Database, clock: Clock) -> None:
    """What lay in the shorter window counts, and where there is a log, what lay before it, too."""
    store = database.store(clock)
    for seconds in (0, 100, 200):
        clock.now = START + seconds
        assert admitted(store, demand("user:alice", 100, seconds=60), demand("user:bob", 100)) == [True] * 2
    before = 1 if database.expires else 3
    store.look_back(2 * HOUR)
    longer = demand("user:alice", before + 1, seconds=2 * HOUR)
    assert admitted(store, longer, longer, demand("user:bob", 3)) == [True, False, False]
    store.close()


def test_clean_before_the_first_start(database: Database, clock: Clock) -> None:
    """There is nothing, and that is no error."""
    store = database.store(clock)
    assert store.clean(PATIENCE) == 0
    store.close()
    store = database.store(clock)
    assert admitted(store, demand()) == [True]
    store.close()


def test_clean_beside_daemons_that_admit(database: Database) -> None:
    """Neither is held up, and the limit stays exact."""
    old = Clock(time.time() - 10 * HOUR)
    store = database.store(old)
    for number in range(1000):
        store.admit([demand(f"user:{number}")], (), PATIENCE)
    store.close()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        totals = [pool.submit(ask_for, database, LIMIT, 60, 1) for _ in range(2)]
        cleaner = database.store(time.time)
        deleted = cleaner.clean(PATIENCE)
        cleaner.close()
        assert sum(total.result() for total in totals) == LIMIT
    assert deleted == (0 if database.expires else 1000)
