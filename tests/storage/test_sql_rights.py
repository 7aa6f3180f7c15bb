"""The SQL in the manual pages of the servers: which rights suffice, which tables to make, what to ask."""

from __future__ import annotations

import pathlib
import time
from typing import NamedTuple

import pytest

from policyd_rate_limit.storage.administration import AuditEntry, Hits, OriginalEntry, Override
from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.storage.log import audit_trail, daemons, hit_history, trails
from policyd_rate_limit.storage.log import tables as log_tables
from policyd_rate_limit.storage.log.contract import LogError
from storage.administered import AdministeredLog
from storage.hit_rows import row
from storage.logs import TIMEOUT, MariadbLogs, PostgresqlLogs, ServerLogs, append, read, record
from support.actors import TESTER

HEARTBEAT = Heartbeat("0" * 32, "mx1", "unix:ratelimit/policy", 1, "2.0", 0, 0, 0)
DOCS = pathlib.Path(__file__).parents[2] / "docs"


class Manual(NamedTuple):
    """What a page says, and what is not in it.

    ``usage``: the title of the query that tells who has used how much. ``take_all`` takes every right from ``{user}``
    of ``{database}`` that the page gives, ``take_create`` that of making tables; ``denied`` is then told.
    """

    page: str
    usage: str
    take_all: str
    take_create: str
    denied: str


MANUALS: dict[type[ServerLogs], Manual] = {
    PostgresqlLogs: Manual(
        "postgresql.md",
        "what each id has used in the last day",
        "ALTER DATABASE {database} OWNER TO postgres",
        "ALTER DATABASE {database} OWNER TO postgres",
        "permission denied for schema public",
    ),
    MariadbLogs: Manual(
        "mysql.md",
        "what each id has used in the last day (MySQL 8.0, MariaDB 10.6)",
        "REVOKE ALL PRIVILEGES ON {database}.* FROM {user}",
        "REVOKE CREATE ON {database}.* FROM {user}",
        "CREATE command denied",
    ),
}


@pytest.fixture
def manual(logs: ServerLogs) -> Manual:
    """The page about that."""
    return MANUALS[type(logs)]


def statements(manual: Manual, section: str) -> list[str]:
    """The SQL statements of a block of the page, which begins with ``-- section``."""
    block = (DOCS / manual.page).read_text().partition(f"```sql\n-- {section}\n")[2].partition("```")[0]
    return [statement for statement in block.rstrip(";\n").split(";\n") if statement.strip()]


def test_the_rights_that_the_manual_names_suffice(logs: ServerLogs, manual: Manual) -> None:
    """Tables that the administrator has made, in the manual's words, and a user with no right to make any."""
    user = logs.config["user"]
    logs.execute(
        manual.take_all.format(database=logs.database, user=user),
        *(statement.replace("policyd_rate_limit", user) for statement in statements(manual, "tables")),
        "CREATE TABLE mail_count (id varchar(40) NOT NULL, date bigint NOT NULL)",
        "INSERT INTO mail_count VALUES ('joe', 1000)",
        "CREATE TABLE limit_report (id varchar(40) NOT NULL, delta int NOT NULL, hit int NOT NULL)",
        "INSERT INTO limit_report VALUES ('joe', 60, 3)",
        *(statement.replace("policyd_rate_limit", user) for statement in statements(manual, "old table")),
    )
    log = logs.open_with()
    log.begin(TIMEOUT)
    assert log.prepare(lambda counts: (record(number, 1_000) for number, _ in enumerate(counts, 1)))
    assert [log.installation(proposed * 32) for proposed in "ab"] == ["a" * 32] * 2
    log.commit()
    append(log, record(2, 1_001), record(3, 1_010))
    log.begin(TIMEOUT)
    log.redate(1_005)
    log.commit()
    assert [row.date for _, row in read(logs.open())] == [1_000, 1_001, 1_005]
    assert log.clean(1_002, TIMEOUT) == 3
    override = Override("user:joe", (), 1 << 40)
    log_tables.set_override(log, override, 0, TIMEOUT)
    log_tables.set_override(log, override, 0, TIMEOUT)
    assert log_tables.overrides(log, 0) == [override]
    assert log_tables.has_override(log, "user:joe", 0)
    log_tables.remove_override(log, "user:joe", TIMEOUT)
    assert not log_tables.overrides(log, 0)
    for _ in range(2):
        log_tables.add_hits(log, [Hits("user:joe", 60, 2, 1_000)], TIMEOUT)
    hits = log_tables.hits(log, lambda old_id: f"user:{old_id}")
    assert hits == [Hits("user:joe", 60, 7, 1_000)]
    log_tables.subtract_hits(log, hits, lambda old_id: f"user:{old_id}", TIMEOUT)
    assert log_tables.hits(log, lambda old_id: f"user:{old_id}") == []
    log.add_tables()  # they are there
    now = int(time.time())
    for _ in range(2):
        hit_history.add(log, [row("user:joe"), row("user:joe", hour=0)], TIMEOUT)
        audit_trail.bring(log, [OriginalEntry(9, 1, AuditEntry(1, 0, "w", "f", "a", "s", "", ""))], TIMEOUT)
    log.write([audit_trail.entering(AuditEntry(0, now, "w", "f", "a", "s", "", ""))], TIMEOUT)
    assert [[(one.origin, one.hits.hits) for one in page] for page in hit_history.pages(log, 0)] == [[(0, 2)]] * 2
    assert not trails.clean(log, now, TIMEOUT)
    assert [[one.hits.hits for one in page] for page in hit_history.pages(log, 0)] == [[2]]
    assert [one.date for one in audit_trail.latest(log, 0, 9, None, None)] == [now]
    for heard in (now, now + 20):
        daemons.beat(log, HEARTBEAT._replace(heard=heard), TIMEOUT, is_first=heard == now)
    daemons.clean(log, now, TIMEOUT)
    assert [one.heard for one in daemons.heartbeats(log)] == [now + 20]
    daemons.leave(log, HEARTBEAT.run, TIMEOUT)
    assert log.unmade() == []
    with pytest.raises(LogError, match=manual.denied):
        log._ask("CREATE TABLE another (a int)")


def test_where_tables_may_not_be_made_it_is_said_which_and_that_is_enough(logs: ServerLogs, manual: Manual) -> None:
    """A database of the version before, and an account without the right to make tables: nothing is lost in silence."""
    user = logs.config["user"]
    made = statements(manual, "tables")
    new = ("policyd_hit_history", "policyd_audit", "policyd_daemon")
    logs.execute(
        manual.take_all.format(database=logs.database, user=user),
        *(one.replace("policyd_rate_limit", user) for one in made if not any(name in one for name in new)),
    )
    log = logs.open_with()
    log.begin(TIMEOUT)
    log.prepare(lambda _: ())
    log.commit()
    administration = AdministeredLog(logs).administration()
    override = Override("user:joe", (), 1 << 40)
    for change in (
        lambda: administration.set_override(override, TESTER),
        lambda: administration.replace_override(override, None, TESTER),
        lambda: administration.remove_override("user:joe", TESTER),
        lambda: administration.reset("user:joe", TESTER),
    ):
        with pytest.raises(LogError, match=f"nothing is changed without a trail.*{manual.denied}.*doctor prints"):
            change()
    assert administration.overrides() == []
    assert administration.heartbeats() is None
    unmade = log.unmade()
    assert [name for name in new if any(f"TABLE {name}" in one.replace("IF NOT EXISTS ", "") for one in unmade)] == [
        *new
    ]
    logs.execute(*unmade)
    assert log.unmade() == []
    administration.set_override(override, TESTER)
    assert administration.remove_override("user:joe", TESTER)
    assert [one.action for one in administration.audit()] == ["revoke", "allow"]
    assert list(administration.hit_history(0)) == []
    assert administration.heartbeats() == []
    administration.close()


def test_a_missing_right_is_named(logs: ServerLogs, manual: Manual) -> None:
    logs.execute(manual.take_create.format(database=logs.database, user=logs.config["user"]))
    with pytest.raises(LogError, match=manual.denied):
        logs.open().begin(TIMEOUT)


def test_tables_of_the_version_before_suffice(tmp_path: pathlib.Path) -> None:
    """PostgreSQL, without the right to make another one: the identity of the installation is not kept then."""
    logs = PostgresqlLogs(tmp_path)
    append(logs.ready(), record(1))
    logs.execute(
        f"ALTER DATABASE {logs.database} OWNER TO postgres",
        "CREATE TABLE policyd_installation (id smallint, identity text)",  # of somebody else
    )
    for another in (True, False):
        log = logs.open()
        log.begin(TIMEOUT)
        assert not log.prepare(lambda _: ())
        assert log.installation("a" * 32) == ""
        log.append(record(2 if another else 3))
        log.commit()
        logs.execute("DROP TABLE IF EXISTS policyd_installation")
    assert len(read(logs.open())) == 3
    logs.close()


def test_the_query_in_the_manual_works(logs: ServerLogs, manual: Manual) -> None:
    append(logs.ready(), record(1, counters=["user:a", "user:b"]), record(2, counters=["user:b"]))
    (query,) = statements(manual, manual.usage)
    assert [(name, int(used)) for name, used in logs.execute(query)] == [("user:b", 2), ("user:a", 1)]
