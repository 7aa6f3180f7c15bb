"""One log, read piece by piece up to a moment, so that several are read side by side in the order of time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.maillog.dates import Dates
from policyd_rate_limit.maillog.files import LogFile, name_of
from policyd_rate_limit.maillog.journal import EXPORT_BEGINS, Export
from policyd_rate_limit.maillog.lines import Lines, first_time

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import tzinfo
    from pathlib import Path

    from policyd_rate_limit.maillog.journal import Entry
    from policyd_rate_limit.maillog.outgoing import Outgoing
    from policyd_rate_limit.maillog.postfix import Traffic
    from policyd_rate_limit.maillog.tally import Tally

LOOKED_AT_BYTES: Final = 1 << 14
"""At the beginning of a log, for its form, and for the date by which it is put in order."""

LONGEST_LINE_BYTES: Final = 1 << 20
"""Of a longer line only the beginning is read."""


@final
class Source:
    """The log ``path``, which begins at ``next_time``, or goes on there, in Unix seconds.

    ``zone``: of dates without one. ``now``: after which no log was written. ``block_bytes`` are read at once. Raises
    MailLogError where it cannot be read. ``until``: up to when it is to be read. ``name``: of the log. ``position``,
    ``size``: how many of its bytes were read, and how many there are; 0 of a pipe. ``beginning``: a digest of what it
    begins with, empty of an empty one.
    """

    def __init__(self, path: Path | str, *, zone: tzinfo, now: float, block_bytes: int) -> None:
        self.name = name_of(path)
        self.position = 0
        self._path = path
        self._block_bytes = block_bytes
        self._file: LogFile | None = LogFile(path)
        self.size = self._file.size
        written = self._file.written
        self._zone, self._written = zone, now if written is None else min(written, now)
        blocks = self._file.blocks(block_bytes)
        first = b""
        while len(first) < LOOKED_AT_BYTES and (more := next(blocks, b"")):
            first += more
        self._blocks = _with(first, blocks)
        self.beginning = hashlib.blake2b(first[:LOOKED_AT_BYTES], digest_size=16).digest() if first else b""
        self._is_export = first.startswith(EXPORT_BEGINS)
        self.next_time = self._first_time(first)
        self.until = float("-inf")
        if written is not None:  # a pipe cannot be opened again; many files need not be open at a time
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of it, where it was not read."""
        if self._file is not None:
            self._file.close()

    def read(self, traffic: Traffic, outgoing: Outgoing, tally: Tally) -> Generator[None, None, None]:
        """Read it all, as far as ``until`` says; yields after each block, and where the next line is later."""
        if self._file is None:
            self._file = LogFile(self._path)
            self._blocks = self._file.blocks(self._block_bytes)
        dates = Dates(self._zone, self._written)
        lines = Lines(dates, traffic, outgoing, tally)
        try:
            yield from self._export(lines, tally) if self._is_export else self._lines(lines)
        finally:
            tally.backwards += dates.backwards
            if self._file.damage:
                tally.damaged.append((self.name, self._file.damage))
            self._file.close()
        self.position = self.size

    def _lines(self, lines: Lines) -> Iterator[None]:
        for piece in split(self._counted()):
            at = 0
            while True:
                at = lines.read(piece, at, self.until)
                self._note(lines)
                yield
                if at == len(piece):
                    break

    def _export(self, lines: Lines, tally: Tally) -> Iterator[None]:
        export = Export()
        for block in self._counted():
            yield from self._entries(export.feed(block), lines)
        yield from self._entries(export.end(), lines)
        tally.lines += export.not_understood
        tally.not_understood += export.not_understood

    def _entries(self, entries: list[Entry], lines: Lines) -> Iterator[None]:
        for entry in entries:
            while not lines.entry(entry, self.until):
                self._note(lines)
                yield
        self._note(lines)
        yield

    def _note(self, lines: Lines) -> None:
        self.next_time = max(self.next_time, lines.time)

    def _counted(self) -> Iterator[bytes]:
        """The blocks; ``position`` is where the one that is in hand ends."""
        for block in self._blocks:
            if self._file is not None:
                self.position = min(self._file.position, self.size)
            yield block

    def _first_time(self, block: bytes) -> float:
        """The time of the first line that has one; that of no line: before all."""
        if self._is_export:
            entries = Export().feed(block)
            return entries[0].time if entries else float("-inf")
        return first_time(block.split(b"\n"), Dates(self._zone, self._written))


def split(blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The lines of ``blocks``, those that each block completes at once; without empty ones."""
    carry = b""
    for block in blocks:
        cut = block.rfind(b"\n")
        if cut < 0:
            carry += block[: max(LONGEST_LINE_BYTES - len(carry), 0)]
            continue
        whole = carry + block[:cut]
        carry = block[cut + 1 :]
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n").removesuffix(b"\r")
        yield [line for line in whole.split(b"\n") if line]
    carry = carry.removesuffix(b"\r")
    if carry:
        yield [carry]


def _with(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
        yield from blocks
