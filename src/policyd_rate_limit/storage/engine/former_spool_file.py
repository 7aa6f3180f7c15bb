"""Spool files of the version before: no marks, another header, and the generation as the beginning of each checksum."""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.storage.engine.spool_format import parse_record

if TYPE_CHECKING:
    from policyd_rate_limit.storage.record import Record

_HEADER = struct.Struct("<8sQ")
_MAGIC = b"policyd1"
_FRAME = struct.Struct("<II")
_TEXT = re.compile(rb"\[\d+, \d+, \d+, \d+\]\n")


def is_former(descriptor: int) -> bool:
    """Whether the file is one of the version before, by how it begins."""
    return os.pread(descriptor, len(_MAGIC), 0) == _MAGIC


def read_former(descriptor: int, size: int) -> tuple[list[Record], str]:
    """All records of the file of ``size`` bytes that can be read, oldest first; and what could not be, in words.

    Where it ends is not written in it.
    """
    damage = ""
    content = _read_all(descriptor, size)
    records: list[Record] = []
    if len(content) < _HEADER.size:
        return records, damage
    _, generation = _HEADER.unpack_from(content)
    at = _HEADER.size
    candidate: int | None = at
    while candidate is not None:
        text = _former_text(content, candidate, generation)
        if text is not None:
            if candidate != at:
                damage = f"what was behind its first {quantity(len(records), 'batch', 'batches')}, up to the others"
            at = candidate + _FRAME.size + len(text)
            try:
                records.append(parse_record(text))
            except ValueError:
                damage = damage or "a batch"
            candidate = at
        else:
            following = _TEXT.search(content, candidate + _FRAME.size + 1)
            candidate = following.start() - _FRAME.size if following else None
    return records, damage


def _former_text(content: bytes, at: int, generation: int) -> bytes | None:
    """The text of the frame at ``at``, None where there is none that is whole."""
    if len(content) - at < _FRAME.size:
        return None
    length, checksum = _FRAME.unpack_from(content, at)
    start = at + _FRAME.size
    if not 0 < length <= len(content) - start:
        return None
    text = content[start : start + length]
    return text if zlib.crc32(text, generation & 0xFFFFFFFF) == checksum else None


def _read_all(descriptor: int, size: int) -> bytes:
    content = bytearray()
    while len(content) < size and (data := os.pread(descriptor, min(size - len(content), 1 << 20), len(content))):
        content += data
    return bytes(content)
