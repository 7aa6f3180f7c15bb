"""A bounded local file that keeps records while the database is away.

The file has its full size from the start, so that a full disk does not stop it, and each append is on disk
(``fdatasync``) when it returns. A record is a length, a checksum and a text: a line of numbers, then its entries.
The first one that is cut or does not match its checksum is the end. A new *generation*, written in the header and
mixed into every checksum, empties the file in one write.

Each daemon holds a lock on the journal it writes. One that nobody holds was left by a daemon that died: whoever
starts next with the same database adopts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIX = ".journal"
MOST_JOURNALS = 1000  # of one database
OVERHEAD = 128  # bytes that a record takes up beside its entries, at the most
_HEADER = struct.Struct("<8sQ")
_MAGIC = b"policyd1"
_FRAME = struct.Struct("<II")

_logger = logging.getLogger(__name__)


class Journal:
    """A journal that this process holds the lock of.

    :raises OSError: from every method, when the file system does not play along.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = size
        self._generation = 0
        self._end = _HEADER.size

    @classmethod
    def create(cls, directory: Path, name: str, size: int) -> Journal:
        """A new journal for the database ``name`` in ``directory``.

        It has ``size`` bytes, or a quarter of what is free on a disk that is too small for that.
        """
        directory.mkdir(parents=True, exist_ok=True)
        free = os.statvfs(directory)
        size = min(size, free.f_bavail * free.f_frsize // 4)
        for number in range(MOST_JOURNALS):
            path = directory / f"{name}-{number}{SUFFIX}"
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.posix_fallocate(descriptor, 0, size)
                    journal = cls(path, descriptor, size)
                    journal.clear()
                    _sync_directory(directory)
                except BaseException:
                    path.unlink(missing_ok=True)
                    os.close(descriptor)
                    raise
                return journal
        raise OSError(f"{directory} holds {MOST_JOURNALS} journals already")

    @classmethod
    def adopt(cls, directory: Path, name: str) -> Iterator[Journal]:
        """The journals for the database ``name`` in ``directory`` that nobody holds, each locked."""
        for path in _journals(directory, name):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    _logger.warning("journal %s cannot be taken over: %s", path, error)
                continue
            if _lock(descriptor, path):
                yield cls(path, descriptor, os.fstat(descriptor).st_size)
            else:
                os.close(descriptor)

    def append(self, record: Record) -> None:
        """Keep ``record``; it is on disk when this returns."""
        self.extend((record,))

    def extend(self, records: Iterable[Record]) -> None:
        """Keep ``records``; they are on disk when this returns.

        :raises StoreFull: there is no room; what is in the journal stays as it is.
        :raises FileNotFoundError: somebody has removed the file.
        """
        frames = bytearray()
        for record in records:
            text = f"{json.dumps(record[:-1])}\n{record.entries}".encode()
            frames += _FRAME.pack(len(text), self._checksum(text)) + text
        if self._end + len(frames) > self.size:
            raise StoreFull(f"the journal {self.path} is full ({self.size} bytes)")
        if not os.fstat(self._descriptor).st_nlink:
            raise FileNotFoundError(f"the journal {self.path} was removed")
        _write_at(self._descriptor, self._end, frames)
        os.fdatasync(self._descriptor)
        self._end += len(frames)

    def read(self) -> list[Record]:
        """All records that are whole, oldest first; appending goes on after the last of them.

        :raises ValueError: a record is whole but cannot be understood.
        """
        records: list[Record] = []
        self._end = _HEADER.size
        header = os.pread(self._descriptor, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return records
        magic, self._generation = _HEADER.unpack(header)
        while magic == _MAGIC and len(frame := os.pread(self._descriptor, _FRAME.size, self._end)) == _FRAME.size:
            length, checksum = _FRAME.unpack(frame)
            start = self._end + _FRAME.size
            if not 0 < length <= self.size - start:
                break
            text = os.pread(self._descriptor, length, start)
            if len(text) < length or checksum != self._checksum(text):
                break
            numbers, _, entries = text.decode().partition("\n")
            writer, number, date, size = json.loads(numbers)
            records.append(Record(writer, number, date, size, entries))
            self._end = start + length
        return records

    def clear(self) -> None:
        """Drop all records."""
        _write_at(self._descriptor, 0, _HEADER.pack(_MAGIC, self._generation + 1))
        os.fdatasync(self._descriptor)
        self._generation += 1
        self._end = _HEADER.size

    def remove(self) -> None:
        """Remove the file and let go of it."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                self.path.unlink()
        os.close(self._descriptor)

    def close(self) -> None:
        """Let go of the file, for whoever starts next."""
        os.close(self._descriptor)

    def _checksum(self, text: bytes) -> int:
        return zlib.crc32(text, self._generation & 0xFFFFFFFF)


def waiting(directory: Path, name: str) -> Iterator[tuple[Path, list[Record]]]:
    """What waits in the journals for the database ``name`` in ``directory``, whoever holds them; empty ones left out.

    :raises OSError: a journal cannot be read.
    :raises ValueError: a record is whole but cannot be understood.
    """
    for path in _journals(directory, name):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            records = Journal(path, descriptor, os.fstat(descriptor).st_size).read()
        finally:
            os.close(descriptor)
        if records:
            yield path, records


def _journals(directory: Path, name: str) -> list[Path]:
    """The paths of all journals for the database ``name`` in ``directory``."""
    if not directory.is_dir():
        return []
    journal_of_name = re.compile(re.escape(name) + "-[0-9]+" + re.escape(SUFFIX))
    return sorted(path for path in directory.iterdir() if journal_of_name.fullmatch(path.name))


def _lock(descriptor: int, path: Path) -> bool:
    """Lock the file at ``path``, which is open; false when another process holds it, or has removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_at(descriptor: int, position: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        position += written
        view = view[written:]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
