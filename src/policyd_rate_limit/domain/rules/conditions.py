"""Conditions: to which mails a rule applies, by the attributes of their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.rules.attributes import KINDS, OF_FACTS, reader
from policyd_rate_limit.domain.rules.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.patterns import Pattern

MOST_CONDITIONS: Final = 32
"""The most attributes that one rule looks at in ``match``, and in ``unless``."""


class Condition:
    """One attribute has a value that one of its patterns matches."""

    def __init__(self, attribute: str, patterns: Sequence[Pattern]) -> None:
        self.attribute = attribute
        self.patterns = tuple(patterns)
        self._patterns = Patterns(patterns, KINDS[attribute])
        self._read = reader(attribute)

    def holds(self, request: Request) -> bool:
        """Whether ``request`` has such a value."""
        return self._patterns.first(self._read(request)) >= 0

    def value(self, request: Request) -> str:
        """The value that is looked at in ``request``."""
        return self._read(request)


class Conditions:
    """Alternatives, of each of which all conditions hold; without any of them it never holds."""

    def __init__(self, alternatives: Sequence[Sequence[Condition]]) -> None:
        self.alternatives = tuple(map(tuple, alternatives))
        self.asks_facts = any(one.attribute in OF_FACTS for conditions in alternatives for one in conditions)

    @property
    def attributes(self) -> frozenset[str]:
        """All attributes that it looks at."""
        return frozenset(one.attribute for conditions in self.alternatives for one in conditions)

    def hold(self, request: Request) -> bool:
        """Whether all conditions of one alternative hold."""
        for conditions in self.alternatives:
            for condition in conditions:
                if not condition.holds(request):
                    break
            else:
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
