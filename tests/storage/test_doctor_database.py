"""What ``doctor`` says of the servers: that they are there, what the account may do, how late it is there."""

from __future__ import annotations

import json
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from support import redis_servers
from support.commands import call
from support.daemon import configuration, free_port, write_configuration
from support.doctor import findings_of
from support.faketime import Clock
from support.redis_servers import RedisServer
from support.sql_servers import MariadbServer, PostgresqlServer, SqlServer, shared

DOCUMENTED = (
    "+select +time +script|exists +script|load +evalsha +scan"
    " +hget +hmget +hgetall +hkeys +hexists +hset +hsetnx +hdel +get +set +del +exists +type +expire"
)


class Database(NamedTuple):
    """An empty database on a server, and how a configuration names it."""

    server: SqlServer
    backend: str
    setting: str
    config: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the daemon."""
        return {"backend": self.backend, self.setting: self.config}


@pytest.fixture(params=[(PostgresqlServer, "postgresql", "pgsql_config"), (MariadbServer, "mysql", "mysql_config")])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """One of each server with SQL."""
    kind, backend, setting = request.param
    server = shared(kind)
    config = server.create()
    yield Database(server, backend, setting, config)
    server.drop(config)


WITHOUT_POSTFIX = ("--postconf", "/nowhere")


def doctor(directory: pathlib.Path, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The findings about the database: their names, and what was found."""
    path = write_configuration(directory, configuration(directory, **settings))
    return of_database(findings_of(path, *WITHOUT_POSTFIX))


def of_database(findings: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(finding["check"], finding["found"]) for finding in findings if finding["check"].startswith("database")]


def make_tables(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Have the tables made, as a daemon makes them."""
    path = write_configuration(directory, configuration(directory, **settings))
    assert call(path, "--clean").returncode == 0


FINE = [("database", "reachable, and the rights suffice")]


def tables(database: Database) -> list[str]:
    """What is in the database."""
    schema = "public" if database.backend == "postgresql" else database.config["db"]
    query = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'"
    name = database.config.get("database") or database.config["db"]
    return sorted(str(name) for (name,) in database.server.admin(query, database=name))


def test_a_server_with_sql(database: Database, tmp_path: pathlib.Path) -> None:
    assert doctor(tmp_path, database.settings) == FINE
    assert tables(database) == []
    make_tables(tmp_path, database.settings)
    assert doctor(tmp_path, database.settings) == FINE


@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE"])
def test_a_right_is_missing(database: Database, tmp_path: pathlib.Path, right: str) -> None:
    make_tables(tmp_path, database.settings)
    user = database.config["user"]
    if database.backend == "mysql":
        database.server.admin(f"REVOKE {right} ON {user}.* FROM {user}")
    else:
        database.server.admin(f"REVOKE {right} ON ALL TABLES IN SCHEMA public FROM {user}", database=user)
    ((check, found),) = doctor(tmp_path, database.settings)
    assert check == "database-rights"
    assert "denied" in found
    assert "policyd_" in found


def test_tables_may_not_be_made(tmp_path: pathlib.Path) -> None:
    server = shared(PostgresqlServer)
    config = server.create()
    server.admin("ALTER SCHEMA public OWNER TO postgres", database=config["database"])
    ((check, found),) = doctor(tmp_path, {"backend": "postgresql", "pgsql_config": config})
    assert check == "database-rights"
    assert found.endswith("tables may not be made here")
    server.drop(config)


def test_a_server_is_away(database: Database, tmp_path: pathlib.Path) -> None:
    config = {**database.config, "port": free_port()}
    ((check, found),) = doctor(tmp_path, {"backend": database.backend, database.setting: config})
    assert check == "database"
    assert str(config["port"]) in found
    config = {**database.config, "passwd" if database.backend == "mysql" else "password": "wrong"}
    ((check, found),) = doctor(tmp_path, {"backend": database.backend, database.setting: config})
    assert check == "database"
    assert database.config["user"] in found


def test_the_clocks_differ(database: Database, tmp_path: pathlib.Path) -> None:
    assert_behind(tmp_path, database.settings)


def test_the_clock_of_redis_differs(tmp_path: pathlib.Path) -> None:
    with redis_servers.single(tmp_path / "server") as server:
        assert_behind(tmp_path, {"backend": "redis", "redis_config": {"url": server.url}})


def assert_behind(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """A host whose clock is 100 s ahead of the database's is told so; of less only by as much as the doctor took."""
    clock = Clock(directory)
    clock.forward(100)
    path = write_configuration(directory, configuration(directory, **settings))
    began = time.monotonic()
    done = call(path, "doctor", "--json", *WITHOUT_POSTFIX, env={**os.environ, **clock.environment})
    took = time.monotonic() - began
    assert done.stderr == ""
    *found, (check, difference) = of_database(json.loads(done.stdout)["findings"])
    assert found == FINE
    assert check == "database-clock"
    told = re.fullmatch(r"the database's clock is (\d+) s behind this host's", difference)
    assert told is not None
    assert round(100 - took) <= int(told[1]) <= 100


def test_redis(tmp_path: pathlib.Path) -> None:
    with redis_servers.single(tmp_path / "server") as server:
        settings = {"backend": "redis", "redis_config": {"url": server.url}}
        assert doctor(tmp_path, settings) == FINE
        with server.client() as client:
            before = client.dbsize()
        assert doctor(tmp_path, settings) == FINE
        with server.client() as client:
            assert client.dbsize() == before
    assert doctor(tmp_path, settings)[0][0] == "database"


def test_redis_with_the_rights_that_are_documented_and_with_fewer(tmp_path: pathlib.Path) -> None:
    with RedisServer(tmp_path / "server") as server, server.client() as client:
        login = {"url": server.url, "username": "policyd", "password": "secret"}
        for rights, expected in (
            (DOCUMENTED, "database"),
            (DOCUMENTED.replace("+hdel", ""), "database-rights"),
            (DOCUMENTED.replace("+hgetall", ""), "database-rights"),
            (DOCUMENTED.replace("+evalsha", ""), "database-rights"),
        ):
            client.execute_command("ACL", "SETUSER", "policyd", "reset", "on", ">secret", "~policyd:*", *rights.split())
            ((check, found),) = doctor(tmp_path, {"backend": "redis", "redis_config": login})
            assert check == expected
            assert "secret" not in found


def test_redis_that_does_not_let_ids_be_listed(tmp_path: pathlib.Path) -> None:
    """The daemon needs no such right, ``top`` does."""
    with RedisServer(tmp_path / "server") as server, server.client() as client:
        rights = DOCUMENTED.replace("+scan", "").split()
        client.execute_command("ACL", "SETUSER", "policyd", "reset", "on", ">secret", "~policyd:*", *rights)
        login = {"url": server.url, "username": "policyd", "password": "secret"}
        fine, (check, found) = doctor(tmp_path, {"backend": "redis", "redis_config": login})
        assert fine == FINE[0]
        assert check == "database-rights"
        assert "scan" in found


def test_redis_that_forgets(tmp_path: pathlib.Path) -> None:
    with RedisServer(tmp_path / "server", appendonly="no") as server:
        found = doctor(tmp_path, {"backend": "redis", "redis_config": {"url": server.url}})
    assert found[0] == FINE[0]
    assert found[1][0] == "database-durability"
    assert "appendonly is off" in found[1][1]


def test_limits_from_a_query(database: Database, tmp_path: pathlib.Path) -> None:
    good = {**database.settings, "sql_limits_by_id": "SELECT '[[1, 60]]' WHERE %s = 'x'"}
    assert doctor(tmp_path, good) == FINE
    bad = {**database.settings, "sql_limits_by_id": "SELECT limits FROM nowhere WHERE id = %s"}
    path = write_configuration(tmp_path, configuration(tmp_path, **bad))
    (finding,) = [one for one in findings_of(path, *WITHOUT_POSTFIX) if one["check"] == "sql-limits"]
    assert finding["severity"] == "error"
    assert "nowhere" in finding["found"]


def test_tables_of_rules(database: Database, tmp_path: pathlib.Path) -> None:
    place = "::inet" if database.backend == "postgresql" else ""
    values = {
        **database.settings,
        "tables": {
            "good": "sql:SELECT 'x' WHERE %s = 'x'",
            "campus": f"sql:SELECT 'x' WHERE %s{place} = '192.0.2.1'",
            "bad": "sql:SELECT plan FROM nowhere WHERE id = %s",
        },
        "rules": {
            "x": {
                "key": "sasl_username",
                "limits": "1/1h",
                "match": {"sasl_username": "$good", "client_address": "$campus"},
                "unless": {"sender": "$bad"},
            }
        },
    }
    path = write_configuration(tmp_path, configuration(tmp_path, **values))
    bad, campus, good = [one for one in findings_of(path, *WITHOUT_POSTFIX) if one["check"] == "tables"]
    assert (good["severity"], good["found"]) == ("ok", "tables.good can be asked")
    assert (campus["severity"], campus["found"]) == ("ok", "tables.campus can be asked")
    assert bad["severity"] == "error"
    assert bad["found"].startswith("tables.bad fails: ")
    assert "nowhere" in bad["found"]


def test_hashes_of_rules(tmp_path: pathlib.Path) -> None:
    with redis_servers.single(tmp_path / "server") as server:
        values = {
            "backend": "redis",
            "redis_config": {"url": server.url},
            "tables": {"plan": "redis:plan", "wrong": "redis:text"},
            "rules": {
                "x": {"key": "sasl_username", "limits": "1/1h", "overrides": {"$plan": "2/1h", "$wrong": "3/1h"}}
            },
        }
        with server.client() as client:
            client.set("text", "no hash")
        path = write_configuration(tmp_path, configuration(tmp_path, **values))
        plan, wrong = [one for one in findings_of(path, *WITHOUT_POSTFIX) if one["check"] == "tables"]
    assert (plan["severity"], plan["found"]) == ("ok", "tables.plan can be asked")
    assert wrong["severity"] == "error"
    assert "WRONGTYPE" in wrong["found"]
