"""What the setting ``tables`` says, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

IN_PLACE: Final = "in place"
FILE: Final = "file"
SQL: Final = "sql"
REDIS_HASH: Final = "redis"
OUTSIDE: Final = (FILE, SQL, REDIS_HASH)
"""How a table is kept that does not stand in the configuration: each is written before a colon."""

Entries = tuple[tuple[str, str | None], ...]
"""(pattern, what is said of what it matches); None: the pattern is."""


class TableSettings(NamedTuple):
    """One table.

    ``kept``: :data:`IN_PLACE`, with its ``entries``; or one of :data:`OUTSIDE`, at ``place``: the path of a file, a
    query, the name of a hash.
    """

    name: str
    kept: str
    place: str = ""
    entries: Entries = ()


def tables_as_written(tables: Iterable[TableSettings]) -> dict[str, object]:
    """``tables`` as a file may have them."""
    return {table.name: _as_written(table) for table in tables}


def _as_written(table: TableSettings) -> object:
    if table.kept != IN_PLACE:
        return f"{table.kept}:{table.place}"
    if all(said is None for _, said in table.entries):
        return [text for text, _ in table.entries]
    return {text: text if said is None else said for text, said in table.entries}
