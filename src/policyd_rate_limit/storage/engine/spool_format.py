"""The format of spool files: a header at both ends, and between them frames, whose last says that nothing is missing.

A *header* says which generation of records is in the file, and for which installation of the database. A *frame* is a
mark, a length, a place in the order, the generation, a checksum, and a text: a line of numbers, then the entries. The
last frame has no text.

Where a frame is damaged, the mark leads to the next one: what is behind the damage is read, and what is missing is
known by the places.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.limits import LARGEST
from policyd_rate_limit.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES_PER_READ: Final = 1 << 16
_HEADER = struct.Struct("<8sQ32s12xI")  # magic, generation, installation, checksum
_MAGIC = b"policyd2"
_FRAME = struct.Struct("<4sIIQI")  # mark, length of the text, place in the order, generation, checksum
_MARK = b"\xf5\xfe\xf7\xff"  # in no text: these bytes are never UTF-8
HEADER_BYTES: Final = _HEADER.size
FRAME_BYTES: Final = _FRAME.size
"""Of a frame without a text."""


class Header(NamedTuple):
    """``installation``: of the database that the records are of; empty where that was not known."""

    generation: int
    installation: str


class Frame(NamedTuple):
    """``end``: where the next one begins, in bytes from the beginning of the file."""

    place: int
    generation: int
    text: bytes
    end: int


def packed_header(header: Header) -> bytes:
    """``header``, as it stands at both ends."""
    packed = _HEADER.pack(_MAGIC, header.generation, header.installation.encode(), 0)[:-4]
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def read_header(descriptor: int, size: int) -> Header | None:
    """The header of the file of ``size`` bytes, by the newer of its copies that are not damaged."""
    found = []
    for at in (0, size - _HEADER.size):
        data = os.pread(descriptor, _HEADER.size, at) if at >= 0 else b""
        if len(data) == _HEADER.size:
            magic, generation, installation, checksum = _HEADER.unpack(data)
            if magic == _MAGIC and checksum == zlib.crc32(data[:-4]):
                found.append(Header(generation, installation.rstrip(b"\0").decode("ascii", "replace")))
    return max(found, default=None)


def packed_frame(place: int, generation: int, text: bytes) -> bytes:
    """A whole frame; without ``text`` it is the last."""
    head = _FRAME.pack(_MARK, len(text), place, generation, 0)[:-4]
    return head + zlib.crc32(text, zlib.crc32(head)).to_bytes(4, "little") + text


def read_frames(descriptor: int, size: int, at: int) -> Iterator[Frame]:
    """All whole frames from ``at`` on."""
    while True:
        frame = _frame_at(descriptor, size, at)
        if frame is None:
            found = _next_mark(descriptor, at)
            if found is None:
                return
            frame = _frame_at(descriptor, size, found)
        if frame is None:
            assert found is not None  # noqa: S101 - or there would be a frame
            at = found + 1
        else:
            yield frame
            at = frame.end


def _frame_at(descriptor: int, size: int, at: int) -> Frame | None:
    """The frame at ``at``, None where there is none that is whole."""
    data = os.pread(descriptor, _FRAME.size, at)
    if len(data) < _FRAME.size:
        return None
    mark, length, place, generation, checksum = _FRAME.unpack(data)
    start = at + _FRAME.size
    if mark != _MARK or length > size - start:
        return None
    text = os.pread(descriptor, length, start)
    if len(text) < length or checksum != zlib.crc32(text, zlib.crc32(data[:-4])):
        return None
    return Frame(place, generation, text, start + length)


def _next_mark(descriptor: int, at: int) -> int | None:
    """Where the first mark behind ``at`` begins, None if there is none."""
    while len(data := os.pread(descriptor, BYTES_PER_READ, at)) >= len(_MARK):
        found = data.find(_MARK, 0)
        if found >= 0:
            return at + found
        at += len(data) - len(_MARK) + 1
    return None


def record_text(record: Record) -> bytes:
    """``record`` as the text of a frame."""
    return f"{json.dumps(record[:-1])}\n{record.entries}".encode()


def parse_record(text: bytes) -> Record:
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
