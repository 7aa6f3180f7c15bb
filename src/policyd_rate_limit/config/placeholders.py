"""The placeholder of ``sql_limits_by_id``: one for the id, as the driver of the database has it (PEP 249, paramstyle).

``?`` for SQLite; ``%s`` for the others, where every other ``%`` is doubled. A driver finds a mistake at the first mail
only.
"""

from __future__ import annotations

import re

LONGEST_QUERY = 10_000
"""The most characters of a query that are looked at: the time for it grows with the square of them."""

# Text, names and comments, in which a placeholder is none. MySQL has \ in text and ` around names, PostgreSQL $$.
_QUOTED = re.compile(
    r"""'(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" | `[^`]*` | \$(\w*)\$.*?\$\1\$ | --[^\n]* | /\*.*?\*/""",
    re.VERBOSE | re.DOTALL,
)
_NAMED = re.compile(r"(?<![:\w]):[A-Za-z_]\w*|[@$][A-Za-z_]\w*")
_FORMAT = re.compile(r"%(?:%|s|\(\w*\)s|.?)", re.DOTALL)


def wrong_placeholder(query: str, expected: str) -> str | None:
    """What is wrong with the placeholders of ``query``, where ``?`` or ``%s`` is ``expected``; None: nothing is."""
    if len(query) > LONGEST_QUERY:
        return None
    found = _in_sqlite(query) if expected == "?" else _in_format(query)
    return None if found is None else f"expected one placeholder for the id, {expected}, found {found}"


def _in_sqlite(query: str) -> str | None:
    bare = _QUOTED.sub(" ", query)
    count = bare.count("?")
    if count == 1 and not re.search(r"\?[0-9]", bare):
        return f"{_NAMED.search(bare)[0]} too" if _NAMED.search(bare) else None  # type: ignore[index]  # just found
    if count:
        return f"{count} of them" if count > 1 else "a numbered one"
    if "?" in query:
        return "it in quotes or in a comment"
    return _other(bare, query)


def _in_format(query: str) -> str | None:
    tokens = [match[0] for match in _FORMAT.finditer(query)]
    for token in tokens:
        if token.startswith("%("):
            return f"the named {token}"
        if token not in ("%%", "%s"):
            return "a % that is not doubled"
    # The driver looks into text too, where the database has none.
    bare = [match[0] for match in _FORMAT.finditer(_QUOTED.sub(" ", query))]
    if tokens.count("%s") > bare.count("%s"):
        return "it in quotes or in a comment"
    if tokens.count("%s") == 1:
        return None
    return f"{tokens.count('%s')} of them" if "%s" in tokens else _other(_QUOTED.sub(" ", query), query)


def _other(bare: str, query: str) -> str:
    """What stands in its place."""
    if "%s" in query:
        return "%s, which is for the other databases"
    if "?" in bare:
        return "?, which is for SQLite"
    named = _NAMED.search(bare) or re.search(r"%\(\w*\)s", query)
    return f"the named {named[0]}" if named else "none"
