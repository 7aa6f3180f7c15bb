"""What is done to a database as a whole: checked, cleaned, copied."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.limits import limits_of_counter
from policyd_rate_limit.backends.tables import TablesForCommands
from policyd_rate_limit.config.references import kinds_asked, units_asked
from policyd_rate_limit.config.tables import FILE
from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.storage import copying
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system import accounts
from policyd_rate_limit.tables.countries import asks_for_countries, open_countries
from policyd_rate_limit.tables.file import CannotRead, read_table, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.storage.administration import Actor
    from policyd_rate_limit.storage.copying import Copied
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.tables.cache import Lookup

CLEAN_PATIENCE = 30.0  # seconds that --clean waits for the daemons


def check(settings: Settings) -> tuple[str, ...]:
    """Find out what the daemon would refuse to start with, beside what single settings may be; what is odd about it.

    Nothing is connected.

    :raises ConfigError: the driver of the database is not installed, or its options are wrong; or rules ask for
        countries, and the file of them cannot be read.
    """
    backend = backend_of(settings)
    backend.make_store(make_subjects(settings), Memory(Ledger(settings.max_ids), time.time))
    backend.make_lookup()
    TablesForCommands(settings, backend)
    old = open_countries(settings).why_old(time.time()) if asks_for_countries(settings) else None
    return (*(() if old is None else (old,)), *_of_files(settings))


def _of_files(settings: Settings) -> Iterator[str]:
    """What is wrong with the tables in files, which the daemon starts without."""
    kinds, units = kinds_asked(settings), units_asked(settings)
    for table in settings.tables:
        if table.kept == FILE:
            try:
                wrong = read_table(table.place, kinds[table.name], units=units[table.name]).wrong
            except CannotRead as error:
                yield f"tables.{table.name}: {error}; until it can be read, nothing is known of it"
            else:
                for text in told(table.place, wrong):
                    yield f"tables.{table.name}: {text}"


def clean(settings: Settings) -> int:
    """Delete old records; how many there were.

    Root makes the directories of the database that are missing, and becomes the daemons' account before it touches the
    files, which would else be root's and lock the daemons out.

    :raises UnknownAccount: that account does not exist.
    :raises PolicydError: that is not possible now.
    """
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    backend_of(settings).make_state_directories(account)
    if account is not None:
        accounts.drop_privileges(account)
    os.umask(accounts.UMASK)
    return delete_old_records(settings)


def delete_old_records(settings: Settings) -> int:
    """What :func:`clean` does once this process is who it should be."""
    backend = backend_of(settings)
    subjects = make_subjects(settings)
    store = backend.make_store(subjects, Memory(Ledger(settings.max_ids), time.time))
    lookup = backend.make_lookup()
    tables = TablesForCommands(settings, backend)
    rules = [rule for rule in make_rules(settings, subjects, None, tables=tables.by_name) if rule.limits_may_change]
    tables.read()
    try:
        limits_of = partial(_limits_of, lookup, {rule.prefix: rule for rule in rules})
        return store.clean(CLEAN_PATIENCE, limits_of if lookup or rules else None)
    finally:
        store.close()
        tables.close()
        if lookup is not None:
            lookup.close()


def _limits_of(lookup: Lookup | None, asking: Mapping[str, Rule], counter: str) -> Limits | None:
    """The limits that tables give to ``counter``; ``asking``: the rules that ask any, by their prefixes."""
    prefix, key = prefix_and_key(counter)
    if prefix in asking:
        return asking[prefix].subjects.limits_of_key(key, Facts(time.time()))
    return limits_of_counter(lookup, counter) if lookup is not None and not prefix else None


def copy(old: Settings, new: Settings, by: Actor) -> tuple[Copied, Sequence[tuple[Path, Sequence[Record]]]]:
    """Bring what the database of ``old`` holds into that of ``new``: what that was, and what waits in which spool file.

    ``by`` asks for it; the audit trail of the new database keeps that.

    Root makes the directories of the new database and becomes the daemons' account.

    :raises PolicydError: that is not possible; what was brought until then is there, and is not brought again.
    """
    backends = backend_of(old), backend_of(new)
    source, target = (backend.open_administration(make_subjects(backend.settings)) for backend in backends)
    if os.geteuid() == 0:
        account = accounts.resolve(old.user, old.group)
        if accounts.resolve(new.user, new.group) != account:
            raise SystemRefusal("user and group have to be the same in both configurations: they own what is made")
        backends[1].make_state_directories(account)
        accounts.drop_privileges(account)
    os.umask(accounts.UMASK)
    for backend in backends:
        backend.check_access()
    try:
        copiers = backends[0].make_copier(source), backends[1].make_copier(target)
        return copying.copy(source, target, copiers, by, backends[0].describe()), backends[0].waiting()
    finally:
        source.close()
        target.close()
