"""Whom a rule with a key of its own charges, and within which limits."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counting import RECIPIENTS
from policyd_rate_limit.domain.identity import IDS_AT_ONCE, Charged, Charging, id_of_key, parse_network
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.domain.rules.attributes import ADDRESS
from policyd_rate_limit.domain.rules.facts import NO_FACTS
from policyd_rate_limit.domain.rules.patterns import LIMITS_OF_TABLE, Patterns, asks_facts
from policyd_rate_limit.domain.rules.tables import limits_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.facts import Facts
    from policyd_rate_limit.domain.rules.keys import Key
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.domain.rules.tables import Table


class KeyedSubjects(Charging):
    """``key`` says who shares a counter; ``limits`` hold for each, unless one of ``overrides`` is the first to match.

    The patterns of the overrides are those of :meth:`Key.compared_as`; one of :data:`LIMITS_OF_TABLE` has the limits
    that its table gives, in ``unit``. ``heed`` is told of each window of such that is longer than all before, in
    seconds, before it is used. ``no_limits`` is told where the table gives none: its name, the id, what it says.
    ``pause`` is called now and then while many overrides are looked at, so that who shares
    the interpreter runs meanwhile.
    """

    def __init__(
        self,
        key: Key,
        limits: Limits,
        overrides: Sequence[tuple[Pattern, Limits]],
        pause: Callable[[], object] | None = None,
        *,
        tables: Mapping[str, Table] | None = None,
        unit: str = RECIPIENTS,
        heed: Callable[[int], object] | None = None,
        no_limits: Callable[[str, str, str], object] | None = None,
    ) -> None:
        self._pause = pause
        self.key = key
        self.limits = limits
        self.overrides = tuple(overrides)
        self._of_addresses = key.compared_as() == ADDRESS
        self._tables = tables or {}
        self._unit = unit
        self._heed = heed
        self._asks_for_limits = False
        self._longest = longest_of(limits)
        self._longest_told = 0  # of what tables have given
        are_limits = partial(_are_limits, unit)
        self._patterns = Patterns(self._paced_patterns(), key.compared_as(), self._tables, are_limits, no_limits)

    def charged(self, request: Request) -> Charged | None:
        key = self.key.of(request)
        return Charged(key, self.limits_of_key(key, request.facts)) if key else None

    def limits_of_key(self, key: str, facts: Facts = NO_FACTS) -> Limits:
        first = self._override_of(key, facts)
        if first < 0:
            return self.limits
        pattern, limits = self.overrides[first]
        return limits if pattern.how != LIMITS_OF_TABLE else self._told(pattern, key, facts)

    def pattern_of_key(self, key: str, facts: Facts = NO_FACTS) -> Pattern | None:
        """The pattern of the override that gives ``key`` its limits; None: none does."""
        first = self._override_of(key, facts)
        return None if first < 0 else self.overrides[first][0]

    def _told(self, pattern: Pattern, key: str, facts: Facts) -> Limits:
        """The limits that the table of ``pattern`` gives to ``key``."""
        said = self._tables[pattern.table].find(id_of_key(key), self.key.compared_as(), facts)
        limits = limits_in(said or "", self._unit) or ()
        longest = longest_of(limits)
        if longest > self._longest_told:
            self._longest_told = longest
            if self._heed is not None:
                self._heed(longest)
        return limits

    def _override_of(self, key: str, facts: Facts) -> int:
        """The index of the override that counts for ``key``; -1: none does."""
        if not self.overrides:
            return -1
        name = id_of_key(key)
        if not self._of_addresses:
            return self._patterns.first(name, facts)
        with contextlib.suppress(ValueError):  # a database may hold anything
            return self._patterns.first_network(parse_network(name), facts)  # in an override when all of it is
        return -1

    @property
    def asks_facts(self) -> bool:
        return self._asks_for_limits or self.key.asks_facts

    @property
    def keep_seconds(self) -> int:
        return self.longest if self._asks_for_limits else 0

    def keys_of_id(self, name: str) -> tuple[str, ...]:
        return self.key.written(name)

    @property
    def key_text(self) -> str:
        return self.key.text

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.key.kinds

    @property
    def longest(self) -> int:
        """The longest window in seconds, 0 where there is none."""
        return max(self._longest, self._longest_told)

    def may_look_back_further(self, before: Charging) -> bool:
        assert isinstance(before, KeyedSubjects)  # noqa: S101 - rules of one name are of one class
        is_as_before = self.limits == before.limits and len(self.overrides) == len(before.overrides)
        if is_as_before and not self._asks_for_limits:
            mine, others = self._paced(), iter(before.overrides)
            if all(one == next(others) for one in mine):
                return False
        shortest = longest_of(before.limits)
        for _, limits in before._paced():
            shortest = min(shortest, longest_of(limits))
        return self.longest > shortest

    def _paced_patterns(self) -> Iterator[Pattern]:
        for pattern, limits in self._paced():
            if asks_facts(pattern):
                self._asks_for_limits = True
            self._longest = max(self._longest, longest_of(limits))
            yield pattern

    def _paced(self) -> Iterator[tuple[Pattern, Limits]]:
        """The overrides; others may run now and then."""
        for count, override in enumerate(self.overrides):
            if count % IDS_AT_ONCE == 0 and self._pause is not None:
                self._pause()
            yield override


def _are_limits(unit: str, text: str) -> bool:
    return limits_in(text, unit) is not None
