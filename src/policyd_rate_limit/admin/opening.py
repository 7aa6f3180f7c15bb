"""Opening the database that daemons use, as whoever may read and write it beside them."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.contract import longest_window
from policyd_rate_limit.backends.limits import limits_of_ids
from policyd_rate_limit.backends.tables import TablesForCommands
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects
from policyd_rate_limit.system import accounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings


@contextlib.contextmanager
def open_desk(settings: Settings, *, as_account: bool = True) -> Iterator[Desk]:
    """What an administrator has before them; nothing is connected yet.

    Root becomes the daemons' account for it: files of the database that were root's would lock the daemons out. Not
    where ``as_account`` is False: a process that goes on for long has done so at its start.

    :raises PolicydError: that account does not exist, the driver of the database is missing, or the file of the
        database is somebody else's.
    """
    subjects = make_subjects(settings)
    backend = backend_of(settings)
    store = backend.open_administration(subjects)
    lookup = backend.make_lookup()
    tables = TablesForCommands(settings, backend)
    if as_account:
        if os.geteuid() == 0:
            accounts.drop_privileges(accounts.resolve(settings.user, settings.group))
        os.umask(accounts.UMASK)
    backend.check_access()
    rules = make_rules(settings, subjects, None, tables=tables.by_name)
    tables.read()
    try:
        yield Desk(
            store,
            subjects,
            rules,
            tables=tables.by_name,
            longest=longest_window(settings),
            table=partial(limits_of_ids, lookup) if lookup else None,
            max_ids=settings.max_ids,
        )
    finally:
        store.close()
        tables.close()
        if lookup is not None:
            lookup.close()
