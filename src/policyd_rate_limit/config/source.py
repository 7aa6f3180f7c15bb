"""A configuration file as it was read: values, and the line of each."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import stat
import tokenize
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from policyd_rate_limit.config.kind import Place

MOST_BYTES = 4 << 20
"""The most bytes of a configuration file, some 100,000 ids with limits of their own."""

MOST_VALUES = 1_000_000
"""The most values that a file may stand for, each as often as it is referred to."""

MOST_TOKENS = 750_000
"""The most values and names of a ``.conf``: Python's parser takes up to 1.7 KB for each. 90,000 ids with two limits."""

MOST_WARNINGS = 100
"""The most warnings about a file that are told one by one."""

DEEPEST = 40
"""How deep values may lie inside each other."""


_DECLARATION = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.ASCII)
_UNDECODED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as surrogateescape has it
_ASCII = bytes(range(128))


@dataclass
class Source:
    """What a file holds. ``lines`` knows settings and, where it can, the values inside them; lines begin at 1."""

    file: str
    values: dict[str, object] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    """Names that are no settings, and that others are made from."""
    _warnings: list[str] = field(default_factory=list)
    _untold: int = 0

    def line(self, place: Place) -> int:
        """The line of the value at ``place``, or of the closest one around it that is known; else 0."""
        while place:
            with contextlib.suppress(KeyError, TypeError):  # a key may be something that cannot be hashed
                return self.lines[place]
            place = place[:-1]
        return 0

    def problem(self, line: int, expected: str, found: str, setting: str = "") -> Problem:
        """A problem in this file."""
        return Problem(self.file, line, setting, expected, found)

    def warn(self, line: int, text: str) -> None:
        """Remember a warning about this file."""
        if len(self._warnings) < MOST_WARNINGS:
            self._warnings.append(f"{self.file}:{line}: {text}" if line else f"{self.file}: {text}")
        else:
            self._untold += 1

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about this file."""
        more = (f"{self.file}: {quantity(self._untold, 'more warning')}",) if self._untold else ()
        return (*self._warnings, *more)


class TooMuch(Exception):
    """A file stands for more values than there may be, or for values that lie too deep."""


class Budget:
    """How many values a file may still stand for: references multiply them, and few lines can mean billions."""

    def __init__(self, values: int = MOST_VALUES) -> None:
        self.left = values

    def spend(self, values: int, depth: int = 0) -> None:
        """Count ``values`` more at ``depth``; raises TooMuch."""
        self.left -= values
        if self.left < 0 or depth > DEEPEST:
            raise TooMuch


def _declared_encoding(data: bytes) -> str | None:
    """The encoding that a comment in the first two lines declares, as Python has it (PEP 263); None: UTF-8.

    Only those that hold ASCII as it is: others are too slow, or could hide what a file says.
    """
    for line in data.split(b"\n", 2)[:2]:
        match = _DECLARATION.match(line)
        if match is not None:
            name = match[1].decode("ascii")
            try:
                is_plain = codecs.lookup(name).name != "utf-8" and _ASCII.decode(name) == _ASCII.decode("ascii")
            except (LookupError, UnicodeError):
                return None
            return name if is_plain else None
        if line.strip() and not line.lstrip().startswith(b"#"):
            return None
    return None


def _with_odd_comments(data: bytes) -> str | None:
    """The text, where all that is no UTF-8 is in comments of Python's, which it did not mind; read as Latin-1."""
    found = [
        (number, match.start())
        for number, line in enumerate(data.decode("utf-8-sig", "surrogateescape").split("\n"), 1)
        for match in _UNDECODED.finditer(line)
    ]
    text = _UNDECODED.sub(lambda match: chr(ord(match[0]) - 0xDC00), data.decode("utf-8-sig", "surrogateescape"))
    try:
        comments = {
            token.start[0]: token.start[1]
            for token in tokenize.generate_tokens(io.StringIO(text, "").readline)
            if token.type == tokenize.COMMENT
        }
    except (tokenize.TokenError, SyntaxError):
        return None
    return text if all(column > comments.get(number, len(text)) for number, column in found) else None


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError, never blocks."""

    def refuse(expected: str, found: str, line: int = 0) -> ConfigError:
        return ConfigError([Problem(str(path), line, "", expected, found)])

    try:
        # O_NONBLOCK: opening a FIFO would wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise refuse("a regular file", "something else")
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise refuse("a file that can be read", reason) from None
    return decode(data, str(path))


def decode(data: bytes, file: str) -> str:
    """The text of a configuration file of these bytes. Raises ConfigError."""

    def refuse(expected: str, found: str, line: int = 0) -> ConfigError:
        return ConfigError([Problem(file, line, "", expected, found)])

    if len(data) > MOST_BYTES:
        raise refuse(f"at most {MOST_BYTES} bytes", "more")
    declared = _declared_encoding(data) if file.endswith(".conf") else None
    try:
        text = data.decode(declared or "utf-8-sig")
    except UnicodeDecodeError as error:
        commented = _with_odd_comments(data) if file.endswith(".conf") and declared is None else None
        if commented is None:
            line = data.count(b"\n", 0, error.start) + 1
            expected = f"text in {declared or 'UTF-8'}"
            raise refuse(expected, f"the byte 0x{data[error.start]:02x}", line) from None
        text = commented
    if "\0" in text:
        raise refuse("text", "a NUL character", text.count("\n", 0, text.index("\0")) + 1)
    return text
