"""What PostgreSQL and MariaDB do to a daemon, and the network between them: always an error, always in time."""

from __future__ import annotations

import contextlib
import pathlib
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policyd_rate_limit.errors import ConfigError, StoreError
from policyd_rate_limit.storage.engine.engine import Engine
from policyd_rate_limit.storage.log import server as sql_log
from policyd_rate_limit.storage.log.contract import LogError, LogReplaced
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.replica import Memory
from storage.daemon import opened
from storage.logs import TIMEOUT, PostgresqlLogs, ServerLogs, append, read, record
from storage.stores import HOUR, demand, new_memory
from support import sql_servers
from support.outages import small_disk
from support.sql_servers import PASSWORD
from support.stopwatch import Stopwatch
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

SHORT = 0.8  # seconds: db_timeout where it is to pass
LATE = 0.6  # seconds that an error may come late


@pytest.fixture
def proxy(logs: ServerLogs) -> Iterator[TcpProxy]:
    """A network between the daemon and the server."""
    with TcpProxy((logs.server.host, logs.server.port)) as between:
        yield between


@contextlib.contextmanager
def error_within(seconds: float) -> Iterator[list[str]]:
    """Inside the ``with`` block a LogError is raised in time, of one line without secrets; what it says."""
    message: list[str] = []
    watch = Stopwatch()
    with pytest.raises(LogError) as caught:
        yield message
    assert watch.seconds < seconds + LATE
    message.append(str(caught.value))
    assert "\n" not in message[0]
    assert PASSWORD not in message[0]


def through(logs: ServerLogs, proxy: TcpProxy, timeout: float = TIMEOUT) -> Any:
    """A connection through ``proxy``, not begun."""
    log = logs.connect(timeout, host="127.0.0.1", port=proxy.port, **logs.in_clear)
    logs.opened.append(log)
    return log


def begun(log: Any) -> Any:
    """``log`` with the lock, and all read."""
    log.begin(TIMEOUT)
    log.prepare(lambda _: ())
    list(log.rows_after(0))
    return log


def hurry(log: Any) -> None:
    """Leave ``log`` SHORT from now on, however long it took to come this far."""
    log._timeout = SHORT
    log._end = time.monotonic() + SHORT


# --- connecting ---


def test_connecting_is_refused(logs: ServerLogs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with error_within(SHORT) as message:
        logs.connect(TIMEOUT, host="127.0.0.1", port=port)
    assert "refused" in message[0]


def test_connecting_to_a_server_that_is_silent(logs: ServerLogs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, error_within(SHORT):
        logs.connect(SHORT, host="127.0.0.1", port=listener.getsockname()[1])


def test_connecting_to_a_server_that_is_frozen(logs: ServerLogs) -> None:
    with logs.server.frozen(), error_within(SHORT):
        logs.connect(SHORT)


def test_connecting_takes_no_longer_than_connect_timeout(logs: ServerLogs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, error_within(1):
        logs.connect(30, host="127.0.0.1", port=listener.getsockname()[1], connect_timeout=1)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\x00\x00\x00\x0aabcd", b"\0" * 100, b"S"]
)
def test_connecting_to_something_else(logs: ServerLogs, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(answer)
                time.sleep(2 * SHORT)

        threading.Thread(target=serve, daemon=True).start()
        with error_within(SHORT):
            logs.connect(SHORT, host="127.0.0.1", port=listener.getsockname()[1])


def test_a_name_without_an_address(logs: ServerLogs) -> None:
    with error_within(TIMEOUT) as message:
        logs.connect(TIMEOUT, host="no-such-host.invalid")
    assert "no-such-host.invalid" in message[0]


def test_a_resolver_that_hangs(logs: ServerLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    real = socket.getaddrinfo

    def hang(host: Any, port: Any, **options: Any) -> Any:
        if not options.get("flags"):
            answer.wait(20)
        return real(host, port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with error_within(SHORT) as message:
        logs.connect(SHORT, host="database.example.org")
    answer.set()
    assert "database.example.org" in message[0]


def test_too_many_connections(logs: ServerLogs) -> None:
    with contextlib.ExitStack() as stack:
        with error_within(30) as message:
            for _ in range(100):
                stack.callback(logs.connect().close)
        assert "connection" in message[0].lower()
    logs.ready()


def test_a_changed_password(logs: ServerLogs) -> None:
    log = logs.ready()
    user = logs.config["user"]
    logs.execute(
        f"ALTER USER {user} PASSWORD 'new one'"
        if isinstance(logs, PostgresqlLogs)
        else f"ALTER USER {user} IDENTIFIED BY 'new one'"
    )
    append(log, record(1))  # who is in stays in
    with error_within(TIMEOUT) as message:
        logs.connect()
    assert user in message[0]
    again = logs.open_with(password="new one")
    assert len(read(again)) == 1


def test_a_database_that_is_missing(logs: ServerLogs) -> None:
    with error_within(TIMEOUT) as message:
        logs.connect(database="nothing_here")
    assert "nothing_here" in message[0]


# --- in the middle ---


def test_a_hang_before_the_lock(logs: ServerLogs, proxy: TcpProxy) -> None:
    logs.ready()
    log = begun(through(logs, proxy))
    log.commit()
    proxy.mute()
    with error_within(0.05 + sql_log.NETWORK_ROUND_TRIPS * log._round_trip):
        log.begin(0.05)
    with error_within(0.05):
        log.begin(0.05)


@pytest.mark.parametrize("method", ["rows_after", "append", "last_before", "redate"])
def test_a_hang_with_the_lock(logs: ServerLogs, proxy: TcpProxy, method: str) -> None:
    append(logs.ready(), record(1))
    log = begun(through(logs, proxy))
    proxy.mute()
    hurry(log)
    with error_within(SHORT):
        if method == "append":
            log.append(record(1))
            log.commit()
        elif method == "rows_after":
            list(log.rows_after(1))
        elif method == "redate":
            log.redate(5)
        else:
            log.last_before(5)


def test_a_frozen_server(logs: ServerLogs) -> None:
    logs.ready()
    log = begun(logs.open())
    log.append(record(1))
    with logs.server.frozen():
        hurry(log)
        with error_within(SHORT):
            log.commit()


def test_a_slow_server(logs: ServerLogs, proxy: TcpProxy) -> None:
    """The lock is had in time, though it takes long; the commit is not."""
    logs.ready()
    log = begun(through(logs, proxy))
    log.commit()
    log._timeout = 2 * SHORT
    proxy.delay = 0.4 * SHORT
    log.begin(2 * SHORT)
    list(log.rows_after(0))
    proxy.delay = 3 * SHORT
    log.append(record(1))
    with error_within(2 * SHORT):
        log.commit()


def test_a_daemon_that_is_cut_off_does_not_keep_the_lock(logs: ServerLogs, proxy: TcpProxy) -> None:
    logs.ready()
    gone: Any = None

    def begin() -> bool:
        """Whether a second is enough to begin in; the server heeds it from the first moment on."""
        nonlocal gone
        try:
            gone = begun(through(logs, proxy, 1.0))
        except LogError:
            return False
        return True

    wait_until(begin, "a transaction has begun")
    gone.append(record(1))
    proxy.mute()
    log = logs.open()
    watch = Stopwatch()
    append(log, record(2))
    assert watch.seconds < 2.5
    assert [row.number for _, row in read(log)] == [2]
    proxy.unmute()
    with error_within(1.0):
        gone.commit()
    assert [row.number for _, row in read(log)] == [2]


def test_a_cut_connection(logs: ServerLogs, proxy: TcpProxy) -> None:
    logs.ready()
    log = begun(through(logs, proxy))
    log.append(record(1))
    proxy.cut()
    with error_within(SHORT):
        log.commit()
    assert read(logs.open()) == []
    with error_within(SHORT):
        log.begin(TIMEOUT)
    log.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_restarted(logs: ServerLogs, number: int) -> None:
    kept = append(logs.ready(), record(1))
    log = begun(logs.open())
    log.append(record(2))
    if number == signal.SIGKILL:
        logs.server.stop(logs.server.quickly)
    else:
        logs.server.stop(signal.SIGINT if isinstance(logs, PostgresqlLogs) else signal.SIGTERM)
    with error_within(SHORT):
        log.commit()
    with error_within(SHORT):
        logs.connect()
    logs.server.start()
    again = logs.ready()
    (new,) = append(again, record(3))
    assert new > kept[0]
    assert [row.number for _, row in read(again)] == [1, 3]


def test_a_read_only_database(logs: ServerLogs) -> None:
    log = logs.ready()
    with read_only(logs):
        with error_within(SHORT) as message:
            # PostgreSQL's setting is for new sessions.
            (logs.open() if isinstance(logs, PostgresqlLogs) else log).begin(TIMEOUT)
        assert "read" in message[0]
    append(logs.open(), record(1))


@contextlib.contextmanager
def read_only(logs: ServerLogs) -> Iterator[None]:
    """The database takes no changes inside the ``with`` block."""
    on, off = (
        [f"ALTER DATABASE {logs.database} SET default_transaction_read_only = {value}" for value in ("on", "off")]
        if isinstance(logs, PostgresqlLogs)
        else ["SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"]
    )
    logs.execute(on)
    try:
        yield
    finally:
        logs.server.admin(off)


@pytest.mark.needs_root
def test_a_full_disk(logs: ServerLogs, tmp_path: pathlib.Path) -> None:
    """On a server of its own: MariaDB tries for ever to find room for a long row, whatever becomes of the client."""
    with sql_servers.running(logs.kind, own=True) as server, small_disk(server.home, megabytes=16) as disk:
        full = type(logs)(tmp_path, server)
        move_to(full, disk)
        log = full.ready()
        seqs = []
        with error_within(60) as message:
            for number in range(1, 5_000, 100):
                more = [record(number + one, counters=[random.randbytes(2_000).hex()]) for one in range(100)]
                seqs += append(log, *more)
        assert "full" in message[0] or "space" in message[0]
        assert [seq for seq, _ in read(full.open())] == seqs
        full.ready().clean(1 << 40, TIMEOUT)


def move_to(logs: ServerLogs, disk: pathlib.Path) -> None:
    """Have the database keep its tables on ``disk``."""
    place = disk / "tables"
    place.mkdir(mode=0o700)
    logs.server.give(place)
    if isinstance(logs, PostgresqlLogs):
        logs.server.admin(
            f"CREATE TABLESPACE small LOCATION '{place}'", f"ALTER DATABASE {logs.database} SET TABLESPACE small"
        )
    else:
        files = logs.server.home / "data" / logs.database
        for file in files.iterdir():
            shutil.move(file, place)
        files.rmdir()
        files.symlink_to(place)


# --- the outcome of a commit that nobody knows ---


def log_store(logs: ServerLogs, memory: Memory, proxy: TcpProxy | None = None) -> LogStore:
    """A daemon's store."""
    options = {"host": "127.0.0.1", "port": proxy.port, **logs.in_clear} if proxy else {}
    return LogStore(
        lambda: logs.connect(TIMEOUT, **options), memory, longest=HOUR, counters_of_old_id=lambda old_id: (old_id,)
    )


def counted(logs: ServerLogs) -> int:
    """How many entries there are in the database."""
    return int(logs.execute("SELECT coalesce(sum(size), 0) FROM policyd_batch")[0][0])


@pytest.mark.parametrize("arrives", [True, False], ids=["commit-arrives", "commit-is-lost"])
def test_a_commit_of_unknown_outcome_counts_once(logs: ServerLogs, proxy: TcpProxy, arrives: bool) -> None:
    memory = new_memory(time.time)
    engine = opened(log_store(logs, memory, proxy), memory, logs.directory)
    assert engine.admit([demand(maximum=3)])[0].admitted

    def intercept(piece: bytes) -> bytes | None:
        if b"INSERT INTO policyd_batch" not in piece:
            return piece
        proxy.swallow()
        if not arrives:
            proxy.refuse()
            return None
        threading.Timer(0.2, proxy.refuse).start()
        return piece

    proxy.intercept = intercept
    assert engine.admit([demand(maximum=3)])[0].admitted  # from the spool
    proxy.intercept = lambda piece: piece
    wait_until(lambda: counted(logs) == 1 + arrives, "the commit arrives, or is lost")
    proxy.admit()

    def is_back() -> bool:
        engine.maintain()
        return engine.away_since is None

    wait_until(is_back, "the database is back")
    assert counted(logs) == 2
    assert [verdict.admitted for verdict in engine.admit([demand(maximum=3), demand(maximum=3)])] == [True, False]
    engine.close()
    assert counted(logs) == 3


def test_cuts_neither_lose_nor_double(logs: ServerLogs) -> None:
    """Three daemons, whose connections are cut at any moment: every admitted mail is in the database, once."""
    daemons, cuts, batches = 3, 20, 30
    admitted = [0] * daemons
    logs.ready()

    def is_settled(engine: Engine) -> bool:
        engine.maintain()
        return engine.away_since is None and not engine.waiting

    def run(number: int) -> None:
        chance = random.Random(number)
        with TcpProxy((logs.server.host, logs.server.port)) as proxy:
            memory = new_memory(time.time)
            engine = opened(log_store(logs, memory, proxy), memory, logs.directory / str(number))
            for _ in range(cuts):
                timer = threading.Timer(chance.uniform(0, 0.03), proxy.cut)
                timer.start()
                for _ in range(batches):
                    verdicts = engine.admit([demand(f"user:{chance.randrange(9)}", 1_000_000) for _ in range(3)])
                    admitted[number] += sum(verdict.admitted for verdict in verdicts)
                wait_until(lambda: is_settled(engine), "all is in the database", 120)
                timer.join()
            wait_until(lambda: is_settled(engine), "all is in the database", 120)
            engine.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(daemons)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted == [3 * cuts * batches] * daemons
    assert counted(logs) == sum(admitted)


# --- another history ---


def test_lost_rows_are_noticed_by_whoever_has_read_them(logs: ServerLogs) -> None:
    """As after a failover that has lost the newest rows, when another daemon has already gone on."""
    log, other = logs.ready(), logs.ready()
    seqs = append(log, record(1), record(2), record(3))
    assert [seq for seq, _ in read(other)] == seqs
    logs.execute(f"DELETE FROM policyd_batch WHERE seq > {seqs[0]}")
    append(logs.open(), record(4), record(5), record(6))
    with pytest.raises(LogReplaced):
        read(other, seqs[-1])
    assert [row.number for _, row in read(logs.open())] == [1, 4, 5, 6]


def test_a_store_reads_all_of_another_history(logs: ServerLogs) -> None:
    stores = [log_store(logs, new_memory(time.time)) for _ in range(2)]
    for store in stores:
        assert [verdict.admitted for verdict in store.admit([demand(maximum=3)], (), TIMEOUT)] == [True]
    logs.execute("DELETE FROM policyd_batch")
    found = []
    for _ in range(3):
        for store in stores:
            with contextlib.suppress(StoreError):
                found += [verdict.admitted for verdict in store.admit([demand(maximum=3)], (), TIMEOUT)]
    assert found.count(True) == 3
    for store in stores:
        store.close()


def test_a_table_of_a_newer_version_is_left_alone(logs: ServerLogs) -> None:
    log = logs.ready()
    logs.execute("UPDATE policyd_state SET schema_version = 1000")
    for old in (log, logs.open()):
        with pytest.raises(LogError, match="newer"):
            old.begin(TIMEOUT)


def test_a_table_of_an_older_version_is_upgraded(logs: ServerLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    append(logs.ready(), record(1))
    later = sql_log.SCHEMA_VERSION + 1
    monkeypatch.setattr(sql_log, "SCHEMA_VERSION", later)
    statement = "ALTER TABLE policyd_batch ADD COLUMN IF NOT EXISTS more integer"
    monkeypatch.setattr(logs.driver, "UPGRADES", (*logs.driver.UPGRADES, (statement,)))
    assert len(read(logs.open())) == 1
    assert [int(version) for (version,) in logs.execute("SELECT schema_version FROM policyd_state")] == [later]
    logs.execute("SELECT more FROM policyd_batch")
    assert len(read(logs.open())) == 1


@pytest.mark.parametrize("made_by_hand", [False, True])
def test_a_table_of_version_1_gets_those_of_later_ones(logs: ServerLogs, made_by_hand: bool) -> None:
    append(logs.ready(), record(1))
    if not made_by_hand:
        logs.execute("DROP TABLE policyd_override", "DROP TABLE policyd_hit", "DROP TABLE policyd_window")
    logs.execute("UPDATE policyd_state SET schema_version = 1")
    log = logs.open()
    assert len(read(log)) == 1
    assert log.read("SELECT * FROM policyd_override") in ((), [])
    assert log.read("SELECT * FROM policyd_hit") in ((), [])
    assert log.read("SELECT * FROM policyd_window") in ((), [])
    assert [int(version) for (version,) in logs.execute("SELECT schema_version FROM policyd_state")] == [3]


def test_a_removed_state_is_rebuilt(logs: ServerLogs) -> None:
    log = logs.ready()
    append(log, record(1))
    logs.execute("DROP TABLE policyd_state")
    with pytest.raises(LogReplaced):
        log.begin(TIMEOUT)
    again = logs.open()
    again.begin(TIMEOUT)
    assert again.prepare(lambda _: ())
    again.commit()
    assert [row.number for _, row in read(again)] == [1]


# --- configuration ---


def test_options_that_nobody_knows_are_named_without_their_values(logs: ServerLogs) -> None:
    with pytest.raises(ConfigError) as caught:
        logs.connect(pasword="hush", prot="hush")
    assert [problem.setting.split(".")[-1] for problem in caught.value.problems] == ["pasword", "prot"]
    assert "hush" not in str(caught.value)


def test_a_port_that_is_no_number(logs: ServerLogs) -> None:
    with pytest.raises(ConfigError) as caught:
        logs.connect(port="hush")
    assert "hush" not in str(caught.value)
