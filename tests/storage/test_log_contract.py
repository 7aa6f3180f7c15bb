"""What every log in a database keeps, over one table of databases."""

from __future__ import annotations

import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from policyd_rate_limit.storage.log import server as sql_log
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.record import Record, pack
from storage.logs import TIMEOUT, Logs, MariadbLogs, PostgresqlLogs, SqliteLogs, append, read, record
from storage.stores import HOUR, admitted, demand, new_memory
from support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from policyd_rate_limit.storage.log.contract import OldCounts
    from policyd_rate_limit.storage.replica import Memory

EVIL = ("user:" + "x" * 20_000, "user:\U0001f4a9\u00e9\u0000", "user:\ud800", "user:'\"\\%s%%;--\n", "user:${}:1")


@pytest.fixture(
    params=[
        pytest.param(SqliteLogs, id="sqlite"),
        pytest.param(PostgresqlLogs, id="postgresql"),
        pytest.param(MariadbLogs, id="mariadb"),
    ]
)
def logs(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Logs]:
    """An empty database of each kind."""
    make: Callable[[pathlib.Path], Logs] = request.param
    database = make(tmp_path)
    yield database
    database.close()


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run ``work`` with 0, 1, ... at the same time; whatever fails there fails here."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as failure:  # noqa: BLE001 - it fails the test, in the thread of that
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_first_use_makes_the_table_once(logs: Logs) -> None:
    first, second = logs.open(), logs.open()
    first.begin(TIMEOUT)
    assert first.prepare(lambda _: ())
    first.commit()
    second.begin(TIMEOUT)
    assert not second.prepare(lambda _: pytest.fail("the table is there"))
    second.commit()
    assert first.identity == second.identity
    assert first.identity is not None


def test_an_installation_has_one_identity(logs: Logs) -> None:
    """Whoever asks first gives it; it outlives the rows, and the table."""
    for proposed in ("a" * 32, "b" * 32):
        log = logs.open()
        log.begin(TIMEOUT)
        log.prepare(lambda _: ())
        assert log.installation(proposed) == "a" * 32
        assert log.installation("c" * 32) == "a" * 32
        log.commit()
    logs.execute("DROP TABLE policyd_batch")
    log = logs.open()
    log.begin(TIMEOUT)
    assert log.prepare(lambda _: ())
    assert log.installation("d" * 32) == "a" * 32
    log.commit()


def test_first_use_by_many_at_once_makes_one_table(logs: Logs) -> None:
    made = []

    def use(number: int) -> None:
        log = logs.open()
        log.begin(TIMEOUT)
        made.append(log.prepare(lambda _: (record(1, writer=number + 1),)))
        log.commit()

    in_threads(6, use)
    assert sorted(made) == [False] * 5 + [True]
    assert len(read(logs.open())) == 1


def test_first_use_that_breaks_off_leaves_the_next_to_do_it(logs: Logs) -> None:
    now = int(time.time())
    logs.make_old_table("1.2.0", [("joe", now, 3)])
    broken = logs.open()
    broken.begin(TIMEOUT)
    assert broken.prepare(lambda counts: [record(number) for number, _ in enumerate(counts, 1)])
    broken.close()

    log = logs.open()
    log.begin(TIMEOUT)
    found: list[tuple[str, int, int]] = []

    def carry_over(counts: OldCounts) -> list[Record]:
        found.extend(counts)
        return [record(1)]

    assert log.prepare(carry_over)
    log.commit()
    assert found == [("joe", now, 3)]
    assert len(read(log)) == 1


@pytest.mark.parametrize("version", ["0.4", "1.2.0"])
def test_counts_of_old_versions_come_along(logs: Logs, version: str) -> None:
    now = int(time.time())
    ids = ["joe", "Joe", "jos\u00e9", "jose", "192.0.2.1", "it's", "2001:db8::1"]
    logs.make_old_table(version, [*((old_id, now - 5, 2) for old_id in ids), ("joe", now - 5, 1), ("joe", now - 60, 4)])
    log = logs.open()
    log.begin(TIMEOUT)
    found: list[tuple[str, int, int]] = []

    def carry_over(counts: OldCounts) -> list[Record]:
        found.extend(counts)
        return [record(number, now, [f"user:{old_id}"]) for number, (old_id, _, _) in enumerate(found, 1)]

    assert log.prepare(carry_over)
    log.commit()
    assert found[0] == ("joe", now - 60, 4)
    assert sorted(found[1:]) == sorted((old_id, now - 5, 3 if old_id == "joe" else 2) for old_id in ids)
    assert [row.number for _, row in read(log)] == list(range(1, len(ids) + 2))
    assert logs.execute("SELECT count(*) FROM mail_count")[0][0]


def test_records_come_back_as_they_were(logs: Logs) -> None:
    log = logs.ready()
    records = [
        record(1, counters=EVIL),
        record((1 << 62) + 1, writer=(1 << 62) - 1),
        pack(9, 1, int(time.time()), ()),
        record(2, counters=[f"user:{number}@example.org" for number in range(10_000)]),  # more than is sent at once
    ]
    seqs = append(log, *records)
    assert seqs == sorted(seqs)
    assert read(log) == list(zip(seqs, records, strict=True))
    assert read(logs.open()) == list(zip(seqs, records, strict=True))


def test_reading_goes_on_where_it_stopped(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_log, "ROWS_PER_READ", 4)
    mine, other = logs.ready(), logs.ready()
    seq = 0
    for count in (1, 0, 3, 4, 5, 17):
        records = [record(number) for number in range(count)]
        seqs = append(other, *records) if records else []
        assert read(mine, seq) == list(zip(seqs, records, strict=True))
        seq = seqs[-1] if seqs else seq
    assert len(read(mine)) == 30


def test_what_was_appended_is_read_in_the_same_transaction(logs: Logs) -> None:
    log = logs.ready()
    log.begin(TIMEOUT)
    seq = log.append(record(1))
    assert [found for found, _ in log.rows_after(0)] == [seq]
    second = log.append(record(2))
    log.commit()
    assert [found for found, _ in read(log)] == [seq, second]


def test_the_lock_keeps_others_out_until_the_commit(logs: Logs) -> None:
    log, waiting, patient = logs.ready(), logs.ready(), logs.ready()
    log.begin(TIMEOUT)
    log.append(record(1))
    network = sql_log.NETWORK_ROUND_TRIPS * getattr(waiting, "_round_trip", 0.0)
    watch = Stopwatch()
    with pytest.raises(LogError):
        waiting.begin(0.05)
    assert watch.seconds < 0.5 + network
    waiting.close()

    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(seq for seq, _ in read(patient)))
    reader.start()
    time.sleep(0.05)
    assert not found
    log.commit()
    reader.join()
    assert len(found) == 1


def test_waiting_for_the_lock_leaves_everything_as_it_is(logs: Logs) -> None:
    """It fails while another has it; and it is free then, with no table made."""
    new = logs.open()
    new.wait(TIMEOUT)
    assert not new.has_table("policyd_batch")
    log, waiting = logs.ready(), logs.open()
    log.begin(TIMEOUT)
    log.append(record(1))
    with pytest.raises(LogError):
        logs.open().wait(0.05)
    log.commit()
    waiting.wait(TIMEOUT)
    log.begin(TIMEOUT)
    log.commit()
    assert len(read(waiting)) == 1


def test_without_a_commit_nothing_is_kept(logs: Logs) -> None:
    log = logs.ready()
    log.begin(TIMEOUT)
    log.append(record(1, counters=["user:lost" * 100_000]))
    log.append(record(2))
    log.close()
    log.close()
    assert read(logs.open()) == []


def test_everybody_sees_everything_once_and_in_order(logs: Logs) -> None:
    """The heart of it: between two batches of one daemon lie all those of the others, whoever they are."""
    daemons, batches = 5, 20
    seen: list[list[int]] = [[] for _ in range(daemons)]
    logs.ready()

    def run(number: int) -> None:
        log = logs.open()
        log.begin(TIMEOUT)
        log.prepare(lambda _: ())
        log.commit()
        for batch in range(batches):
            log.begin(TIMEOUT)
            seen[number] += [seq for seq, _ in log.rows_after(seen[number][-1] if seen[number] else 0)]
            seen[number].append(log.append(record(batch + 1, writer=number + 1)))
            log.commit()

    in_threads(daemons, run)
    everything = [seq for seq, _ in read(logs.open())]
    assert len(everything) == daemons * batches
    assert everything == sorted(set(everything))
    for own in seen:
        assert own == everything[: len(own)]


def test_the_last_row_before_a_date_is_found(logs: Logs) -> None:
    log = logs.ready()
    log.begin(TIMEOUT)
    assert log.last_before(1 << 40) == 0
    log.commit()
    dates = sorted(random.Random(5).choices(range(100, 140), k=60))
    seqs = append(log, *(record(number, date) for number, date in enumerate(dates, 1)))
    log.begin(TIMEOUT)
    for date in range(98, 143):
        expected = max((seq for seq, dated in zip(seqs, dates, strict=True) if dated < date), default=0)
        assert log.last_before(date) == expected
    log.commit()


def test_after_a_step_back_nothing_lies_in_the_future(logs: Logs) -> None:
    log = logs.ready()
    append(log, *(record(number, 1_000 + number) for number in range(1, 11)))
    log.begin(TIMEOUT)
    list(log.rows_after(0))
    log.redate(1_005)
    log.append(record(11, 1_005))
    log.commit()
    assert [row.date for _, row in read(log)] == [1_001, 1_002, 1_003, 1_004, *[1_005] * 7]


def test_clean_deletes_what_is_old_and_counts_it(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server", "sqlite.cleaning"):
        monkeypatch.setattr(f"policyd_rate_limit.storage.log.{module}.ROWS_PER_CLEAN", 7)
    log = logs.ready()
    seqs = append(log, *(record(number, 1_000 + number, ["user:a", "user:b"]) for number in range(1, 51)))
    assert log.clean(1_031, TIMEOUT) == 60
    assert [seq for seq, _ in read(log)] == seqs[30:]
    assert log.clean(1_031, TIMEOUT) == 0
    log.begin(TIMEOUT)
    assert [seq for seq, _ in log.rows_after(log.last_before(1_031))] == seqs[30:]
    log.commit()


def test_clean_leaves_the_newest_row_so_that_reading_goes_on(logs: Logs) -> None:
    log, daemon = logs.ready(), logs.ready()
    seqs = append(log, *(record(number, 1_000 + number) for number in range(1, 11)))
    assert [seq for seq, _ in read(daemon)] == seqs
    assert log.clean(5_000, TIMEOUT) == 10
    assert read(log) == [(seqs[-1], pack(7, 10, 1_010, ()))]
    assert log.clean(5_000, TIMEOUT) == 0
    assert read(daemon, seqs[-1]) == []
    (new,) = append(log, record(11, 1_020))
    assert new > seqs[-1]
    assert [seq for seq, _ in read(daemon, seqs[-1])] == [new]
    log.compact(TIMEOUT)
    log.maintain()


def test_clean_of_a_table_without_rows(logs: Logs) -> None:
    assert logs.ready().clean(1 << 40, TIMEOUT) == 0


def test_clean_goes_over_the_table_of_an_old_version_too(logs: Logs) -> None:
    logs.make_old_table("1.2.0", [("joe", 1_000 + number, 5) for number in range(10)])
    log = logs.ready()
    assert log.clean(1_004, TIMEOUT) == 4
    assert logs.execute("SELECT count(*) FROM mail_count")[0][0] == 6


def test_clean_by_two_at_once_counts_each_entry_once(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("server", "sqlite.cleaning"):
        monkeypatch.setattr(f"policyd_rate_limit.storage.log.{module}.ROWS_PER_CLEAN", 3)
    append(logs.ready(), *(record(number, 1_000 + number) for number in range(1, 41)))
    deleted = []
    in_threads(3, lambda _: deleted.append(logs.ready().clean(5_000, TIMEOUT)))
    assert sum(deleted) == 40


def test_the_clock_is_read_with_the_lock(logs: Logs) -> None:
    log, patient = logs.ready(), logs.ready()
    log.begin(TIMEOUT)
    times: list[float] = []

    def wait_for_the_lock() -> None:
        times.append(patient.begin(TIMEOUT))
        patient.commit()

    waiting = threading.Thread(target=wait_for_the_lock)
    waiting.start()
    time.sleep(0.3)
    released = time.time()
    log.commit()
    waiting.join()
    assert times[0] > released
    assert times[0] != int(times[0])


def test_a_table_that_is_removed_is_rebuilt_and_known_for_another(logs: Logs) -> None:
    log, other = logs.ready(), logs.ready()
    (seq,) = append(log, record(1))
    read(other)
    before = log.identity
    logs.remove_table()
    with pytest.raises(LogError):
        read(log, seq)
    log.close()
    with pytest.raises(LogError):
        read(other, seq)
    new = logs.open()
    new.begin(TIMEOUT)
    assert new.prepare(lambda _: (record(2),))
    new.commit()
    assert new.identity != before
    another = logs.open()
    assert [row.number for _, row in read(another)] == [2]
    assert another.identity == new.identity


def test_a_daemon_that_starts_holds_up_nobody(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it reads all that is there, others go on; what they admit meanwhile it knows before it decides."""

    def store(memory: Memory) -> LogStore:
        return LogStore(logs.connect, memory, longest=HOUR, counters_of_old_id=lambda _: ())

    running = store(new_memory(time.time))
    assert admitted(running, *[demand(maximum=10)] * 4) == [True] * 4
    memory = new_memory(time.time)
    apply = memory.apply
    meanwhile: list[bool] = []

    def slow(record: Record) -> None:
        if not meanwhile:
            meanwhile.extend(verdict.admitted for verdict in running.admit([demand(maximum=10)] * 3, (), 0.5))
        apply(record)

    monkeypatch.setattr(memory, "apply", slow)
    starting = store(memory)
    assert admitted(starting, *[demand(maximum=10)] * 5) == [True] * 3 + [False] * 2
    assert meanwhile == [True] * 3
    for one in (starting, running):
        assert admitted(one, demand(maximum=10)) == [False]
        one.close()
