"""What every database has to offer to whoever uses it, whichever it is."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from policyd_rate_limit.config.limits import all_limits
from policyd_rate_limit.config.settings.process import STATE_DIRECTORY
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.errors import SystemRefusal
from policyd_rate_limit.storage.engine import spool_file
from policyd_rate_limit.storage.engine.engine import Engine
from policyd_rate_limit.system.directories import ensure_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.databases import Database
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.storage.administration import Administration
    from policyd_rate_limit.storage.contract import Store
    from policyd_rate_limit.storage.copying import Copier
    from policyd_rate_limit.storage.engine.mailbox import Mailbox
    from policyd_rate_limit.storage.heartbeat import Heartbeat
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory
    from policyd_rate_limit.system.accounts import Account
    from policyd_rate_limit.tables.cache import Lookup

_logger = logging.getLogger(__name__)


class Probe(NamedTuple):
    """What a look at a database finds: ``fine`` in words, unless it has ``refused`` something that the daemon does.

    ``ahead``: seconds that its clock is ahead of this host's at the least; negative: behind. ``risks`` put counts at
    risk. ``unlisted``: why commands may not list ids, or empty. ``unmade``: the statements that make the tables that
    are missing and that the account of the daemon may not make; the limits hold without them. ``heartbeats``: of the
    daemons that use it, as of ``now`` (Unix second, by its clock); None: that is not known there.
    """

    fine: str
    refused: str = ""
    ahead: float = 0.0
    risks: Sequence[str] = ()
    unlisted: str = ""
    unmade: Sequence[str] = ()
    heartbeats: Sequence[Heartbeat] | None = None
    now: int = 0


class Backend(ABC):
    """The database that ``settings`` ask for. Nothing is connected before what it makes is asked for something."""

    database: ClassVar[Database]
    """What the configuration knows of it."""
    grants: ClassVar[str] = ""
    """The command that gives an account the rights that the daemon needs."""
    durable: ClassVar[str] = ""
    """The commands that have it keep what was counted."""
    may_list: ClassVar[str] = ""
    """The command that lets an account list ids."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.database.name

    @abstractmethod
    def make_store(self, subjects: Subjects, memory: Memory) -> Store:
        """The store that a daemon counts in; its driver is loaded.

        :raises ConfigError: the driver is not installed, or its options are wrong.
        """

    @abstractmethod
    def open_administration(self, subjects: Subjects) -> Administration:
        """What commands ask of the store, beside the daemons that use it.

        :raises ConfigError: the driver is not installed, or its options are wrong.
        """

    @abstractmethod
    def make_copier(self, administration: Administration) -> Copier:
        """The counts, for a copy, of what :meth:`open_administration` has opened."""

    @abstractmethod
    def lookup(self, table: str) -> Lookup:
        """A table that is asked in the database: a query with one placeholder, or the name of a hash.

        :raises ConfigError: the driver is not installed, or its options are wrong.
        """

    def make_lookup(self) -> Lookup | None:
        """The query of ``sql_limits_by_id``, None when there is none.

        :raises ConfigError: it has no SQL, its driver is not installed, or its options are wrong.
        """
        query = self.settings.sql_limits_by_id
        return self.lookup(query) if query.strip() else None

    @abstractmethod
    def describe(self) -> str:
        """Which database it is, without secrets: ``SQLite /var/lib/policyd-rate-limit/db.sqlite3``."""

    @property
    @abstractmethod
    def place(self) -> str:
        """What the configuration has about where it is: the path of its file, or the setting of its options."""

    @property
    @abstractmethod
    def look(self) -> str:
        """The command by which an administrator sees more of it when it cannot be used."""

    @abstractmethod
    def probe(self) -> Probe:
        """Ask it what the daemon will ask, without writing anything.

        :raises Exception: it is away, or its driver or its options are wrong; in words.
        """

    @property
    @abstractmethod
    def spool_name(self) -> str:
        """What tells the spool of this database from those of others in the same directory.

        It is what the configuration says about the place. Two databases may still share it, and one may have two of
        them: the identity that is kept in the database decides, as soon as it is known.
        """

    @property
    @abstractmethod
    def former_spool_name(self) -> str:
        """The same, in the version before."""

    @property
    def spool_directory(self) -> Path:
        """Where the spool is, whether ``journal_directory`` is set or not."""
        if self.settings.journal_directory is not None:
            return Path(self.settings.journal_directory)
        return self.own_directory

    @property
    def own_directory(self) -> Path:
        """The directory that is the daemon's anyway."""
        return Path(STATE_DIRECTORY)

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that the daemon writes to itself, whether they are there or not; first that which makes the others."""
        return ()

    @property
    def is_made(self) -> bool:
        """False: whoever opens it makes it."""
        return True

    def check_access(self) -> None:
        """See that those of :attr:`files` that are there may be written to: a driver's words for that are a riddle.

        :raises SystemRefusal: one may not.
        """
        for path in (*self.files[:1], *(file.parent for file in self.files[:1])):
            if os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
                raise SystemRefusal(
                    f"{path} may not be written to by uid {os.geteuid()}: run this as root or as {self.settings.user}, "
                    "to whom it should belong"
                )

    def signs(self) -> Callable[[], tuple[int, ...] | None] | None:
        """What tells, without asking it, that it may be worth asking again: what has changed where it is."""
        return None

    def state_directories(self) -> tuple[Path, ...]:
        """The directories that a daemon writes to."""
        return (self.spool_directory,)

    def make_state_directories(self, account: Account | None) -> None:
        """Make the :meth:`state_directories`, for ``account``, as far as they are missing and can be made."""
        for directory in self.state_directories():
            try:
                ensure_directory(directory, account)
            except SystemRefusal as refusal:
                # The daemon starts without a database, and tries again.
                _logger.warning("%s", refusal)

    def engine(self, store: Store, memory: Memory, mailbox: Mailbox | None = None) -> Engine:
        """What decides with ``store``, and without it while its database is away."""
        settings = self.settings
        return Engine(
            store,
            memory,
            journal_directory=self.spool_directory,
            journal_name=self.spool_name,
            former_journal_name=self.former_spool_name,
            journal_size=settings.journal_size,
            enforce=settings.db_error_action is None,
            patience=settings.db_timeout,
            monotonic=time.monotonic,
            mailbox=mailbox,
            signs=self.signs(),
        )

    def waiting(self) -> list[tuple[Path, list[Record]]]:
        """What waits in which file of the spool until the database is back.

        :raises OSError: one cannot be read.
        """
        return list(spool_file.waiting(self.spool_directory, self.spool_name, former_name=self.former_spool_name))


def longest_window(settings: Settings) -> int:
    """Of the configuration, in seconds."""
    return max(map(longest_of, all_limits(settings))) or 1


def least_difference(told: float, before: float, after: float) -> float:
    """Seconds that a clock is ahead of this host's at the least; negative: behind.

    It was ``told`` when here it was some time from ``before`` to ``after`` (Unix seconds, all three): an answer that
    takes long is no difference.
    """
    return max(0.0, told - after) + min(0.0, told - before)


def digest(text: str) -> str:
    """Few characters in place of ``text``, in the name of a file."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
