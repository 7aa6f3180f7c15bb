"""Conditions: to which mails a rule applies, by the attributes of their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.rules.matching import Patterns
from policyd_rate_limit.domain.rules.tables import asks_facts_for, attribute_in, kind_of_attribute, reader_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.domain.rules.tables import Table

MOST_CONDITIONS: Final = 32
"""The most attributes that one rule looks at in ``match``, and in ``unless``."""


class Condition:
    """One attribute, or what one of ``tables`` says of one, has a value that one of its patterns matches."""

    def __init__(self, attribute: str, patterns: Sequence[Pattern], tables: Mapping[str, Table] | None = None) -> None:
        self.attribute = attribute
        self.patterns = tuple(patterns)
        self._patterns = Patterns(patterns, kind_of_attribute(attribute), tables)
        self.asks_facts = self._patterns.asks_facts or asks_facts_for(attribute, tables or {})
        self._read = reader_of(attribute, tables or {})

    def holds(self, request: Request) -> bool:
        """Whether ``request`` has such a value."""
        return self._patterns.first(self._read(request), request.facts) >= 0

    def value(self, request: Request) -> str:
        """The value that is looked at in ``request``."""
        return self._read(request)


class Conditions:
    """Alternatives, of each of which all conditions hold; without any of them it never holds."""

    def __init__(self, alternatives: Sequence[Sequence[Condition]]) -> None:
        self.alternatives = tuple(map(tuple, alternatives))
        self.asks_facts = any(one.asks_facts for conditions in alternatives for one in conditions)

    @property
    def attributes(self) -> frozenset[str]:
        """All attributes of a request that it looks at, if only to ask a table about them."""
        return frozenset(attribute_in(one.attribute) for conditions in self.alternatives for one in conditions)

    def hold(self, request: Request) -> bool:
        """Whether all conditions of one alternative hold; all are looked at where something has to be asked first."""
        questions = request.facts.questions
        for conditions in self.alternatives:
            do_all = True
            for condition in conditions:
                if not condition.holds(request):
                    do_all = False
                    if not questions:
                        break
            if do_all:
                return True
        return False

    def first_failing(self, request: Request) -> tuple[Condition, ...]:
        """Why they do not hold: the first condition of each alternative that does not; none where one holds."""
        found: list[Condition] = []
        for conditions in self.alternatives:
            failing = [condition for condition in conditions if not condition.holds(request)]
            if not failing:
                return ()
            found.append(failing[0])
        return tuple(found)

    def first_holding(self, request: Request) -> tuple[Condition, ...]:
        """Why they hold: the conditions of the first alternative all of which do; none where they do not hold."""
        for conditions in self.alternatives:
            holding = [condition for condition in conditions if condition.holds(request)]
            if len(holding) == len(conditions):
                return conditions
        return ()
