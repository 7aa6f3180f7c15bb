"""Writes files in the format of MaxMind DB: https://maxmind.github.io/MaxMind-DB/."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any, NamedTuple

_POINTERS_BEGIN = 16  # zeros between the tree and the data
_MARKER = b"\xab\xcd\xefMaxMind.com"
_TEXT, _UINT16, _UINT32, _MAP, _UINT64, _ARRAY, _BOOLEAN = 2, 5, 6, 7, 9, 11, 14

BUILT = 1_790_000_000
"""When files are built that do not say: 2026-09-21."""


class Unsigned(NamedTuple):
    """A number of so many bits: the format has a type for each."""

    number: int
    bits: int = 32


def dbip(code: str) -> dict[str, Any]:
    """A record as DB-IP and MaxMind have it."""
    return {
        "continent": {"code": "EU", "geoname_id": Unsigned(6255148), "names": {"en": "Europe", "de": "Europa"}},
        "country": {"geoname_id": Unsigned(1), "is_in_european_union": True, "iso_code": code, "names": {"en": code}},
    }


def mmdb(
    records: Mapping[str, Any],
    *,
    built: int = BUILT,
    kind: str = "DBIP-Country-Lite (compat=Country)",
    ip_version: int = 6,
    record_size: int = 24,
) -> bytes:
    """A file with ``records``: network -> record, a text is a country as DB-IP has it. Longer networks come later."""
    tree = _Tree()
    data = b""
    offsets: dict[bytes, int] = {}
    for network, record in records.items():
        encoded = _encoded(dbip(record) if isinstance(record, str) else record)
        if encoded not in offsets:
            offsets[encoded] = len(data)
            data += encoded
        tree.put(*_path(network, ip_version), offsets[encoded])
    count = len(tree.nodes)
    nodes = b"".join(_node(_value(node[0], count), _value(node[1], count), record_size) for node in tree.nodes)
    metadata = {
        "binary_format_major_version": Unsigned(2, 16),
        "binary_format_minor_version": Unsigned(0, 16),
        "build_epoch": Unsigned(built, 64),
        "database_type": kind,
        "description": {"en": "made by a test"},
        "ip_version": Unsigned(ip_version, 16),
        "languages": ["en"],
        "node_count": Unsigned(count),
        "record_size": Unsigned(record_size, 16),
    }
    return nodes + bytes(_POINTERS_BEGIN) + data + _MARKER + _encoded(metadata)


def write_mmdb(path: pathlib.Path, records: Mapping[str, Any], **facts: Any) -> pathlib.Path:
    """Put a file with ``records`` at ``path``, at once, as those do who fetch a newer one."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(mmdb(records, **facts))
    new.replace(path)
    return path


class _Tree:
    """Nodes of two branches each; a branch is None, the number of a node, or the offset of a record as a tuple."""

    def __init__(self) -> None:
        self.nodes: list[list[int | tuple[int] | None]] = [[None, None]]

    def put(self, bits: int, length: int, width: int, offset: int) -> None:
        """What begins with the first ``length`` of the ``width`` bits has the record at ``offset``."""
        node = 0
        for index in range(length - 1):
            side = bits >> (width - 1 - index) & 1
            below = self.nodes[node][side]
            if not isinstance(below, int):
                self.nodes.append([below, below])
                below = self.nodes[node][side] = len(self.nodes) - 1
            node = below
        self.nodes[node][bits >> (width - length) & 1] = (offset,)


def _path(network: str, ip_version: int) -> tuple[int, int, int]:
    parsed = ip_network(network)
    beyond = 96 if ip_version == 6 and parsed.version == 4 else 0
    return int(parsed.network_address), parsed.prefixlen + beyond, 128 if ip_version == 6 else 32


def _value(branch: int | tuple[int] | None, count: int) -> int:
    if branch is None:
        return count
    return branch if isinstance(branch, int) else count + _POINTERS_BEGIN + branch[0]


def _node(left: int, right: int, record_size: int) -> bytes:
    if record_size == 28:  # the middle byte has the first four bits of both
        middle = bytes([left >> 24 << 4 | right >> 24])
        return (left & 0xFFFFFF).to_bytes(3) + middle + (right & 0xFFFFFF).to_bytes(3)
    return left.to_bytes(record_size // 8) + right.to_bytes(record_size // 8)


def _encoded(value: Any) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return _control(_TEXT, len(text)) + text
    if isinstance(value, bool):
        return _control(_BOOLEAN, value)
    if isinstance(value, dict):
        return _control(_MAP, len(value)) + b"".join(_encoded(key) + _encoded(one) for key, one in value.items())
    if isinstance(value, list):
        return _control(_ARRAY, len(value)) + b"".join(map(_encoded, value))
    assert isinstance(value, Unsigned)
    number = value.number.to_bytes((value.number.bit_length() + 7) // 8)
    return _control({16: _UINT16, 32: _UINT32, 64: _UINT64}[value.bits], len(number)) + number


def _control(kind: int, size: int) -> bytes:
    """The byte or bytes before a value; longer ones than of 284 do not occur here."""
    first = kind if kind < 8 else 0
    short, more = (size, b"") if size < 29 else (29, bytes([size - 29]))
    return bytes([first << 5 | short]) + (bytes([kind - 7]) if kind >= 8 else b"") + more
