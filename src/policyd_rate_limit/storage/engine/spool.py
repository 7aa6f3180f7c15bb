"""What waits for the database: in memory, and on disk in journals, as far as these can be written.

One journal is written to: one that an earlier daemon has left, where it has room, or else a new one. So a disk that is
full leaves the journal that is there. Where there is no journal because the disk is full, nothing can be kept: whoever
is admitted then would be forgotten by the next crash, and the quota would begin again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.engine.spool_file import Journal, could_be_larger, is_disk_full
from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from policyd_rate_limit.storage.record import Record

_logger = logging.getLogger(__name__)


class Spool:
    """The records of one database that wait, oldest first.

    ``directory``, ``name`` and ``former_name`` (of the version before) say where its journals are. ``size``: bytes, the
    bound of the journal that is written to, and of what waits in memory alone.
    """

    def __init__(self, directory: Path, name: str, size: int, *, former_name: str = "") -> None:
        self.records: list[Record] = []
        self.waiting_bytes = 0
        self._directory = directory
        self._name = name
        self._former_name = former_name
        self._size = size
        self._journal: Journal | None = None  # that is written to
        self._held: dict[Journal, list[Record]] = {}  # what is in which journal, that one too
        self._unkept: list[Record] = []  # what is in none
        self._installation = ""  # as far as it is known
        self.lacks_room = False  # on the disk, for a journal: nothing can be kept
        self._without = False  # which has been said
        self._left: set[Path] = set()  # journals of which it has been said that they are another database's

    @property
    def bytes(self) -> int:
        """The most that may wait."""
        sizes = [journal.size for journal in self._held]
        return sum(sizes) if sizes else self._size

    @property
    def room(self) -> int:
        """How many bytes may still be added, as far as is known."""
        if self._journal is not None:
            return self._journal.room
        return 0 if self.lacks_room else self._size - self.waiting_bytes

    def adopt(self, installation: str) -> list[Record]:
        """Take over the journals of daemons that died; what waits in them.

        ``installation``: of the database, empty as long as it is not known.
        """
        found: list[Record] = []
        try:
            for journal in Journal.adopt(self._directory, self._name, installation, self._former_name):
                found += self._adopt(journal)
        except OSError as error:
            _logger.warning("cannot look for spool files in %s: %s", self._directory, error)
        return found

    def installation(self) -> str:
        """Of which installation what waits is, as far as it says so; empty where it does not, or in several voices."""
        named = {journal.installation for journal, records in self._held.items() if records and journal.installation}
        return named.pop() if len(named) == 1 else ""

    def open(self, installation: str) -> bool:
        """Have a journal to write to, and in it all that is in none; whether there is one."""
        self._installation = installation or self._installation
        if self._journal is not None:
            return True
        spare = self._spare()
        # As long as the database is not known, a journal of a known one may be another one's.
        is_ours = spare is not None and spare.installation in ("", installation)
        failure: Exception | None = None
        if spare is None or spare.size < self._size or not is_ours:
            try:
                self._journal = self._create(installation)
            except (OSError, StoreFull) as error:
                failure = error
        if self._journal is None and spare is not None:
            try:
                spare.extend(self._unkept)
            except (OSError, StoreFull) as error:
                failure = error
            else:
                self._journal = spare
                self._held[spare] += self._unkept
                self._unkept = []
        if self._journal is None:
            assert failure is not None  # noqa: S101 - or there would be a journal
            self._say_without(failure)
            return False
        self.lacks_room = self._without = False
        for journal in [journal for journal, records in self._held.items() if not records]:
            if journal is not self._journal:
                del self._held[journal]
                _remove(journal)
        return True

    def claim(self, installation: str) -> None:
        """What is kept from here on is of ``installation``; nothing waits."""
        self._installation = installation
        if self._journal is not None and self._journal.installation != installation and installation:
            try:
                self._journal.claim(installation)
            except OSError as error:
                self._journal.has_failed = True
                self._journal = None
                self._say_without(error)

    def keep(self, record: Record) -> None:
        """Have ``record`` wait; it is on disk when this returns, where a journal can be written at all.

        :raises StoreFull: there is no room; it does not wait.
        """
        journal = self._journal
        if journal is not None:
            try:
                journal.append(record)
            except FileNotFoundError:
                self._unkept += self._held.pop(journal)
                self._journal = None
                journal.close()
                if self.open(journal.installation):
                    self.keep(record)
                    return
            except OSError as error:
                # What is in it already stays there until it is in the database.
                self._journal = None
                self._say_without(error)
            else:
                self._held[journal].append(record)
                self._wait(record)
                return
        if self.lacks_room:
            raise StoreFull(f"there is no room for a spool file in {self._directory}")
        self._unkept.append(record)
        self._wait(record)

    def sort_out(self, installation: str) -> bool:
        """Let go of the journals of other installations than this one; whether anything of what waited goes with them.

        They stay where they are, for the daemon whose database they were written for.
        """
        if not installation:
            return False
        others = [journal for journal in self._held if journal.installation not in ("", installation)]
        for journal in others:
            records = self._held.pop(journal)
            if records and journal.path not in self._left:
                self._left.add(journal.path)
                _logger.warning(
                    "spool file %s was written for another database than the one that is there now "
                    "(installation %s, not %s), and is left for that one: %s",
                    journal.path,
                    journal.installation,
                    installation,
                    quantity(len(records), "batch", "batches"),
                )
            if journal is self._journal:
                self._journal = None
            if records:
                journal.close()
            else:
                journal.remove()
        before = len(self.records)
        self._count()
        return len(self.records) < before

    def clear(self, installation: str) -> None:
        """All that waited is in the database, which is of ``installation``."""
        own, self._journal = self._journal, None
        for journal in self._held:
            if journal is not own:
                _remove(journal)
        self._held = {}
        self._unkept = []
        self._count()
        if own is None:
            return
        try:
            own.clear()
        except OSError as error:
            _remove(own)
            self._say_without(error)
            return
        self._journal = own
        self._held[own] = []
        self.claim(installation)
        self._enlarge()

    def beside(self, size: int) -> Journal:
        """Another journal of this database, of ``size`` bytes, for whoever calls; it is adopted as any other."""
        return Journal.create(self._directory, self._name, size, self._installation)

    def close(self, *, keeps_journal: bool) -> None:
        """Let go of all journals, which stay where anything waits, or where ``keeps_journal``."""
        if self._unkept:
            count = quantity(len(self._unkept), "batch", "batches")
            _logger.error("lost, since no spool file could be written: %s", count)
        for journal, records in self._held.items():
            if records or (keeps_journal and journal is self._journal):
                journal.close()
            else:
                _remove(journal)
        self._held = {}
        self._journal = None

    def _adopt(self, journal: Journal) -> list[Record]:
        try:
            records = journal.read()
        except OSError as error:
            _logger.warning("spool file %s cannot be read: %s", journal.path, error)
            journal.close()
            return []
        if journal.damage:
            _logger.error(
                "spool file %s is damaged: %s cannot be read; %d batches can, and count",
                journal.path,
                journal.damage,
                len(records),
            )
        if not records and (journal.damage or self._journal is not None):
            _remove(journal)
            return []
        self._held[journal] = records
        for record in records:
            self._wait(record)
        return records

    def _spare(self) -> Journal | None:
        """Of the journals that were left, the one with the most room."""
        usable = [journal for journal in self._held if journal.room >= OVERHEAD]
        return max(usable, key=lambda journal: journal.room, default=None)

    def _create(self, installation: str) -> Journal:
        """A new journal, with what is in no other one, and, if there is room, what is in one that has failed."""
        journal = Journal.create(self._directory, self._name, self._size, installation)
        unsure = [
            record
            for other, records in self._held.items()
            if other.has_failed and other.installation in ("", installation)
            for record in records
        ]
        try:
            kept = [*unsure, *self._unkept]
            try:
                journal.extend(kept)
            except StoreFull:
                kept = self._unkept
                journal.extend(kept)
        except BaseException:
            journal.remove()
            raise
        self._held[journal] = kept
        self._unkept = []
        return journal

    def _enlarge(self) -> None:
        """Have an empty journal of full size, where there was no room for one before."""
        own = self._journal
        if own is None or own.size >= self._size:
            return
        try:
            if could_be_larger(own, self._size):
                larger = Journal.create(self._directory, self._name, self._size, own.installation)
                _remove(own)
                self._journal, self._held = larger, {larger: []}
        except OSError as error:
            _logger.debug("cannot make a spool file larger than %s: %s", own.path, error)

    def _wait(self, record: Record) -> None:
        self.records.append(record)
        self.waiting_bytes += _bytes_of(record)

    def _count(self) -> None:
        """Find out anew what waits, in the order of what is held."""
        self.records = [*_once(record for records in (*self._held.values(), self._unkept) for record in records)]
        self.waiting_bytes = sum(map(_bytes_of, self.records))

    def _say_without(self, error: Exception) -> None:
        self.lacks_room = is_disk_full(error)
        if not self._without:
            self._without = True
            _logger.warning(
                "no spool file in %s: %s; while the database is away, %s",
                self._directory,
                error,
                "nothing is admitted: it could be kept nowhere"
                if self.lacks_room
                else "what is admitted is kept in memory only",
            )


def _bytes_of(record: Record) -> int:
    return len(record.entries) + OVERHEAD


def _once(records: Iterable[Record]) -> Iterable[Record]:
    """``records``, each once, however many journals hold it."""
    return {record[:2]: record for record in records}.values()


def _remove(journal: Journal) -> None:
    try:
        journal.remove()
    except OSError as error:
        _logger.warning("cannot remove spool file %s: %s", journal.path, error)
