"""A spool file: bounded, local, keeps records while the database is away.

The file has its full size from the start, so that a full disk does not stop it, and each append is on disk
(``fdatasync``) when it returns.

Its *header* says which generation of records is in it, and for which installation of the database. There are two
copies, at both ends of the file. Between them are *frames*: a mark, a length, a place in the order, the generation, a
checksum, and a text: a line of numbers, then the entries. The last frame has no text and says that nothing is missing.
A new generation empties the file in one write.

Where a frame is damaged, the mark leads to the next one: what is behind the damage is read, and what is missing is
known by the places. A damaged file is never written to; it is renamed once its records are in the database.

Each daemon holds a lock on the spool file it writes. One that nobody holds was left by a daemon that died: a daemon of
the same installation adopts it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIX = ".journal"
MOST_FILES = 1000  # of one database
LEAST_BYTES = 1024  # of a spool file that is worth making
BYTES_PER_READ = 1 << 16
_HEADER = struct.Struct("<8sQ32s12xI")  # magic, generation, installation, checksum
_MAGIC = b"policyd2"
_FRAME = struct.Struct("<4sIIQI")  # mark, length of the text, place in the order, generation, checksum
_MARK = b"\xf5\xfe\xf7\xff"  # in no text: these bytes are never UTF-8
# Of the version before: no marks, a header of its own, and the generation as the beginning of each checksum.
_FORMER_HEADER = struct.Struct("<8sQ")
_FORMER_MAGIC = b"policyd1"
_FORMER_FRAME = struct.Struct("<II")
_FORMER_TEXT = re.compile(rb"\[\d+, \d+, \d+, \d+\]\n")

_logger = logging.getLogger(__name__)


class _Header(NamedTuple):
    generation: int
    installation: str


class _Frame(NamedTuple):
    place: int
    generation: int
    text: bytes
    end: int


class SpoolFile:
    """A spool file that this process holds the lock of.

    ``installation``: of which database its records are, empty where that was not known when they were written.
    ``damage``: what :meth:`read` could not read of it, in words. ``is_former``: of the version before. ``has_failed``:
    it could not be written to.

    :raises OSError: from every method, when the file system does not play along.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size
        self.installation = ""
        self.damage = ""
        self.is_former = False
        self.has_failed = False
        self._descriptor = descriptor
        self._generation = 0
        self._place = 0
        self._end = _HEADER.size

    @classmethod
    def create(cls, directory: Path, name: str, size: int, installation: str = "") -> SpoolFile:
        """A new spool file for the database ``name``, of ``installation``, in ``directory``.

        It has ``size`` bytes, or a quarter of what is free on a disk that is too small for that.
        """
        directory.mkdir(parents=True, exist_ok=True)
        size = min(size, _most_bytes(directory))
        if size < LEAST_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        for number in range(MOST_FILES):
            path = directory / f"{name}-{number}{SUFFIX}"
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file = cls(path, descriptor, size)
                    file.installation = installation
                    file._begin(1)  # first: a death here then leaves an empty spool file, not a damaged one
                    os.posix_fallocate(descriptor, 0, size)
                    file._begin(1)
                    os.fdatasync(descriptor)
                    _sync_directory(directory)
                except BaseException:
                    path.unlink(missing_ok=True)
                    os.close(descriptor)
                    raise
                return file
        raise OSError(f"{directory} holds {MOST_FILES} spool files already")

    @classmethod
    def adopt(cls, directory: Path, name: str, installation: str = "", former_name: str = "") -> Iterator[SpoolFile]:
        """The spool files in ``directory`` that nobody holds and that belong to our database, each locked.

        Which those are is said by ``installation``. Where that is not known, of the database or of the file, it is
        said by ``name``; a spool file of the version before has ``former_name``, or else ``name``.
        """
        for path in _journals(directory):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                if _is_named(path, name) and not isinstance(error, FileNotFoundError):
                    _logger.warning("cannot adopt spool file %s: %s", path, error)
                continue
            file = cls(path, descriptor, os.fstat(descriptor).st_size)
            if file._belongs_to(name, installation, former_name or name) and _lock(descriptor, path):
                yield file
            else:
                os.close(descriptor)

    @property
    def room(self) -> int:
        """How many bytes may still be appended."""
        if self.damage or self.is_former or self.has_failed:
            return 0
        return max(0, self.size - _HEADER.size - self._end - _FRAME.size)

    def append(self, record: Record) -> None:
        """Keep ``record``; it is on disk when this returns."""
        self.extend((record,))

    def extend(self, records: Iterable[Record]) -> None:
        """Keep ``records``; they are on disk when this returns.

        :raises StoreFull: there is no room; what is in the file stays as it is.
        :raises FileNotFoundError: somebody has removed the file.
        """
        frames = bytearray()
        place = self._place
        for record in records:
            frames += _frame(place, self._generation, f"{json.dumps(record[:-1])}\n{record.entries}".encode())
            place += 1
        if self._end + len(frames) + _FRAME.size > self.size - _HEADER.size:
            raise StoreFull(f"spool file {self.path} is full ({self.size} bytes)")
        if not os.fstat(self._descriptor).st_nlink:
            raise FileNotFoundError(f"spool file {self.path} was removed")
        try:
            _write_at(self._descriptor, self._end, frames + _frame(place, self._generation, b""))
            os.fdatasync(self._descriptor)
        except OSError:
            self.has_failed = True
            raise
        self._end += len(frames)
        self._place = place

    def read(self) -> list[Record]:
        """All records that can be read, oldest first; appending goes on after the last of them."""
        header = self._header()
        if self._is_of_the_version_before(header):
            return self._read_former()
        records: list[Record] = []
        self._end, self._place = _HEADER.size, 0
        self.damage = ""
        if self.size == 0:  # left by a daemon that died while it made it
            return records
        if header is None:
            header = _Header(max((frame.generation for frame in self._frames(0)), default=0), "")
            self.damage = "its header"
        self._generation, self.installation = header
        missing = 0
        has_end = False
        for frame in self._frames(_HEADER.size):
            if frame.generation != self._generation or frame.place < self._place:
                continue
            missing += frame.place - self._place
            self._place, self._end = frame.place, frame.end
            if not frame.text:
                has_end = True
                self._end -= _FRAME.size
                break
            self._place += 1
            try:
                records.append(_record(frame.text))
            except ValueError:
                missing += 1
        lost = [f"{missing} batches"] if missing else []
        if not has_end:
            lost.append("what was behind the last batch that can be read" if records else "all that was in it")
        if lost:
            self.damage = " and ".join(lost)
        return records

    def clear(self) -> None:
        """Drop all records."""
        self._begin(self._generation + 1)
        os.fdatasync(self._descriptor)

    def claim(self, installation: str) -> None:
        """From here on its records are of ``installation``."""
        self.installation = installation
        self._write_headers()
        os.fdatasync(self._descriptor)

    def remove(self) -> None:
        """Let go of the file, and remove it: a damaged one only from where it would be found again."""
        try:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    if self.damage:
                        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns() // 1_000_000_000}")
                        self.path.rename(aside)
                        _logger.warning("damaged spool file %s renamed to %s", self.path, aside)
                    else:
                        self.path.unlink()
        finally:
            os.close(self._descriptor)

    def close(self) -> None:
        """Let go of the file, for whoever starts next."""
        os.close(self._descriptor)

    def _belongs_to(self, name: str, installation: str, former_name: str) -> bool:
        header = None
        with contextlib.suppress(OSError):
            header = self._header()
            self.is_former = self._is_of_the_version_before(header)
        if header is not None:
            self.installation = header.installation
        if self.installation and installation:
            return self.installation == installation
        return _is_named(self.path, name) or (self.is_former and _is_named(self.path, former_name))

    def _begin(self, generation: int) -> None:
        """Begin ``generation``, without any record."""
        self._generation = generation
        self._place, self._end = 0, _HEADER.size
        self._write_headers(_frame(0, generation, b""))

    def _write_headers(self, behind: bytes = b"") -> None:
        header = _HEADER.pack(_MAGIC, self._generation, self.installation.encode(), 0)[:-4]
        header += zlib.crc32(header).to_bytes(4, "little")
        _write_at(self._descriptor, 0, header + behind)
        if os.fstat(self._descriptor).st_size == self.size:
            _write_at(self._descriptor, self.size - len(header), header)

    def _header(self) -> _Header | None:
        """The header, by the newer of its copies that are not damaged."""
        found = []
        for at in (0, self.size - _HEADER.size):
            data = os.pread(self._descriptor, _HEADER.size, at) if at >= 0 else b""
            if len(data) == _HEADER.size:
                magic, generation, installation, checksum = _HEADER.unpack(data)
                if magic == _MAGIC and checksum == zlib.crc32(data[:-4]):
                    found.append(_Header(generation, installation.rstrip(b"\0").decode("ascii", "replace")))
        return max(found, default=None)

    def _frames(self, at: int) -> Iterator[_Frame]:
        """All whole frames from ``at`` on."""
        while True:
            frame = self._frame_at(at)
            if frame is None:
                found = self._next_mark(at)
                if found is None:
                    return
                frame = self._frame_at(found)
            if frame is None:
                assert found is not None  # noqa: S101 - or there would be a frame
                at = found + 1
            else:
                yield frame
                at = frame.end

    def _frame_at(self, at: int) -> _Frame | None:
        """The frame at ``at``, None where there is none that is whole."""
        data = os.pread(self._descriptor, _FRAME.size, at)
        if len(data) < _FRAME.size:
            return None
        mark, length, place, generation, checksum = _FRAME.unpack(data)
        start = at + _FRAME.size
        if mark != _MARK or length > self.size - start:
            return None
        text = os.pread(self._descriptor, length, start)
        if len(text) < length or checksum != zlib.crc32(text, zlib.crc32(data[:-4])):
            return None
        return _Frame(place, generation, text, start + length)

    def _next_mark(self, at: int) -> int | None:
        """Where the first mark behind ``at`` begins, None if there is none."""
        while len(data := os.pread(self._descriptor, BYTES_PER_READ, at)) >= len(_MARK):
            found = data.find(_MARK, 0)
            if found >= 0:
                return at + found
            at += len(data) - len(_MARK) + 1
        return None

    def _is_of_the_version_before(self, header: _Header | None) -> bool:
        return header is None and os.pread(self._descriptor, len(_FORMER_MAGIC), 0) == _FORMER_MAGIC

    def _read_former(self) -> list[Record]:
        """As :meth:`read`, of a spool file of the version before: where it ends is not written in it."""
        self.is_former, self.damage = True, ""
        content = _read_all(self._descriptor, self.size)
        records: list[Record] = []
        if len(content) < _FORMER_HEADER.size:
            return records
        _, generation = _FORMER_HEADER.unpack_from(content)
        at = _FORMER_HEADER.size
        candidate: int | None = at
        while candidate is not None:
            text = _former_text(content, candidate, generation)
            if text is not None:
                if candidate != at:
                    self.damage = f"what was behind its first {len(records)} batches, up to the others"
                at = candidate + _FORMER_FRAME.size + len(text)
                try:
                    records.append(_record(text))
                except ValueError:
                    self.damage = self.damage or "a batch"
                candidate = at
            else:
                following = _FORMER_TEXT.search(content, candidate + _FORMER_FRAME.size + 1)
                candidate = following.start() - _FORMER_FRAME.size if following else None
        return records


def waiting(
    directory: Path, name: str, installation: str = "", former_name: str = ""
) -> Iterator[tuple[Path, list[Record]]]:
    """What waits in the spool files in ``directory`` that belong to our database, as :meth:`SpoolFile.adopt` has it.

    Whoever holds them; empty ones are left out.

    :raises OSError: a spool file cannot be read.
    """
    for path in _journals(directory):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            if _is_named(path, name):
                raise
            continue
        try:
            file = SpoolFile(path, descriptor, os.fstat(descriptor).st_size)
            records = file.read() if file._belongs_to(name, installation, former_name or name) else []
        finally:
            os.close(descriptor)
        if records:
            yield path, records


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no room on the disk, or no more for this account."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def could_be_larger(file: SpoolFile, size: int) -> bool:
    """Whether a new spool file in the place of ``file``, which is smaller than ``size`` (bytes), would be larger."""
    return min(size, _most_bytes(file.path.parent)) > file.size


def _frame(place: int, generation: int, text: bytes) -> bytes:
    head = _FRAME.pack(_MARK, len(text), place, generation, 0)[:-4]
    return head + zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little") + text


def _record(text: bytes) -> Record:
    """The record that ``text`` is.

    :raises ValueError: it is none.
    """
    numbers, _, entries = text.decode().partition("\n")
    try:
        found = json.loads(numbers)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, list) or [type(number) for number in found] != [int] * 4:
        raise ValueError(f"not four numbers: {numbers:.100}")
    if not all(0 <= number < 1 << 63 for number in found) or found[2] > LARGEST:
        raise ValueError(f"numbers beyond all bounds: {numbers:.100}")
    writer, number, date, size = found
    record = Record(writer, number, date, size, entries)
    record.dated_until(record.date)
    return record


def _former_text(content: bytes, at: int, generation: int) -> bytes | None:
    """The text of the frame at ``at``, None where there is none that is whole."""
    if len(content) - at < _FORMER_FRAME.size:
        return None
    length, checksum = _FORMER_FRAME.unpack_from(content, at)
    start = at + _FORMER_FRAME.size
    if not 0 < length <= len(content) - start:
        return None
    text = content[start : start + length]
    return text if zlib.crc32(text, generation & 0xFFFFFFFF) == checksum else None


def _most_bytes(directory: Path) -> int:
    """The most that a spool file in ``directory`` may take up: the database needs the rest."""
    free = os.statvfs(directory)
    return free.f_bavail * free.f_frsize // 4


def _is_named(path: Path, name: str) -> bool:
    return re.fullmatch(re.escape(name) + "-[0-9]+" + re.escape(SUFFIX), path.name) is not None


def _journals(directory: Path) -> list[Path]:
    """The paths of all spool files in ``directory``, of whatever database."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if re.fullmatch(r".*-[0-9]+" + re.escape(SUFFIX), path.name))


def _lock(descriptor: int, path: Path) -> bool:
    """Lock the file at ``path``, which is open; false when another process holds it, or has removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read_all(descriptor: int, size: int) -> bytes:
    content = bytearray()
    while len(content) < size and (data := os.pread(descriptor, min(size - len(content), 1 << 20), len(content))):
        content += data
    return bytes(content)


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
