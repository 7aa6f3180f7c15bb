"""SQLite: a file of this host."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.backends.contract import Probe, digest
from policyd_rate_limit.backends.log import LogBackend
from policyd_rate_limit.config.databases import DATABASES
from policyd_rate_limit.const import SQLITE_DB
from policyd_rate_limit.storage.heartbeat import MOST_DAEMONS
from policyd_rate_limit.storage.log import daemons
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.tables.sqlite import SqliteLookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.storage.heartbeat import Heartbeat

PROBE_SECONDS = 5.0
"""For which a probe waits for whoever writes to the file."""


class SqliteBackend(LogBackend):
    """An SQLite file, which is made where it is missing."""

    database = DATABASES[SQLITE_DB]

    @property
    def path(self) -> Path:
        """Of the file."""
        return Path(self.settings.sqlite_config["database"]).absolute()

    def log(self) -> Callable[[], SqliteLog]:
        return partial(SqliteLog, self.path, time.time, self.settings.db_timeout)

    def lookup(self, query: str) -> SqliteLookup:
        return SqliteLookup(self.path, query, self.settings.db_timeout)

    def describe(self) -> str:
        return f"{self.name} {self.path}"

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def look(self) -> str:
        return f"sqlite3 {self.path} 'PRAGMA integrity_check'"

    def probe(self) -> Probe:
        with contextlib.closing(
            sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=PROBE_SECONDS)
        ) as database:
            (count,) = database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'policyd_batch'").fetchone()
            if not count:
                return Probe("can be read; the daemon has not used it yet")
            database.execute("SELECT max(seq) FROM policyd_batch").fetchone()
            return Probe("can be read", heartbeats=_heartbeats(database), now=int(time.time()))

    @property
    def spool_name(self) -> str:
        # Beside the file its name is enough, and whoever looks into the directory sees what belongs together.
        if self.settings.journal_directory is None:
            return self.path.name
        return f"{self.path.name}-{digest(str(self.path))}"

    @property
    def former_spool_name(self) -> str:
        return self.spool_name

    @property
    def own_directory(self) -> Path:
        return self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *(self.path.with_name(f"{self.path.name}-{suffix}") for suffix in ("wal", "shm")))

    @property
    def is_made(self) -> bool:
        return self.path.exists()

    def signs(self) -> Callable[[], tuple[int, ...] | None]:
        return partial(_signs, self.path)

    def state_directories(self) -> tuple[Path, ...]:
        return (self.path.parent, self.spool_directory)


def _heartbeats(database: sqlite3.Connection) -> list[Heartbeat] | None:
    """Those of the daemons that use ``database``; None: the daemon of an older version has made it."""
    if not database.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (daemons.TABLE,)).fetchone()[0]:
        return None
    return list(daemons.understood(database.execute(daemons.SELECT.replace("%s", "?"), (MOST_DAEMONS,)).fetchall()))


def _signs(database: Path) -> tuple[int, ...] | None:
    """Which file it is, and who may do what with it: neither changes as it is written to."""
    try:
        facts = os.stat(database)  # noqa: PTH116 - for each batch while the database is away: a tenth of the time
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino, facts.st_mode, facts.st_uid, facts.st_gid)
