"""What the doctor finds."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something is not limited, or does not work."""
    WARNING = "warning"
    """It works, and not as one would want; or it will not work one day."""
    NOTE = "note"
    """Something that cannot be seen from here, for whoever knows it to judge."""
    OK = "ok"

    @property
    def is_wrong(self) -> bool:
        """Whether something is to be done about it."""
        return self in (Severity.ERROR, Severity.WARNING)


CHECKS = (
    "account",
    "after-permit",
    "answers",
    "asked-by-class",
    "asked-twice",
    "chroot",
    "clock",
    "config",
    "counted-twice",
    "daemons",
    "database",
    "database-clock",
    "database-durability",
    "database-rights",
    "default-action",
    "disk-space",
    "fail-action",
    "geoip",
    "hooked",
    "limited-networks",
    "local-mail",
    "max-idle",
    "no-answer",
    "no-limits",
    "no-sasl",
    "nobody-charged",
    "not-hooked",
    "not-reachable",
    "not-running",
    "other-answer",
    "other-program",
    "postfix",
    "proxied-clients",
    "recipient-limit",
    "request-limit",
    "root",
    "rule-not-asked",
    "service-mismatch",
    "service-not-limited",
    "shadow",
    "slow-answer",
    "socket-permission",
    "socket-unit",
    "sql-limits",
    "stage-not-counted",
    "tables",
    "timeout",
    "unknown-restriction",
    "warn-if-reject",
)
"""The names of all checks, for completion by a shell."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    severity: Severity
    check: str
    """Its name, for ``--ignore`` and for programs."""
    place: str
    """Where: a file, a parameter, a service."""
    found: str
    why: str = ""
    """Why it matters."""
    mend: str = ""
    """The lines to write, or the command to call."""


def error(check: str, place: str, found: str, why: str, mend: str) -> Finding:
    """A finding of severity ERROR."""
    return Finding(Severity.ERROR, check, place, found, why, mend)


def warning(check: str, place: str, found: str, why: str, mend: str) -> Finding:
    """A finding of severity WARNING."""
    return Finding(Severity.WARNING, check, place, found, why, mend)


def note(check: str, place: str, found: str, why: str, mend: str) -> Finding:
    """A finding of severity NOTE."""
    return Finding(Severity.NOTE, check, place, found, why, mend)


def ok(check: str, place: str, found: str) -> Finding:
    """A finding of severity OK."""
    return Finding(Severity.OK, check, place, found)
