"""Patterns: what an administrator writes for one value, or for many.

Exact (``alice``), glob (``*@example.org``), ``/regular expression/``, CIDR for addresses, ``22:00-06:00`` for the time
of day, ``<7d`` and ``>30d`` for the age of a date, ``""`` for what is empty, ``$table`` for what is in a table,
``$table=text`` for what a table says that of. Names compare without regard to case, domains in their ASCII form,
addresses as addresses.
"""

from __future__ import annotations

import re
import warnings
from typing import Final, NamedTuple

from policyd_rate_limit.domain.limits import parse_period
from policyd_rate_limit.domain.networks import Network, parse_address, parse_network
from policyd_rate_limit.domain.rules.attributes import ADDRESS, DOMAIN, TIME, VALUE, fold, folded_name

LONGEST_PATTERN: Final = 1000
"""The most characters of one pattern."""

MOST_EXPRESSIONS: Final = 1000
"""The most globs and expressions in one list: each is tried, one after the other."""

EXACT, GLOB, EXPRESSION, NETWORK, HOURS = "exact", "glob", "expression", "network", "hours"
AGE, TABLE, LIMITS_OF_TABLE = "age", "table", "limits of table"

_HOURS: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9]) ?- ?([01]?[0-9]|2[0-4]):([0-5][0-9])")
_DAY: Final = 24 * 60
_AGE: Final = re.compile(r"([<>]) ?([1-9][0-9]{0,5} ?[smhdw])")
_TABLE: Final = re.compile(r"\$([a-z][a-z0-9_-]*)(?:=(.*))?", re.DOTALL)
# What an expression consists of, as far as it says what is repeated: characters, classes of them, parentheses, signs.
_TOKENS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[0-9]*,[0-9]*\}|.", re.DOTALL)


class PatternError(ValueError):
    """What should be a pattern is not: what was ``expected``, and the ``value`` that was found."""

    def __init__(self, expected: str, value: str) -> None:
        self.expected = expected
        self.value = value
        super().__init__(f"expected {expected}, found {value!r}")


class Pattern(NamedTuple):
    """One pattern: its ``text`` as it is written, how it is compared (:data:`EXACT` and so on), and with what.

    ``exact``: the folded value or glob, or what a table has to say. ``network``: that of a pattern of addresses.
    ``hours``: the first minute of the day, and the one after the last. ``age``: in seconds, negative where a date has
    to be younger. ``table``: the name of one; with ``says`` it has to say ``exact`` of a value, otherwise anything, or
    limits, where those are the table's.
    """

    text: str
    how: str
    exact: str = ""
    network: Network | None = None
    hours: tuple[int, int] = (0, 0)
    age: int = 0
    table: str = ""
    says: bool = False


def parse_pattern(text: str, kind: str) -> Pattern:
    """The pattern that ``text`` writes for a value of ``kind``: see :mod:`.attributes`.

    Raises PatternError.
    """
    if len(text) > LONGEST_PATTERN:
        raise PatternError(f"a pattern of at most {LONGEST_PATTERN} characters", text)
    if text.startswith("$"):
        return _parse_table(text)
    if kind == TIME:
        return _parse_hours(text)
    if kind == VALUE and (age := _AGE.fullmatch(text)) is not None:
        seconds = parse_period(age[2].replace(" ", ""))
        return Pattern(text, AGE, age=-seconds if age[1] == "<" else seconds)
    if not text:
        return Pattern(text, EXACT)
    if len(text) > 2 and text[0] == text[-1] == "/":
        return _parse_expression(text)
    if kind == ADDRESS:
        return _parse_network(text)
    if "*" in text or "?" in text:
        return _parse_glob(text, kind)
    if "/" in text and _is_network(text):
        raise PatternError(f"{kind}: a network is compared with addresses alone", text)
    return Pattern(text, EXACT, fold(text, kind))


def asks_facts(pattern: Pattern) -> bool:
    """Whether it depends on what is known beside a value whether that matches."""
    return pattern.how in (AGE, TABLE, LIMITS_OF_TABLE)


def may_take_long(pattern: Pattern) -> bool:
    """Whether an expression repeats what is repeated in it: there are values for which it takes very long."""
    if pattern.how != EXPRESSION:
        return False
    repeats = [False]  # whether anything is repeated: in the whole, and in each group that is open
    last = False  # in what comes before
    for sign in _TOKENS.findall(pattern.text[1:-1]):
        if sign in ("*", "+") or (sign[0] == "{" and len(sign) > 1):
            if last:
                return True
            repeats[-1] = True
        elif sign == "(":
            repeats.append(False)
        elif sign == ")":
            last = repeats.pop()
            repeats[-1] = repeats[-1] or last
            continue
        last = False
    return False


def _parse_table(text: str) -> Pattern:
    match = _TABLE.fullmatch(text)
    if match is None:
        raise PatternError("a table such as $staff or $plan=business; a value that begins with $ is /^\\$.../", text)
    return Pattern(text, TABLE, folded_name(match[2] or ""), table=match[1], says=match[2] is not None)


def _parse_hours(text: str) -> Pattern:
    match = _HOURS.fullmatch(text)
    if match is None:
        raise PatternError("hours such as 22:00-06:00", text)
    begin, end = (int(match[one]) * 60 + int(match[one + 1]) for one in (1, 3))
    if begin == end or end > _DAY:
        raise PatternError("two different times of day, such as 22:00-06:00", text)
    return Pattern(text, HOURS, hours=(begin, end))


def _parse_glob(text: str, kind: str) -> Pattern:
    folded = fold(text, kind)
    domain = folded if kind == DOMAIN else folded.rpartition("@")[2] if "@" in folded else ""
    if not domain.isascii():
        # The ASCII form is that of a whole label, which nobody knows while a part of it is missing.
        raise PatternError("a domain in whose labels * and ? stand by themselves or beside ASCII characters", text)
    return Pattern(text, GLOB, folded)


def _parse_expression(text: str) -> Pattern:
    try:
        compiled(text)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise PatternError(f"a regular expression between slashes ({error})", text) from None
    return Pattern(text, EXPRESSION)


def compiled(text: str) -> re.Pattern[str]:
    """The expression that ``text`` has between slashes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what may come to mean something else one day, which nobody would read
        return re.compile(text[1:-1], re.IGNORECASE)


def _parse_network(text: str) -> Pattern:
    try:
        return Pattern(text, NETWORK, network=parse_address(text) or parse_network(text))
    except ValueError:
        raise PatternError("an address, a network in CIDR notation or an expression between slashes", text) from None


def _is_network(text: str) -> bool:
    try:
        parse_network(text)
    except ValueError:
        return False
    return True
