"""Looks at Postfix, the configuration, the database and the clock, and says what is wrong. It changes nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from policyd_rate_limit import config
from policyd_rate_limit.config.remarks import remarks
from policyd_rate_limit.doctor import (
    asked,
    clock,
    countries,
    database,
    lists,
    local_mail,
    reach,
    settings,
    socket_unit,
    tables,
)
from policyd_rate_limit.doctor.finding import Finding, Severity, error, ok, warning
from policyd_rate_limit.doctor.hooks import Hooks
from policyd_rate_limit.errors import ConfigError, SystemRefusal
from policyd_rate_limit.postfix.postconf import Postfix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from policyd_rate_limit.config import Settings

__all__ = ["Finding", "Severity", "examine"]


def examine(path: Path | None, postconf: Path | None, postfix_directory: Path | None) -> list[Finding]:
    """All findings, of each kind and place one.

    ``path``: of the configuration, None for the one that the daemon would read. The others are of
    :class:`policyd_rate_limit.postfix.postconf.Postfix`.
    """
    return list(dict.fromkeys(_findings(path, postconf, postfix_directory)))


def _findings(path: Path | None, postconf: Path | None, postfix_directory: Path | None) -> Iterator[Finding]:
    try:
        found, warnings = config.load(path)
    except ConfigError as refused:
        for problem in refused.problems:
            yield error(
                "config",
                str(problem.file),
                str(problem),
                "The daemon does not start.",
                "policyd-rate-limit check-config",
            )
        return
    if os.geteuid() != 0:
        why = "What smtpd's user and the daemon's may do is not tried: their sockets, the chroot, the files."
        yield warning("root", "this user", "doctor is not run by root", why, "sudo policyd-rate-limit doctor")
    place = found.config_file or "configuration"
    own = [remark.text for remark in remarks(found) if remark.limits_nobody]
    for text in warnings:
        if not any(remark in text for remark in own):  # settings.examine() says what mends those
            yield warning("config", place, text, "It is not what was meant.", "policyd-rate-limit check-config")
    yield from settings.examine(found)
    try:
        postfix = Postfix(postconf, postfix_directory)
    except SystemRefusal as refusal:
        why = "Nothing can be said of how Postfix asks the daemon. On a host without Postfix: --ignore postfix."
        yield error("postfix", "Postfix", str(refusal), why, "policyd-rate-limit doctor --postfix-config /etc/postfix")
    else:
        yield ok("postfix", str(postfix.directory), f"Postfix {postfix.value('mail_version')}")
        yield from _about_postfix(postfix, found)
    yield from socket_unit.examine(found, socket_unit.properties())
    of_database = list(database.examine(found))
    yield from of_database
    is_there = any(finding.check == "database" and finding.severity is Severity.OK for finding in of_database)
    yield from tables.examine(found, is_database_there=is_there)
    yield from countries.examine(found, time.time())
    yield from clock.examine(clock.estimated_error())


def _about_postfix(postfix: Postfix, found: Settings) -> Iterator[Finding]:
    hooks = Hooks(postfix, found)
    yield from lists.examine(postfix, hooks.names)
    yield from asked.examine(postfix, found, hooks)
    yield from settings.examine_with(postfix, found, hooks)
    yield from reach.examine(postfix, found, hooks)
    yield from local_mail.examine(postfix, hooks)
