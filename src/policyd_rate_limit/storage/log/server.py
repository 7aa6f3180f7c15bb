"""The batch table on a database server: what PostgreSQL and MySQL have in common.

``policyd_batch`` is the log; ``policyd_state`` has one row, which is the lock: whoever holds it
(``SELECT ... FOR UPDATE``) may append. A batch takes two round trips: begin, lock, clock and what is new in one, its
own row and the commit in the other.

``seq`` grows by a random step. So the seq of a row also tells which history it belongs to: after a failover that has
lost the newest rows, others take their place under other numbers, and whoever has read the lost ones notices, as when
the table was emptied or restored.

The tables are made on first use. On MySQL making a table ends a transaction; so it is the row in ``policyd_state``,
written together with what is taken over from older versions, that says that all is in place. Whoever gets to write it
has made the table.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import secrets
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.storage.log.contract import LogError, LogReplaced, Statement, named, on_conflict
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from policyd_rate_limit.storage.log.contract import OldCounts, Parameter

Row = tuple[int, Record]  # seq, record

SCHEMA_VERSION = 3  # 1: without policyd_override and policyd_hit, 2: without policyd_window
LONGEST_STEP = 1 << 16  # between two seqs: a row is mistaken for a lost one in one case of 32,000
ROWS_PER_READ = 1_000
ROWS_PER_CLEAN = 500
CHARACTERS_PER_SEND = 1 << 18  # of statements in one exchange, as far as there are several
LONGEST_ROW = 1 << 28  # characters: a quarter of what PostgreSQL's columns take
PAUSE_OF_CLEAN = 0.002  # seconds between two transactions of --clean
LONG_SECONDS = 60.0  # for what is done once in years, on tables of any size: taking over, dating back
NETWORK_SECONDS = 0.05  # at the least, beside the time that is spent waiting for the lock
NETWORK_ROUND_TRIPS = 4  # likewise

COMMIT = Statement("COMMIT")
ROLLBACK = Statement("ROLLBACK")

_FIRST_AND_LAST = "SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM policyd_batch"
# The row of a seq, whose entries are known, and those behind it.
_ROWS_FROM = (
    "SELECT seq, writer, number, date, size, CASE seq WHEN %s THEN '' ELSE entries END "
    "FROM policyd_batch WHERE seq >= %s ORDER BY seq LIMIT %s"
)
_APPEND = "INSERT INTO policyd_batch VALUES (%s, %s, %s, %s, %s, %s)"
# What a daemon does to rows, done to none.
_TRY_UPDATE = "UPDATE {table} SET {column} = {column} WHERE 1 = 0"
_TRY_INSERT = "INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0"
_TRY_DELETE = "DELETE FROM {table} WHERE 1 = 0"
_TRIED = {"policyd_state": (_TRY_UPDATE,), "policyd_audit": (_TRY_INSERT, _TRY_DELETE)}  # in place of all three


class TableMissing(LogError):
    """A table is not there. The connection is still of use, its transaction is not."""


class TableExists(LogError):
    """A table was there already. The connection is still of use."""


class SqlLog(ABC):
    """The batch table on a server: a :class:`policyd_rate_limit.storage.log.contract.Log`, whose methods are described
    there. A subclass is a connection.

    ``timeout`` (seconds) bounds each transaction from :meth:`begin` to :meth:`commit`, a longer patience does likewise.
    Where there are more rows to read or to append than fit into one exchange, it bounds each exchange.
    """

    # What differs, in SQL. What takes parameters says which, in their order.
    SCHEMA: tuple[tuple[str, str], ...]  # table, the statement that makes it
    # Likewise, and indexes: what was added later without another schema version, for older ones do not mind it.
    ADDED: tuple[tuple[str, str], ...] = ()
    # What leads from version 1 to 2, from 2 to 3, once all tables are there; each may run twice.
    UPGRADES: tuple[tuple[str, ...], ...] = ((), ())
    MAKE_STATE: str  # adds the row of policyd_state, unless it is there: version, identity
    INSTALLATION: str  # the identity of the installation, if there is one
    MAKE_INSTALLATION: str  # makes it: identity
    LOCK: str  # schema_version and identity, locked
    CLOCK: str  # Unix seconds, with fractions
    COUNT_TABLES: str  # how many tables are called so, 0 or 1: table
    GRANTEE: str  # this user, as GRANT names one
    MAY_CREATE = "SELECT 1"  # gives a row unless it is known that tables may not be made

    def __init__(self, timeout: float) -> None:
        self.identity: str | None = None
        self._timeout = timeout
        self._end = time.monotonic() + timeout  # of what is going on, by the monotonic clock
        self._round_trip = 0.0  # seconds, as the subclass has measured them
        self._in_transaction = False
        self._prepared = False
        self._made = False
        self._seq: int | None = None  # of the last row that was read or appended here
        self._ahead: list[Row] | None = None  # what came with the lock: the row of _seq, and those behind it
        self._newest: int | None = None  # seq of the last row, while the lock is held
        self._has_appended = False  # in this transaction
        self._inserts: list[Statement] = []
        self._characters = 0
        self._most_characters = CHARACTERS_PER_SEND

    @property
    def longest_row(self) -> int:
        return LONGEST_ROW

    @abstractmethod
    def _query(self, *statements: Statement) -> list[Sequence[Sequence[Any]]]:
        """Send ``statements`` at once and return the rows of each, by ``self._end``.

        :raises TableMissing: so it is.
        :raises TableExists: so it is.
        :raises RecordRefused: something that was to be written is not taken; the connection is closed then.
        :raises LogError: anything else; the connection is closed then.
        """

    @abstractmethod
    def _start(self, wait: float) -> list[Statement]:
        """The statements that begin a transaction which waits for a lock for ``wait`` seconds at the most."""

    @abstractmethod
    def _old_counts(self) -> OldCounts:
        """All (id, date, recipients) of the table of 0.4, 1.0.1.1 or 1.2.0, the oldest first; takes LONG_SECONDS."""

    @abstractmethod
    def _delete_old_counts(self, before: int) -> int:
        """Delete some of the rows older than ``before`` of that table; how many, 0 at the end."""

    @abstractmethod
    def _failure(self, message: str) -> LogError:
        """Close the connection; the error that says why."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; what is not committed is gone."""

    def begin(self, patience: float) -> float:
        start = time.monotonic()
        total = max(patience, self._timeout)
        # Whoever gets the lock at the last moment still needs the time to make use of it.
        wait = min(patience, total - self._timeout / 4)
        network = max(NETWORK_SECONDS, NETWORK_ROUND_TRIPS * self._round_trip)
        self._end = start + min(total, wait + network)
        self._newest = None
        self._has_appended = False
        self._inserts.clear()
        self._characters = 0
        try:
            locked = self._lock(wait)
        except TableMissing as error:
            if self._prepared:
                message = str(self._failure(str(error)))
                raise LogReplaced(message) from error
            locked = None
        self._end = start + total
        if locked is None:
            if self._prepared:
                raise LogReplaced(str(self._failure("the row of policyd_state is gone")))
            locked = self._make(wait)
        version, identity, now = locked
        if version != SCHEMA_VERSION:
            now = self._upgrade(version, wait)
        if identity != self.identity:
            self.identity = identity
            self._seq = self._ahead = None
        return now

    def wait(self, patience: float) -> None:
        self._end = time.monotonic() + patience + self._timeout
        try:
            self._query(*self._start(patience), Statement(self.LOCK), ROLLBACK)
        except TableMissing:  # the next batch makes it
            self._query(ROLLBACK)

    def try_begin(self, seq: int) -> float | None:  # noqa: ARG002 - where it is in the log does not matter
        """There is a network between."""
        return None

    def prepare(self, carry_over: Callable[[OldCounts], Iterable[Record]]) -> bool:
        self._prepared = True
        if not self._made:
            return False
        self._made = False
        for record in list(carry_over(self._old_counts())):
            self.append(record)
        self._go_on()
        return True

    def installation(self, proposed: str) -> str:
        if not self._may_keep_installation():
            return ""
        found = self._ask(self.INSTALLATION)
        if not found:
            self._query(Statement(self.MAKE_INSTALLATION, (proposed,)))
        self._go_on()
        return str(found[0][0]) if found else proposed

    @abstractmethod
    def _may_keep_installation(self) -> bool:
        """Make sure that there is where to keep the identity of the installation; false: there is not."""

    def rows_after(self, seq: int) -> Generator[Row, None, None]:
        """Read them without the lock, too, since rows become visible in their order."""
        rows = self._ahead if seq == self._seq else None
        self._ahead = None
        while True:
            if rows is None:
                rows = self._rows_from(seq)
            if seq and (not rows or rows[0][0] != seq):
                # Nobody deletes the newest row.
                message = "rows that were there are gone: it was emptied, restored or failed over; reading all of it"
                raise LogReplaced(str(self._failure(message)))
            yield from itertools.islice(rows, 1 if seq else 0, None)
            if rows:
                seq = rows[-1][0]
            if len(rows) < ROWS_PER_READ:
                break
            rows = None
            self._go_on()
        self._seq = seq
        if self._in_transaction:
            self._newest = seq

    def append(self, record: Record) -> int:
        if self._newest is None:
            _, self._newest = self._edges()
        newest = self._newest + random.randint(1, LONGEST_STEP)  # noqa: S311 - no secret
        row = (newest, record.date, record.writer, record.number, record.size, record.entries)
        statement = Statement(_APPEND, row)
        size = statement.most_characters
        if self._characters + size > self._most_characters:
            self._send()
        self._has_appended = True
        self._newest = newest
        self._inserts.append(statement)
        self._characters += size
        return newest

    def empty(self) -> None:
        self._send()
        _, self._newest = self._edges()
        self._allow(LONG_SECONDS)
        self._query(Statement("DELETE FROM policyd_batch"))
        self._go_on()

    def redate(self, date: int) -> None:
        last = self.last_before(date + 1)
        self._allow(LONG_SECONDS)
        self._query(Statement("UPDATE policyd_batch SET date = %s WHERE seq > %s", (date, last)))
        self._go_on()

    def last_before(self, date: int) -> int:
        """Without the lock, too."""
        low, high = self._edges()
        found = 0
        while low <= high:
            middle = (low + high) // 2
            ((seq, dated),) = self._ask(
                "SELECT seq, date FROM policyd_batch WHERE seq >= %s ORDER BY seq LIMIT 1", middle
            )
            if int(dated) < date:
                found = int(seq)
                low = found + 1
            else:
                high = middle - 1
        return found

    def commit(self) -> None:
        self._send(*self._last_statements())
        self._in_transaction = False
        self._seq = self._newest

    def clean(self, before: int, patience: float) -> int:
        _, newest = self._edges()
        last = min(self.last_before(before), newest - 1)
        deleted = done = 0
        while done < last:
            self.begin(patience)
            # Where it went on the last time: an index may still hold what has been deleted.
            rows = self._ask(
                "SELECT seq, size FROM policyd_batch WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT %s",
                done,
                last,
                ROWS_PER_CLEAN,
            )
            until = int(rows[-1][0]) if rows else last
            self._query(Statement("DELETE FROM policyd_batch WHERE seq > %s AND seq <= %s", (done, until)))
            self.commit()
            done = until
            deleted += sum(int(size) for _, size in rows)
            time.sleep(PAUSE_OF_CLEAN)
        deleted += self._empty(newest, before, patience)
        if self.has_table("mail_count"):
            while step := self._delete_old_counts(before):
                deleted += step
        return deleted

    def _empty(self, seq: int, before: int, patience: float) -> int:
        """Delete the entries of the newest row, but leave the row; how many there were."""
        self.begin(patience)
        rows = self._ask("SELECT size FROM policyd_batch WHERE seq = %s AND date < %s", seq, before)
        if rows:
            self._query(Statement("UPDATE policyd_batch SET size = 0, entries = '[]' WHERE seq = %s", (seq,)))
        self.commit()
        return int(rows[0][0]) if rows else 0

    def compact(self, patience: float) -> None:  # noqa: B027 - what neither of the two needs
        """Do nothing: PostgreSQL's autovacuum and InnoDB's purge give the room of deleted rows to new ones."""

    def time(self) -> float:
        return float(self._ask(self.CLOCK)[0][0])

    def has_table(self, name: str) -> bool:
        return bool(int(self._ask(self.COUNT_TABLES, name)[0][0]))

    def try_rights(self, patience: float) -> bool:
        """Do to no row of the tables what a daemon does to rows, without its lock; whether there are tables.

        :raises LogError: what it may not do; servers look at rights before they look at rows.
        """
        tables = [table for table, _ in self.SCHEMA if self.has_table(table)]
        if len(tables) < len(self.SCHEMA) and not self._ask(self.MAY_CREATE):
            raise self._failure("tables may not be made here")
        added = [table for table, made in self.ADDED if "TABLE" in made and self.has_table(table)]
        statements: list[Statement] = []
        for table in (*tables, *added):
            column = "seq" if table == "policyd_batch" else "id"
            tried = _TRIED.get(table, (_TRY_UPDATE, _TRY_INSERT, _TRY_DELETE))
            statements += [Statement(named(text, table=table, column=column)) for text in tried]
        self.write(statements, patience)
        return bool(tables)

    def unmade(self) -> list[str]:
        """The statements that make the tables that an older version lacks, where this user may not make them.

        The last ones allow this user what a daemon does with them.
        """
        missing = [(table, made) for table, made in self.ADDED if not self.has_table(table)]
        if not missing or self._may_create():
            return []
        ((grantee,),) = self._ask(self.GRANTEE)
        tables = [table for table, made in missing if "TABLE" in made]
        rights = {table: "INSERT, DELETE" if table == "policyd_audit" else "INSERT, UPDATE, DELETE" for table in tables}
        grants = [f"GRANT SELECT, {needed} ON {table} TO {grantee}" for table, needed in rights.items()]
        return [*(made for _, made in missing), *grants]

    def _may_create(self) -> bool:
        """Whether tables may be made here, as far as that is known without doing it."""
        return bool(self._ask(self.MAY_CREATE))

    def read(self, text: str, *parameters: Parameter) -> Sequence[Sequence[Any]]:
        return self._ask(text, *parameters)

    def write(self, statements: Sequence[Statement], patience: float) -> None:
        self._end = time.monotonic() + patience + self._timeout
        batch: list[Statement] = []
        characters = 0
        try:
            for statement in (*self._start(patience), *statements, COMMIT):
                size = statement.most_characters
                if characters + size > self._most_characters and batch:
                    self._query(*batch)
                    batch, characters = [], 0
                batch.append(statement)
                characters += size
            self._query(*batch)
        except (TableMissing, TableExists) as error:
            raise self._failure(str(error)) from error  # with the transaction

    def execute(self, statement: Statement) -> None:
        self._send(statement)

    def on_conflict(self, key: str, assignments: Mapping[str, str]) -> str:
        return on_conflict(key, assignments)

    def maintain(self) -> None:  # noqa: B027 - likewise
        """There is nothing to do."""

    def _last_statements(self) -> tuple[Statement, ...]:
        """What ends a transaction."""
        return (COMMIT,)

    def _lock(self, wait: float, *make: Statement) -> tuple[int, str, float] | None:
        """Begin, and take the lock: version, identity and time; None when there is no row or no policyd_batch."""
        last: list[Statement] = []
        if not self._prepared:
            last.append(Statement(self.COUNT_TABLES, ("policyd_batch",)))
        elif self._seq is not None:
            last.append(_rows_from(self._seq))
        before = (*self._start(wait), *make)
        results = self._query(*before, Statement(self.LOCK), Statement(self.CLOCK), *last)[len(before) :]
        self._in_transaction = True
        locked, clock, *more = results
        if not locked:
            return None
        if self._prepared:
            self._ahead = _records(more[0]) if more else None
        elif not int(more[0][0][0]):
            # Whoever rebuilds policyd_batch is to be found out as on first use.
            self._query(Statement("DELETE FROM policyd_state WHERE id = 1"), COMMIT)
            return None
        version, identity = locked[0][:2]
        return int(version), str(identity), float(clock[0][0])

    def _make(self, wait: float) -> tuple[int, str, float]:
        """Make what is missing, and take the lock."""
        self._query(ROLLBACK)
        self._in_transaction = False
        self._make_tables()
        identity = secrets.token_hex(16)
        locked = self._lock(wait, Statement(self.MAKE_STATE, (SCHEMA_VERSION, identity)))
        if locked is None:
            raise self._failure("a table vanishes as soon as it is made")
        self._made = locked[1] == identity
        return locked

    def _make_tables(self) -> None:
        self._make_missing(self.SCHEMA)

    def add_tables(self) -> None:
        self._make_missing(self.ADDED)

    def _make_missing(self, tables: Sequence[tuple[str, str]]) -> None:
        for table, statement in tables:
            if not self.has_table(table):
                with contextlib.suppress(TableExists):  # another daemon was faster
                    self._query(Statement(statement))

    def _upgrade(self, version: int, wait: float) -> float:
        """Bring the schema from ``version`` to ours, and take the lock."""
        if version > SCHEMA_VERSION:
            raise self._failure(
                f"its tables are of schema version {version}, made by a newer policyd-rate-limit; "
                f"this one knows {SCHEMA_VERSION}"
            )
        self._query(ROLLBACK)
        self._in_transaction = False
        self._make_tables()
        self._allow(LONG_SECONDS)
        for statement in itertools.chain(*self.UPGRADES[version - 1 :]):
            self._query(Statement(statement))
        self._go_on()
        locked = self._lock(wait)
        if locked is None:
            raise self._failure("a table vanishes while it is upgraded")
        self._query(Statement("UPDATE policyd_state SET schema_version = %s WHERE id = 1", (SCHEMA_VERSION,)))
        return locked[2]

    def _send(self, *last: Statement) -> None:
        """Send the rows that were appended, and the statements ``last``."""
        statements = (*self._inserts, *last)
        self._inserts = []
        self._characters = 0
        if statements:
            self._query(*statements)
            self._go_on()

    def _ask(self, text: str, *parameters: Parameter) -> Sequence[Sequence[Any]]:
        """The rows of one statement, asked with the lock or without."""
        if self._in_transaction:
            self._send()  # so that what was appended is found
        else:
            self._end = time.monotonic() + self._timeout
        (rows,) = self._query(Statement(text, parameters))
        return rows

    def _edges(self) -> tuple[int, int]:
        """The first and the last seq; (1, 0) in an empty table."""
        ((first, last),) = self._ask(_FIRST_AND_LAST)
        return int(first), int(last)

    def _rows_from(self, seq: int) -> list[Row]:
        text, parameters = _rows_from(seq)
        return _records(self._ask(text, *parameters))

    def _allow(self, seconds: float) -> None:
        """What comes next may take ``seconds``."""
        self._end = time.monotonic() + seconds

    def _go_on(self) -> None:
        """The database has answered; what there is still to do may take as long as it usually may."""
        self._end = time.monotonic() + self._timeout


def _rows_from(seq: int) -> Statement:
    return Statement(_ROWS_FROM, (seq, seq, ROWS_PER_READ))


def _records(rows: Sequence[Sequence[Any]]) -> list[Row]:
    return [
        (int(seq), Record(int(writer), int(number), int(date), int(size), str(entries)))
        for seq, writer, number, date, size, entries in rows
    ]
