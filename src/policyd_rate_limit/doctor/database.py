"""Whether the database is there, and lets the daemon do what it does. Nothing is written.

What the daemon may do is tried, each time on no row at all: databases look at rights before they look at rows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.admin.daemons import judged
from policyd_rate_limit.backends import backend_of
from policyd_rate_limit.backends.contract import Probe
from policyd_rate_limit.config.remarks import wrong_query
from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import Finding, Severity, error, ok, warning
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import UnknownAccount
from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.system import accounts
from policyd_rate_limit.tables.cache import look_up
from policyd_rate_limit.tables.limits import limits_of_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from policyd_rate_limit.backends.contract import Backend
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.system.accounts import Account

PATIENCE = 10.0
"""Seconds that the database may take for all that is asked of it, beside ``db_timeout``."""

LEAST_FREE = 64 << 20
"""Bytes that should be free beside what the spool may take: a write-ahead log at its longest."""

LARGEST_DIFFERENCE = 10.0
"""Seconds between the clocks of this host and of the database, beyond which one of them is wrong."""

_AWAY = "Limits are enforced from memory meanwhile, by each daemon for itself."


def examine(settings: Settings) -> Iterator[Finding]:
    """What the daemon, as its own account, finds."""
    account = None
    try:
        owner = accounts.resolve(settings.user, settings.group)
    except UnknownAccount as unknown:
        place = settings.config_file or "configuration"
        mend = f"adduser --system --group --no-create-home {settings.user}"
        yield error("account", place, str(unknown), "The daemon does not start as root.", mend)
        return
    if os.geteuid() == 0:
        account = owner
    backend = backend_of(settings)
    if os.geteuid() in (0, owner.uid):
        yield from _journal(backend, account)
    elif backend.files:
        return
    findings = list(_database(backend, account))
    yield from findings
    if settings.sql_limits_by_id and all(finding.severity is Severity.OK for finding in findings):
        yield from _query(settings, account)


def _query(settings: Settings, account: Account | None) -> Iterator[Finding]:
    """Whether ``sql_limits_by_id`` can be asked."""
    if wrong_query(settings) is not None:  # which doctor.settings has found
        return
    place = settings.config_file or "configuration"
    try:
        run_as(account, partial(_ask_for_limits, settings), settings.db_timeout + PATIENCE)
    except (OSError, ValueError) as failure:
        why = "The limits that it should give do not hold: those of limits_by_id and limits do."
        yield error(
            "sql-limits", place, f"sql_limits_by_id fails: {failure}", why, "docs/sql-limits.md says what it needs"
        )
    else:
        yield ok("sql-limits", place, "sql_limits_by_id can be asked")


def _ask_for_limits(settings: Settings) -> None:
    """Ask for the limits of nobody. Raises what says that this fails."""
    lookup = backend_of(settings).make_lookup()
    if lookup is not None:
        with contextlib.closing(lookup):
            look_up(lookup, ("nobody@doctor.invalid",), limits_of_column)


def _journal(backend: Backend, account: Account | None) -> Iterator[Finding]:
    directory = backend.spool_directory
    if not directory.is_dir():
        return  # the daemon makes it
    free = shutil.disk_usage(directory).free
    needed = backend.settings.journal_size + LEAST_FREE
    if free < needed:
        yield warning(
            "disk-space",
            str(directory),
            f"{free >> 20} MiB are free",
            f"The database and the spool need {needed >> 20} MiB; on a full disk nothing more can be counted.",
            f"df -h {directory}",
        )
    yield from _may_write(directory, os.W_OK | os.X_OK, account)


def _database(backend: Backend, account: Account | None) -> Iterator[Finding]:
    files = backend.files
    if files:
        directory = files[0].parent
        if not directory.is_dir():
            yield ok("database", backend.place, "not there yet: the daemon makes it")
            return
        if directory != backend.spool_directory:
            yield from _may_write(directory, os.W_OK | os.X_OK, account)
        wrong = [finding for file in files if file.exists() for finding in _may_write(file, os.R_OK | os.W_OK, account)]
        yield from wrong
        if wrong or not backend.is_made:
            return
    try:
        probe = _understood(run_as(account, backend.probe, 4 * backend.settings.db_timeout + PATIENCE))
    except (OSError, ValueError) as failure:
        yield error("database", backend.place, str(failure), _AWAY, backend.look)
    else:
        yield from _probed(backend, probe)


def _understood(told: Sequence[Any]) -> Probe:
    """The probe that a child has ``told`` in JSON."""
    probe = Probe(*told)
    if probe.heartbeats is None:
        return probe
    return probe._replace(heartbeats=[Heartbeat(*one) for one in probe.heartbeats])


def _probed(backend: Backend, probe: Probe) -> Iterator[Finding]:
    place = backend.place
    if probe.refused:
        yield error("database-rights", place, probe.refused, f"The daemon cannot count there. {_AWAY}", backend.grants)
    else:
        yield ok("database", place, probe.fine)
    if probe.unlisted:
        yield warning(
            "database-rights",
            place,
            probe.unlisted,
            "The daemon counts all the same; `top` and `status` cannot say who sends.",
            backend.may_list,
        )
    if probe.unmade:
        yield warning(
            "database-rights",
            place,
            "tables are missing that the daemon's account may not make",
            "The limits hold. Without policyd_audit nothing is changed (`allow`, `block`, `revoke`, `reset`, the page),"
            " for nobody could say later who it was; without policyd_hit_history nothing is kept of what ran into"
            " limits; without policyd_daemon nobody sees which daemons are at work.",
            "\n".join(f"{statement};" for statement in probe.unmade),
        )
    yield from _daemons(place, probe)
    for risk in probe.risks:
        yield warning("database-durability", place, risk, "What was counted may be forgotten.", backend.durable)
    if abs(probe.ahead) > LARGEST_DIFFERENCE:
        where = "ahead of" if probe.ahead > 0 else "behind"
        yield warning(
            "database-clock",
            place,
            f"the database's clock is {abs(probe.ahead):.0f} s {where} this host's",
            "Windows are measured by the database's clock, and by this host's while the database is away.",
            "apt install chrony   # on the host whose clock is wrong",
        )


def _daemons(place: str, probe: Probe) -> Iterator[Finding]:
    """Which of those that use the database fell silent."""
    if probe.heartbeats is None:
        return
    found = judged(probe.heartbeats, probe.now, None)
    for one in found:
        if one.is_missed:
            beat = one.heartbeat
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(beat.heard))
            yield warning(
                "daemons",
                place,
                f"the daemon of {beat.host} ({beat.socket}) has been silent since {since}",
                "It does not run, or does not reach the database: then it limits by its memory, that host for itself.",
                f"policyd-rate-limit doctor   # on {beat.host}; a host that is gone for good is forgotten after a day",
            )
    if not any(one.is_missed for one in found):
        yield ok("daemons", place, f"{quantity(len(found), 'daemon')} at work")


def _may_write(path: Path, mode: int, account: Account | None) -> Iterator[Finding]:
    """What is wrong with the rights to a file or a directory."""
    if run_as(account, partial(os.access, path, mode), PATIENCE):
        return
    facts = path.stat()
    who = account.user if account else "this user"
    yield error(
        "database-rights",
        str(path),
        f"{who} may not write to it: it belongs to uid {facts.st_uid}, with mode {facts.st_mode & 0o7777:04o}",
        "The daemon cannot count there. " + _AWAY,
        f"chown {account.uid}:{account.gid} {path}" if account else f"chmod u+w {path}",
    )
