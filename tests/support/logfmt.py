"""A strict reader of ``key=value`` lines: anything that docs/logging.md does not allow is an error."""

from __future__ import annotations

import re

_PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=\\]+))')
_ESCAPE = re.compile(r"\\(?:([\"\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")
_NAMED = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


def parse(line: str) -> dict[str, str]:
    """The fields of ``line``, in order; bytes that are not UTF-8 as ``errors="surrogateescape"`` has them."""
    assert line.isprintable(), repr(line)
    fields: dict[str, str] = {}
    at = 0
    while at < len(line):
        match = _PAIR.match(line, at)
        assert match, f"no field at {at} of {line!r}"
        key, quoted, bare = match.groups()
        assert key not in fields, f"{key} twice in {line!r}"
        fields[key] = bare if quoted is None else _ESCAPE.sub(_unescape, quoted)
        at = match.end()
        assert at == len(line) or line[at] == " ", f"no space at {at} of {line!r}"
        at += 1
        assert at != len(line), f"a space at the end of {line!r}"
    return fields


def _unescape(match: re.Match[str]) -> str:
    named, byte, short, long, wrong = match.groups()
    assert wrong is None, f"no escape: {match[0]}"
    if named:
        return _NAMED[named]
    if byte:
        code = int(byte, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)
    return chr(int(short or long, 16))
