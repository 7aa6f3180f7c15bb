"""What old versions ran with, though it is not what a setting expects, and how it is read today.

Versions 0.4 to 1.2.0 checked next to nothing. A daemon that does not start is an open gate where main.cf says
``default_action=DUNNO``, so that a value they served with is no reason not to start: it is read as here, in doubt to
the strict side, and warned of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from policyd_rate_limit.config.kind import Place, Wrong
from policyd_rate_limit.config.kinds import (
    ACTION,
    BACKEND,
    COUNT_MODE,
    FLAG,
    LIMITS,
    LIMITS_BY_ID,
    LONGEST_DELAY,
    NETWORKS,
    PERMISSION,
    QUERY,
    has_host_bits,
)
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.domain.limits import tolerated_limits

_PERMISSIONS = 0o777  # of a socket: the bits above mean nothing there
_DECIMAL = 7777
_COUNT_MODES = (0, 1, 2)


class Oddity(NamedTuple):
    """``value``, at ``place`` in a setting, is not as it should be: what is made of it."""

    value: object
    meaning: str
    place: Place = ()


class Reading(NamedTuple):
    """A value as it is read, and what was odd about it."""

    value: object
    oddities: tuple[Oddity, ...] = ()


def tolerate(name: str, value: object) -> Reading:
    """The value of the setting ``name`` as its kind can read it, where old versions ran with it; else as it is."""
    reader = _BY_NAME.get(name) or _BY_KIND.get(SETTINGS[name].kind.expected)
    return reader(name, value) if reader is not None else Reading(value)


def _read_as(value: object, found: object, meaning: str) -> Reading:
    return Reading(value, (Oddity(found, meaning),))


def _flag(_: str, value: object) -> Reading:
    try:
        FLAG.read(value)
    except Wrong:
        return _read_as(bool(value), value, f"read as {str(bool(value)).lower()}, as the old versions did")
    return Reading(value)


def _action(name: str, value: object) -> Reading:
    default = SETTINGS[name].default
    if value is not None and (not value or (isinstance(value, str) and not value.strip())):
        what = "unset: limits stay enforced from memory" if default is None else f"the default, {default!r}"
        return _read_as(default, value, f"read as {what}")
    if isinstance(value, str) and len(lines := re.split("[\r\n]", value.strip())) > 1:
        return _read_as(lines[0], value, "only its first line is read")
    return Reading(value)


def _count_mode(_: str, value: object) -> Reading:
    if isinstance(value, bool | float) and value in _COUNT_MODES:
        return _read_as(int(value), value, f"read as {int(value)}")
    try:
        COUNT_MODE.read(value)
    except Wrong:
        return Reading(None) if value is None else _read_as(None, value, "read as unset: each recipient counts once")
    return Reading(value)


def _delay(name: str, value: object) -> Reading:
    if not isinstance(value, int | float) or math.isnan(value):
        return Reading(value)
    if value <= 0:
        default = SETTINGS[name].default
        return _read_as(default, value, f"connections would end before they are used; read as {default}, the default")
    if value > LONGEST_DELAY:
        return _read_as(LONGEST_DELAY, value, f"read as {LONGEST_DELAY}, the most")
    return _read_as(1, value, "read as 1") if isinstance(value, bool) else Reading(value)


def _permission(name: str, value: object) -> Reading:
    if value is False or value == "":
        default = SETTINGS[name].default
        return _read_as(default, value, f"read as 0{default:o}, the default")
    # In YAML 01232 and 666 are the same number; nobody gives a socket the sticky bit.
    if isinstance(value, int) and _PERMISSIONS < value <= _DECIMAL and set(str(value)) <= set("01234567"):
        meant = int(str(value), 8)
        return _read_as(
            meant, value, f"decimal, that is 0{value:o}; read as octal, 0{meant:o}: write 0{meant:o} or 0o{meant:o}"
        )
    return Reading(value)


def _backend(_: str, value: object) -> Reading:
    if isinstance(value, bool | float) and value in _COUNT_MODES:
        return _read_as(int(value), value, f"read as {int(value)}")
    return Reading(value)


def _limits(_: str, value: object) -> Reading:
    if value in ("", {}):
        return _read_as((), value, "read as [], no limit")
    value, oddities = tolerated_limits(value)
    return Reading(value, tuple(Oddity(found, meaning, place) for found, meaning, place in oddities))


def _limits_by_id(_: str, value: object) -> Reading:
    if value in ("", [], (), False, 0):
        return _read_as({}, value, "read as {}, no id")
    if not isinstance(value, dict):
        return Reading(value)
    read: dict[object, object] = {}
    oddities: list[Oddity] = []
    for key, limits in value.items():
        if isinstance(key, bool) or not isinstance(key, str | int):
            oddities.append(Oddity(key, "it never applies: ids are text", (key,)))
        elif has_host_bits(str(key)):
            meaning = "it never applies: a network has no bits behind its length"
            oddities.append(Oddity(key, meaning, (key,)))
        else:
            reading = _limits("", limits)
            read[key] = reading.value
            oddities += (oddity._replace(place=(key, *oddity.place)) for oddity in reading.oddities)
    return Reading(read, tuple(oddities))


def _networks(_: str, value: object) -> Reading:
    return _read_as((), value, "read as [], no network") if value in ("", {}) else Reading(value)


def _query(_: str, value: object) -> Reading:
    if value is None or isinstance(value, str):
        return Reading(value)
    return _read_as("", value, "no query; read as unset")


def _server(_: str, value: object) -> Reading:
    port = SETTINGS["smtp_server"].default[1]
    if isinstance(value, str) and value.strip():
        return Reading((value, port))
    if isinstance(value, list | tuple) and len(value) == 1:
        return Reading((value[0], port))
    return Reading(value)


def _credentials(_: str, value: object) -> Reading:
    return Reading(None) if not value else Reading(value)


_BY_NAME: dict[str, Callable[[str, object], Reading]] = {
    "delay_to_close": _delay,
    "smtp_server": _server,
    "smtp_credentials": _credentials,
}
_BY_KIND: dict[str, Callable[[str, object], Reading]] = {
    FLAG.expected: _flag,
    ACTION.expected: _action,
    COUNT_MODE.expected: _count_mode,
    PERMISSION.expected: _permission,
    BACKEND.expected: _backend,
    LIMITS.expected: _limits,
    LIMITS_BY_ID.expected: _limits_by_id,
    NETWORKS.expected: _networks,
    QUERY.expected: _query,
}
