"""The bytes of a log, however it is compressed: gzip, bzip2, xz and Zstandard, known by how they begin.

No more than a block is in memory at a time. Of a file that ends early, or is damaged, what comes before is there.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from typing import TYPE_CHECKING, Final, Protocol, final

from policyd_rate_limit.errors import MailLogError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

STANDARD_INPUT: Final = "-"

_FED_BYTES: Final = 1 << 10
"""Of Zstandard that are decompressed at once: they may come to 32 MB, as four bytes may be a block of 128 KB."""

_MOST_WINDOW_BYTES: Final = 1 << 27
"""Of Zstandard: what zstd(1) takes without being told to take more."""

_DAMAGED: Final = (EOFError, OSError, zlib.error, lzma.LZMAError)


_LOST_BYTES: Final = 1 << 16
"""That are decompressed at once, and lost where that fails."""

_HEAD_BYTES: Final = 6
"""By which it is seen how a file is compressed."""


class _Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


@final
class LogFile:
    """A log that is open; ``path`` may be :data:`STANDARD_INPUT`. Raises MailLogError where it cannot be opened.

    ``size``: its bytes as they are stored, 0 of a pipe. ``written``: Unix seconds of its last change, None of a pipe.
    ``damage``: what is wrong with it, as far as it has been read; empty: nothing.
    """

    def __init__(self, path: Path | str) -> None:
        self.name = name_of(path)
        self.size = 0
        self.written: float | None = None
        self.damage = ""
        try:
            # Without a buffer: position is then where it was read to, and a pipe gives what it has.
            self._raw: io.RawIOBase = (
                io.FileIO(sys.stdin.fileno(), closefd=False) if path == STANDARD_INPUT else io.FileIO(path)
            )
            try:
                state = os.fstat(self._raw.fileno())
                if stat.S_ISREG(state.st_mode):
                    self.size, self.written = state.st_size, state.st_mtime
                self._whole = self._from_its_head()
                self._reader = self._decompressed()
            except BaseException:
                self._raw.close()
                raise
        except OSError as error:
            raise MailLogError(f"cannot read mail log {self.name}: {error.strerror or error}") from error

    @property
    def position(self) -> int:
        """How many of its bytes, as they are stored, were read; 0 of a pipe."""
        return self._raw.tell() if self.size else 0

    def blocks(self, size: int) -> Iterator[bytes]:
        """What it holds, decompressed, in blocks of ``size`` bytes at the most."""
        if self._reader is not self._whole:
            size = min(size, _LOST_BYTES)
        while True:
            try:
                block = self._reader.read1(size)
            except _DAMAGED as error:
                self.damage = _told(error)
                return
            if not block:
                return
            yield block

    def close(self) -> None:
        """Let go of it; standard input stays open."""
        self._raw.close()

    def _from_its_head(self) -> io.BufferedReader[_Whole]:
        self._head = b""
        while len(self._head) < _HEAD_BYTES and (more := self._raw.read(_HEAD_BYTES - len(self._head))):
            self._head += more
        return io.BufferedReader(_Whole(self._head, self._raw), 1 << 16)

    def _decompressed(self) -> _Reader:
        head, whole = self._head, self._whole
        if head.startswith(b"\x1f\x8b"):  # RFC 1952, section 2.3.1
            return gzip.GzipFile(fileobj=whole)
        if head.startswith(b"BZh"):
            return bz2.BZ2File(whole)
        if head.startswith(b"\xfd7zXZ\0"):  # The .xz File Format, section 2.1.1.1
            return lzma.LZMAFile(whole)
        if head.startswith(b"\x28\xb5\x2f\xfd"):  # RFC 8878, section 3.1.1
            return _Zstandard(whole, self.name)
        return whole


def name_of(path: Path | str) -> str:
    """``path`` as messages name it."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@final
class _Whole(io.RawIOBase):
    """A file whose beginning has been read already."""

    def __init__(self, head: bytes, rest: io.RawIOBase) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        if not self._head:
            return self._rest.readinto(buffer)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._head))
        view[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


@final
class _Zstandard:
    """Reads frames of Zstandard, one after the other: RFC 8878."""

    def __init__(self, file: io.BufferedReader[_Whole], name: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MailLogError(
                f"cannot read mail log {name}: it is compressed with Zstandard, which takes a package that this"
                f" installs: pip install 'policyd-rate-limit[zstd]' ({error})"
            ) from error
        self._file = file
        self._library = zstandard
        self._maker = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._left = b""
        self._ready = b""
        self._given = 0

    def read1(self, size: int, /) -> bytes:
        while self._given == len(self._ready):
            data = self._left or self._file.read(_FED_BYTES)
            self._left = b""
            if not data:
                if self._frame is not None:
                    raise EOFError
                return b""
            if self._frame is None:
                self._frame = self._maker.decompressobj()
            try:
                self._ready, self._given = self._frame.decompress(data), 0
            except self._library.ZstdError as error:
                raise OSError(str(error)) from error
            if self._frame.eof:
                self._left = self._frame.unused_data
                self._frame = None
        block = self._ready[self._given : self._given + size]
        self._given += len(block)
        return block


def _told(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "it ends early"
    return f"it is damaged: {error}" if not isinstance(error, OSError) or error.errno is None else str(error.strerror)
