"""The spool: what waits for the database, in memory and on disk, in files, as far as these can be written.

One file is written to: one that an earlier daemon has left, where it has room, or else a new one. So a disk that is
full leaves the file that is there. Where there is none because the disk is full, nothing can be kept: whoever is
admitted then would be forgotten by the next crash, and the quota would begin again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.engine.spool_directory import is_disk_full
from policyd_rate_limit.storage.engine.spool_file import SpoolFile, could_be_larger
from policyd_rate_limit.storage.record import OVERHEAD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from policyd_rate_limit.storage.record import Record

_logger = logging.getLogger(__name__)


class Spool:
    """Keeps the records that wait for one database, oldest first.

    ``directory``, ``name`` and ``former_name`` (of the version before) say where its files are. ``size``: bytes, the
    bound of the file that is written to, and of what waits in memory alone.
    """

    def __init__(self, directory: Path, name: str, size: int, *, former_name: str = "") -> None:
        self.records: list[Record] = []
        self.waiting_bytes = 0
        self._directory = directory
        self._name = name
        self._former_name = former_name
        self._size = size
        self._file: SpoolFile | None = None  # that is written to
        self._held: dict[SpoolFile, list[Record]] = {}  # what is in which spool file, that one too
        self._unkept: list[Record] = []  # what is in none
        self._installation = ""  # as far as it is known
        self.lacks_room = False  # on the disk, for a spool file: nothing can be kept
        self._without = False  # which has been said
        self._left: set[Path] = set()  # spool files of which it has been said that they are another database's

    @property
    def bytes(self) -> int:
        """The most that may wait."""
        sizes = [file.size for file in self._held]
        return sum(sizes) if sizes else self._size

    @property
    def room(self) -> int:
        """How many bytes may still be added, as far as is known."""
        if self._file is not None:
            return self._file.room
        return 0 if self.lacks_room else self._size - self.waiting_bytes

    def adopt(self, installation: str) -> list[Record]:
        """Take over the spool files of daemons that died; what waits in them.

        ``installation``: of the database, empty as long as it is not known.
        """
        found: list[Record] = []
        try:
            for file in SpoolFile.adopt(self._directory, self._name, installation, self._former_name):
                found += self._adopt(file)
        except OSError as error:
            _logger.warning("cannot look for spool files in %s: %s", self._directory, error)
        return found

    def installation(self) -> str:
        """Of which installation what waits is, as far as it says so; empty where it does not, or in several voices."""
        named = {file.installation for file, records in self._held.items() if records and file.installation}
        return named.pop() if len(named) == 1 else ""

    def open(self, installation: str) -> bool:
        """Have a spool file to write to, and in it all that is in none; whether there is one."""
        self._installation = installation or self._installation
        if self._file is not None:
            return True
        spare = self._spare()
        # As long as the database is not known, a spool file of a known one may be another one's.
        is_ours = spare is not None and spare.installation in ("", installation)
        failure: Exception | None = None
        if spare is None or spare.size < self._size or not is_ours:
            try:
                self._file = self._create(installation)
            except (OSError, StoreFull) as error:
                failure = error
        if self._file is None and spare is not None:
            try:
                spare.extend(self._unkept)
            except (OSError, StoreFull) as error:
                failure = error
            else:
                self._file = spare
                self._held[spare] += self._unkept
                self._unkept = []
        if self._file is None:
            assert failure is not None  # noqa: S101 - or there would be a spool file
            self._say_without(failure)
            return False
        self.lacks_room = self._without = False
        for file in [file for file, records in self._held.items() if not records]:
            if file is not self._file:
                del self._held[file]
                _remove(file)
        return True

    def claim(self, installation: str) -> None:
        """What is kept from here on is of ``installation``; nothing waits."""
        self._installation = installation
        if self._file is not None and self._file.installation != installation and installation:
            try:
                self._file.claim(installation)
            except OSError as error:
                self._file.has_failed = True
                self._file = None
                self._say_without(error)

    def keep(self, record: Record) -> None:
        """Have ``record`` wait; it is on disk when this returns, where a spool file can be written at all.

        :raises StoreFull: there is no room; it does not wait.
        """
        file = self._file
        if file is not None:
            try:
                file.append(record)
            except FileNotFoundError:
                self._unkept += self._held.pop(file)
                self._file = None
                file.close()
                if self.open(file.installation):
                    self.keep(record)
                    return
            except OSError as error:
                # What is in it already stays there until it is in the database.
                self._file = None
                self._say_without(error)
            else:
                self._held[file].append(record)
                self._wait(record)
                return
        if self.lacks_room:
            raise StoreFull(f"there is no room for a spool file in {self._directory}")
        self._unkept.append(record)
        self._wait(record)

    def sort_out(self, installation: str) -> bool:
        """Let go of the files of other installations than this one; whether anything of what waited goes with them.

        They stay where they are, for the daemon whose database they were written for.
        """
        if not installation:
            return False
        others = [file for file in self._held if file.installation not in ("", installation)]
        for file in others:
            records = self._held.pop(file)
            if records and file.path not in self._left:
                self._left.add(file.path)
                _logger.warning(
                    "spool file %s was written for another database than the one that is there now "
                    "(installation %s, not %s), and is left for that one: %s",
                    file.path,
                    file.installation,
                    installation,
                    quantity(len(records), "batch", "batches"),
                )
            if file is self._file:
                self._file = None
            if records:
                file.close()
            else:
                file.remove()
        before = len(self.records)
        self._count()
        return len(self.records) < before

    def clear(self, installation: str) -> None:
        """All that waited is in the database, which is of ``installation``."""
        own, self._file = self._file, None
        for file in self._held:
            if file is not own:
                _remove(file)
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
        self._file = own
        self._held[own] = []
        self.claim(installation)
        self._enlarge()

    def beside(self, size: int) -> SpoolFile:
        """Another spool file of this database, of ``size`` bytes, for whoever calls; it is adopted as any other."""
        return SpoolFile.create(self._directory, self._name, size, self._installation)

    def close(self, *, keeps_file: bool) -> None:
        """Let go of all spool files, which stay where anything waits, or where ``keeps_file``."""
        if self._unkept:
            count = quantity(len(self._unkept), "batch", "batches")
            _logger.error("lost, since no spool file could be written: %s", count)
        for file, records in self._held.items():
            if records or (keeps_file and file is self._file):
                file.close()
            else:
                _remove(file)
        self._held = {}
        self._file = None

    def _adopt(self, file: SpoolFile) -> list[Record]:
        try:
            records = file.read()
        except OSError as error:
            _logger.warning("spool file %s cannot be read: %s", file.path, error)
            file.close()
            return []
        if file.damage:
            _logger.error(
                "spool file %s is damaged: %s cannot be read; %s can, and will be counted",
                file.path,
                file.damage,
                quantity(len(records), "batch", "batches"),
            )
        if not records and (file.damage or self._file is not None):
            _remove(file)
            return []
        self._held[file] = records
        for record in records:
            self._wait(record)
        return records

    def _spare(self) -> SpoolFile | None:
        """Of the spool files that were left, the one with the most room."""
        usable = [file for file in self._held if file.room >= OVERHEAD]
        return max(usable, key=lambda file: file.room, default=None)

    def _create(self, installation: str) -> SpoolFile:
        """A new spool file, with what is in no other one, and, if there is room, what is in one that has failed."""
        file = SpoolFile.create(self._directory, self._name, self._size, installation)
        unsure = [
            record
            for other, records in self._held.items()
            if other.has_failed and other.installation in ("", installation)
            for record in records
        ]
        try:
            kept = [*unsure, *self._unkept]
            try:
                file.extend(kept)
            except StoreFull:
                kept = self._unkept
                file.extend(kept)
        except BaseException:
            file.remove()
            raise
        self._held[file] = kept
        self._unkept = []
        return file

    def _enlarge(self) -> None:
        """Have an empty spool file of full size, where there was no room for one before."""
        own = self._file
        if own is None or own.size >= self._size:
            return
        try:
            if could_be_larger(own, self._size):
                larger = SpoolFile.create(self._directory, self._name, self._size, own.installation)
                _remove(own)
                self._file, self._held = larger, {larger: []}
        except OSError as error:
            _logger.debug("cannot make a spool file larger than %s: %s", own.path, error)

    def _wait(self, record: Record) -> None:
        self.records.append(record)
        self.waiting_bytes += _bytes_of(record)

    def _count(self) -> None:
        """Find out once more what waits, in the order of what is held."""
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
    """``records``, each once, however many spool files hold it."""
    return {record[:2]: record for record in records}.values()


def _remove(file: SpoolFile) -> None:
    try:
        file.remove()
    except OSError as error:
        _logger.warning("cannot remove spool file %s: %s", file.path, error)
