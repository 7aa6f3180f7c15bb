"""A spool file: bounded, local, keeps records while the database is away.

The file has its full size from the start, so that a full disk does not stop it, and each append is on disk
(``fdatasync``) when it returns.

Its format is that of ``spool_format``: a new generation empties the file in one write. A damaged file is never written
to; it is renamed once its records are in the database.

Each daemon holds a lock on the spool file it writes. One that nobody holds was left by a daemon that died: a daemon of
the same installation adopts it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import StoreFull
from policyd_rate_limit.storage.engine.former_spool_file import is_former, read_former
from policyd_rate_limit.storage.engine.spool_directory import (
    MOST_FILES,
    is_named,
    most_bytes,
    path_of,
    spool_files,
    sync,
)
from policyd_rate_limit.storage.engine.spool_format import (
    FRAME_BYTES,
    HEADER_BYTES,
    Header,
    packed_frame,
    packed_header,
    parse_record,
    read_frames,
    read_header,
    record_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policyd_rate_limit.storage.record import Record

LEAST_BYTES = 1024  # of a spool file that is worth making

_logger = logging.getLogger(__name__)


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
        self._end = HEADER_BYTES

    @classmethod
    def create(cls, directory: Path, name: str, size: int, installation: str = "") -> SpoolFile:
        """A new spool file for the database ``name``, of ``installation``, in ``directory``.

        It has ``size`` bytes, or a quarter of what is free on a disk that is too small for that.
        """
        directory.mkdir(parents=True, exist_ok=True)
        size = min(size, most_bytes(directory))
        if size < LEAST_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        for number in range(MOST_FILES):
            path = path_of(directory, name, number)
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
                    sync(directory)
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
        for path in spool_files(directory):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as error:
                if is_named(path, name) and not isinstance(error, FileNotFoundError):
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
        return max(0, self.size - HEADER_BYTES - self._end - FRAME_BYTES)

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
            frames += packed_frame(place, self._generation, record_text(record))
            place += 1
        if self._end + len(frames) + FRAME_BYTES > self.size - HEADER_BYTES:
            raise StoreFull(f"spool file {self.path} is full ({self.size} bytes)")
        if not os.fstat(self._descriptor).st_nlink:
            raise FileNotFoundError(f"spool file {self.path} was removed")
        try:
            _write_at(self._descriptor, self._end, frames + packed_frame(place, self._generation, b""))
            os.fdatasync(self._descriptor)
        except OSError:
            self.has_failed = True
            raise
        self._end += len(frames)
        self._place = place

    def read(self) -> list[Record]:
        """All records that can be read, oldest first; appending goes on after the last of them."""
        header = read_header(self._descriptor, self.size)
        if header is None and is_former(self._descriptor):
            self.is_former = True
            records, self.damage = read_former(self._descriptor, self.size)
            return records
        records = []
        self._end, self._place = HEADER_BYTES, 0
        self.damage = ""
        if self.size == 0:  # left by a daemon that died while it made it
            return records
        if header is None:
            frames = read_frames(self._descriptor, self.size, 0)
            header = Header(max((frame.generation for frame in frames), default=0), "")
            self.damage = "its header"
        self._generation, self.installation = header
        missing = 0
        has_end = False
        for frame in read_frames(self._descriptor, self.size, HEADER_BYTES):
            if frame.generation != self._generation or frame.place < self._place:
                continue
            missing += frame.place - self._place
            self._place, self._end = frame.place, frame.end
            if not frame.text:
                has_end = True
                self._end -= FRAME_BYTES
                break
            self._place += 1
            try:
                records.append(parse_record(frame.text))
            except ValueError:
                missing += 1
        lost = [quantity(missing, "batch", "batches")] if missing else []
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
            header = read_header(self._descriptor, self.size)
            self.is_former = header is None and is_former(self._descriptor)
        if header is not None:
            self.installation = header.installation
        if self.installation and installation:
            return self.installation == installation
        return is_named(self.path, name) or (self.is_former and is_named(self.path, former_name))

    def _begin(self, generation: int) -> None:
        """Begin ``generation``, without any record."""
        self._generation = generation
        self._place, self._end = 0, HEADER_BYTES
        self._write_headers(packed_frame(0, generation, b""))

    def _write_headers(self, behind: bytes = b"") -> None:
        header = packed_header(Header(self._generation, self.installation))
        _write_at(self._descriptor, 0, header + behind)
        if os.fstat(self._descriptor).st_size == self.size:
            _write_at(self._descriptor, self.size - len(header), header)


def waiting(
    directory: Path, name: str, installation: str = "", former_name: str = ""
) -> Iterator[tuple[Path, list[Record]]]:
    """What waits in the spool files in ``directory`` that belong to our database, as :meth:`SpoolFile.adopt` has it.

    Whoever holds them; empty ones are left out.

    :raises OSError: a spool file cannot be read.
    """
    for path in spool_files(directory):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            if is_named(path, name):
                raise
            continue
        try:
            file = SpoolFile(path, descriptor, os.fstat(descriptor).st_size)
            records = file.read() if file._belongs_to(name, installation, former_name or name) else []
        finally:
            os.close(descriptor)
        if records:
            yield path, records


def could_be_larger(file: SpoolFile, size: int) -> bool:
    """Whether a new spool file in the place of ``file``, which is smaller than ``size`` (bytes), would be larger."""
    return min(size, most_bytes(file.path.parent)) > file.size


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
