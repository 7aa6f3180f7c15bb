"""Every error that this package raises on purpose.

::

    PolicydError
    ├── ConfigError          the configuration is missing, unreadable or invalid
    ├── SystemRefusal        the operating system does not let the daemon start or go on
    │   ├── UnknownAccount   ``user`` or ``group`` does not exist
    │   └── AlreadyRunning   another instance runs, by the pidfile
    ├── ProtocolError        a client does not speak the Postfix policy protocol
    ├── DeliveryFailed       a report or an alert did not get to whom it is for
    ├── MailLogError         a mail log cannot be opened or read
    └── StoreError           the store cannot decide now
        ├── StoreUnavailable     nothing of the batch was decided
        ├── CommitFailed         the batch was decided, but may not be on disk
        └── StoreFull            nothing more can be kept until the database is back

An error that is not in this tree is a fault of ours and leaves with a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class PolicydError(Exception):
    """The root: the operator's or a peer's error, told in one line, without a traceback."""


class Problem:
    """One wrong setting: where it stands, what was expected and what was found.

    ``line`` counts from 1, 0 where no line is known. ``found`` never holds a secret.
    """

    __slots__ = ("expected", "file", "found", "line", "setting")

    def __init__(self, file: str, line: int, setting: str, expected: str, found: str) -> None:
        self.file = file
        self.line = line
        self.setting = setting
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.statement}"

    @property
    def statement(self) -> str:
        """What is wrong, without the place."""
        about = f"{self.setting}: " if self.setting else ""
        return f"{about}expected {self.expected}, found {self.found}"


class ConfigError(PolicydError):
    """The configuration is missing, unreadable or invalid: every problem at once, and the warnings beside them.

    ``hint``: what else may be done, as a sentence without a full stop; empty: nothing.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[str] = (), hint: str = "") -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        self.hint = hint
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SystemRefusal(PolicydError):
    """The operating system does not let the daemon start or go on."""


class UnknownAccount(SystemRefusal):
    """``user`` or ``group`` does not exist on this machine."""


class AlreadyRunning(SystemRefusal):
    """Another instance runs, by the pidfile."""


class ProtocolError(PolicydError):
    """A client does not speak the Postfix policy protocol, or goes beyond a bound of it."""


class DeliveryFailed(PolicydError):
    """A report or an alert did not get to whom it is for, or to none that knows of it."""


class MailLogError(PolicydError):
    """A mail log cannot be opened or read."""


class StoreError(PolicydError):
    """The store cannot decide or keep a batch now."""


class StoreUnavailable(StoreError):
    """The store is away: nothing of the batch was decided, nothing was counted."""


class StoreFull(StoreError):
    """Nothing more can be kept until the database is back."""
