"""A batch table: what the store that decides in memory needs of SQLite, PostgreSQL and MySQL.

The log is one table, ``policyd_batch``: a row per batch, appended under a lock that all daemons share, read by each
from where it stopped reading. ``date`` never falls from one row to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from policyd_rate_limit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.storage.record import Record

    OldCounts = Iterator[tuple[str, int, int]]
    Parameter = int | str


ROWS_AT_ONCE = 20  # that may be read where nothing may wait: some milliseconds


class Statement(NamedTuple):
    """SQL, a constant of this program, with ``%s`` in place of each of ``parameters``: the driver brings them in."""

    text: str
    parameters: tuple[Parameter, ...] = ()

    @property
    def most_characters(self) -> int:
        """That are sent, at the most: a driver may have to escape each of those of the parameters."""
        return len(self.text) + 2 * sum(len(str(parameter)) + 2 for parameter in self.parameters)


class LogError(StoreError):
    """The database has failed, or does not answer in time. The connection to it is of no more use.

    ``rescued``: where the table itself is lost, the rows of it that could still be read, each with its seq.
    """

    def __init__(self, message: str, rescued: Sequence[tuple[int, Record]] = ()) -> None:
        super().__init__(message)
        self.rescued = rescued


class LogReplaced(LogError):
    """The table was removed or another one has taken its place; connecting again finds what is there now."""


class LogOccupied(LogError):
    """Others have had the lock for as long as it may be waited for. Nothing was done, and the connection goes on."""


class RecordRefused(LogError):
    """The database does not take something of what was appended, and will not as it is; others it may take.

    The connection is of no more use, the transaction is rolled back.
    """


class Log(Protocol):
    """One connection to the table. Every method raises :class:`LogError`, and nothing else of the driver's.

    An open log is used by one thread at a time; opening one is possible in any thread.
    """

    @property
    def identity(self) -> Hashable:
        """What tells this table from another one that takes its place: as of :meth:`begin` or :meth:`prepare`."""

    @property
    def longest_row(self) -> int:
        """Characters of the entries of a record, at the most; a longer one is refused."""

    def begin(self, patience: float) -> float:
        """Take the lock that all daemons share, waiting for at most ``patience`` seconds.

        Where it can be told that others make progress meanwhile, each of them in less than that, it may take longer.

        :returns: the time (Unix seconds) by the clock that all daemons share, read while the lock is held.
        :raises LogReplaced: this connection can no longer reach the table that others use.
        """

    def wait(self, patience: float) -> None:
        """Take that lock and let go of it at once; waits as :meth:`begin`.

        Nothing is made or read: see that a batch would find its turn.
        """

    def try_begin(self, seq: int) -> float | None:
        """As :meth:`begin`, but without waiting for the network or for anybody who has the lock.

        None: that is not possible now, or more than :data:`ROWS_AT_ONCE` rows are there behind ``seq``.
        """

    def prepare(self, carry_over: Callable[[OldCounts], Iterable[Record]]) -> bool:
        """Under the lock, once per connection: make the table if it is missing; whether it was.

        ``carry_over`` is then given all (id, date, recipients) of the tables of an older version, if there are any, and
        returns the records that the table begins with.
        """

    def installation(self, proposed: str) -> str:
        """Under the lock, after :meth:`prepare`: the identity of the installation whose tables these are.

        It is made once, and stays whatever becomes of the rows: ``proposed`` where there is none yet. Empty: none can
        be kept here.
        """

    def rows_after(self, seq: int) -> Generator[tuple[int, Record], None, None]:
        """The rows behind ``seq``, oldest first, each with its seq; with the lock or without it. Close it.

        :raises LogReplaced: ``seq`` lies behind the newest row: rows have been lost.
        """

    def append(self, record: Record) -> int:
        """Add ``record``; its seq.

        :raises RecordRefused: the database does not take it; that may show later, until :meth:`commit`.
        """

    def empty(self) -> None:
        """Under the lock: drop all rows; what is appended next has a seq that nobody has seen yet."""

    def redate(self, date: int) -> None:
        """The clock has stepped back to ``date``: rows that lie in the future are dated then."""

    def last_before(self, date: int) -> int:
        """The seq of the last row older than ``date`` (Unix second), 0 when there is none."""

    def commit(self) -> None:
        """End the transaction and let go of the lock; what was written is durable when this returns."""

    def clean(self, before: int, patience: float) -> int:
        """Without the lock: delete what is older than ``before`` in small steps; how many entries there were.

        The newest row stays, if need be without its entries: its seq is where the daemons go on reading.
        """

    def compact(self, patience: float) -> None:
        """Without the lock: give room back that deleted rows have left, where that is the database's way."""

    def time(self) -> float:
        """Without the lock: the time (Unix seconds) by the clock that all daemons share.

        Fails where the connection is of no more use.
        """

    def has_table(self, name: str) -> bool:
        """Whether there is a table of that name."""

    def read(self, text: str, *parameters: Parameter) -> Sequence[Sequence[Any]]:
        """Without the lock: the rows of the :class:`Statement`, all at once."""

    def write(self, statements: Sequence[Statement], patience: float) -> None:
        """Without a transaction: ``statements`` in one of their own, of which it waits for others for ``patience``.

        :raises LogOccupied: these have taken longer.
        """

    def execute(self, statement: Statement) -> None:
        """Under the lock: do that within its transaction."""

    def add_tables(self) -> None:
        """Without the lock: make those tables that a database of an older version lacks, which ignores them.

        :raises LogError: they may not be made.
        """

    def on_conflict(self, key: str, assignments: Mapping[str, str]) -> str:
        """What follows an INSERT to change the row of the same ``key`` instead.

        ``assignments``: column -> expression, in which ``{new}`` is the value of that column in the INSERT,
        ``{news[x]}`` that of the column x, and ``{column}`` the name. All of it is names and constants of this program.
        """

    def maintain(self) -> None:
        """Without the lock, about once a second: what the database needs now and then."""

    def close(self) -> None:
        """Close the connection; a transaction that is open is rolled back. Never raises."""


def named(text: str, **names: str) -> str:
    """SQL that is ``text`` with ``names`` of tables and columns, or expressions of them, for what has braces there.

    Databases take no parameters for names. All of these are constants of this program: a value never goes this way.
    """
    return text.format(**names)


def on_conflict(key: str, assignments: Mapping[str, str]) -> str:
    """What :meth:`Log.on_conflict` is to give, as SQLite and PostgreSQL have it."""
    return f"ON CONFLICT ({key}) DO UPDATE SET {changes_of(assignments, 'excluded.{}')}"


def changes_of(assignments: Mapping[str, str], new: str) -> str:
    """``assignments`` of :meth:`Log.on_conflict`; ``new``: how a database names a value of the INSERT."""
    news = {column: new.format(column) for column in assignments}
    return ", ".join(
        f"{column} = {value.format(new=news[column], news=news, column=column)}"
        for column, value in assignments.items()
    )
