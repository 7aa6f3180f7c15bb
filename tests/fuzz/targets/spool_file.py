"""A spool file: what is read of one that was damaged is a part of what was written, in order, and no error.

The first byte says what is done with the rest: it is the file; it is written over one, of this version or the one
before, from some place on; or the file is cut.
"""

from __future__ import annotations

import json
import os
import pathlib
import struct
import tempfile
import zlib

from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.storage.engine.spool_file import SpoolFile
from policyd_rate_limit.storage.record import Record, pack

SIZE = 1 << 13
DATE = 1_700_000_000
RECORDS = [
    pack(writer, number, DATE + number, [Entry('ä"' * number + str(writer), number, DATE, "m", "p")] * number)
    for number in range(1, 8)
    for writer in (7, 1 << 61)
]


def _former() -> bytes:
    content = struct.pack("<8sQ", b"policyd1", 3)
    for record in RECORDS:
        text = f"{json.dumps(record[:-1])}\n{record.entries}".encode()
        content += struct.pack("<II", len(text), zlib.crc32(text, 3)) + text
    return content.ljust(SIZE, b"\0")


def _current() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        spool_file = SpoolFile.create(pathlib.Path(name), "any", SIZE, "0123456789abcdef" * 2)
        for record in RECORDS:
            spool_file.append(record)
        content = spool_file.path.read_bytes()
        spool_file.remove()
    return content


WRITTEN = (_current(), _former())
SEEDS = (
    b"",
    *(b"\0" + content for content in WRITTEN),
    b"\0" + WRITTEN[0][:64] + WRITTEN[0][200:],
    b"\1\x00\x00\xff",
    b"\2\x00\x09policyd",
    b"\1\x01\x00" + WRITTEN[0][64:300],
    b"\3\x03\x00",
    b"\4\x00\x40",
)


def one_input(data: bytes) -> None:
    """Read it as a daemon that starts."""
    how, rest = data[:1], data[1:]
    content = rest[: 1 << 16]
    if how in (b"\1", b"\2", b"\3", b"\4"):
        content = WRITTEN[how in (b"\2", b"\4")]
        at = int.from_bytes(rest[:2], "big") % SIZE
        content = content[:at] + rest[2:] + content[at + len(rest) - 2 :] if how in (b"\1", b"\2") else content[:at]
    damaged = how in (b"\1", b"\2", b"\3", b"\4")
    descriptor = os.memfd_create("journal")
    try:
        os.write(descriptor, content)
        spool_file = SpoolFile(pathlib.Path("any"), descriptor, len(content))
        records = spool_file.read()
        again = spool_file.read()
    finally:
        os.close(descriptor)
    assert again == records
    for record in records:
        record.dated_until(record.date)  # is understood
    if damaged and not _forged(rest):
        assert _is_part(records)
        if how == b"\3" and content and records != RECORDS:
            assert spool_file.damage


def _forged(rest: bytes) -> bool:
    """Whether there may be a record in what was written over it."""
    return b"\xf5\xfe\xf7\xff" in rest or b"]\n[" in rest


def _is_part(records: list[Record]) -> bool:
    rest = iter(RECORDS)
    return all(record in rest for record in records)
