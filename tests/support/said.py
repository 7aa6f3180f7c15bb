"""What tables in the database of a daemon say: `mailbox` has a plan of an address, `domain` a customer of a name."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pymysql
from redis import Redis, RedisCluster


class Said:
    """Tables of two columns in the database that the ``settings`` of a daemon name, and how these ask for them.

    It is filled with the daemon's own account, whose tables they are.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._columns: dict[str, tuple[str, str]] = {}
        self._prefix = settings.get("redis_config", {}).get("prefix", "policyd")

    def make(self, name: str, columns: tuple[str, str], said: Mapping[str, str | None]) -> None:
        """The table ``name``, which says the second column of the first."""
        of, what = self._columns[name] = columns
        if self._settings.get("backend", "sqlite") != "redis":
            self._execute(f"CREATE TABLE {name} ({of} varchar(200) PRIMARY KEY, {what} varchar(200))")
        self.put(name, said)

    def put(self, name: str, said: Mapping[str, str | None]) -> None:
        """From now on it says that; None: NULL, or in Redis nothing."""
        if self._settings.get("backend", "sqlite") == "redis":
            with self._redis() as redis:
                for value, text in said.items():
                    redis.hdel(self.hash(name), value)
                    if text is not None:
                        redis.hset(self.hash(name), value, text)
        else:
            for value, text in said.items():
                self._execute(f"DELETE FROM {name} WHERE {self._columns[name][0]} = %s", (value,))
                self._execute(f"INSERT INTO {name} VALUES (%s, %s)", (value, text))

    def hash(self, name: str) -> str:
        """The key of the table ``name`` in Redis."""
        return f"{self._prefix}:{name}"

    def place(self, text: str) -> str:
        """Where it is that ``text`` of a configuration asks, such as ``sql:SELECT plan FROM mailbox WHERE ...``."""
        asked = re.fullmatch(r"sql:SELECT \w+ FROM (\w+) WHERE \w+ = %s", text)
        assert asked is not None
        return f"redis:{self.hash(asked[1])}" if self._settings.get("backend", "sqlite") == "redis" else text

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Any]:
        config = self._settings["redis_config"]
        kind = RedisCluster if config.get("cluster") else Redis
        with contextlib.closing(kind.from_url(config["url"])) as client:
            yield client

    def _execute(self, statement: str, row: tuple[str | None, ...] = ()) -> None:
        connection: Any
        if "pgsql_config" in self._settings:
            config = dict(self._settings["pgsql_config"])
            connection = psycopg.connect(dbname=config.pop("database"), **config)
        elif "mysql_config" in self._settings:
            config = dict(self._settings["mysql_config"])
            password = config.pop("passwd").encode()  # or PyMySQL takes it for latin1
            connection = pymysql.connect(database=config.pop("db"), password=password, **config)
        else:
            connection = sqlite3.connect(self._settings["sqlite_config"]["database"])
            statement = statement.replace("%s", "?")
        with contextlib.closing(connection):
            connection.cursor().execute(statement, row)
            connection.commit()
