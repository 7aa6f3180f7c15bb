"""Entries of systemd's journal, as ``journalctl -o json`` and ``-o export`` write them.

Both are described at https://systemd.io/JOURNAL_EXPORT_FORMATS/. The short forms are lines like those of syslog.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple, final

from policyd_rate_limit.maillog.dates import LATEST

EXPORT_BEGINS: Final = (b"__CURSOR=", b"__REALTIME_TIMESTAMP=")

MOST_ENTRY_BYTES: Final = 1 << 20
"""Of one entry; of a larger one nothing is read."""

_SIZE_BYTES: Final = 8
_KEPT: Final = frozenset(
    (b"MESSAGE", b"_HOSTNAME", b"SYSLOG_IDENTIFIER", b"SYSLOG_PID", b"_COMM", b"_PID", b"__REALTIME_TIMESTAMP")
)


class Entry(NamedTuple):
    """One entry: ``time`` in Unix seconds, host, tag and process id as syslog would have them, and the message."""

    time: float
    host: bytes
    tag: bytes
    process: bytes
    message: bytes


def json_entry(members: dict[str, object]) -> Entry | None:
    """The entry that a line of ``-o json`` holds; None: it is none."""
    stamp = members.get("__REALTIME_TIMESTAMP")
    time = _seconds(stamp) if isinstance(stamp, str) else -1.0
    if time < 0:
        return None
    tag = members.get("SYSLOG_IDENTIFIER") or members.get("_COMM")
    process = members.get("SYSLOG_PID") or members.get("_PID")
    host, message = members.get("_HOSTNAME"), members.get("MESSAGE")
    return Entry(time, _bytes(host), _bytes(tag), _bytes(process), _bytes(message))


def _seconds(stamp: str) -> float:
    """Unix seconds of ``stamp``, which counts microseconds; -1 where that is no time of a log."""
    if not stamp.isdecimal() or len(stamp) > 18:
        return -1.0
    seconds = int(stamp) / 1e6
    return seconds if seconds < LATEST else -1.0


def json_members(line: bytes) -> dict[str, object] | None:
    """The object that ``line`` holds; None: it holds none."""
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _bytes(value: object) -> bytes:
    """Text, or a list of bytes where it is no UTF-8; of a field that stands several times, the first."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list) and value:
        if all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
            return bytes(value)
        return _bytes(value[0])
    return b""


@final
class Export:
    """Finds the entries of ``-o export`` in what it is fed, wherever that is cut.

    ``not_understood``: how many there were that had no time, or were too large.
    """

    def __init__(self) -> None:
        self.not_understood = 0
        self._buffer = b""
        self._fields: dict[bytes, bytes] = {}
        self._skipped = 0
        self._is_too_large = False
        self._is_begun = False

    def feed(self, block: bytes) -> list[Entry]:
        """The entries that ``block`` completes."""
        data = self._buffer + block
        entries: list[Entry] = []
        at = 0
        while True:
            if self._skipped:  # the rest of a field that is too large
                taken = min(self._skipped, len(data) - at)
                self._skipped -= taken
                at += taken
            end = data.find(b"\n", at)
            if end < 0:
                break
            line = data[at:end]
            if not line:
                self._end_entry(entries)
                at = end + 1
                continue
            name, equals, value = line.partition(b"=")
            if equals:
                self._keep(name, value)
                at = end + 1
                continue
            begin = end + 1 + _SIZE_BYTES
            if len(data) < begin:
                break
            size = int.from_bytes(data[end + 1 : begin], "little")
            if size > MOST_ENTRY_BYTES:
                self._is_too_large = True
                self._skipped = size + 1
                at = begin
                continue
            if len(data) < begin + size + 1:
                break
            self._keep(name, data[begin : begin + size])
            at = begin + size + 1
        self._buffer = data[at:]
        if len(self._buffer) > 2 * MOST_ENTRY_BYTES:  # no field: something else
            self._buffer = b""
            self._is_too_large = True
        return entries

    def end(self) -> list[Entry]:
        """The last one, which no empty line may follow. What is left is one that was cut off."""
        entries: list[Entry] = []
        if self._buffer or self._skipped:
            self._is_too_large = True
        self._end_entry(entries)
        return entries

    def _keep(self, name: bytes, value: bytes) -> None:
        self._is_begun = True
        if name in _KEPT:
            self._fields.setdefault(name, value)

    def _end_entry(self, entries: list[Entry]) -> None:
        fields, self._fields = self._fields, {}
        is_too_large, self._is_too_large = self._is_too_large, False
        is_begun, self._is_begun = self._is_begun, False
        stamp = fields.get(b"__REALTIME_TIMESTAMP", b"")
        time = _seconds(stamp.decode("ascii", "replace"))
        if time >= 0 and not is_too_large:
            tag = fields.get(b"SYSLOG_IDENTIFIER") or fields.get(b"_COMM", b"")
            process = fields.get(b"SYSLOG_PID") or fields.get(b"_PID", b"")
            host, message = fields.get(b"_HOSTNAME", b""), fields.get(b"MESSAGE", b"")
            entries.append(Entry(time, host, tag, process, message))
        elif is_begun or is_too_large:
            self.not_understood += 1
