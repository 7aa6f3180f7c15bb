"""Tables in the daemon: files that change, a reload, databases that are away, and much mail at once."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import sqlite3
import threading
import time
from typing import Any

import pytest

from support import redis_servers, sql_servers
from support.daemon import Client, encode, mail, running
from support.redis_servers import RedisServer
from support.said import Said
from support.wait import wait_until

IN_FORCE_SECONDS = 5.0  # two looks at a file a second apart, and some for a machine that is busy
DB_TIMEOUT = 0.5
LATE = 2.0  # seconds that a machine may be busy with something else
REFUSED = "450 4.7.1 {key}"


def rule(**words: Any) -> dict[str, Any]:
    """A rule for users, which says whom it refuses."""
    return {"key": "sasl_username", "action": REFUSED, **words}


def passes(client: Client, user: str) -> bool:
    """Whether one more mail of ``user`` passes; what is refused is the mail of no other."""
    action = client.ask(**mail(user))
    assert action in {"dunno", f"450 4.7.1 {user}"}
    return action == "dunno"


def ask_all(client: Client, users: list[str]) -> tuple[list[bool], float]:
    """Whether mails of ``users`` pass that are sent without waiting for answers; the seconds until the last answer."""
    began = time.monotonic()
    client.socket.sendall(b"".join(encode(**mail(user)) for user in users))
    passed = []
    for user in users:
        action = client.answer()
        assert action in {"dunno", f"450 4.7.1 {user}"}, "answers come in the order of their requests"
        passed.append(action == "dunno")
    return passed, time.monotonic() - began


def put(path: pathlib.Path, content: str | bytes) -> None:
    """Put a new file in the place of ``path``, as an editor or a script does."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content if isinstance(content, bytes) else content.encode())
    new.rename(path)


def test_a_file_is_in_force_soon_after_it_has_changed_in_whichever_way(tmp_path: pathlib.Path) -> None:
    staff = tmp_path / "staff"
    put(staff, "alice\n")
    rules = {"others": rule(unless={"sasl_username": "$staff"}, limits="1/1h")}
    with (
        running(tmp_path, rules=rules, tables={"staff": f"file:{staff}"}) as daemon,
        Client(daemon.address) as client,
    ):

        def soon(*, passing: str) -> None:
            wait_until(lambda: passes(client, passing), f"{passing} is staff", IN_FORCE_SECONDS)

        assert [passes(client, user) for user in ("alice", "alice", "alice")] == [True] * 3
        for user in ("bob", "carol", "dora"):
            assert [passes(client, user), passes(client, user)] == [True, False]
        put(staff, "bob\n")
        soon(passing="bob")
        assert [passes(client, user) for user in ("alice", "alice", "bob")] == [True, False, True]
        with staff.open("a") as file:
            file.write("car*\n")
        soon(passing="carol")
        assert [passes(client, user) for user in ("alice", "bob", "carol")] == [False, True, True]
        staff.unlink()
        daemon.logged("tables.staff:", "No such file or directory", "its entries from before are used")
        assert [passes(client, user) for user in ("alice", "bob", "carol")] == [False, True, True]
        put(staff, b"dora\n\xff\n")
        daemon.logged("tables.staff:", f"{staff}:2: expected text in UTF-8, found the byte 0xff")
        assert [passes(client, user) for user in ("alice", "bob", "dora")] == [False, True, False]
        put(staff, "# nobody but her\n\ndora\n")
        soon(passing="dora")
        assert [passes(client, user) for user in ("alice", "bob", "carol", "dora")] == [False, False, False, True]
        put(staff, "")
        wait_until(lambda: not (passes(client, "dora") and passes(client, "dora")), "nobody is", IN_FORCE_SECONDS)
        for trouble in ("No such file or directory", "0xff"):
            assert daemon.log_text().count(trouble) == 1


def test_a_text_that_is_no_limit_is_told_and_the_limits_of_the_rule_hold(tmp_path: pathlib.Path) -> None:
    tiers = tmp_path / "tiers"
    put(tiers, "alice 3/1h\nbob three an hour\n")
    settings: dict[str, Any] = {"rules": {"person": rule(limits="1/1h", overrides="$tiers")}}
    with (
        running(tmp_path, **settings, tables={"tiers": f"file:{tiers}"}) as daemon,
        Client(daemon.address) as client,
    ):
        assert [passes(client, "alice") for _ in range(4)] == [True] * 3 + [False]
        assert [passes(client, "bob") for _ in range(3)] == [True, False, False]
        line = daemon.logged("tables.tiers for 'bob'")
        assert "expected limits such as 100/1h" in line
        assert line.endswith("found 'three an hour'; it does not count")
        put(tiers, "alice 3/1h\nbob 2/1h\n")
        wait_until(lambda: passes(client, "bob"), "bob has other limits", IN_FORCE_SECONDS)
        assert daemon.log_text().count("tables.tiers for ") == 1


def test_a_reload_changes_tables_between_two_requests(tmp_path: pathlib.Path) -> None:
    staff = tmp_path / "staff"
    put(staff, "carol\n")
    rules = {"person": rule(limits="1/1h", overrides={"$plan=business": "3/1h", "$plan=trial": "2/1h"})}
    tables: dict[str, Any] = {"plan": {"alice": "business", "bob": "trial"}}
    with running(tmp_path, rules=rules, tables=tables) as daemon, Client(daemon.address) as client:
        for user in ("alice", "bob"):
            assert [passes(client, user), passes(client, user)] == [True] * 2
        assert not passes(client, "bob")
        daemon.reload(tables={"plan": {"bob": "business"}})  # over the same connection
        assert [passes(client, user) for user in ("alice", "bob", "bob")] == [False, True, False]
        # Another table with the same name, in a file; what was counted stays.
        put(staff, "alice business\ncarol trial\n")
        daemon.reload(tables={"plan": f"file:{staff}"})
        assert [passes(client, user) for user in ("alice", "bob", "carol", "carol")] == [True, False, True, True]
        assert not passes(client, "carol")
        # The file of the table that is no more is not looked at any more.
        daemon.reload(tables={}, rules={"person": rule(limits="4/1h")})
        before = daemon.log_text()
        put(staff, b"\xff")
        assert [passes(client, user) for user in ("alice", "alice", "carol")] == [True, False, True]
        # A table that is asked but not there leaves all as it was.
        daemon.reload(tables={"staff": ["carol"]}, said="reload failed: the configuration stays as it was")
        assert [passes(client, "carol"), passes(client, "carol")] == [True, False]
        assert "0xff" not in daemon.log_text().removeprefix(before)


@pytest.mark.parametrize(
    ("kind", "backend", "setting"),
    [
        pytest.param(sql_servers.PostgresqlServer, "postgresql", "pgsql_config", id="postgresql"),
        pytest.param(sql_servers.MariadbServer, "mysql", "mysql_config", id="mariadb"),
    ],
)
def test_a_database_that_hangs_holds_up_no_answer_for_long(
    tmp_path: pathlib.Path, kind: type[sql_servers.SqlServer], backend: str, setting: str
) -> None:
    server = sql_servers.shared(kind)
    config = server.create()
    store = {"backend": backend, setting: config, "journal_directory": str(tmp_path)}
    said = Said(store)
    said.make("mailbox", ("address", "plan"), {"bob": "business", "zoe": None})
    settings: dict[str, Any] = {
        **store,
        "rules": {"person": rule(limits="2/1h", overrides={"$plan=business": "4/1h"})},
        "tables": {"plan": "sql:SELECT plan FROM mailbox WHERE address = %s"},
        "tables_ttl": 0.01,
        "db_timeout": DB_TIMEOUT,
    }
    try:
        with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
            assert [passes(client, user) for user in ("bob", "zoe")] == [True, True]
            with server.frozen():
                # Of carol nothing is known.
                passed, took = ask_all(client, ["bob", "carol", "zoe"] * 4)
                assert [passed[first::3] for first in range(3)] == [
                    [True, True, True, False],
                    [True, True, False, False],
                    [True, False, False, False],
                ]
                # First the table is waited for, then the limits' own database; all wait together.
                assert took < 2 * DB_TIMEOUT + LATE
            said.put("mailbox", {"carol": "business", "bob": None})
            wait_until(lambda: passes(client, "carol"), "what the table says of carol is in force")
            assert [passes(client, user) for user in ("carol", "carol", "bob", "zoe")] == [True, False, False, False]
            daemon.logged("tables.plan works again")
            assert daemon.log_text().count("tables.plan fails: ") == 1
            assert "what it said last is used, else nothing is known" in daemon.logged("tables.plan fails: ")
    finally:
        server.drop(config)


def test_a_request_that_waits_for_tables_is_answered_by_the_policy_it_met_whatever_is_reloaded(
    tmp_path: pathlib.Path,
) -> None:
    """Also by what it asks one of its tables only after those are no more in force, at once and not after a timeout."""
    server = sql_servers.shared(sql_servers.PostgresqlServer)
    assert isinstance(server, sql_servers.PostgresqlServer)
    config = server.create()
    store = {"backend": "postgresql", "pgsql_config": config, "journal_directory": str(tmp_path)}
    said = Said(store)
    said.make("customer", ("address", "name"), {"alice": "acme"})
    said.make("plan", ("name", "plan"), {"acme": "business"})
    settings: dict[str, Any] = {
        **store,
        "rules": {
            "customer": {
                "key": "$customer(sasl_username)",
                "limits": "1/1h",
                "overrides": {"$plan=business": "3/1h"},
                "action": "450 old",
            }
        },
        "tables": {
            "plan": "sql:SELECT plan FROM plan WHERE name = %s",
            "customer": "sql:SELECT name FROM customer WHERE address = %s",
        },
        "tables_ttl": 0.001,
        "db_timeout": 30,
    }
    changed: dict[str, Any] = {
        "rules": {"customer": {"key": "sasl_username", "limits": "1/1h", "action": "450 new"}},
        "tables": {},
    }
    try:
        with running(tmp_path, **settings) as daemon, Client(daemon.address, timeout=20) as client:
            assert [client.ask(**mail("alice")) for _ in range(2)] == ["dunno"] * 2
            with server.locked("customer", database=config["database"]):
                client.send(**mail("alice"))
                wait_until(lambda: server.waiting(config["database"]), "the table is asked")
                daemon.reload(**changed)
                with Client(daemon.address) as other:
                    assert [other.ask(**mail("bob")) for _ in range(2)] == ["dunno", "450 new"]
                daemon.reload(**changed, fail_action="450 fail")  # once more, while it still waits
            assert client.answer() == "dunno"
            assert [client.ask(**mail("alice")) for _ in range(2)] == ["dunno", "450 new"]
            assert "tables." not in daemon.log_text()
            assert daemon.stop() == 0
    finally:
        server.drop(config)


def test_a_hash_of_redis_is_a_table_also_while_the_server_is_away(tmp_path: pathlib.Path) -> None:
    with RedisServer(tmp_path / "redis") as server, server.client() as redis:
        redis.hset("policyd:plan", mapping={"alice": "business", "bob": "none"})
        settings: dict[str, Any] = {
            "backend": "redis",
            "redis_config": {"url": server.url},
            "journal_directory": str(tmp_path),
            "rules": {"person": rule(limits="1/1h", overrides={"$plan=business": "4/1h"})},
            "tables": {"plan": "redis:policyd:plan"},
            "tables_ttl": 0.01,
            "db_timeout": DB_TIMEOUT,
        }
        with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
            assert [passes(client, user) for user in ("alice", "alice", "bob", "bob")] == [True, True, True, False]
            server.signal(signal.SIGSTOP)
            try:
                passed, took = ask_all(client, ["alice", "carol", "bob"] * 3)
            finally:
                server.signal(signal.SIGCONT)
            assert [passed[first::3] for first in range(3)] == [
                [True, True, False],
                [True, False, False],
                [False, False, False],
            ]
            assert took < 2 * DB_TIMEOUT + LATE
            redis.hset("policyd:plan", mapping={"bob": "business"})
            redis.hdel("policyd:plan", "alice")
            wait_until(lambda: passes(client, "bob"), "what the hash says of bob is in force")
            assert [passes(client, user) for user in ("bob", "bob", "bob", "alice")] == [True, True, False, False]
            daemon.logged("tables.plan works again")


def test_hashes_of_a_redis_cluster_are_tables_on_whichever_node_they_are(tmp_path: pathlib.Path) -> None:
    with redis_servers.cluster(tmp_path / "redis") as nodes:
        store = {"backend": "redis", "redis_config": {"url": nodes[0].url, "cluster": True}}
        said = Said(store)
        tables = ("size", "plan", "list")  # of which each of the three nodes has one
        with nodes[0].client() as client:
            slots = [int(str(client.execute_command("CLUSTER", "KEYSLOT", said.hash(name)))) for name in tables]
        assert {slot * len(nodes) // redis_servers.SLOTS for slot in slots} == {0, 1, 2}
        for name in tables:
            said.make(name, ("address", "text"), {"alice": "3/1h", "bob": "no limits"})
        settings: dict[str, Any] = {
            **store,
            "journal_directory": str(tmp_path / "spool"),
            "rules": {
                name: rule(limits="1/1h", overrides=f"${name}", match={"sender": f"*@{name}.example"})
                for name in tables
            },
            "tables": {name: f"redis:{said.hash(name)}" for name in tables},
            "tables_ttl": 0.01,
            "db_timeout": 5,
        }

        def passed(client: Client, user: str, mails: int) -> list[list[bool]]:
            """Which of so many mails of ``user`` pass by each of the rules."""
            return [
                [client.ask(**mail(user, sender=f"x@{name}.example")) == "dunno" for _ in range(mails)]
                for name in tables
            ]

        with running(tmp_path, **settings) as daemon, Client(daemon.address) as client:
            assert passed(client, "alice", 4) == [[True, True, True, False]] * 3
            assert passed(client, "bob", 2) == [[True, False]] * 3
            for name in tables:
                said.put(name, {"bob": "2/1h", "alice": None})
            time.sleep(0.02)
            assert passed(client, "bob", 2) == [[True, False]] * 3
            assert passed(client, "alice", 1) == [[False]] * 3
            for name in tables:
                daemon.logged(f"tables.{name} for 'bob'", "found 'no limits'")
            assert "fails" not in daemon.log_text()


def test_much_mail_at_once_is_answered_once_each_while_the_table_is_asked_all_the_time(
    tmp_path: pathlib.Path,
) -> None:
    connections, mails = 20, 50
    users = [f"user{number}" for number in range(connections)]
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute("CREATE TABLE mailbox (address text, plan text)")
        database.executemany("INSERT INTO mailbox VALUES (?, 'business')", [(user,) for user in users[::2]])
    settings: dict[str, Any] = {
        "rules": {"person": rule(limits="20/1h", overrides={"$plan=business": "30/1h"})},
        "tables": {"plan": "sql:SELECT plan FROM mailbox WHERE address = ?"},
        "tables_ttl": 0.001,
        "db_timeout": 30,
    }
    passed: dict[str, list[bool]] = {}
    with running(tmp_path, **settings) as daemon:

        def send(user: str) -> None:
            with Client(daemon.address, timeout=60) as client:
                told, _ = ask_all(client, [user] * mails)
                client.socket.shutdown(socket.SHUT_WR)
                with contextlib.suppress(EOFError):
                    told.append(client.answer() == "one more")
                assert client.received == b""
            passed[user] = told

        threads = [threading.Thread(target=send, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert passed == {
            user: [True] * most + [False] * (mails - most)
            for user, most in zip(users, [30, 20] * (connections // 2), strict=True)
        }
        assert "tables.plan" not in daemon.log_text()
