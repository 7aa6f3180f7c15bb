"""Administration of batch tables: see :mod:`policyd_rate_limit.storage.administration`."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from policyd_rate_limit.storage.administration import PATIENCE, longest_window
from policyd_rate_limit.storage.audit_entries import entry_of, entry_of_override, entry_of_reset, entry_of_revocation
from policyd_rate_limit.storage.hit_history import added_up, place_of
from policyd_rate_limit.storage.log import audit_trail, daemons, hit_history, replacing, tables, trails
from policyd_rate_limit.storage.log.contract import LogError
from policyd_rate_limit.storage.record import in_records, mark_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Sequence

    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.storage.administration import (
        Actor,
        AuditEntry,
        Hits,
        HourOfHits,
        OriginalEntry,
        OriginalHits,
        Override,
    )
    from policyd_rate_limit.storage.heartbeat import Heartbeat
    from policyd_rate_limit.storage.log.contract import Log
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.replica import Memory

ROWS_PER_PAGE = 500

_NO_TRAILS = "the tables of hit history and audit trail cannot be made, and nothing is changed without a trail"
_WHAT_TO_RUN = "policyd-rate-limit doctor prints the CREATE TABLE that whoever owns the database has to run"


class LogAdministration:
    """What commands ask of a batch table: :class:`policyd_rate_limit.storage.administration.Administration`, whose
    methods are described there.

    ``connect`` opens the log, whose tables are there, or raises LogError. ``memory`` is for nobody else.
    ``longest`` is the longest window in use (seconds), apart from overrides.
    ``key_of_old_id`` names the counter that an id of version 1.2.0 stands for.
    """

    def __init__(
        self, connect: Callable[[], Log], memory: Memory, *, longest: int, key_of_old_id: Callable[[str], str]
    ) -> None:
        self._connect = connect
        self._memory = memory
        self._longest = longest
        self._key_of_old_id = key_of_old_id
        self._log: Log | None = None
        self._daemons: Hashable = None  # the identity of the table beside which there is that of the daemons
        self._trails: Hashable = None  # the identity of the table beside which there are those of the trails

    def now(self) -> int:
        return int(self.open().time())

    def entries(self, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
        for page in iter(self._reader(since).page, []):
            for record in page:
                yield from entries_of(record, keys, since)

    def follow(self, since: int) -> Iterator[Sequence[Entry]]:
        reader = self._reader(since)
        while True:
            page = reader.page()
            entries = [entry for record in page for entry in entries_of(record, None, since)]
            if entries or not page:
                yield entries

    def reset(self, key: str, by: Actor, note: str = "") -> int:
        """A record that gives back is appended, which every daemon reads."""
        try:
            return self._reset(self._with_trails(), key, by, note)
        except BaseException:
            self.close()  # with a transaction that may have begun
            raise

    def _reset(self, log: Log, key: str, by: Actor, note: str) -> int:
        self._memory.forget()
        self._memory.synchronise(log.time())
        mails: set[str] = set()
        in_force = tables.overrides(log, self._memory.now)
        announced = tables.longest_announced(log, self._memory.date)
        since = self._memory.date - max(self._longest, longest_window(in_force), announced)
        reader = Reader(log, log.last_before(since))

        def count(page: Sequence[Record]) -> None:
            for record in page:
                for entry in entries_of(record, (key,), since):
                    self._memory.ledger.apply(entry)
                    mails.add(entry.mail)

        # Most of it before the lock is taken, so that the daemons wait for the rest only.
        for page in iter(reader.page, []):
            count(page)
        self._memory.synchronise(log.begin(PATIENCE))
        for page in iter(reader.page, []):
            count(page)
        given_back: list[Entry] = []
        self._memory.ledger.reset(key, mails - {""}, given_back)
        for record in in_records(given_back, self._memory.record):
            log.append(record)
        taken_back = -sum(entry.amount for entry in given_back)
        log.execute(audit_trail.entering(entry_of_reset(by, self._memory.now, key, taken_back, note)))
        log.commit()
        return taken_back

    def overrides(self) -> list[Override]:
        log = self.open()
        return tables.overrides(log, int(log.time()))

    def set_override(self, override: Override, by: Actor | None) -> None:
        log = self.open() if by is None else self._with_trails()
        now = int(log.time())
        entered = () if by is None else (audit_trail.entering(entry_of_override(by, now, override)),)
        tables.set_override(log, override, now, PATIENCE, *entered)

    def remove_override(self, key: str, by: Actor | None, note: str = "") -> bool:
        log = self.open() if by is None else self._with_trails()
        now = int(log.time())
        had_one = tables.has_override(log, key, now)
        entry = None if by is None else entry_of_revocation(by, now, key, note, had_one=had_one)
        entered = () if entry is None else (audit_trail.entering(entry),)
        tables.remove_override(log, key, PATIENCE, *entered)
        return had_one

    def replace_override(self, override: Override, seen: Override | None, by: Actor) -> bool:
        log = self._with_trails()
        now = int(log.time())
        return replacing.put(log, override, seen, now, PATIENCE, entry_of_override(by, now, override))

    def end_override(self, seen: Override, by: Actor, note: str = "") -> bool:
        log = self._with_trails()
        entry = entry_of_revocation(by, int(log.time()), seen.key, note, had_one=True)
        return replacing.end(log, seen, PATIENCE, entry)

    def hits(self) -> list[Hits]:
        return tables.hits(self.open(), self._key_of_old_id)

    def add_hits(self, hits: Sequence[Hits]) -> None:
        tables.add_hits(self.open(), hits, PATIENCE)

    def copied(self) -> dict[tuple[str, int], int]:
        return tables.copied(self.open())

    def forget_hits(self, hits: Sequence[Hits]) -> None:
        tables.subtract_hits(self.open(), hits, self._key_of_old_id, PATIENCE)

    def hit_history(
        self, since: int, *, keys: Collection[str] | None = None, kinds: Collection[str] | None = None
    ) -> Iterator[HourOfHits]:
        for page in hit_history.pages(self._with_trails(), since, keys):
            for row in added_up(one.hits for one in page):
                if kinds is None or row.kind in kinds:
                    yield row

    def find_queue_id(self, queue_id: str) -> Iterator[HourOfHits]:
        return (row.hits for row in hit_history.with_queue_id(self._with_trails(), queue_id))

    def history_pages(self) -> Iterator[Sequence[OriginalHits]]:
        return hit_history.pages(self._with_trails(), 0)

    def bring_history(self, page: Sequence[OriginalHits]) -> int:
        log = self._with_trails()
        there: dict[tuple[object, ...], int] = {}
        for hour in {row.hits.hour for row in page}:
            there |= {(one.origin, *place_of(one.hits)): one.hits.hits for one in hit_history.of_hour(log, hour)}
        missing = [row for row in page if row.hits.hits > there.get((row.origin, *place_of(row.hits)), 0)]
        hit_history.bring(log, missing, PATIENCE)
        return sum(row.hits.hits - there.get((row.origin, *place_of(row.hits)), 0) for row in missing)

    def audit(
        self, since: int = 0, *, most: int = 100, before: int | None = None, subjects: Collection[str] | None = None
    ) -> list[AuditEntry]:
        return audit_trail.latest(self._with_trails(), since, most, before, subjects)

    def note(self, by: Actor, action: str, subject: str, detail: str = "", note: str = "") -> None:
        log = self._with_trails()
        entry = entry_of(by, int(log.time()), action, subject, detail, note)
        log.write([audit_trail.entering(entry)], PATIENCE)

    def audit_pages(self) -> Iterator[Sequence[OriginalEntry]]:
        return audit_trail.pages(self._with_trails())

    def bring_audit(self, page: Sequence[OriginalEntry]) -> int:
        return audit_trail.bring(self._with_trails(), page, PATIENCE)

    def heartbeats(self) -> list[Heartbeat] | None:
        log = self.open()
        if self._daemons != log.identity:
            if not daemons.are_kept(log):
                return None
            self._daemons = log.identity
        return daemons.heartbeats(log)

    def _with_trails(self) -> Log:
        """The connection in use, to a database with the tables that older versions do not make."""
        log = self.open()
        if self._trails != log.identity:
            if not trails.are_kept(log):
                try:
                    log.add_tables()
                except LogError as error:
                    raise LogError(f"{_NO_TRAILS}: {error}; {_WHAT_TO_RUN}") from error
            self._trails = log.identity
        return log

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _reader(self, since: int) -> Reader:
        log = self.open()
        return Reader(log, log.last_before(since))

    def open(self) -> Log:
        """The connection in use; a new one where that was lost, as it is after a few seconds in which nobody asked."""
        if self._log is not None:
            try:
                self._log.time()
            except LogError:
                self.close()
        if self._log is None:
            self._log = self._connect()
        return self._log


class Reader:
    """Reads a batch table from behind ``seq`` on, without its lock or with it."""

    def __init__(self, log: Log, seq: int) -> None:
        self._log = log
        self._seq = seq
        self._newest: dict[int, int] = {}  # writer -> number of its newest record

    def page(self) -> list[Record]:
        """The next records, some of them; none: there are no more yet."""
        found: list[Record] = []
        while not found:
            rows = list(itertools.islice(self._log.rows_after(self._seq), ROWS_PER_PAGE))
            if not rows:
                break
            self._seq = rows[-1][0]
            for _, record in rows:
                if record.number > self._newest.get(record.writer, 0):  # else it is there twice
                    self._newest[record.writer] = record.number
                    found.append(record)
        return found


def entries_of(record: Record, keys: Collection[str] | None, since: int) -> Iterator[Entry]:
    """What ``record`` holds of ``keys``, dated ``since`` or later."""
    if keys is not None and not any(record.may_hold(mark_of(key)) for key in keys):
        return
    with contextlib.suppress(ValueError):  # what cannot be understood does not count; the daemons say so
        for entry in record.dated_until(record.date):
            if entry.date >= since and (keys is None or entry.counter in keys):
                yield entry
