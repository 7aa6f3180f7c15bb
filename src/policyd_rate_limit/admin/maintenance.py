"""What is done to a database as a whole: checked, cleaned, copied."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit import stores
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.rules import make_rules
from policyd_rate_limit.storage import copying
from policyd_rate_limit.storage.log.store import LogStore
from policyd_rate_limit.storage.replica import Memory
from policyd_rate_limit.system import accounts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.storage.copying import Copied
    from policyd_rate_limit.storage.record import Record

CLEAN_PATIENCE = 30.0  # seconds that --clean waits for the daemons


def check(settings: Settings) -> None:
    """Find out what the daemon would refuse to start with, beside what single settings may be. Nothing is connected.

    :raises ConfigError: the driver of the database is not installed, or its options are wrong.
    """
    stores.make_store(settings, make_rules(settings), Memory(Ledger(settings.max_ids), time.time))
    stores.make_lookup(settings)


def clean(settings: Settings) -> int:
    """Delete old records; how many there were.

    Root makes the directories of the database that are missing, and becomes the daemons' account before it touches the
    files, which would else be root's and lock the daemons out.

    :raises UnknownAccount: that account does not exist.
    :raises PolicydError: that is not possible now.
    """
    account = accounts.resolve(settings.user, settings.group) if os.geteuid() == 0 else None
    stores.make_state_directories(settings, account)
    if account is not None:
        accounts.drop_privileges(account)
    os.umask(accounts.UMASK)
    return delete_old_records(settings)


def delete_old_records(settings: Settings) -> int:
    """What :func:`clean` does once this process is who it should be."""
    store = stores.make_store(settings, make_rules(settings), Memory(Ledger(settings.max_ids), time.time))
    lookup = stores.make_lookup(settings)
    try:
        if lookup is None or not isinstance(store, LogStore):
            return store.clean(CLEAN_PATIENCE)
        return store.clean(CLEAN_PATIENCE, partial(stores.limits_of_counter, lookup))
    finally:
        store.close()
        if lookup is not None:
            lookup.close()


def copy(old: Settings, new: Settings) -> tuple[Copied, Sequence[tuple[Path, Sequence[Record]]]]:
    """Bring what the database of ``old`` holds into that of ``new``: what that was, and what waits in which journal.

    Root makes the directories of the new database and becomes the daemons' account.

    :raises PolicydError: that is not possible; what was brought until then is there, and is not brought again.
    """
    source = stores.open_administration(old, make_rules(old))
    target = stores.open_administration(new, make_rules(new))
    if os.geteuid() == 0:
        account = accounts.resolve(old.user, old.group)
        if accounts.resolve(new.user, new.group) != account:
            raise SystemRefusal("user and group have to be the same in both configurations: they own what is made")
        stores.make_state_directories(new, account)
        accounts.drop_privileges(account)
    os.umask(accounts.UMASK)
    stores.check_access(old)
    stores.check_access(new)
    try:
        copied = copying.copy(source, target, stores.make_copier)
        return copied, stores.waiting(old)
    finally:
        source.close()
        target.close()
