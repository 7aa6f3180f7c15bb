"""``sql_limits_by_id`` in a real daemon."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from typing import Any

import pytest

from support import sql_servers
from support.commands import call
from support.daemon import Client, Daemon, admitted, mail, running
from support.faketime import Clock
from support.wait import wait_until

DAY = 86_400
WEEK = 7 * DAY
QUERY = "SELECT limits FROM rate_limits WHERE id = ?"
PATIENCE = 30.0


class Table:
    """The table of 1.2.0, in the file of the daemon."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "db.sqlite3"
        self.execute("CREATE TABLE rate_limits (id varchar(40) NOT NULL, limits text)")

    def execute(self, statement: str, *parameters: object) -> None:
        with contextlib.closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database, database:
            database.execute(statement, parameters)

    def give(self, identifier: str, limits: str | None) -> None:
        self.execute("DELETE FROM rate_limits WHERE id = ?", identifier)
        self.execute("INSERT INTO rate_limits VALUES (?, ?)", identifier, limits)


def clean(daemon: Daemon) -> str:
    done = call(daemon.path, "--clean", env=daemon.environment)
    return done.stdout + done.stderr


def test_the_table_wins_as_with_1_2_0(tmp_path: pathlib.Path) -> None:
    """Counted with 1.2.0 over the same table and settings, but for the last two: it tells spellings apart."""
    table = Table(tmp_path)
    for identifier, limits in {
        "both": "[[3, 60]]",
        "free": "[]",
        "limited": "[[1, 60]]",
        "null": None,
        "192.0.2.7": "[[1, 60]]",
        "2001:db8::1": "[[1, 60]]",
        "2001:db8:1::/64": "[[2, 60]]",
    }.items():
        table.give(identifier, limits)
    with (
        running(
            tmp_path,
            limits=[[4, 60]],
            limits_by_id={"both": [[1, 60]], "mine": [[2, 60]], "free": [[1, 60]], "limited": [], "null": [[2, 60]]},
            sql_limits_by_id=QUERY,
            limit_by_ip=True,
            limited_networks=["192.0.2.0/24", "2001:db8::/32"],
        ) as daemon,
        Client(daemon.address) as client,
    ):
        users = {"both": 3, "mine": 2, "free": 5, "limited": 1, "null": 2, "other": 4, "' OR '1'='1": 4}
        assert {user: admitted(client, user, 5) for user in users} == users
        assert admitted(client, "", 5, client_address="192.0.2.7") == 1
        assert admitted(client, "", 5, client_address="192.0.2.8") == 4
        assert admitted(client, "", 5, client_address="2001:db8::1") == 1
        assert admitted(client, "", 5, client_address="2001:DB8:1::1") == 2
        assert admitted(client, "BOTH", 5) == 0
        assert "sql_limits" not in daemon.log_text()


def test_a_row_that_changes_takes_effect_after_its_time(tmp_path: pathlib.Path) -> None:
    table = Table(tmp_path)
    with (
        running(tmp_path, limits=[[1, 3600]], sql_limits_by_id=QUERY, sql_limits_ttl=0.2) as daemon,
        Client(daemon.address) as client,
    ):
        passed = admitted(client, "alice", 2)
        assert passed == 1

        def ask() -> int:
            nonlocal passed
            now = admitted(client, "alice", 1)
            passed += now
            return now

        def warned() -> bool:
            ask()
            return "sql_limits_by_id for 'alice'" in daemon.log_text()

        table.give("alice", "[[5, 3600]]")
        wait_until(ask, "more is admitted")
        table.give("alice", "nonsense")
        wait_until(warned, "a warning")
        passed += admitted(client, "alice", 5)
        assert passed == 5  # by what was known last
        table.execute("DROP TABLE rate_limits")
        assert admitted(client, "bob", 5) == 1
        wait_until(lambda: "no such table" in daemon.log_text(), "a warning")
        Table(tmp_path).give("carol", "[]")
        assert admitted(client, "carol", 5) == 5
        wait_until(lambda: "sql_limits_by_id works again" in daemon.log_text(), "it works again")
        # Once for each that begins and ends; a machine that is slow may add one of its own.
        assert 2 <= daemon.log_text().count("sql_limits_by_id") <= 5


def test_a_window_longer_than_configured_survives(tmp_path: pathlib.Path) -> None:
    table = Table(tmp_path)
    table.give("alice", f"[[5, {WEEK}]]")
    clock = Clock(tmp_path)
    daemon = Daemon(tmp_path, environment=clock.environment, limits=[[100, 60]], sql_limits_by_id=QUERY)
    with daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 3) == 3
        assert admitted(client, "bob", 3) == 3
        clock.forward(3 * DAY)
        assert admitted(client, "bob", 1) == 1
        assert clean(daemon) == "0 records deleted\n"
    with daemon, Client(daemon.address) as client:
        assert admitted(client, "bob", 1) == 1
        assert admitted(client, "alice", 3) == 2
        clock.forward(4 * DAY + 2)
        assert admitted(client, "alice", 4) == 3
        table.give("alice", "[]")
        # The daemons may have announced that they look back a week: they do so when they have a moment.
        clock.forward(2 * WEEK)
        assert admitted(client, "bob", 1) == 1
        assert clean(daemon) == f"{3 + 3 + 1 + 1 + 2 + 3} records deleted\n"


@pytest.mark.parametrize("kind", sql_servers.SERVERS, ids=lambda kind: kind.name)
def test_a_server_that_hangs_holds_up_no_answer_for_long(
    tmp_path: pathlib.Path, kind: type[sql_servers.SqlServer]
) -> None:
    server = sql_servers.shared(kind)
    config = server.create()
    backend, option = {"postgresql": (2, "pgsql_config"), "mariadb": (1, "mysql_config")}[kind.name]
    server.admin(
        "CREATE TABLE rate_limits (id varchar(200) NOT NULL, limits text)",
        "INSERT INTO rate_limits VALUES ('alice', '[[3, 3600]]'), ('bob', '[]')",
        f"GRANT SELECT ON rate_limits TO {config['user']}",
        database=config.get("database") or config["db"],
    )
    settings: dict[str, Any] = {
        "backend": backend,
        option: config,
        "journal_directory": str(tmp_path),
        "limits": [[2, 3600]],
        "sql_limits_by_id": "SELECT limits FROM rate_limits WHERE id = %s",
        "sql_limits_ttl": 0.01,
        "db_timeout": 0.5,
    }
    with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
        assert admitted(client, "bob", 5) == 5
        assert admitted(client, "alice", 2) == 2
        with server.frozen():
            assert admitted(client, "bob", 5) == 5
            assert admitted(client, "alice", 5) == 1
            assert admitted(client, "carol", 5) == 2
        wait_until(lambda: client.ask(**mail("x")) and "sql_limits_by_id works again" in daemon.log_text(), "it works")
        assert admitted(client, "bob", 5) == 5
        assert admitted(client, "alice", 1) == 0
    server.drop(config)


def test_redis_has_no_sql(tmp_path: pathlib.Path) -> None:
    daemon = Daemon(tmp_path, backend="redis", sql_limits_by_id=QUERY)
    daemon.start(wait=False)
    try:
        assert daemon.process.wait(PATIENCE) == 5
    finally:
        daemon.kill()
    assert "sql_limits_by_id: expected nothing with backend redis" in daemon.log_text()
