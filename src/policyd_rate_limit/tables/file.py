"""Tables in files: an entry, or an entry and a text, on each line; reread when the file changes."""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401 - while whoever reads files later may still read those of the interpreter
import logging
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.rules.listed import MOST_ENTRIES, Listed, parse_entry
from policyd_rate_limit.domain.rules.patterns import PatternError
from policyd_rate_limit.domain.rules.tables import LIMITS, limits_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MOST_BYTES: Final = 64 << 20
"""The most bytes of a file."""

LONGEST_LINE: Final = 2000
"""The most characters of a line."""

LOOK_SECONDS: Final = 1.0
"""How often files are looked at."""

MOST_LOOKS: Final = 5
"""How often in a row a file is left alone since it has changed just now."""

MOST_SHARED: Final = 4096
"""The most different texts of a file of which each is kept but once, however many lines say it."""

MOST_TOLD: Final = 5
"""How many wrong lines of a file are told one by one."""

_LINES_AT_ONCE: Final = 256

_logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """A ``number`` of a line, what is wrong there, and what comes of that."""

    number: int
    wrong: str


class Contents(NamedTuple):
    """What a file lists, and the lines that are wrong."""

    entries: tuple[tuple[str, str | None], ...]
    wrong: tuple[Line, ...]


class CannotRead(Exception):
    """A file is not there, may not be read, or is none that is."""


def read_table(
    path: str, kinds: Sequence[str] = (), pause: Callable[[], object] | None = None, units: Sequence[str] = ()
) -> Contents:
    """What the file at ``path`` lists.

    On a line stands an entry, and behind blanks what is said of it; lines that begin with # and empty ones say nothing.
    One that can be no value of any of ``kinds`` is wrong, and left out; so is a text that says no limits in one of
    ``units``, but it is not left out: it may be asked for in another way. ``pause`` is called now and then. Raises
    CannotRead.
    """
    text = _text(path)
    entries: list[tuple[str, str | None]] = []
    wrong: list[Line] = []
    shared: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if number % _LINES_AT_ONCE == 0 and pause is not None:
            pause()
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        fault = _fault(line, words[0], kinds)
        if fault is None:
            entries.append((words[0], _shared(words[1].rstrip(), shared) if len(words) > 1 else None))
            if len(entries) > MOST_ENTRIES:
                raise CannotRead(f"{path}: expected at most {MOST_ENTRIES} entries, found more")
            said = entries[-1][1] or ""
            if any(limits_in(said, unit) is None for unit in units):
                wrong.append(Line(number, f"expected {LIMITS}, found {shown(said) if said else 'none'}; it gives none"))
        else:
            wrong.append(Line(number, f"{fault}; the line is left out"))
    return Contents(tuple(entries), tuple(wrong))


def _shared(text: str, shared: dict[str, str]) -> str:
    """``text``, as one string for all lines that say it: less memory, and what a mail reads of it is at hand."""
    return shared.setdefault(text, text) if len(shared) < MOST_SHARED else shared.get(text, text)


def told(path: str, wrong: Sequence[Line]) -> Iterator[str]:
    """What there is to say of ``wrong`` lines of the file at ``path``: of each of the first :data:`MOST_TOLD`."""
    for line in wrong[:MOST_TOLD]:
        yield f"{path}:{line.number}: {line.wrong}"
    if len(wrong) > MOST_TOLD:
        yield f"{path}: {quantity(len(wrong) - MOST_TOLD, 'more wrong line')}"


def _fault(line: str, entry: str, kinds: Sequence[str]) -> str | None:
    """What is wrong with a line that begins with ``entry``; None: nothing is."""
    if len(line) > LONGEST_LINE:
        return f"expected at most {LONGEST_LINE} characters, found {len(line)}"
    fault = None
    for kind in kinds:
        try:
            parse_entry(entry, kind)
        except PatternError as error:
            fault = f"expected {error.expected}, found {shown(entry)}"
        else:
            return None
    return fault


def _text(path: str) -> str:
    try:
        # O_NONBLOCK: opening a FIFO would wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise CannotRead(f"{path}: expected a regular file, found something else")
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotRead(f"{path}: {reason}") from None
    if len(data) > MOST_BYTES:
        raise CannotRead(f"{path}: expected at most {MOST_BYTES} bytes, found more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CannotRead(f"{path}:{line}: expected text in UTF-8, found the byte 0x{data[error.start]:02x}") from None


class FileTable(Listed):
    """The table in the file at ``path``: what it said last when it cannot be read, nothing until it could be."""

    def __init__(self, name: str, path: str, pause: Callable[[], object] | None = None) -> None:
        super().__init__(name, (), pause)
        self.path = path
        self._may_pause = pause
        self._seen: tuple[int, ...] | None = ()
        self._has_failed = False
        self._last_look: tuple[int, ...] | None = ()
        self._looks_in_vain = 0  # for which it has been changing

    def look_when_at_rest(self) -> None:
        """Look at it, unless it has changed since the last such look: somebody may be writing.

        One that is written to all the time is looked at all the same, each :data:`MOST_LOOKS` times. It blocks.
        """
        seen = _identity(self.path)
        if seen != self._seen and seen != self._last_look and self._looks_in_vain < MOST_LOOKS:
            self._last_look = seen
            self._looks_in_vain += 1
            return
        self._looks_in_vain = 0
        self.look()

    def look(self) -> None:
        """Read it, if it has changed since it was looked at last; what is wrong is logged. It blocks."""
        seen = _identity(self.path)
        if seen == self._seen and not self._has_failed:
            return
        try:
            contents = read_table(self.path, self.kinds, self._may_pause)
        except CannotRead as error:
            if not self._has_failed or seen != self._seen:
                what = "its entries from before are used" if self.entries else "nothing is known of it"
                _logger.warning("tables.%s: %s; until it can be read, %s", self.name, error, what)
            self._has_failed, self._seen = True, seen
            return
        self.replace(contents.entries)
        for text in told(self.path, contents.wrong):
            _logger.warning("tables.%s: %s", self.name, text)
        if self._seen != () or self._has_failed:
            _logger.info(
                "tables.%s: read %s of %s", self.name, quantity(len(contents.entries), "entry", "entries"), self.path
            )
        self._has_failed, self._seen = False, seen


def _identity(path: str) -> tuple[int, ...] | None:
    """What tells one state of a file from another; None: it is not there."""
    try:
        facts = Path(path).stat()
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


class FileWatch:
    """Looks at ``tables`` every :data:`LOOK_SECONDS`, in a thread of its own."""

    def __init__(self, tables: Iterable[FileTable]) -> None:
        self._tables = tuple(tables)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tables", daemon=True)

    def start(self) -> None:
        """Begin; nothing is done where there are no tables."""
        if self._tables:
            self._thread.start()

    def stop(self) -> None:
        """End, without waiting for a file that hangs."""
        self._ends.set()

    def _run(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            for table in self._tables:
                try:
                    table.look_when_at_rest()
                except Exception:
                    _logger.exception("tables.%s could not be looked at", table.name)
