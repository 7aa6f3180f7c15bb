"""Patterns: what an administrator writes for one value, or for many.

Exact (``alice``), glob (``*@example.org``), ``/regular expression/``, CIDR for addresses, ``22:00-06:00`` for the time
of day, ``<7d`` and ``>30d`` for the age of a date, ``""`` for what is empty, ``$table`` for what is in a table,
``$table=text`` for what a table says that of. Names compare without regard to case, domains in their ASCII form,
addresses as addresses.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.identity import MOST_ADDRESS, MOST_NAME, Network, parse_address, parse_network
from policyd_rate_limit.domain.identity import fold as bounded
from policyd_rate_limit.domain.limits import parse_period
from policyd_rate_limit.domain.rules.attributes import ADDRESS, DOMAIN, TIME, VALUE, ascii_domain, folded_name
from policyd_rate_limit.domain.rules.facts import NO_FACTS
from policyd_rate_limit.domain.rules.tables import Silent, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from policyd_rate_limit.domain.rules.facts import Facts
    from policyd_rate_limit.domain.rules.tables import Table

LONGEST_PATTERN: Final = 1000
"""The most characters of one pattern."""

MOST_EXPRESSIONS: Final = 1000
"""The most globs and expressions in one list: each is tried, one after the other."""

LONGEST_SEARCHED: Final = 2048
"""The most characters of a value that an expression may match, as many as a line of SMTP has (Postfix'
``line_length_limit``). A longer one matches none: in a part of it an expression would find an end that is none, and for
all of it the time may grow with the square of the length. Globs look at all of a value, in a time that grows with it.
"""

REMEMBERED_ADDRESSES: Final = 16_384
"""The most addresses of which one list remembers what they match, some 200 bytes each."""

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


def fold(value: str, kind: str) -> str:
    """``value`` as all its spellings are that are equal for a ``kind``."""
    return ascii_domain(value) if kind == DOMAIN else folded_name(value)


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


class _Glob:
    """A glob: ``*`` stands for any characters, ``?`` for one. It takes a time that grows with the length of a value."""

    def __init__(self, text: str) -> None:
        first, *others = text.split("*")
        self._is_open = bool(others)
        self._least = len(text) - len(others)
        self._first = _one_each(first)
        self._last = _one_each(others[-1] if others else "")
        self._length_of_last = len(others[-1]) if others else 0
        self._between = [_one_each(piece) for piece in others[:-1] if piece]

    def matches(self, value: str) -> bool:
        """Whether all of ``value`` is as the glob has it."""
        length = len(value)
        if length < self._least or (length > self._least and not self._is_open):
            return False
        found = self._first.match(value)
        end = length - self._length_of_last
        if found is None or self._last.match(value, end) is None:
            return False
        # Each piece as early as it comes: what lies behind an earlier one holds all that lies behind a later one.
        for piece in self._between:
            found = piece.search(value, found.end(), end)
            if found is None:
                return False
        return True


def _one_each(piece: str) -> re.Pattern[str]:
    """The expression for a piece of a glob without ``*``: it repeats nothing."""
    return re.compile("".join("." if sign == "?" else re.escape(sign) for sign in piece), re.DOTALL)


class _Tried:
    """Globs and expressions, which are tried one after the other, in the order of their indexes."""

    def __init__(self) -> None:
        self._globs: dict[int, list[_Glob]] = {}
        self._expressions: dict[int, re.Pattern[str]] = {}
        self._order: list[int] = []

    def add_glob(self, index: int, pattern: Pattern) -> None:
        """The next ``pattern`` to try, a glob."""
        # A glob may end in a domain without an "@" before it: *.bücher.example
        texts = {pattern.exact, ascii_domain(pattern.text)} if not pattern.text.isascii() else {pattern.exact}
        self._globs[index] = [_Glob(text) for text in texts]
        self._order.append(index)

    def add_expression(self, index: int, pattern: Pattern) -> None:
        """The next ``pattern`` to try, an expression."""
        self._expressions[index] = _compiled(pattern.text)
        self._order.append(index)

    def first(self, text: str, before: int) -> int:
        """The first that ``text`` matches, or the index ``before`` where that is less; -1: none."""
        for index in self._order:
            if 0 <= before < index:
                return before
            if index in self._expressions:
                if len(text) <= LONGEST_SEARCHED and self._expressions[index].search(text) is not None:
                    return index
            else:
                for glob in self._globs[index]:
                    if glob.matches(text):
                        return index
        return before


class _Networks:
    """Networks and addresses; apart from what remembers them, so that old ones go by reference counts."""

    def __init__(self, tried: _Tried) -> None:
        self._tried = tried
        self._indexes: dict[Network, int] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def put(self, network: Network, index: int) -> None:
        """``network`` is the pattern with ``index``, unless one before is the same."""
        lengths = self._lengths[network.version]
        if network.length not in lengths:
            lengths.append(network.length)
        self._indexes.setdefault(network, index)

    def first_of_text(self, text: str) -> int:
        """The index of the first pattern that the address ``text`` matches; -1: it is none, or matches none."""
        address = parse_address(text) if len(text) <= MOST_ADDRESS else None
        return self._tried.first(text, -1) if address is None else self.first(address)

    def first(self, network: Network) -> int:
        """The index of the first pattern that all of ``network`` matches; -1: none does."""
        found = -1
        for length in self._lengths[network.version]:
            if length <= network.length:
                index = self._indexes.get(network.within(length), -1)
                if index >= 0 and (found < 0 or index < found):
                    found = index
        return self._tried.first(str(network), found)


class Patterns:
    """Patterns in an order, for values of one ``kind``: which of them is the first that a value matches.

    Exact ones are looked up, networks by each length that there is, and only globs and expressions are tried in their
    order. They see a value as :func:`fold` has it, an address as RFC 5952 writes it. What ``tables`` say, by name, is
    asked for where no pattern before matches; a table that is not among them is silent. ``are_limits`` says of a text
    whether a table may give it as limits; ``no_limits`` is told where it gives others: the table, the value, the text.
    """

    def __init__(
        self,
        patterns: Iterable[Pattern],
        kind: str,
        tables: Mapping[str, Table] | None = None,
        are_limits: Callable[[str], bool] | None = None,
        no_limits: Callable[[str, str, str], object] | None = None,
    ) -> None:
        self._no_limits = no_limits
        self._kind = kind
        self._of_facts: list[tuple[int, Pattern, Table | None]] = []
        self._are_limits = are_limits
        self._exact: dict[str, int] = {}
        self._tried = _Tried()
        self._networks = _Networks(self._tried)
        self._hours: list[tuple[int, int, int]] = []
        for index, pattern in enumerate(patterns):
            if pattern.how == EXACT:
                self._exact.setdefault(_known_as(pattern.exact), index)
            elif pattern.how == NETWORK:
                assert pattern.network is not None  # noqa: S101 - of these it never is
                self._networks.put(pattern.network, index)
            elif pattern.how == HOURS:
                self._hours.append((index, *pattern.hours))
            elif pattern.how == GLOB:
                self._tried.add_glob(index, pattern)
            elif pattern.how == AGE:
                self._of_facts.append((index, pattern, None))
            elif pattern.how in (TABLE, LIMITS_OF_TABLE):
                table = (tables or {}).get(pattern.table) or Silent(pattern.table)
                table.prepare(kind)
                self._of_facts.append((index, pattern, table))
            else:
                self._tried.add_expression(index, pattern)
        # Addresses come again and again, and reading one takes ten times as long as all the rest.
        self._of_address = lru_cache(REMEMBERED_ADDRESSES)(self._networks.first_of_text)

    def first(self, value: str, facts: Facts = NO_FACTS) -> int:
        """The index of the first pattern that ``value`` matches, as far as ``facts`` are known; -1: it matches none."""
        found = self._first_by_itself(value)
        return self._first_by_facts(value, found, facts) if self._of_facts else found

    def _first_by_itself(self, value: str) -> int:
        kind = self._kind
        if kind == TIME:
            return self._first_hours(value)
        if kind == ADDRESS and value:
            return self._of_address(value) if len(value) <= MOST_ADDRESS else self._networks.first_of_text(value)
        folded = fold(value, kind)
        return self._tried.first(folded, self._exact.get(_known_as(folded), -1))

    def first_network(self, network: Network, facts: Facts = NO_FACTS) -> int:
        """The index of the first pattern that all of ``network`` matches, as far as ``facts`` are known; -1: none."""
        found = self._networks.first(network)
        return self._first_by_facts(str(network), found, facts) if self._of_facts else found

    def _first_by_facts(self, value: str, before: int, facts: Facts) -> int:
        """The first pattern that ``value`` matches, where the first that matches by itself is ``before``; -1: none."""
        for index, pattern, table in self._of_facts:
            if 0 <= before < index:
                return before
            if table is None:
                if _is_of_age(value, pattern.age, facts.now):
                    return index
            elif value:
                said = table.find(value, self._kind, facts)
                if said is not None and self._is_meant(pattern, value, said):
                    return index
        return before

    def _is_meant(self, pattern: Pattern, value: str, said: str) -> bool:
        """Whether ``pattern`` matches what its table says of ``value``."""
        if pattern.says:
            return folded_name(said) == pattern.exact
        if pattern.how == TABLE or self._are_limits is None or self._are_limits(said):
            return True
        if self._no_limits is not None:
            self._no_limits(pattern.table, value, said)
        return False

    def _first_hours(self, value: str) -> int:
        minute = int(value[:2]) * 60 + int(value[3:5])
        for index, begin, end in self._hours:
            if begin <= minute < end if begin < end else minute >= begin or minute < end:
                return index
        return -1


def _is_of_age(value: str, age: int, now: float) -> bool:
    """Whether the date ``value`` is more than ``age`` seconds before ``now``, or less where that is negative."""
    moment = moment_of(value)
    if moment is None:
        return False
    return now - moment < -age if age < 0 else now - moment > age


def _known_as(folded: str) -> str:
    """What stands for ``folded`` in an id: long ones are shortened there."""
    return folded if len(folded) <= MOST_NAME else bounded(folded)


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
        _compiled(text)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise PatternError(f"a regular expression between slashes ({error})", text) from None
    return Pattern(text, EXPRESSION)


def _compiled(text: str) -> re.Pattern[str]:
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
