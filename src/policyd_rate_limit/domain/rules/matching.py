"""Which of many patterns is the first that a value matches, whatever their number."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.ids import MOST_NAME
from policyd_rate_limit.domain.ids import fold as bounded
from policyd_rate_limit.domain.networks import MOST_ADDRESS, Network, parse_address, parse_network
from policyd_rate_limit.domain.rules.attributes import ADDRESS, TIME, ascii_domain, fold, folded_name
from policyd_rate_limit.domain.rules.facts import NO_FACTS
from policyd_rate_limit.domain.rules.patterns import (
    AGE,
    EXACT,
    GLOB,
    HOURS,
    LIMITS_OF_TABLE,
    NETWORK,
    TABLE,
    compiled,
)
from policyd_rate_limit.domain.rules.tables import Silent, moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from policyd_rate_limit.domain.rules.facts import Facts
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.domain.rules.tables import LimitsOfTexts, Table, TableOfKind

LONGEST_SEARCHED: Final = 2048
"""The most characters of a value that an expression may match, as many as a line of SMTP has (Postfix'
``line_length_limit``). A longer one matches none: in a part of it an expression would find an end that is none, and for
all of it the time may grow with the square of the length. Globs look at all of a value, in a time that grows with it.
"""

REMEMBERED_ADDRESSES: Final = 16_384
"""The most addresses and networks of which one list remembers what they match, some 200 bytes each."""


class _Glob:
    """A glob: ``*`` stands for any characters, ``?`` for one. It takes a time that grows with the length of a value."""

    def __init__(self, text: str) -> None:
        first, *others = text.split("*")
        self._is_open = bool(others)
        self._least = len(text) - len(others)
        # Nearly all that does not match is told by these at once.
        self._begin = first.partition("?")[0]
        self._end = text.rpartition("*")[2].rpartition("?")[2]
        self._first = _one_each(first)
        self._last = _one_each(others[-1] if others else "")
        self._length_of_last = len(others[-1]) if others else 0
        self._between = [_one_each(piece) for piece in others[:-1] if piece]

    def matches(self, value: str) -> bool:
        """Whether all of ``value`` is as the glob has it."""
        length = len(value)
        if length < self._least or (length > self._least and not self._is_open):
            return False
        if not value.endswith(self._end) or not value.startswith(self._begin):
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
        self.are_any = False

    def add_glob(self, index: int, pattern: Pattern) -> None:
        """The next ``pattern`` to try, a glob."""
        # A glob may end in a domain without an "@" before it: *.bücher.example
        texts = {pattern.exact, ascii_domain(pattern.text)} if not pattern.text.isascii() else {pattern.exact}
        self._globs[index] = [_Glob(text) for text in texts]
        self._order.append(index)
        self.are_any = True

    def add_expression(self, index: int, pattern: Pattern) -> None:
        """The next ``pattern`` to try, an expression."""
        self._expressions[index] = compiled(pattern.text)
        self._order.append(index)
        self.are_any = True

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
        """The index of the first pattern that the address or network ``text`` matches; -1: none, or it is neither."""
        network = _network_in(text)
        return self._tried.first(text, -1) if network is None else self.first(network)

    def first(self, network: Network) -> int:
        """The index of the first pattern that all of ``network`` matches; -1: none does."""
        found = -1
        for length in self._lengths[network.version]:
            if length <= network.length:
                index = self._indexes.get(network.within(length), -1)
                if index >= 0 and (found < 0 or index < found):
                    found = index
        return self._tried.first(str(network), found)


class _OfFacts:
    """A pattern with that ``index`` in its list, of which it depends on more than a value whether that matches.

    ``table`` None: the value has to be of an ``age``. ``name`` is that of the table; with ``says`` it has to say
    ``exact``, with ``gives_limits`` limits.
    """

    def __init__(self, index: int, pattern: Pattern, table: TableOfKind | None) -> None:
        self.index = index
        self.table = table
        self.name = pattern.table
        self.says = pattern.says
        self.exact = pattern.exact
        self.gives_limits = pattern.how == LIMITS_OF_TABLE
        self.age = pattern.age


class Patterns:
    """Patterns in an order, for values of one ``kind``: which of them is the first that a value matches.

    Exact ones are looked up, networks by each length that there is, and only globs and expressions are tried in their
    order. They see a value as :func:`fold` has it, an address as RFC 5952 writes it. What ``tables`` say, by name, is
    asked for where no pattern before matches; a table that is not among them is silent. ``limits`` reads those that a
    table may have to give; ``no_limits`` is told where it gives others: the table, the value, the text.
    """

    def __init__(
        self,
        patterns: Iterable[Pattern],
        kind: str,
        tables: Mapping[str, Table] | None = None,
        limits: LimitsOfTexts | None = None,
        no_limits: Callable[[str, str, str], object] | None = None,
    ) -> None:
        self._no_limits = no_limits
        self._kind = kind
        self._is_address = kind == ADDRESS
        self._is_time = kind == TIME
        self.asks_facts = False
        self._of_facts: list[_OfFacts] = []
        self._limits = limits
        self._exact: dict[str, int] = {}
        self._tried = _Tried()
        self._networks = _Networks(self._tried)
        self._hours: list[tuple[int, int, int]] = []
        self._are_all_of_facts = True
        for index, pattern in enumerate(patterns):
            if pattern.how in (AGE, TABLE, LIMITS_OF_TABLE):
                self._of_facts.append(_OfFacts(index, pattern, self._table(pattern, tables)))
                continue
            self._are_all_of_facts = False
            if pattern.how == EXACT:
                self._exact.setdefault(known_as(pattern.exact), index)
            elif pattern.how == NETWORK:
                assert pattern.network is not None  # noqa: S101 - of these it never is
                self._networks.put(pattern.network, index)
            elif pattern.how == HOURS:
                self._hours.append((index, *pattern.hours))
            elif pattern.how == GLOB:
                self._tried.add_glob(index, pattern)
            else:
                self._tried.add_expression(index, pattern)
        # Addresses come again and again, and reading one takes ten times as long as all the rest.
        self._of_address = lru_cache(REMEMBERED_ADDRESSES)(self._networks.first_of_text)

    def _table(self, pattern: Pattern, tables: Mapping[str, Table] | None) -> TableOfKind | None:
        """What ``pattern`` asks; None: how old a date is."""
        if pattern.how == AGE:
            self.asks_facts = True
            return None
        table = (tables or {}).get(pattern.table) or Silent(pattern.table)
        self.asks_facts = self.asks_facts or table.asks_facts
        return table.of_kind(self._kind)

    def first(self, value: str, facts: Facts = NO_FACTS) -> int:
        """The index of the first pattern that ``value`` matches, as far as ``facts`` are known; -1: it matches none."""
        return self.first_and_said(value, fold(value, self._kind), facts)[0]

    def first_and_said(self, value: str, folded: str, facts: Facts) -> tuple[int, str]:
        """As :meth:`first`, of a ``value`` that :func:`fold` has ``folded``, and what the table of the pattern says."""
        found = -1 if self._are_all_of_facts else self.first_by_itself(folded)
        for one in self._of_facts:
            if 0 <= found < one.index:
                break
            table = one.table
            if table is None:
                if _is_of_age(value, one.age, facts.now):
                    return one.index, ""
            elif value:
                said = table.find(folded, facts)
                if said is not None and self._is_meant(one, value, said):
                    return one.index, said
        return found, ""

    def first_network(self, network: Network) -> int:
        """The index of the first pattern by itself that all of ``network`` matches; -1: none does."""
        return self._networks.first(network)

    def first_by_itself(self, folded: str) -> int:
        """As :meth:`first`, of a value that is ``folded``, where no pattern depends on anything else."""
        if self._is_time:
            return self._first_hours(folded)
        if self._is_address and folded:
            if len(folded) <= MOST_ADDRESS:
                return self._of_address(folded)
            return self._networks.first_of_text(folded)
        found = self._exact.get(known_as(folded), -1)
        return self._tried.first(folded, found) if self._tried.are_any else found

    def _is_meant(self, one: _OfFacts, value: str, said: str) -> bool:
        """Whether a pattern matches what its table says of ``value``."""
        if one.says:
            return said == one.exact or folded_name(said) == one.exact
        if not one.gives_limits or self._limits is None or self._limits.read(said) is not None:
            return True
        if self._no_limits is not None:
            self._no_limits(one.name, value, said)
        return False

    def _first_hours(self, value: str) -> int:
        minute = int(value[:2]) * 60 + int(value[3:5])
        for index, begin, end in self._hours:
            if begin <= minute < end if begin < end else minute >= begin or minute < end:
                return index
        return -1


def _network_in(text: str) -> Network | None:
    """The address or network that ``text`` writes; None where it writes none."""
    if len(text) > MOST_ADDRESS:
        return None
    if "/" not in text:
        return parse_address(text)
    try:
        return parse_network(text)
    except ValueError:
        return None


def _is_of_age(value: str, age: int, now: float) -> bool:
    """Whether the date ``value`` is more than ``age`` seconds before ``now``, or less where that is negative."""
    moment = moment_of(value)
    if moment is None:
        return False
    return now - moment < -age if age < 0 else now - moment > age


def known_as(folded: str) -> str:
    """What stands for ``folded`` in an id: long ones are shortened there."""
    return folded if len(folded) <= MOST_NAME else bounded(folded)
