"""Reads what this daemon logs about a decision, in either of its formats: docs/logging.md."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.maillog.mail import Decided

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELD: Final = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)(?: |$)')
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)
_NAMED: Final = {"n": "\n", "r": "\r", "t": "\t"}


def decided(message: bytes, time: float, host: str) -> Decided | None:
    """What ``message`` tells of a decision; None: nothing. ``time``: Unix seconds, which JSON knows better."""
    text = message.decode("utf-8", "surrogateescape")
    fields: Mapping[str, object]
    if text.startswith("{"):
        try:
            members = json.loads(text)
        except (ValueError, RecursionError):
            return None
        fields = members if isinstance(members, dict) else {}
    else:
        begin = text.find("verdict=")
        if begin < 0 or text[:begin].strip(" ABCDEFGHIJKLMNOPQRSTUVWXYZ"):  # a level may stand in front of it
            return None
        fields = {key: _unquoted(value) for key, value in _FIELD.findall(text, begin)}
    verdict = _text(fields, "verdict")
    if not verdict:
        return None
    return Decided(
        time,
        host,
        verdict,
        rule=_text(fields, "rule"),
        kind=_text(fields, "kind"),
        id=_text(fields, "id"),
        stage=_text(fields, "stage"),
        cost=_number(fields, "cost"),
        charged=_number(fields, "charged"),
        limit=_text(fields, "limit"),
        shadow=_text(fields, "shadow") in ("true", "True"),
        queue_id=_text(fields, "queue_id"),
        instance=_text(fields, "instance"),
        sasl_username=_text(fields, "sasl_username"),
        sender=_text(fields, "sender"),
        recipient=_text(fields, "recipient"),
        client_address=_text(fields, "client_address"),
        suppressed=_number(fields, "suppressed"),
    )


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    return "" if value is None else str(value)


def _number(fields: Mapping[str, object], key: str) -> int:
    try:
        return int(_text(fields, key) or "0")
    except ValueError:
        return 0


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return _ESCAPE.sub(_meant, value[1:-1]) if "\\" in value else value[1:-1]


def _meant(escape: re.Match[str]) -> str:
    byte, short, long, named = escape.groups()
    if byte is not None:
        code = int(byte, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)  # a byte that is not UTF-8: "surrogateescape"
    if named is not None:
        return _NAMED.get(named, named)
    code = int(short or long, 16)
    return chr(code) if code <= 0x10FFFF else escape.group()
