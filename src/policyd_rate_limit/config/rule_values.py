"""Reads single values of rules: patterns, per cents, who is told. All of it raises Wrong."""

from __future__ import annotations

import re
from typing import Final

from policyd_rate_limit.config.faults import Faults
from policyd_rate_limit.config.kind import Fault, Wrong
from policyd_rate_limit.config.kinds import FLAG, SENDER, without_host_bits
from policyd_rate_limit.config.rules import USER
from policyd_rate_limit.domain.limits import Limits
from policyd_rate_limit.domain.rules.attributes import ADDRESS, COUNTRY, NUMBER, TIME, VALUE
from policyd_rate_limit.domain.rules.patterns import EXACT, Pattern, PatternError, parse_pattern
from policyd_rate_limit.domain.values import MOST_VALUES

MOST_NOTIFIED: Final = 20
"""The most addresses to which one rule tells."""

_DATES: Final = re.compile(r"[<>] ?[0-9]+ ?[smhdw]?")
_PER_CENT: Final = re.compile(r"0{0,9}([1-9][0-9]?) ?%?", re.ASCII)
_PATTERN: Final = "a pattern, or a list of them; numbers with a point, true, false, null and NO need quotes"


def check_values(value: object, limits: Limits) -> None:
    """Raise Wrong where more different values would have to be remembered than there may be of one counter."""
    for index, limit in enumerate(limits):
        if limit.maximum > MOST_VALUES:
            place = (index,) if isinstance(value, list | tuple) and len(limits) == len(value) else ()
            expected = f"at most {MOST_VALUES} different values, each of which is remembered"
            raise Wrong(Fault(limit.maximum, expected, place))


def read_pattern(value: object, kind: str) -> Pattern:
    """A pattern, as a file may have it, of values of ``kind``."""
    return parsed_pattern(text_of_pattern(value), kind)


def text_of_pattern(value: object) -> str:
    """A pattern as text: whole numbers need no quotes."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Wrong(Fault(value, _PATTERN))


def parsed_pattern(text: str, kind: str) -> Pattern:
    """The pattern that ``text`` is for values of ``kind``."""
    if kind not in (NUMBER, VALUE) and text.startswith(("<", ">")) and _DATES.fullmatch(text):
        raise Wrong(Fault(text, "an age of a date that a table says alone, as in {$created(sasl_username): '<7d'}"))
    try:
        pattern = parse_pattern(text, kind)
    except PatternError as error:
        if kind == ADDRESS:
            without_host_bits(text)
        raise Wrong(Fault(error.value, error.expected)) from None
    if pattern.how == EXACT and kind == TIME:
        raise Wrong(Fault(text, "hours such as 22:00-06:00"))
    if pattern.how == EXACT and kind == COUNTRY and text and not re.fullmatch("[A-Za-z]{2}", text):
        raise Wrong(Fault(text, "two letters of ISO 3166, such as DE, a glob or an expression between slashes"))
    if pattern.how == EXACT and kind == NUMBER and text and not (text.isascii() and text.isdigit()):
        raise Wrong(Fault(text, "a number, a glob or an expression between slashes"))
    return pattern


def read_per_cent(value: object) -> int:
    """From 1 to 99, with or without the sign."""
    text = value if isinstance(value, str) else str(value)
    found = _PER_CENT.fullmatch(text.strip())
    if found is None or isinstance(value, bool):
        raise Wrong(Fault(value, "per cent of a limit from 1 to 99, such as 80 or 80%"))
    return int(found[1])


def read_notify(value: object) -> tuple[str, ...]:
    """Who is told: addresses, and the word for the user."""
    if not isinstance(value, list | tuple):
        return (_address(value),)
    if not 1 <= len(value) <= MOST_NOTIFIED:
        raise Wrong(Fault(value if not value else len(value), f"from 1 to {MOST_NOTIFIED} mail addresses, or {USER}"))
    faults = Faults()
    found = [faults.keep((index,), _address, one) for index, one in enumerate(value)]
    faults.end()
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _address(value: object) -> str:
    try:
        return str(SENDER.read(value)).strip()
    except Wrong:
        expected = f"a mail address, such as abuse@example.org, or {USER}, who is the SASL user"
        raise Wrong(Fault(value, expected)) from None


def read_flag(value: object) -> bool:
    """Yes or no."""
    try:
        return bool(FLAG.read(value))
    except Wrong:
        raise Wrong(Fault(value, FLAG.expected)) from None
