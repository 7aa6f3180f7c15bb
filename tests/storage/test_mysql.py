"""The log in MySQL and MariaDB: how it is reached, and what of the server's settings it must not depend on."""

from __future__ import annotations

import os
import pathlib
import pwd
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from policyd_rate_limit.errors import ConfigError
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.log.mysql import connecting
from policyd_rate_limit.storage.log.mysql import log as mysql_log
from policyd_rate_limit.storage.log.mysql import options as mysql_options
from policyd_rate_limit.storage.log.mysql.options import connection_options
from storage.logs import TIMEOUT, MariadbLogs, append, read, record
from support.sql_servers import PASSWORD, MariadbServer

RECORDS = (record(1, counters=["user:'\\\"\u00e9\ud800", "user:%s; DROP"]), record(2))


@pytest.fixture
def logs(tmp_path: pathlib.Path) -> Iterator[MariadbLogs]:
    """An empty database."""
    database = MariadbLogs(tmp_path)
    yield database
    database.close()


@pytest.fixture
def server(logs: MariadbLogs) -> MariadbServer:
    """The server of that."""
    assert isinstance(logs.server, MariadbServer)
    return logs.server


def cipher(log: Any) -> str:
    """What the connection is encrypted with, nothing if it is not."""
    return str(log._ask("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1])


def option_file(directory: pathlib.Path, text: str) -> str:
    """An option file of MySQL's."""
    path = directory / "my.cnf"
    path.write_text(text)
    return str(path)


# --- options ---


def test_the_options_of_existing_files_are_understood() -> None:
    options = connection_options(
        {
            "user": "joe",
            "passwd": PASSWORD,
            "db": "mail",
            "host": "db.example.org",
            "port": "3307",
            "charset": "utf8",
            "use_unicode": True,
            "sql_mode": "ANSI",
            "compress": True,
            "connect_timeout": 3,
            "read_timeout": None,
            "init_command": "SET @a = 1",
        }
    )
    assert options._replace(tls=None) == mysql_options.Options(
        user="joe",
        password=PASSWORD,
        database="mail",
        host="db.example.org",
        port=3307,
        unix_socket="",
        bind_address="",
        connect_timeout=3.0,
        init_command="SET @a = 1",
        public_key=None,
        tls=None,
        without_tls=False,
    )


def test_an_option_file_gives_what_is_not_given_otherwise(tmp_path: pathlib.Path) -> None:
    text = (
        "!includedir /etc/mysql/conf.d/\n[client]\nuser = joe\npassword='with # and \\'\nport=3307\n[mail]\nhost=db\n"
        "ssl-cipher=HIGH\nskip-ssl-verify-server-cert\n[mysqld]\nuser=mysql\n"
    )
    config = {"read_default_file": option_file(tmp_path, text), "read_default_group": "mail", "db": "mail"}
    options = connection_options({**config, "user": "jim"})
    assert (options.user, options.password, options.host, options.port) == ("jim", "with # and \\", "db", 3307)
    assert options.tls is not None


def test_an_option_file_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LogError, match=r"missing\.cnf: No such file"):
        connection_options({"read_default_file": str(tmp_path / "missing.cnf")})
    with pytest.raises(LogError) as caught:
        connection_options({"read_default_file": option_file(tmp_path, "password=hush\n")})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "verifies", "name"),
    [
        ({"ssl_mode": "required"}, ssl.CERT_NONE, False),
        ({"ssl": True}, ssl.CERT_NONE, False),
        ({"ssl": {"cipher": "HIGH"}}, ssl.CERT_NONE, False),
        ({"ssl": {"ca": "CA"}}, ssl.CERT_REQUIRED, False),
        ({"ssl_mode": "VERIFY_CA"}, ssl.CERT_REQUIRED, False),
        ({"ssl_mode": "VERIFY_IDENTITY", "ssl": {"ca": "CA"}}, ssl.CERT_REQUIRED, True),
    ],
)
def test_tls_is_verified_as_it_was_by_mysqldb(
    server: MariadbServer, config: dict[str, Any], verifies: int, name: bool
) -> None:
    if config.get("ssl") == {"ca": "CA"}:
        config = {**config, "ssl": {"ca": str(server.authority)}}
    context = connection_options(config).tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (verifies, name)


def test_without_a_word_about_tls_it_is_the_servers_offer() -> None:
    assert connection_options({}).tls is None
    assert not connection_options({"ssl": {}, "ssl_mode": "PREFERRED"}).without_tls
    assert connection_options({"ssl_mode": "DISABLED"}).without_tls


@pytest.mark.parametrize("config", [{"ssl_mode": "hush"}, {"ssl": {"hash": "hush"}}, {"connect_timeout": "hush"}])
def test_wrong_values_are_not_repeated(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        connection_options(config)
    assert "mysql_config" in str(caught.value)
    assert "hush" not in str(caught.value)


# --- ways to the server ---


def test_localhost_is_the_unix_socket(
    logs: MariadbLogs, server: MariadbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = logs.open_with(host="localhost", port=1, unix_socket=str(server.socket))
    append(given, record(1))
    assert not cipher(given)
    monkeypatch.setenv("MYSQL_UNIX_PORT", str(server.socket))
    append(logs.open_with(host=None, port=1), record(2))
    monkeypatch.setenv("MYSQL_UNIX_PORT", str(logs.directory / "missing"))
    by_tcp = logs.open_with(host="localhost")
    assert [row.number for _, row in read(by_tcp)] == [1, 2]
    assert cipher(by_tcp)


def test_a_unix_socket_that_is_missing(logs: MariadbLogs) -> None:
    with pytest.raises(LogError, match="No such file"):
        logs.open_with(host="localhost", unix_socket=str(logs.directory / "missing"))


@pytest.mark.needs_root
def test_whom_the_kernel_vouches_for_needs_no_password(logs: MariadbLogs, server: MariadbServer) -> None:
    server.admin(
        "CREATE USER nobody@localhost IDENTIFIED VIA unix_socket",
        f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {logs.database}.* TO nobody@localhost",
    )
    local = {"host": "localhost", "unix_socket": str(server.socket), "user": "nobody", "passwd": ""}
    try:
        with pytest.raises(LogError, match="Access denied"):
            logs.open_with(**local)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            log = logs.open_with(**local)
        finally:
            os.seteuid(0)
        append(log, record(1))
    finally:
        server.admin("DROP USER nobody@localhost")


def test_the_certificate_of_the_server_is_verified_as_asked(logs: MariadbLogs, server: MariadbServer) -> None:
    # Without a socket of that name, so that "localhost" is TCP.
    ours = {"ca": str(server.authority)}
    preferred = logs.open_with()
    assert cipher(preferred)
    for options in (
        {"ssl_mode": "REQUIRED"},
        {"ssl": ours},
        {"ssl": ours, "ssl_mode": "VERIFY_CA"},
        {"read_default_file": option_file(logs.directory, f"[client]\nssl-ca={server.authority}\n")},
    ):
        log = logs.open_with(**options)
        assert cipher(log)
        append(log, record(1))
    for options in (
        {"ssl": ours, "ssl_mode": "VERIFY_IDENTITY"},  # the certificate is of "localhost", not of 127.0.0.1
        {"ssl_mode": "VERIFY_CA"},
        {"ssl": {"capath": str(logs.directory)}},
    ):
        with pytest.raises(LogError, match="certificate"):
            logs.open_with(**options)
    with pytest.raises(LogError, match=r"missing\.pem|an option file or a certificate"):
        logs.open_with(ssl={"ca": str(logs.directory / "missing.pem")})


def test_the_name_of_the_server_is_verified(
    logs: MariadbLogs, server: MariadbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYSQL_UNIX_PORT", str(logs.directory / "missing"))
    log = logs.open_with(host="localhost", ssl={"ca": str(server.authority)}, ssl_mode="VERIFY_IDENTITY")
    assert cipher(log)


def test_no_encryption_where_it_is_demanded_is_an_error(logs: MariadbLogs, server: MariadbServer) -> None:
    server.stop()
    server.start("--skip-ssl")
    try:
        append(logs.open_with(), record(1))
        with pytest.raises(LogError, match="SSL"):
            logs.open_with(ssl_mode="REQUIRED")
    finally:
        server.stop()
        server.start()


def test_a_password_is_not_told_to_whom_asks_for_it_in_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins for such servers refuse, unless the connection was asked to be encrypted or local."""
    asks = {"mysql_clear_password", "dialog"}
    assert not asks & connecting._plugins(trusted=True).keys()
    refusing = connecting._plugins(trusted=False)
    for name in asks:
        with pytest.raises(pymysql.OperationalError, match="clear text"):
            refusing[name](None).authenticate(None)


def test_an_init_command_is_executed(logs: MariadbLogs) -> None:
    log = logs.open_with(init_command="SET @answer = 42")
    assert isinstance(log, mysql_log.MysqlLog)
    assert log._ask("SELECT @answer")[0][0] == 42


def test_a_server_gets_no_local_file(logs: MariadbLogs, tmp_path: pathlib.Path) -> None:
    """Not even one that allows LOAD DATA LOCAL, nor where the configuration asks for it."""
    secret = tmp_path / "secret"
    secret.write_text("topsecret\n")
    [[allowed]] = logs.execute("SELECT @@global.local_infile")
    assert allowed == 1
    logs.execute("CREATE TABLE stolen (line TEXT)")
    query = f"LOAD DATA LOCAL INFILE '{secret}' INTO TABLE stolen"
    with pytest.raises(LogError, match="server or client has disabled the local infile capability"):
        logs.open_with(local_infile=True, init_command=query)
    assert logs.execute("SELECT * FROM stolen") == ()


# --- whatever the server's settings are ---


@pytest.mark.parametrize(
    "setting",
    [
        "sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'",
        "sql_mode = ''",
        "sql_mode = 'ORACLE'",
        "time_zone = 'Europe/Berlin'",
        "time_zone = '-03:30'",
        "tx_isolation = 'SERIALIZABLE'",
        "tx_isolation = 'READ-UNCOMMITTED'",
        "autocommit = 0",
        "binlog_format = 'STATEMENT'",
        "innodb_snapshot_isolation = 1",
        "max_statement_time = 0.1",
        "character_set_server = 'latin1'",
    ],
)
def test_settings_of_the_server_do_no_harm(logs: MariadbLogs, server: MariadbServer, setting: str) -> None:
    name = setting.split()[0]
    if "Berlin" in setting:
        zones = subprocess.run(
            ["mariadb-tzinfo-to-sql", "/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        server.admin(*(part for part in zones.split(";\n") if part.strip()), database="mysql")
    ((before,),) = server.admin(f"SELECT @@global.{name}")
    server.admin(f"SET GLOBAL {setting}")
    try:
        seqs = append(logs.ready(), *RECORDS)
        others = logs.ready()
        log = logs.open()
        assert abs(log.begin(TIMEOUT) - time.time()) < 5
        log.prepare(lambda _: ())
        assert list(log.rows_after(0)) == list(zip(seqs, RECORDS, strict=True))
        log.redate(5)
        log.commit()
        waits = threading.Thread(target=append, args=(others, record(3)))
        log.begin(TIMEOUT)
        waits.start()
        seqs.append(log.append(record(4)))
        log.commit()
        waits.join()
        assert [row.number for _, row in read(log, seqs[2])] == [3]
        assert log.clean(1 << 40, TIMEOUT) == 5
    finally:
        server.admin(f"SET GLOBAL {name} = {before!r}")


def test_every_kind_of_binary_log_will_do(logs: MariadbLogs, server: MariadbServer) -> None:
    server.stop()
    server.start("--log-bin=bin", "--server-id=1")
    try:
        for kind in ("STATEMENT", "MIXED", "ROW"):
            server.admin(f"SET GLOBAL binlog_format = '{kind}'")
            log = logs.ready()
            append(log, record(1), record(2))
            log.begin(TIMEOUT)
            log.redate(5)
            log.commit()
            assert {row.date for _, row in read(logs.open())} == {5}
            log.clean(1 << 40, TIMEOUT)
            assert not any(row.size for _, row in read(logs.open()))
    finally:
        server.stop()
        server.start()
