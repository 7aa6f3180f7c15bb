"""The script as a server keeps it: its files as one, with each constant in place of its name.

To Lua a constant is a variable like any other: every function that names one is made with a way to it, each time the
script is called, and takes that way each time it asks for it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PARTS: Final = (
    "call",
    "counters",
    "keeping",
    "marks",
    "mails",
    "values",
    "demands",
    "bringing",
    "administration",
    "batch",
)
"""The files of the script, each of which knows those before it."""

_DIRECTORY: Final = Path(__file__).with_name("script")
_LITERAL: Final = r"(?:\d+|'[^']*')"
_CONSTANTS: Final = re.compile(
    rf"^local ([A-Z][A-Z_]*(?:, [A-Z][A-Z_]*)*) = ({_LITERAL}(?:, {_LITERAL})*)(?= *(?:--|$))", re.MULTILINE
)
_TOKEN: Final = re.compile(r"--.*|'(?:\\.|[^'\\])*'|[A-Za-z_]\w*")  # comment, text, name


def text() -> str:
    """The files of the script, as they are written."""
    return "\n".join((_DIRECTORY / f"{part}.lua").read_text("utf-8") for part in PARTS)


def constants(script: str) -> dict[str, str]:
    """By name, the constants of ``script``, each a number or a text: names in capitals, with their values in one line."""
    found: dict[str, str] = {}
    for match in _CONSTANTS.finditer(script):
        found.update(zip(match[1].split(", "), match[2].split(", "), strict=True))
    return found


def source() -> bytes:
    """The script, without comments."""
    script = text()
    values = constants(script)

    def in_place(token: re.Match[str]) -> str:
        return "" if token[0].startswith("--") else values.get(token[0], token[0])

    return _TOKEN.sub(in_place, _CONSTANTS.sub("", script)).encode()
