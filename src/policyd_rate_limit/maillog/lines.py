"""Reads the lines of one log: date, host and program of each, and what those of Postfix and of this daemon say.

This is where the time goes: most lines are of no interest, and cost a look at their date and one at who wrote them.

Here, and wherever else mypyc compiles: a slice of bytes must not begin behind its end. Python has nothing there, what
mypyc makes of it fails.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.maillog.dates import LATEST
from policyd_rate_limit.maillog.decisions import decided
from policyd_rate_limit.maillog.journal import Entry, json_entry, json_members
from policyd_rate_limit.maillog.programs import (
    CLEANUP,
    DAEMON,
    DELIVERY,
    NAME,
    OTHER,
    PICKUP,
    POSTFIX,
    QMGR,
    SMTPD,
    Programs,
)

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.dates import Dates
    from policyd_rate_limit.maillog.outgoing import Outgoing
    from policyd_rate_limit.maillog.postfix import Traffic
    from policyd_rate_limit.maillog.programs import Program
    from policyd_rate_limit.maillog.tally import Tally

# RFC 5424, section 6: host, program, process and message ids, structured data.
_PROTOCOL: Final = re.compile(
    rb"(\S+) (\S+) (\S+) \S+ (?:-|(?:\[(?:[^\]\"\\]|\\.|\"(?:[^\"\\]|\\.)*\")*\])+)(?: (?:\xef\xbb\xbf)?|$)"
)
_TIMES: Final = b" times"
_REPEATED: Final = re.compile(rb"last message repeated (\d{1,9}) times$")
# What journalctl(1) has in place of a message that is not UTF-8, in its short forms.
_BLOB: Final = b" blob data]"
_CONNECT: Final = b"connect from "
_FIRST_LETTER: Final = 97
_LAST_LETTER: Final = 122
_LETTER_M: Final = 109

# What a crash, an editor or journalctl -o json-seq (RFC 7464) may have left in front of a line.
_NO_BEGINNING: Final = b"\0\x1e\xef\xbb\xbf"
_OF_SSE: Final = b"data: "
_OF_JOURNALCTL: Final = b"-- "


@final
class Lines:
    """The lines of one log, which leave what they tell in ``traffic`` and ``outgoing``.

    ``time``: that of the last line of interest, in Unix seconds, and never less than that of the one before.
    """

    def __init__(self, dates: Dates, traffic: Traffic, outgoing: Outgoing, tally: Tally) -> None:
        self.time = float("-inf")
        self._dates = dates
        self._traffic = traffic
        self._outgoing = outgoing
        self._tally = tally
        self._programs = Programs()
        self._previous = b""
        # The last line of smtpd that may be a refusal, where its message begins, and who wrote it.
        self._refused = b"-"
        self._refused_at = 0
        self._refusing: Program | None = None

    def read(self, lines: list[bytes], begin: int, until: float) -> int:
        """Read ``lines`` from ``begin`` on, up to one of interest that is later than ``until``, in Unix seconds.

        Returns its index, and ``time`` is its time; where all were read, their number.
        """
        dates = self._dates
        programs = self._programs
        known = programs.known
        size = len(lines)
        of_postfix = others = of_daemon = 0
        prefix, length, is_whole = dates.prefix, dates.length, dates.is_whole
        index = begin
        while index < size:
            line = lines[index]
            if prefix and line.startswith(prefix):
                end = length if is_whole else line.find(b" ", length) + 1
            else:
                end = 0
            if end == 0:
                end = dates.read(line)
                if end == 0:
                    if not self._without_date(line, until):
                        break
                    prefix, length, is_whole = dates.prefix, dates.length, dates.is_whole
                    index += 1
                    continue
                prefix, length, is_whole = dates.prefix, dates.length, dates.is_whole
            if dates.is_protocol:
                found = _PROTOCOL.match(line, end)
                program = programs.named(*found.groups()) if found is not None else None
                at = found.end() if found is not None else 0
            else:
                colon = line.find(b": ", end)
                at = colon + 2
                program = None
                if colon > 0:
                    header = line[end:colon]
                    program = known.get(header)
                    if program is None:
                        program = programs.of(header)
            if program is None or program.kind == OTHER:
                if line.endswith(_TIMES) and (lines[index - 1] if index else self._previous) is self._refused:
                    if not self._advance(dates.time if is_whole else dates.exact(line, end), until):
                        break
                    self._repeat(line)
                others += 1
                index += 1
                continue
            kind = program.kind
            if kind == POSTFIX:
                of_postfix += 1
                index += 1
                continue
            time = dates.time if is_whole else dates.exact(line, end)
            if not self._advance(time, until):
                break
            index += 1
            if kind == DAEMON:
                of_daemon += 1
            else:
                of_postfix += 1
            self._use(program, kind, line, at)
        self._previous = lines[index - 1] if index else self._previous
        tally = self._tally
        tally.of_postfix += of_postfix
        tally.of_daemon += of_daemon
        tally.others += others
        tally.lines += of_postfix + of_daemon + others
        return index

    def entry(self, entry: Entry, until: float) -> bool:
        """An entry of the journal; whether it was read: it is not later than ``until``."""
        message = entry.message
        program = self._programs.named(entry.host, entry.tag, entry.process)
        kind = program.kind
        if kind > POSTFIX and not self._advance(entry.time, until):
            return False
        self._tally.lines += 1
        if kind == OTHER:
            self._tally.others += 1
        elif kind == DAEMON:
            self._tally.of_daemon += 1
        else:
            self._tally.of_postfix += 1
        if kind > POSTFIX:
            self._use(program, kind, message, 0)
        return True

    def _advance(self, time: float, until: float) -> bool:
        """Whether it is the turn of a line of ``time``."""
        if time > self.time:
            self.time = time
        return self.time <= until

    def _use(self, program: Program, kind: int, line: bytes, at: int) -> None:
        traffic, time = self._traffic, self.time
        if line.endswith(_BLOB) and line.startswith(b"[", at):
            self._tally.not_understood += 1
            if kind == DAEMON:
                self._tally.of_daemon -= 1
            else:
                self._tally.of_postfix -= 1
        elif kind == SMTPD:
            # Most say connect, disconnect or the like; queue ids begin with a figure or a capital letter.
            first = line[at] if at < len(line) else _FIRST_LETTER
            if first < _FIRST_LETTER or first > _LAST_LETTER or first == _LETTER_M:
                traffic.smtpd(program, line, at, time)
                self._refused, self._refused_at, self._refusing = line, at, program
            elif line.startswith(_CONNECT, at):
                program.connected()
        elif kind == DELIVERY:
            traffic.delivery(program, line, at, time)
        elif kind == QMGR:
            traffic.qmgr(program, line, at, time)
        elif kind == CLEANUP:
            traffic.cleanup(program, line, at, time)
        elif kind == PICKUP:
            traffic.pickup(program, line, at, time)
        else:
            decision = decided(line[at:], time, program.host)
            if decision is not None:
                self._outgoing.put(decision)

    def _repeat(self, line: bytes) -> None:
        """``line`` may say how often the one before was repeated: that of a BSD stands behind equal ones, once."""
        found = _REPEATED.search(line)
        if found is not None and self._refusing is not None:
            message = b"message repeated %s times: [ %s]" % (found.group(1), self._refused[self._refused_at :])
            self._traffic.smtpd(self._refusing, message, 0, self.time)

    def _without_date(self, line: bytes, until: float) -> bool:
        """A line that has no date in front; whether it was read: it is not later than ``until``."""
        cleaned = line.lstrip(_NO_BEGINNING)
        if not cleaned:
            return True
        if cleaned.startswith(_OF_SSE):
            cleaned = cleaned[len(_OF_SSE) :]
        if cleaned.startswith(b"{"):
            return self._json(cleaned, until)
        if cleaned is not line and self._dates.read(cleaned):
            return self.read([cleaned], 0, until) == 1
        self._tally.lines += 1
        if cleaned.startswith(_OF_JOURNALCTL):
            self._tally.others += 1
        else:
            self._tally.not_understood += 1
        return True

    def _json(self, line: bytes, until: float) -> bool:
        """An entry of the journal, or a line of this daemon where ``log_format`` is ``json``."""
        members = json_members(line)
        if members is not None:
            entry = json_entry(members)
            if entry is not None:
                return self.entry(entry, until)
            time = _own_time(members)
            if time is not None:
                return self.entry(Entry(time, b"", NAME, b"", line), until)
        self._tally.lines += 1
        self._tally.not_understood += 1
        return True


def _own_time(members: dict[str, object]) -> float | None:
    """Unix seconds of a line of this daemon; None: it is none."""
    stamp = members.get("time")
    if not isinstance(stamp, str) or "level" not in members:
        return None
    try:
        time = datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return time if 0.0 <= time < LATEST else None


def first_time(lines: list[bytes], dates: Dates) -> float:
    """Unix seconds of the first of ``lines`` that has a time; where none has, before all."""
    for line in lines:
        cleaned = line.lstrip(_NO_BEGINNING).removeprefix(_OF_SSE)
        if cleaned.startswith(b"{"):
            members = json_members(cleaned) or {}
            entry = json_entry(members)
            time = entry.time if entry is not None else _own_time(members)
            if time is not None:
                return time
        else:
            end = dates.read(cleaned)
            if end:
                return dates.exact(cleaned, end)
    return float("-inf")
