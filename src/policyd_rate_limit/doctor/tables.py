"""Whether the tables outside of the configuration can be asked, by the daemon's account. Nothing is written."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.config.references import kinds_asked, query_for, units_asked
from policyd_rate_limit.config.tables import FILE, REDIS_HASH, SQL
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import Finding, error, ok, warning
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.rules.attributes import ADDRESS, COUNTRY, DOMAIN, NAME, NUMBER, TIME
from policyd_rate_limit.errors import UnknownAccount
from policyd_rate_limit.system import accounts
from policyd_rate_limit.tables.cache import look_up
from policyd_rate_limit.tables.file import CannotRead, read_table, told
from policyd_rate_limit.tables.source import text_of_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.tables import TableSettings
    from policyd_rate_limit.system.accounts import Account

PATIENCE: Final = 10.0
"""Seconds that one table may take, beside ``db_timeout``."""

_NOBODY: Final = {
    NAME: "nobody@doctor.invalid",
    DOMAIN: "doctor.invalid",
    ADDRESS: "192.0.2.1",  # of documentation, RFC 5737
    NUMBER: "0",
    COUNTRY: "zz",
    TIME: "00:00",
}
"""A value of each kind that is nobody's: a query may be of a column that takes no other kind."""


def examine(settings: Settings, *, is_database_there: bool) -> Iterator[Finding]:
    """What is wrong with each table; those in the database are asked where ``is_database_there``."""
    try:
        owner = accounts.resolve(settings.user, settings.group)
    except UnknownAccount:  # of which another check tells
        return
    user = os.geteuid()
    account = owner if user == 0 else None
    kinds, units = kinds_asked(settings), units_asked(settings)
    for table in settings.tables:
        if table.kept == FILE:
            # What somebody else may not read says nothing of what the daemon may.
            if user in (0, owner.uid) or os.access(table.place, os.R_OK):
                yield from _file(table, kinds[table.name], units[table.name], account)
        elif table.kept in (SQL, REDIS_HASH) and is_database_there:
            yield from _in_database(settings, table, kinds[table.name], account)


def _file(
    table: TableSettings, kinds: Sequence[str], units: Sequence[str], account: Account | None
) -> Iterator[Finding]:
    name = f"tables.{table.name}"
    try:
        entries, faults = run_as(account, partial(_read, table.place, kinds, units), PATIENCE)
    except (OSError, ValueError) as failure:
        why = "Rules take it for empty until it can be read; a daemon that runs goes on with what it has read."
        mend = f"ls -l {table.place}   # the user {account.user} has to read it" if account else f"ls -l {table.place}"
        yield error("tables", table.place, f"{name} cannot be read: {failure}", why, mend)
        return
    for fault in faults:
        why = "What stands there does not count."
        yield warning("tables", table.place, f"{name}: {fault}", why, "docs/rules.md says what entries look like")
    if not faults:
        yield ok("tables", table.place, f"{name} has {quantity(entries, 'entry', 'entries')}")


def _read(path: str, kinds: Sequence[str], units: Sequence[str]) -> tuple[int, list[str]]:
    """How many entries a file has, and what is wrong in it. Raises ValueError."""
    try:
        contents = read_table(path, kinds, units=units)
    except CannotRead as failure:
        raise ValueError(str(failure)) from failure
    return len(contents.entries), list(told(path, contents.wrong))


def _in_database(
    settings: Settings, table: TableSettings, kinds: Sequence[str], account: Account | None
) -> Iterator[Finding]:
    place = settings.config_file or "configuration"
    name = f"tables.{table.name}"
    values = tuple(dict.fromkeys(_NOBODY.get(kind, _NOBODY[NAME]) for kind in kinds or (NAME,)))
    try:
        run_as(account, partial(_ask, settings, table, values), len(values) * settings.db_timeout + PATIENCE)
    except (OSError, ValueError) as failure:
        why = "Rules go on as if it said nothing of anybody."
        yield error("tables", place, f"{name} fails: {failure}", why, "docs/sql-limits.md says which rights it needs")
    else:
        yield ok("tables", place, f"{name} can be asked")


def _ask(settings: Settings, table: TableSettings, values: Sequence[str]) -> None:
    """Ask about each of ``values``. Raises what says that this fails."""
    place = query_for(table, settings.backend) if table.kept == SQL else table.place
    with contextlib.closing(backend_of(settings).lookup(place)) as lookup:
        for value in values:
            look_up(lookup, (value,), text_of_column)
