"""Whom a rule with a key of its own charges, and within which limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charging import Charged, Charging
from policyd_rate_limit.domain.counting import RECIPIENTS
from policyd_rate_limit.domain.identity import IDS_AT_ONCE
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.domain.rules.attributes import fold
from policyd_rate_limit.domain.rules.facts import NO_FACTS
from policyd_rate_limit.domain.rules.matching import Patterns
from policyd_rate_limit.domain.rules.patterns import LIMITS_OF_TABLE, asks_facts
from policyd_rate_limit.domain.rules.tables import LimitsOfTexts

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
        self._limits_may_change = False
        self._longest = longest_of(limits)
        self._told = LimitsOfTexts(unit, heed)
        self._are_limits_told = False
        self._kind = key.compared_as()
        self._patterns = Patterns(self._paced_patterns(), self._kind, tables, self._told, no_limits)

    def charged(self, request: Request) -> Charged | None:
        kind, name = self.key.kind_and_id(request)
        if not kind:
            return None
        limits = self.limits
        if self.overrides:
            # An id is in its one spelling already, unless several are written as one.
            folded = fold(name, self._kind) if self.key.is_combination else name
            index, said = self._patterns.first_and_said(name, folded, request.facts)
            limits = self._limits_of(index, said)
        return Charged(f"{kind}:{name}", limits)

    def limits_of_key(self, key: str, facts: Facts = NO_FACTS) -> Limits:
        index, said = self._override_of(key, facts)
        return self._limits_of(index, said)

    def pattern_of_key(self, key: str, facts: Facts = NO_FACTS) -> Pattern | None:
        """The pattern of the override that gives ``key`` its limits; None: none does."""
        index, _ = self._override_of(key, facts)
        return None if index < 0 else self.overrides[index][0]

    def _override_of(self, key: str, facts: Facts) -> tuple[int, str]:
        """The index of the override that counts for ``key``, and what its table says; -1: none does."""
        name = id_of_key(key)  # a database may hold anything
        return self._patterns.first_and_said(name, fold(name, self._kind), facts)

    def _limits_of(self, index: int, said: str) -> Limits:
        """The limits of the override with that ``index``, of whose table this is ``said``; -1: there is none."""
        if index < 0:
            return self.limits
        pattern, limits = self.overrides[index]
        if self._are_limits_told and pattern.how == LIMITS_OF_TABLE:
            return self._told.read(said) or ()
        return limits

    @property
    def asks_facts(self) -> bool:
        return self._patterns.asks_facts or self.key.asks_facts

    @property
    def limits_may_change(self) -> bool:
        return self._limits_may_change

    @property
    def keep_seconds(self) -> int:
        return self.longest if self._limits_may_change else 0

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
        return max(self._longest, self._told.longest)

    def may_look_back_further(self, before: Charging) -> bool:
        assert isinstance(before, KeyedSubjects)  # noqa: S101 - rules of one name are of one class
        is_as_before = self.limits == before.limits and len(self.overrides) == len(before.overrides)
        if is_as_before and not self._limits_may_change:
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
                self._limits_may_change = True
                self._are_limits_told = self._are_limits_told or pattern.how == LIMITS_OF_TABLE
            self._longest = max(self._longest, longest_of(limits))
            yield pattern

    def _paced(self) -> Iterator[tuple[Pattern, Limits]]:
        """The overrides; others may run now and then."""
        for count, override in enumerate(self.overrides):
            if count % IDS_AT_ONCE == 0 and self._pause is not None:
                self._pause()
            yield override
