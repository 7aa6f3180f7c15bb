"""SQLite databases as versions 0.4 and 1.2.0 of this program leave them behind."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterable

OldMail = tuple[str, int, int]
"""The id as it was on the wire, the second since the epoch, and the recipients that were counted."""


def make_0_4(path: pathlib.Path, mails: Iterable[OldMail]) -> None:
    """A database of 0.4, which has one row per mail and no more than its id and date."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mail_count (id varchar(40) NOT NULL, date bigint NOT NULL)")
        database.execute("CREATE INDEX mail_count_index ON mail_count(id, date)")
        database.executemany(
            "INSERT INTO mail_count VALUES (?, ?)",
            ((who, date) for who, date, recipients in mails for _ in range(recipients)),
        )


def make_1_2_0(path: pathlib.Path, mails: Iterable[OldMail]) -> None:
    """A database of 1.2.0, with the tables that it makes for its report and for limits in SQL."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE mail_count (id varchar(40) NOT NULL, date bigint NOT NULL, "
            "recipient_count int DEFAULT 1, instance varchar(40) NOT NULL, protocol_state varchar(10) NOT NULL)"
        )
        database.execute("CREATE INDEX mail_count_index ON mail_count(id, date)")
        database.execute("CREATE TABLE limit_report (id varchar(40) NOT NULL, delta int NOT NULL, hit int NOT NULL)")
        database.execute("CREATE TABLE rate_limits (id varchar(40) NOT NULL, limits text NOT NULL)")
        database.execute("INSERT INTO limit_report VALUES ('joe', 86400, 7)")
        database.executemany(
            "INSERT INTO mail_count VALUES (?, ?, ?, ?, 'DATA')",
            ((who, date, recipients, f"a.{number}.0") for number, (who, date, recipients) in enumerate(mails)),
        )


MAKERS = {"0.4": make_0_4, "1.2.0": make_1_2_0}
