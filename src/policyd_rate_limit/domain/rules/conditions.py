"""Conditions: to which mails a rule applies, by the attributes of their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.rules.attributes import KINDS, TIME, reader
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
        kind = KINDS[attribute]
        self.attribute = attribute
        self.patterns = tuple(patterns)
        self._patterns = Patterns(patterns, kind)
        self._read = None if kind == TIME else reader(attribute)

    def holds(self, request: Request, time_of_day: str) -> bool:
        """Whether ``request``, which came at ``time_of_day`` (``22:05``), has such a value."""
        return self._patterns.first(self.value(request, time_of_day)) >= 0

    def value(self, request: Request, time_of_day: str) -> str:
        """The value that is looked at in ``request``, which came at ``time_of_day``."""
        read = self._read
        return time_of_day if read is None else read(request)


class Conditions:
    """Alternatives, of each of which all conditions hold; without any of them it never holds."""

    def __init__(self, alternatives: Sequence[Sequence[Condition]]) -> None:
        self.alternatives = tuple(map(tuple, alternatives))
        self.looks_at_time = any(one.attribute == "time" for conditions in alternatives for one in conditions)

    @property
    def attributes(self) -> frozenset[str]:
        """All attributes that it looks at."""
        return frozenset(one.attribute for conditions in self.alternatives for one in conditions)

    def hold(self, request: Request, time_of_day: str) -> bool:
        """Whether all conditions of one alternative hold."""
        for conditions in self.alternatives:
            for condition in conditions:
                if not condition.holds(request, time_of_day):
                    break
            else:
                return True
        return False

    def first_failing(self, request: Request, time_of_day: str) -> tuple[Condition, ...]:
        """Why they do not hold: the first condition of each alternative that does not; none where one holds."""
        found: list[Condition] = []
        for conditions in self.alternatives:
            failing = [condition for condition in conditions if not condition.holds(request, time_of_day)]
            if not failing:
                return ()
            found.append(failing[0])
        return tuple(found)

    def first_holding(self, request: Request, time_of_day: str) -> tuple[Condition, ...]:
        """Why they hold: the conditions of the first alternative all of which do; none where they do not hold."""
        for conditions in self.alternatives:
            holding = [condition for condition in conditions if condition.holds(request, time_of_day)]
            if len(holding) == len(conditions):
                return conditions
        return ()
