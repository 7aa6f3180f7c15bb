"""What the configuration says about a database: where it is, and how its spool is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.databases import DATABASES

# The names of spools are those of daemons that run now: what they have left there must be found after an upgrade.
SPOOLS: list[tuple[dict[str, Any], str, str, str, list[str]]] = [
    (
        {"sqlite_config": {"database": "/x/y/db.sqlite3"}},
        "SQLite /x/y/db.sqlite3",
        "db.sqlite3",
        "db.sqlite3",
        ["/x/y", "/x/y"],
    ),
    (
        {"sqlite_config": {"database": "/x/y/db.sqlite3"}, "journal_directory": "/j"},
        "SQLite /x/y/db.sqlite3",
        "db.sqlite3-95dd5d9921c5",
        "db.sqlite3-95dd5d9921c5",
        ["/x/y", "/j"],
    ),
    (
        {"backend": 1, "mysql_config": {"user": "u", "passwd": "secret", "db": "d", "host": "h"}},
        "MySQL host=h db=d",
        "mysql-7b2111e6c3bf",
        "mysql-784533a74346",
        ["/var/lib/policyd-rate-limit"],
    ),
    (
        {
            "backend": 2,
            "pgsql_config": {
                "dsn": "host=h password='sec ret' dbname=d",
                "user": "joe",
                "password": "secret",
            },
        },
        "PostgreSQL host=h dbname=d",
        "pgsql-eefc0b194225",
        "pgsql-6016bf647421",
        ["/var/lib/policyd-rate-limit"],
    ),
    (
        {
            "backend": 2,
            "pgsql_config": {
                "dsn": "postgresql://joe:sec%20ret@h:5433,h2/d?sslpassword=secret&hostaddr=192.0.2.1,192.0.2.2",
                "database": "other",
            },
        },
        "PostgreSQL host=h,h2 port=5433, hostaddr=192.0.2.1,192.0.2.2 database=other",
        "pgsql-77a86d0af9e7",
        "pgsql-7f65a77460ff",
        ["/var/lib/policyd-rate-limit"],
    ),
    (
        {"backend": 2, "pgsql_config": {"dsn": "no such thing: secret"}},
        "PostgreSQL",
        "pgsql-7c038002638b",
        "pgsql-6016bf647421",
        ["/var/lib/policyd-rate-limit"],
    ),
    (
        {
            "backend": 2,
            "pgsql_config": {"host": "h", "dbname": "d", "options": "-c search_path=x"},
            "journal_directory": "/j",
        },
        "PostgreSQL host=h dbname=d",
        "pgsql-ab3223a1ccbc",
        "pgsql-b085c3860fc5",
        ["/j"],
    ),
    (
        {
            "backend": "redis",
            "redis_config": {"url": "rediss://u:secret@h:6380/2?password=secret&x=1", "prefix": "p"},
        },
        "Redis host=h port=6380 path=/2",
        "redis-b034d31dbd1d",
        "redis-5a0b11d083f6",
        ["/var/lib/policyd-rate-limit"],
    ),
    (
        {"backend": "redis", "redis_config": {"nodes": ["a:1", "b:2"], "cluster": True}},
        "Redis nodes=['a:1', 'b:2']",
        "redis-00ef015538c0",
        "redis-d4cd7078ae07",
        ["/var/lib/policyd-rate-limit"],
    ),
]


@pytest.mark.parametrize(("given", "described", "name", "former", "directories"), SPOOLS)
def test_where_a_database_and_its_spool_are(
    given: dict[str, Any], described: str, name: str, former: str, directories: list[str]
) -> None:
    backend = backend_of(Settings(**given))
    assert backend.describe() == described
    assert (backend.spool_name, backend.former_spool_name) == (name, former)
    assert [str(directory) for directory in backend.state_directories()] == directories


def test_where_the_spool_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def directory(**given: Any) -> Path:
        return backend_of(Settings(**given)).spool_directory

    monkeypatch.chdir(tmp_path)
    assert str(directory()) == "/var/lib/policyd-rate-limit"
    assert directory(sqlite_config={"database": "/x/y/db"}) == Path("/x/y")
    assert directory(sqlite_config={"database": "db"}) == tmp_path
    assert directory(sqlite_config={"database": "/x/db"}, journal_directory="/j") == Path("/j")
    assert str(directory(sqlite_config={"database": "/x/db"}, backend=1)) == "/var/lib/policyd-rate-limit"


@pytest.mark.parametrize("backend", DATABASES)
def test_each_database_of_the_configuration_can_be_used(backend: int | str) -> None:
    made = backend_of(Settings(backend=backend))
    assert made.database is DATABASES[backend]
    assert getattr(made.settings, made.database.setting)
