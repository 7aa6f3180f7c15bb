"""The kind of the setting ``tables``: reads each table, and tells all that is wrong at once."""

from __future__ import annotations

import re
from typing import Final

from policyd_rate_limit.config.kind import Fault, Kind, Place, Wrong
from policyd_rate_limit.config.tables import IN_PLACE, OUTSIDE, SQL, Entries, TableSettings
from policyd_rate_limit.domain.rules.listed import MOST_ENTRIES

MOST_TABLES: Final = 32
"""The most tables: each of those in a database has a thread and a connection of its own."""

LONGEST_NAME: Final = 64
"""The most characters of the name of a table."""

LONGEST_PLACE: Final = 4096
"""The most characters of a path, a query or the name of a hash."""

_NAME: Final = re.compile("[a-z][a-z0-9_-]*")
_NAMES: Final = f"a name of a-z, 0-9, - and _, of at most {LONGEST_NAME} characters, that begins with a letter"
_TABLE: Final = "a list, a mapping, or file:PATH, 'sql:QUERY' or redis:HASH"
_ENTRY: Final = "an entry such as alice@example.org, '*.example.org' or 192.0.2.0/24"
_SAID: Final = "a text, a number, or limits such as [500/1h, 3000/1d]"


def _read(value: object) -> tuple[TableSettings, ...]:
    if isinstance(value, tuple) and all(isinstance(table, TableSettings) for table in value):
        return value
    if not isinstance(value, dict):
        raise Wrong(Fault(value))
    if len(value) > MOST_TABLES:
        raise Wrong(Fault(len(value), f"at most {MOST_TABLES} tables"))
    found: list[TableSettings] = []
    faults: list[Fault] = []
    for name, written in value.items():
        try:
            found.append(_table(name, written))
        except Wrong as wrong:
            faults += wrong.inside(name).faults
    if faults:
        raise Wrong(*faults)
    return tuple(found)


TABLES = Kind("a mapping of names to tables, such as {staff: [alice, bob], plan: 'sql:SELECT ...'}", _read)


def _table(name: object, value: object) -> TableSettings:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise Wrong(Fault(name, _NAMES))
    if isinstance(value, str):
        kept, colon, place = value.partition(":")
        place = place.strip()
        if not colon or kept not in OUTSIDE or not place or len(place) > LONGEST_PLACE:
            raise Wrong(Fault(value, _TABLE))
        if kept != SQL and "\0" in place:
            raise Wrong(Fault(value, "a name without NUL"))
        return TableSettings(name, kept, place)
    if isinstance(value, dict | list | tuple):
        if len(value) > MOST_ENTRIES:
            raise Wrong(Fault(len(value), f"at most {MOST_ENTRIES} entries"))
        return TableSettings(name, IN_PLACE, entries=_entries(value))
    raise Wrong(Fault(value, _TABLE))


def _entries(value: dict[object, object] | list[object] | tuple[object, ...]) -> Entries:
    found: list[tuple[str, str | None]] = []
    faults: list[Fault] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    is_mapping = isinstance(value, dict)
    for key, one in pairs:
        try:
            entry = _text(key, _ENTRY, ()) if is_mapping else _text(one, _ENTRY, (key,))
            found.append((entry, _said(one, key) if is_mapping else None))
        except Wrong as wrong:
            faults += wrong.faults
    if faults:
        raise Wrong(*faults)
    return tuple(found)


def _said(value: object, key: object) -> str:
    """What is said of what an entry matches; limits are one text."""
    if isinstance(value, list | tuple) and value:
        parts = [one if isinstance(one, str | int) else "/".join(map(str, one)) for one in value if _is_limit(one)]
        if len(parts) == len(value):
            return f"[{', '.join(map(str, parts))}]"
    elif isinstance(value, list | tuple):
        return "[]"
    return _text(value, _SAID, (key,))


def _is_limit(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and len(value) == 2)


def _text(value: object, expected: str, place: Place) -> str:
    """``value`` as text: whole numbers need no quotes. Raises Wrong."""
    if isinstance(value, str) and value and not value.startswith("$"):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Wrong(Fault(value, expected, place))
