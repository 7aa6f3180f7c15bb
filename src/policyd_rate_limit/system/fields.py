"""Log lines made of fields: ``key=value``, as logfmt has them, JSON, or fields of systemd's journal.

Nothing that a client sends can forge a line or a field. A value stands as it is where all its characters print and
none is a space, a double quote, an equals sign or a backslash. Else it stands in double quotes, and is escaped as in
Go, whose programs ship most logs: a backslash before quotes and backslashes, and for what does not print ``n``, ``r``,
``t``, ``x1b`` (one byte, so that bytes that are not UTF-8 survive), ``u202e`` or ``U000e0001`` behind a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MOST_CHARACTERS = 320
"""Of one value, as it is written: an address of RFC 5321 has no more than 254. A longer one ends in an ellipsis."""

ELLIPSIS = "…"


class Shown(NamedTuple):
    """A value that is ``text`` for people, and ``data`` in JSON."""

    text: str
    data: object


Value = str | int | float | Shown
Fields = Mapping[str, Value]

_SPECIAL = re.compile(r'[\s"=\\]')
_NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Line:
    """A log message that is made of ``fields``, in their order. An empty value is left out.

    Log it as the message itself, ``logger.info(Line(...))``: each format then writes it in its own way.
    """

    __slots__ = ("fields",)

    def __init__(self, **fields: Value) -> None:
        self.fields: Fields = {key: value for key, value in fields.items() if value != ""}

    def __str__(self) -> str:
        """As ``key=value``, separated by single spaces."""
        return " ".join(f"{key}={quote(written(value))}" for key, value in self.fields.items())


def written(value: Value) -> str:
    """``value`` as text of a bounded length; milliseconds and the like to three places."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value.text if isinstance(value, Shown) else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + ELLIPSIS


def quote(text: str) -> str:
    """``text`` as a value of a field."""
    if text and text.isprintable() and not _SPECIAL.search(text):
        return text
    quoted, size = [], 0
    for character in text:
        escape = _escape(character)
        size += len(escape)
        if size > MOST_CHARACTERS:
            quoted.append(ELLIPSIS)
            break
        quoted.append(escape)
    return f'"{"".join(quoted)}"'


def _escape(character: str) -> str:
    named = _NAMED.get(character)
    if named is not None:
        return named
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8: errors="surrogateescape"
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def unicode(text: str) -> str:
    """``text`` as JSON and the journal can hold it: bytes that are not UTF-8 are written as ``\\xff``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_escape(character) if "\ud800" <= character <= "\udfff" else character for character in text)
    return text
