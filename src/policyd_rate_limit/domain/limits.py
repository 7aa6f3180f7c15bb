"""Limits: at most so many mails in any so many seconds, or so much for one mail.

A limit is written ``[10, 60]``, ``[150, "1d"]`` or ``"10/1m"``; units are s, m, h, d and w, seconds where
none is given. Several limits hold all at once; none at all, ``[]``, is no limit. Where the caller allows it, one of
them may bound each mail, ``[50, "mail"]`` or ``"50/mail"``, and a maximum may be written with a suffix, ``"10M/1d"``.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any, Final, NamedTuple

from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.domain.quantity import quantity

LARGEST: Final = 2**53 - 1
"""The largest number in a limit: exact in 64-bit integers and in the doubles of JSON and of Redis' Lua."""

LONGEST_OVERRIDE: Final = 10 * 366 * 86_400
"""The most seconds for which an id may have other limits: what is meant for ever belongs into the configuration."""

MOST_LIMITS: Final = 32
"""The most limits that hold at once: each costs memory and time for every id."""

LONGEST_TEXT: Final = 4096
"""The most characters of limits that are given as one text."""

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""The length of each unit of time, in seconds."""

PER_MAIL: Final = 0
"""The seconds of a limit that bounds one mail, whenever that comes: it looks at no window."""

SUFFIXES = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
"""What a maximum is multiplied by that is written with a suffix."""

_MAIL: Final = "mail"  # in place of a period
_MAXIMUM: Final = re.compile(r"([0-9]{1,16}) ?(k|M|G|Ki|Mi|Gi)?")
_PERIOD: Final = re.compile(r"([0-9]{0,16}) ?([smhdw]?)")
_PAIR: Final = "[mails, seconds], such as [10, 60], [10, '1m'] or '10/1m'"
_NUMBER: Final = f"number of mails from 0 to {LARGEST}"
_LONGEST_FOUND: Final = 60


class Limit(NamedTuple):
    """At most ``maximum`` mails in any ``seconds``; a maximum of 0 lets nothing pass.

    With :data:`PER_MAIL` seconds it bounds what one mail may cost.
    """

    maximum: int
    seconds: int

    @property
    def is_per_mail(self) -> bool:
        """Whether it bounds one mail, and looks at no window."""
        return self.seconds == PER_MAIL


BLOCKED: Final = Limit(0, 1)
"""The limit of whom an administrator has blocked."""

Limits = tuple[Limit, ...]
"""All the limits of one id, which hold at once; empty: unlimited.

One of them may be per mail. It stands before the others: so one look tells whether there is one.
"""


def longest_of(limits: Limits) -> int:
    """How many seconds back ``limits`` look: as far as the longest window; 0 where there is none.

    A limit per mail looks at what its mail was charged, as long as that is remembered.
    """
    return max((limit.seconds or REMEMBERED_SECONDS for limit in limits), default=0)


def windows_of(limits: Limits) -> Limits:
    """``limits`` without the one per mail."""
    return limits[1:] if limits and limits[0].is_per_mail else limits


class LimitsError(ValueError):
    """What should be limits is not: what was ``expected`` and which ``value`` was found.

    ``place`` holds the index of the wrong pair in a list; it is empty when the list itself is wrong.
    """

    def __init__(self, expected: str, value: object, place: tuple[int, ...] = ()) -> None:
        self.expected = expected
        self.value = value
        self.place = place
        super().__init__(f"expected {expected}, found {shown(value)}")


def shown(value: object) -> str:
    """``value`` as a message shows it: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return "something too large to show"
    return text if len(text) <= _LONGEST_FOUND else text[:_LONGEST_FOUND] + "…"


def parse_period(value: object) -> int:
    """The seconds of a period: a whole number of them, or text such as ``"1d"``.

    Raises LimitsError.
    """
    seconds = _whole(value)
    if isinstance(value, str) and (match := _PERIOD.fullmatch(value.strip())) and match[0]:
        seconds = int(match[1] or 1) * SECONDS[match[2]]
    if seconds is None or not 1 <= seconds <= LARGEST:
        raise LimitsError(f"a whole number of seconds from 1 to {LARGEST}, such as 3600, '60m' or '1h'", value)
    return seconds


def parse_limits(value: object, *, per_mail: bool = False, unit_suffixes: bool = False) -> Limits:
    """Limits as they stand in a configuration: a list of pairs, one pair, or one text such as ``"10/1m"``.

    They keep their order, but that one per mail comes first. ``per_mail``: there may be one. ``unit_suffixes``: a
    maximum may have one of :data:`SUFFIXES`. Raises LimitsError, a ValueError whose text says what was expected and
    found.
    """
    reader = _Reader(per_mail, unit_suffixes)
    if isinstance(value, str):
        return (reader.limit(value),)
    if not isinstance(value, list | tuple):
        raise LimitsError(f"a list of {reader.pair}", value)
    if len(value) == 2 and reader.maximum(value[0]) is not None:
        return (reader.limit(value),)
    if len(value) > MOST_LIMITS:
        raise LimitsError(f"at most {MOST_LIMITS} limits", value)
    limits: list[Limit] = []
    for item, entry in enumerate(value):
        try:
            limit = reader.limit(entry)
        except LimitsError as error:
            error.place = (item,)
            raise
        if any(limit.seconds == other.seconds for other in limits):
            again = "a limit per mail" if limit.is_per_mail else quantity(limit.seconds, "second")
            raise LimitsError(f"each period once, not {again} again", entry, (item,))
        if limit.is_per_mail:
            limits.insert(0, limit)
        else:
            limits.append(limit)
    return tuple(limits)


class Odd(NamedTuple):
    """``found``, at ``place`` among limits, is not as limits should be: what is made of it."""

    found: Any  # not object, which mypyc does not find for a tuple
    meaning: str
    place: tuple[int, ...]


def tolerated_limits(value: object) -> tuple[object, tuple[Odd, ...]]:
    """What old versions limited by, as :func:`parse_limits` reads it, in doubt to the strict side; and what was odd.

    They took any number: parts of mails and of seconds, the same period twice, a period that has no length. Whatever
    they could not count with either is left as it is.
    """
    if not isinstance(value, list | tuple) or len(value) > MOST_LIMITS:
        return value, ()
    if len(value) == 2 and all(isinstance(number, int | float) for number in value):
        value = (value,)
    limits: list[object] = []
    odd: list[Odd] = []
    lowest: dict[int, int] = {}  # by period
    for item, entry in enumerate(value):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            limits.append(entry)
            continue
        maximum, seconds = _rounded(entry[0], up=False), _rounded(entry[1], up=True)
        if maximum is None or seconds is None:
            limits.append(entry)
        elif seconds < 1:
            odd.append(Odd(entry, "it never applies: its period has no length", (item,)))
        elif seconds in lowest:
            limits = [limit for limit in limits if limit != (lowest[seconds], seconds)]
            lowest[seconds] = min(maximum, lowest[seconds])
            limits.append((lowest[seconds], seconds))
            odd.append(Odd(entry, "the same period twice: the lower limit counts", (item,)))
        else:
            lowest[seconds] = maximum
            limits.append((maximum, seconds))
            if not (_is_written(entry[0], maximum) and _is_written(entry[1], seconds)):
                odd.append(Odd(entry, f"read as [{maximum}, {seconds}]", (item,)))
    return limits, tuple(odd)


def _is_written(number: object, whole: int) -> bool:
    """Whether ``number`` is a spelling of ``whole``, such as 10.0."""
    return number == whole and not isinstance(number, bool) if not isinstance(number, str) else _whole(number) == whole


def _rounded(number: object, *, up: bool) -> int | None:
    """``number`` as a whole one from 0 to LARGEST; None where it is no number."""
    whole = _whole(number)
    if whole is not None:
        return max(0, min(whole, LARGEST))
    if not isinstance(number, int | float) or math.isnan(number):
        return None
    if math.isinf(number):
        return LARGEST if number > 0 else 0
    return max(0, min(math.ceil(number) if up else math.floor(number), LARGEST))


def parse_limits_text(
    text: str, *, tolerant: bool = False, per_mail: bool = False, unit_suffixes: bool = False
) -> Limits:
    """Limits as one text: ``[[5, 60]]``, or any other spelling of :func:`parse_limits`.

    The text is read as a literal, never run. ``tolerant``: as :func:`tolerated_limits` has it. Raises LimitsError.
    """
    text = text.strip()
    if len(text) > LONGEST_TEXT:
        raise LimitsError(f"at most {LONGEST_TEXT} characters of limits", text)
    if not text.startswith(("[", "(")):
        return parse_limits(text, per_mail=per_mail, unit_suffixes=unit_suffixes)
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise LimitsError("limits such as [[10, 60], [150, 86400]]", text) from None
    if not tolerant:
        return parse_limits(value, per_mail=per_mail, unit_suffixes=unit_suffixes)
    limits = parse_limits(tolerated_limits(value)[0])
    if value and not limits:
        # Nobody is without limits but by [].
        raise LimitsError("a limit that can apply", text)
    return limits


def spell_period(seconds: int) -> str:
    """``seconds`` as :func:`parse_period` reads them, in the largest unit that they are a multiple of.

    For a limit :data:`PER_MAIL` it is "mail".
    """
    if seconds == PER_MAIL:
        return _MAIL
    unit = next(unit for unit in reversed(SECONDS) if unit and seconds % SECONDS[unit] == 0)
    return f"{seconds // SECONDS[unit]}{unit}"


def spell_limit(limit: Limit) -> str:
    """``limit`` as a configuration has it: ``"10/1m"``, ``"50/mail"``."""
    return f"{limit.maximum}/{spell_period(limit.seconds)}"


def shown_limit(limit: Limit) -> str:
    """``limit`` as people read it: as :func:`spell_limit`, or that its id is blocked."""
    return "blocked" if limit == BLOCKED else spell_limit(limit)


class _Reader:
    """Reads one limit at a time; ``pair`` says how it may be written."""

    def __init__(self, per_mail: bool, unit_suffixes: bool) -> None:
        self._per_mail = per_mail
        self._unit_suffixes = unit_suffixes
        self.pair = f"{_PAIR}, or '50/mail'" if per_mail else _PAIR

    def limit(self, entry: object) -> Limit:
        """One limit. Raises LimitsError."""
        parts: list[object] | tuple[object, ...] | None = None
        if isinstance(entry, str):
            parts = tuple(part.strip() for part in entry.split("/"))
        elif isinstance(entry, list | tuple):
            parts = entry
        if parts is None or len(parts) != 2:
            raise LimitsError(self.pair, entry)
        maximum = self.maximum(parts[0])
        if maximum is None or not 0 <= maximum <= LARGEST:
            number = f"number from 0 to {LARGEST}, such as 500, '10M' or '64Ki'," if self._unit_suffixes else _NUMBER
            raise LimitsError(f"a whole {number} in {self.pair}", entry)
        if self._per_mail and isinstance(parts[1], str) and parts[1].strip() == _MAIL:
            return Limit(maximum, PER_MAIL)
        try:
            return Limit(maximum, parse_period(parts[1]))
        except LimitsError as error:
            raise LimitsError(f"{error.expected}, in {self.pair}", entry) from None

    def maximum(self, value: object) -> int | None:
        """``value`` where it is the number that a limit begins with, of any size, else None."""
        if self._unit_suffixes and isinstance(value, str) and (match := _MAXIMUM.fullmatch(value)):
            return int(match[1]) * SUFFIXES[match[2] or ""]
        return _whole(value)


def _whole(value: object) -> int | None:
    """``value`` where it is a whole number or the ASCII digits of one, else None; True is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{1,16}", value):
        return int(value)
    return None
