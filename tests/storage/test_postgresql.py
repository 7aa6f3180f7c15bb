"""The log in PostgreSQL: how it is reached, and what of the server's settings it must not depend on."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.storage.administration import Hits
from policyd_rate_limit.storage.log import tables as log_tables
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.postgresql.log import PostgresqlLog
from policyd_rate_limit.storage.log.postgresql.options import connection_options
from policyd_rate_limit.storage.record import Record
from storage.logs import TIMEOUT, PostgresqlLogs, append, read, record
from support.daemon import free_port
from support.sql_servers import PASSWORD, PostgresqlServer, SqlServer, running
from support.wait import wait_until


@pytest.fixture
def logs(tmp_path: pathlib.Path) -> Iterator[PostgresqlLogs]:
    """An empty database."""
    database = PostgresqlLogs(tmp_path)
    yield database
    database.close()


def encrypted(log: Any) -> bool:
    """Whether the connection is."""
    return bool(log._connection.ssl_in_use)


# --- options ---


def test_the_options_of_existing_files_are_understood() -> None:
    options = connection_options(
        {
            "database": "db",
            "user": "joe",
            "password": PASSWORD,
            "host": "a",
            "port": 5433,
            "sslmode": None,
            "keepalives": True,
            "connect_timeout": 3,
            "connection_factory": "x",
        }
    )
    expected = {"dbname": "db", "user": "joe", "password": PASSWORD, "host": "a", "port": "5433"}
    assert expected.items() <= options.items()
    assert options["keepalives"] == "1"
    assert "sslmode" not in options
    assert options["target_session_attrs"] == "read-write"


def test_options_come_over_what_a_dsn_says() -> None:
    options = connection_options({"dsn": "postgresql://joe:secret@a,b:5433/db?sslmode=require", "user": "jim"})
    expected = {"dbname": "db", "user": "jim", "password": "secret", "host": "a,b", "port": ",5433"}
    assert expected.items() <= options.items()
    assert options["sslmode"] == "require"


def test_a_dsn_that_cannot_be_parsed_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        connection_options({"dsn": "host=a password=hush hush"})
    assert "hush" not in str(caught.value)


# --- ways to the server ---


def test_by_a_unix_socket(logs: PostgresqlLogs) -> None:
    logs.server.admin(f"ALTER USER {logs.config['user']} PASSWORD NULL")
    log = logs.open_with(host=str(logs.server.home))
    append(log, record(1))
    assert not encrypted(log)


def test_by_a_dsn(logs: PostgresqlLogs) -> None:
    config = logs.config
    log = PostgresqlLog(
        {
            "dsn": f"host={config['host']} port={config['port']} dbname={config['database']} user={config['user']}",
            "password": PASSWORD,
        },
        TIMEOUT,
    )
    append(log, record(1))
    log.close()
    assert logs.execute("SELECT count(*) FROM policyd_batch") == [(1,)]


def test_the_certificate_of_the_server_is_verified_as_asked(logs: PostgresqlLogs, tmp_path: pathlib.Path) -> None:
    authority = str(logs.server.authority)
    for options in (
        {"sslmode": "require"},
        {"sslmode": "verify-ca", "sslrootcert": authority},
        {"sslmode": "verify-full", "sslrootcert": authority, "host": "localhost"},
    ):
        log = logs.open_with(**options)
        assert encrypted(log)
        append(log, record(1))
    for options in (
        {"sslmode": "verify-full", "sslrootcert": authority, "host": "127.0.0.1"},
        {"sslmode": "verify-ca", "sslrootcert": str(tmp_path / "missing")},
        {"sslmode": "verify-full", "host": "localhost"},
    ):
        with pytest.raises(LogError, match=r"certificate|root"):
            logs.open_with(**options)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """The port of a host that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_of_several_hosts_one_that_answers_is_taken(logs: PostgresqlLogs) -> None:
    port = logs.server.port
    with silent() as nobody:
        log = logs.connect(  # nobody gets a third of the time
            5.0, host="127.0.0.1,127.0.0.1,no-such-host.invalid,localhost", port=f"1,{nobody},{port},{port}"
        )
        logs.opened.append(log)
        append(log, record(1))
        with pytest.raises(LogError) as caught:
            logs.connect(0.4, host="127.0.0.1,127.0.0.1", port=f"1,{nobody}")
    assert "refused" in str(caught.value)
    assert "no answer in time" in str(caught.value)


def test_of_several_hosts_one_that_can_be_written_to_is_taken(logs: PostgresqlLogs, tmp_path: pathlib.Path) -> None:
    """A primary with its standby; the standby takes over."""
    with running(PostgresqlServer, own=True) as primary:
        away = PostgresqlLogs(tmp_path, primary)
        primary.admin("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
        standby = standby_of(primary)
        standby.start()
        try:
            synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: primary.admin(synchronous), "the standby is synchronous", 60)
            where = {"host": "127.0.0.1,127.0.0.1", "port": f"{standby.port},{primary.port}"}
            log = away.open_with(**where)
            seqs = append(log, record(1), record(2))
            with pytest.raises(LogError, match="read-only"):
                away.connect(host="127.0.0.1", port=standby.port)
            recovering = away.open_with(host="127.0.0.1", port=standby.port, target_session_attrs="any")
            with pytest.raises(LogError, match="read-only"):
                recovering.begin(TIMEOUT)

            primary.stop(signal.SIGQUIT)
            with pytest.raises(LogError):
                log.begin(TIMEOUT)
            standby.admin(
                "SELECT pg_promote()", "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"
            )
            again = away.open_with(**where)
            assert [seq for seq, _ in read(again, seqs[0])] == seqs[1:]
            assert again.identity == log.identity
        finally:
            standby.stop(signal.SIGQUIT)
            away.server = standby
            primary.start()
            for opened in away.opened:
                opened.close()


def standby_of(primary: SqlServer) -> PostgresqlServer:
    """A server that repeats what ``primary`` does, not started."""
    standby = PostgresqlServer.__new__(PostgresqlServer)
    standby.__dict__ = dict(primary.__dict__)
    standby.directory = primary.home / "standby"
    standby.home.mkdir()
    primary.give(standby.home)
    for name in ("server.pem", "server.key"):
        (standby.home / name).write_bytes((primary.home / name).read_bytes())
        (standby.home / name).chmod(0o600)
        primary.give(standby.home / name)
    standby.port = free_port()
    standby.run(
        str(standby.program("pg_basebackup")),
        *("-D", str(standby.home / "data"), "--write-recovery-conf", "--no-sync", "--checkpoint=fast"),
        *("-d", f"host={primary.home} port={primary.port} user=postgres application_name=standby"),
    )
    return standby


# --- whatever the server's settings are ---


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings = off",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "search_path = nowhere, public",
        "client_encoding = latin1",
        "client_encoding = sql_ascii",
        "datestyle = german",
        "timezone = 'America/St_Johns'",
        "enable_indexscan = off",
        "extra_float_digits = -5",
        "statement_timeout = 1000",
        "backslash_quote = off",
    ],
)
def test_settings_of_the_server_do_no_harm(logs: PostgresqlLogs, setting: str) -> None:
    logs.server.admin(f"ALTER USER {logs.config['user']} SET {setting}")
    records = (record(1, counters=["user:'\\\"\u00e9\ud800", "user:$1 %s"]), record(2))
    seqs = append(logs.ready(), *records)
    log = logs.open()
    assert abs(log.begin(TIMEOUT) - time.time()) < 5
    log.prepare(lambda _: ())
    assert list(log.rows_after(0)) == list(zip(seqs, records, strict=True))
    log.commit()
    assert log.clean(1 << 40, TIMEOUT) == 3


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_counts_of_a_database_in_another_encoding_are_carried_over(logs: PostgresqlLogs, encoding: str) -> None:
    """What 1.2.0 has put there is no UTF-8: as bytes where the database knows no encoding, else as what they mean."""
    name = f"{logs.database}_old"
    user = logs.config["user"]
    logs.server.admin(
        f"CREATE DATABASE {name} OWNER {user} TEMPLATE template0 ENCODING {encoding} LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        columns = ("mail_count (id text, date bigint)", "limit_report (id text, delta int, hit int)")
        for table in columns:
            logs.server.admin(f"CREATE TABLE {table}", f"ALTER TABLE {table.split()[0]} OWNER TO {user}", database=name)
        joerg = "convert_from('\\x6af67267'::bytea, 'LATIN1')" if encoding == "LATIN1" else "E'j\\xF6rg'"
        logs.server.admin(
            f"INSERT INTO mail_count VALUES ({joerg}, 1000)",
            f"INSERT INTO limit_report VALUES ({joerg}, 60, 3)",
            database=name,
        )
        log = logs.open_with(database=name)
        log.begin(TIMEOUT)
        found: list[tuple[str, int, int]] = []

        def carry_over(counts: Iterable[tuple[str, int, int]]) -> Iterator[Record]:
            found.extend(counts)
            yield from ()

        assert log.prepare(carry_over)
        log.commit()
        expected = "j\u00f6rg" if encoding == "LATIN1" else "j\udcf6rg"
        assert found == [(expected, 1000, 1)]
        hits = log_tables.hits(log, lambda old_id: f"user:{old_id}")
        assert hits == [Hits(f"user:{expected}", 60, 3, 0)]
        log_tables.subtract_hits(log, hits, lambda old_id: f"user:{old_id}", TIMEOUT)
        assert log_tables.hits(log, lambda old_id: f"user:{old_id}") == []
        log.close()
    finally:
        logs.server.admin(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_commit_waits_for_the_disk_whatever_the_server_usually_does(logs: PostgresqlLogs) -> None:
    for setting, kept in (("off", "local"), ("remote_apply", "remote_apply")):
        logs.server.admin(f"ALTER USER {logs.config['user']} SET synchronous_commit = {setting}")
        log = logs.open()
        log.begin(TIMEOUT)
        assert log._ask("SHOW synchronous_commit") == [[kept]]  # type: ignore[attr-defined] # of PostgresqlLog
        log.close()


def test_tables_in_a_schema_of_their_own(logs: PostgresqlLogs) -> None:
    user = logs.config["user"]
    logs.execute(f"CREATE SCHEMA {user} AUTHORIZATION {user}")
    append(logs.ready(), record(1))
    assert logs.execute(f"SELECT count(*) FROM {user}.policyd_batch") == [(1,)]
