"""Whether the file of countries is there, for the daemon too, and new enough; where a rule asks for one."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.doctor.child import run_as
from policyd_rate_limit.doctor.finding import Finding, error, ok, warning
from policyd_rate_limit.errors import ConfigError, UnknownAccount
from policyd_rate_limit.system import accounts
from policyd_rate_limit.tables.countries import asks_for_countries, open_countries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policyd_rate_limit.config import Settings

PATIENCE = 10.0
"""Seconds that it may take to see whether a file can be read."""


def examine(settings: Settings, now: float) -> Iterator[Finding]:
    """What is wrong with the file at ``now`` (Unix seconds)."""
    path = settings.geoip
    if path is None or not asks_for_countries(settings):
        return
    try:
        countries = open_countries(settings)
    except ConfigError as refused:
        (problem,) = refused.problems
        why = "A daemon that runs goes on with what it knows, and does not start again without."
        yield error("geoip", path, problem.statement, why, "policyd-rate-limit check-config")
        return
    if not _may_read(settings, path):
        why = "It was started by root, and does not see when the file is replaced by a newer one."
        yield error("geoip", path, f"the user {settings.user} may not read it", why, f"chmod 0644 {path}")
        return
    old = countries.why_old(now)
    if old is None:
        yield ok("geoip", path, f"{countries.kind} of {countries.date}")
    else:
        why = "A client may be taken for one of another country."
        yield warning("geoip", path, old.removeprefix("geoip: "), why, f"replace {path} by a newer one")


def _may_read(settings: Settings, path: str) -> bool:
    """Whether the daemon may; where nobody else than root can try that, so it seems."""
    if os.geteuid() != 0:
        return True
    try:
        account = accounts.resolve(settings.user, settings.group)
        return bool(run_as(account, partial(os.access, path, os.R_OK), PATIENCE))
    except (UnknownAccount, OSError, ValueError):  # of which other checks tell
        return True
