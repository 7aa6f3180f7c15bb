"""The commands of docs/backup.md do what the page says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Callable, Mapping

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Administration, Override
from policyd_rate_limit.storage.log.mysql.log import MysqlLog
from policyd_rate_limit.storage.redis.administration import RedisAdministration
from policyd_rate_limit.storage.redis.copying import RedisCopying
from storage.administered import Administered, AdministeredLog
from storage.logs import MariadbLogs, PostgresqlLogs, SqliteLogs
from storage.redis_stores import new_store
from storage.stores import HOUR, PATIENCE, admitted, demand, usage
from support import sql_servers
from support.actors import TESTER
from support.programs import require
from support.redis_servers import RedisServer, command_line
from support.sql_servers import MariadbServer

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "backup.md"
BLOCK = Override("user:b", (Limit(0, 1),), 2**40)


def commands(title: str) -> str:
    """The block of the page that begins with the comment ``title``."""
    (found,) = re.findall(rf"^```sh\n# {title}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def run(
    title: str,
    replaced: Mapping[str, object],
    environment: Mapping[str, object],
    services: Callable[[str], None] = lambda _: None,
) -> None:
    """Run that block with other names and places; ``services`` does what it asks of systemd."""
    text = commands(title)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, str(new))
    text = text.replace("/var/backups", str(replaced["/var/backups"]))
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    for part in re.split(r"^(systemctl .*)\n", text, flags=re.MULTILINE):
        if part.startswith("systemctl "):
            services(part.split()[1])
        else:
            subprocess.run(["sh", "-e", "-c", part], env=variables, check=True, timeout=60)


def fill(database: Administered) -> None:
    admitted(database.store(), demand(cost=3))
    database.administration().set_override(BLOCK, TESTER)


def spoil(database: Administered) -> None:
    """What comes after the backup."""
    admitted(database.store(), demand(cost=4), demand("user:c", cost=1))
    database.administration().remove_override("user:b", TESTER)


def assert_restored(database: Administered) -> None:
    assert usage(database.store(), ["user:a", "user:c"]) == {"user:a": 3, "user:c": 0}
    assert database.administration().overrides() == [BLOCK]


def test_sqlite(tmp_path: pathlib.Path) -> None:
    require("sqlite3")
    logs = SqliteLogs(tmp_path)
    database, path = AdministeredLog(logs), logs.path
    replaced = {"/var/backups": tmp_path}
    in_place = {"/var/lib/policyd-rate-limit": path.parent, "db.sqlite3": path.name}
    fill(database)
    assert path.with_name(f"{path.name}-wal").exists()  # which cp would have left out
    run("backup: sqlite", {**in_place, **replaced}, {})
    spoil(database)
    asked: list[str] = []

    def services(verb: str) -> None:
        asked.append(verb)
        if verb == "stop":
            database.close()

    owner = {"-o policyd-rate-limit -g policyd-rate-limit ": ""}
    run("restore: sqlite", {**owner, **in_place, **replaced}, {}, services)
    assert asked == ["stop", "start"]
    restored = AdministeredLog(SqliteLogs(tmp_path))
    assert_restored(restored)
    restored.close()


def test_postgresql(tmp_path: pathlib.Path) -> None:
    logs = PostgresqlLogs(tmp_path)
    database = AdministeredLog(logs)
    config = logs.config
    environment = {
        "PGHOST": config["host"],
        "PGPORT": config["port"],
        "PGUSER": config["user"],
        "PGPASSWORD": config["password"],
        "PATH": f"{sql_servers.PostgresqlServer.program('pg_dump').parent}:{os.environ['PATH']}",
    }
    replaced = {"/var/backups": tmp_path, "policyd_rate_limit": config["database"]}
    fill(database)
    run("backup: postgresql", replaced, environment)
    spoil(database)
    database.break_connections()
    run("restore: postgresql", replaced, environment)
    assert_restored(database)
    database.close()


def test_mariadb(tmp_path: pathlib.Path) -> None:
    require("mariadb-dump")
    logs = MariadbLogs(tmp_path)
    database = AdministeredLog(logs)
    config = logs.config
    server = sql_servers.shared(MariadbServer)
    server.admin(f"GRANT DROP, LOCK TABLES ON {config['db']}.* TO {config['user']}")
    password = config["passwd"].replace("\\", "\\\\").replace('"', '\\"')
    (tmp_path / ".my.cnf").write_text(
        f'[client]\nhost={config["host"]}\nport={config["port"]}\nuser={config["user"]}\npassword="{password}"\n'
        "default-character-set=utf8mb4\n"
    )
    replaced = {"/var/backups": tmp_path, "policyd_rate_limit": config["db"]}
    for table, _ in (*MysqlLog.SCHEMA, *MysqlLog.ADDED):
        assert f" {table} " in commands("backup: mariadb").replace("\n", " ")
    fill(database)
    run("backup: mariadb", replaced, {"HOME": tmp_path})
    spoil(database)
    database.break_connections()
    run("restore: mariadb", replaced, {"HOME": tmp_path})
    assert_restored(database)
    database.close()


def test_redis(own: RedisServer, tmp_path: pathlib.Path) -> None:
    class Served(Administered):
        def _store(self, longest: int = HOUR):  # type: ignore[no-untyped-def]
            return new_store({"url": own.url})

        def _administration(self) -> RedisAdministration:
            return RedisAdministration({"url": own.url}, longest=HOUR, timeout=PATIENCE)

        def copier(self, administration: Administration) -> RedisCopying:
            raise NotImplementedError

        def break_connections(self) -> None:
            raise NotImplementedError

    database = Served()
    replaced = {"/var/backups": tmp_path}
    fill(database)
    run("backup: redis", {**replaced, "redis-cli": f"{command_line()} -p {own.port}"}, {})
    spoil(database)

    def services(verb: str) -> None:
        if verb == "stop":
            own.kill()
        else:
            own.start()

    owner = {"-o redis -g redis ": "", "/var/lib/redis": own.directory}
    run("restore: redis", {**owner, **replaced}, {}, services)
    assert_restored(database)
    own.kill()
    own.start()  # what was restored is on disk
    assert_restored(database)
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb", "redis"])
def test_the_page_has_commands_for_each(kind: str) -> None:
    assert commands(f"backup: {kind}")
    assert commands(f"restore: {kind}")
