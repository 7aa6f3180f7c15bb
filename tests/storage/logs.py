"""The logs that the tests of :class:`policyd_rate_limit.storage.log.contract.Log` run on."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.storage.log.contract import Log
from policyd_rate_limit.storage.log.mysql.log import MysqlLog
from policyd_rate_limit.storage.log.postgresql.log import PostgresqlLog
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.record import Record, pack
from support import sql_servers

TIMEOUT = 20.0  # seconds, for a machine that is very busy
OLD_COLUMNS = {
    "0.4": "id varchar(40) NOT NULL, date bigint NOT NULL",
    "1.2.0": "id varchar(40) NOT NULL, date bigint NOT NULL, recipient_count int DEFAULT 1, "
    "instance varchar(40) NOT NULL, protocol_state varchar(10) NOT NULL",
}


class Logs(ABC):
    """An empty database for one test, and the connections to it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.opened: list[Log] = []

    @abstractmethod
    def connect(self, timeout: float = TIMEOUT) -> Log:
        """A new connection."""

    @abstractmethod
    def execute(self, *statements: str) -> Sequence[Sequence[Any]]:
        """What an administrator does to the database by hand; the rows of the last statement."""

    @abstractmethod
    def remove_table(self) -> None:
        """Remove ``policyd_batch`` for good."""

    def open(self, timeout: float = TIMEOUT) -> Log:
        """A connection that the test need not close."""
        log = self.connect(timeout)
        self.opened.append(log)
        return log

    def ready(self) -> Log:
        """A connection over which nothing is to be made any more."""
        log = self.open()
        log.begin(TIMEOUT)
        log.prepare(lambda _: ())
        log.commit()
        return log

    def make_old_table(self, version: str, mails: Iterable[tuple[str, int, int]]) -> None:
        """The table of ``version`` with (id, date, recipients)."""
        self.execute(f"CREATE TABLE mail_count ({OLD_COLUMNS[version]})")
        for number, (old_id, date, recipients) in enumerate(mails):
            quoted = old_id.replace("'", "''")
            if version == "0.4":
                self.execute(*[f"INSERT INTO mail_count VALUES ('{quoted}', {date})"] * recipients)
            else:
                self.execute(f"INSERT INTO mail_count VALUES ('{quoted}', {date}, {recipients}, 'a.{number}', 'DATA')")

    def close(self) -> None:
        """Close what is open, and remove the database."""
        for log in self.opened:
            log.close()


class SqliteLogs(Logs):
    """A file."""

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return self.directory / "db.sqlite3"

    def connect(self, timeout: float = TIMEOUT) -> Log:
        return SqliteLog(self.path, time.time)

    def execute(self, *statements: str) -> Sequence[Sequence[Any]]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=TIMEOUT)) as database, database:
            return [database.execute(statement).fetchall() for statement in statements][-1]

    def remove_table(self) -> None:
        for path in self.directory.glob(f"{self.path.name}*"):
            path.unlink()


class ServerLogs(Logs):
    """A database of a server, which is the one that all tests share unless it is given."""

    kind: type[sql_servers.SqlServer]
    driver: type[PostgresqlLog] | type[MysqlLog]
    in_clear: dict[str, str]  # options for a connection that is not encrypted

    def __init__(self, directory: pathlib.Path, server: sql_servers.SqlServer | None = None) -> None:
        super().__init__(directory)
        self.server = server or sql_servers.shared(self.kind)
        self.config = self.server.create()
        self.database: str = self.config.get("database") or self.config["db"]

    def connect(self, timeout: float = TIMEOUT, **options: Any) -> PostgresqlLog | MysqlLog:
        """Connect with other ``options`` than usual."""
        config = {**self.config, **options}
        if "passwd" in config and "password" in options:
            del config["passwd"]
        if "db" in config and "database" in options:
            del config["db"]
        return self.driver(config, timeout)

    def open_with(self, **options: Any) -> PostgresqlLog | MysqlLog:
        """A connection with other ``options`` than usual, which the test need not close."""
        log = self.connect(**options)
        self.opened.append(log)
        return log

    def execute(self, *statements: str) -> Sequence[Sequence[Any]]:
        return self.server.admin(*statements, database=self.database)

    def remove_table(self) -> None:
        self.execute("DROP TABLE policyd_batch")

    def make_old_table(self, version: str, mails: Iterable[tuple[str, int, int]]) -> None:
        super().make_old_table(version, mails)
        if self.kind is sql_servers.PostgresqlServer:
            self.execute(f"ALTER TABLE mail_count OWNER TO {self.config['user']}")

    def close(self) -> None:
        super().close()
        self.server.drop(self.config)


class PostgresqlLogs(ServerLogs):
    """A database in PostgreSQL."""

    kind = sql_servers.PostgresqlServer
    driver = PostgresqlLog
    in_clear = {"sslmode": "disable"}  # noqa: RUF012 - never changed


class MariadbLogs(ServerLogs):
    """A database in MariaDB."""

    kind = sql_servers.MariadbServer
    driver = MysqlLog
    in_clear = {"ssl_mode": "DISABLED"}  # noqa: RUF012 - never changed


def record(number: int, date: int = 0, counters: Sequence[str] = ("user:alice",), writer: int = 7) -> Record:
    """A record of one recipient for each of ``counters``; ``date`` defaults to now."""
    date = date or int(time.time())
    return pack(writer, number, date, [Entry(counter, 1, date, "mail", "part") for counter in counters])


def append(log: Log, *records: Record) -> list[int]:
    """Append ``records`` in one transaction, as a daemon does that knows nothing of the log; their seqs."""
    log.begin(TIMEOUT)
    log.prepare(lambda _: ())
    seqs = [log.append(one) for one in records]
    log.commit()
    return seqs


def read(log: Log, seq: int = 0) -> list[tuple[int, Record]]:
    """What is behind ``seq``."""
    log.begin(TIMEOUT)
    log.prepare(lambda _: ())
    rows = list(log.rows_after(seq))
    log.commit()
    return rows
