"""Patterns: what an administrator writes for one value, or for many.

Exact (``alice``), glob (``*@example.org``), ``/regular expression/``, CIDR for addresses, ``22:00-06:00`` for the time
of day, ``""`` for what is empty. Names compare without regard to case, domains in their ASCII form, addresses as
addresses.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.identity import MOST_ADDRESS, Network, parse_address, parse_network
from policyd_rate_limit.domain.rules.attributes import ADDRESS, DOMAIN, TIME, ascii_domain, folded_name

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_PATTERN: Final = 1000
"""The most characters of one pattern."""

MOST_EXPRESSIONS: Final = 1000
"""The most globs and expressions in one list: each is tried, one after the other."""

LONGEST_SEARCHED: Final = 1024
"""The most characters of a value that globs and expressions look at; the rest of a longer one is not seen."""

REMEMBERED_ADDRESSES: Final = 16_384
"""The most addresses of which one list remembers what they match, some 200 bytes each."""

EXACT, GLOB, EXPRESSION, NETWORK, HOURS = "exact", "glob", "expression", "network", "hours"

_HOURS: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9]) ?- ?([01]?[0-9]|2[0-4]):([0-5][0-9])")
_DAY: Final = 24 * 60
# A group that repeats what is repeated in it: it may take a time that grows exponentially.
_NESTED: Final = re.compile(r"\((?:[^()\\]|\\.)*[*+}](?:[^()\\]|\\.)*\)\s*(?:[*+]|\{\d*,\d*\})")


class PatternError(ValueError):
    """What should be a pattern is not: what was ``expected``, and the ``value`` that was found."""

    def __init__(self, expected: str, value: str) -> None:
        self.expected = expected
        self.value = value
        super().__init__(f"expected {expected}, found {value!r}")


class Pattern(NamedTuple):
    """One pattern: its ``text`` as it is written, how it is compared (:data:`EXACT` and so on), and with what.

    ``exact``: the folded value, or what a glob is made into. ``network``: that of a pattern of addresses. ``hours``:
    the first minute of the day, and the one after the last.
    """

    text: str
    how: str
    exact: str = ""
    network: Network | None = None
    hours: tuple[int, int] = (0, 0)


def parse_pattern(text: str, kind: str) -> Pattern:
    """The pattern that ``text`` writes for a value of ``kind``: see :mod:`.attributes`.

    Raises PatternError.
    """
    if len(text) > LONGEST_PATTERN:
        raise PatternError(f"a pattern of at most {LONGEST_PATTERN} characters", text)
    if not text:
        return Pattern(text, EXACT)
    if kind == TIME:
        return _parse_hours(text)
    if len(text) > 2 and text[0] == text[-1] == "/":
        return _parse_expression(text)
    if kind == ADDRESS:
        return _parse_network(text)
    if "*" in text or "?" in text:
        return Pattern(text, GLOB, _of_glob(fold(text, kind)))
    if "/" in text and _is_network(text):
        raise PatternError(f"{kind}: a network is compared with addresses alone", text)
    return Pattern(text, EXACT, fold(text, kind))


def fold(value: str, kind: str) -> str:
    """``value`` as all its spellings are that are equal for a ``kind``."""
    return ascii_domain(value) if kind == DOMAIN else folded_name(value)


def may_take_long(pattern: Pattern) -> bool:
    """Whether an expression repeats what is repeated in it: there are values for which it takes very long."""
    return pattern.how == EXPRESSION and _NESTED.search(pattern.text) is not None


class Patterns:
    """Patterns in an order, for values of one ``kind``: which of them is the first that a value matches.

    Exact ones are looked up, networks by each length that there is, and only globs and expressions are tried in their
    order.
    """

    def __init__(self, patterns: Iterable[Pattern], kind: str) -> None:
        self._kind = kind
        self._exact: dict[str, int] = {}
        self._networks: dict[Network, int] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}
        self._tried: list[tuple[int, re.Pattern[str]]] = []
        self._hours: list[tuple[int, int, int]] = []
        self._if_empty = -1
        for index, pattern in enumerate(patterns):
            if pattern.how == EXACT:
                if pattern.exact:
                    self._exact.setdefault(pattern.exact, index)
                elif self._if_empty < 0:
                    self._if_empty = index
            elif pattern.how == NETWORK:
                assert pattern.network is not None  # noqa: S101 - of these it never is
                lengths = self._lengths[pattern.network.version]
                if pattern.network.length not in lengths:
                    lengths.append(pattern.network.length)
                self._networks.setdefault(pattern.network, index)
            elif pattern.how == HOURS:
                self._hours.append((index, *pattern.hours))
            elif pattern.how == GLOB:
                self._tried.append((index, re.compile(pattern.exact, re.DOTALL)))
            else:
                self._tried.append((index, re.compile(pattern.text[1:-1], re.IGNORECASE)))
        # Addresses come again and again, and reading one takes ten times as long as all the rest.
        self._of_address = lru_cache(REMEMBERED_ADDRESSES)(self._first_of_address)

    def first(self, value: str) -> int:
        """The index of the first pattern that ``value`` matches; -1: it matches none."""
        if not value:
            return self._first_tried("", self._if_empty)
        if self._kind == ADDRESS:
            return self._of_address(value) if len(value) <= MOST_ADDRESS else -1
        if self._kind == TIME:
            return self._first_hours(value)
        folded = fold(value, self._kind)
        return self._first_tried(folded, self._exact.get(folded, -1))

    def first_network(self, network: Network) -> int:
        """The index of the first network that holds all of ``network``; -1: none does."""
        found = -1
        for length in self._lengths[network.version]:
            if length <= network.length:
                index = self._networks.get(network.within(length), -1)
                if index >= 0 and (found < 0 or index < found):
                    found = index
        return found

    def _first_of_address(self, text: str) -> int:
        address = parse_address(text)
        return self._first_tried(text, -1 if address is None else self.first_network(address))

    def _first_tried(self, text: str, before: int) -> int:
        """The first expression that ``text`` matches, or the pattern ``before`` where that comes first."""
        if not self._tried:
            return before
        text = text[:LONGEST_SEARCHED]
        for index, expression in self._tried:
            if 0 <= before < index:
                return before
            if expression.search(text) is not None:
                return index
        return before

    def _first_hours(self, value: str) -> int:
        minute = int(value[:2]) * 60 + int(value[3:5])
        for index, begin, end in self._hours:
            if begin <= minute < end if begin < end else minute >= begin or minute < end:
                return index
        return -1


def _parse_hours(text: str) -> Pattern:
    match = _HOURS.fullmatch(text)
    if match is None:
        raise PatternError("hours such as 22:00-06:00", text)
    begin, end = (int(match[one]) * 60 + int(match[one + 1]) for one in (1, 3))
    if begin == end or end > _DAY:
        raise PatternError("two different times of day, such as 22:00-06:00", text)
    return Pattern(text, HOURS, hours=(begin, end))


def _parse_expression(text: str) -> Pattern:
    try:
        re.compile(text[1:-1], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"a regular expression between slashes ({error})", text) from None
    return Pattern(text, EXPRESSION)


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


def _of_glob(text: str) -> str:
    """The regular expression for a whole text that a glob stands for: ``*`` is any characters, ``?`` is one."""
    return r"\A" + "".join({"*": ".*", "?": "."}.get(sign) or re.escape(sign) for sign in text) + r"\Z"
