"""Whom a rule with a key of its own charges, and within which limits."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.identity import IDS_AT_ONCE, Charged, Charging, parse_network
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.domain.rules.attributes import ADDRESS
from policyd_rate_limit.domain.rules.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.keys import Key
    from policyd_rate_limit.domain.rules.patterns import Pattern


class KeyedSubjects(Charging):
    """``key`` says who shares a counter; ``limits`` hold for each, unless one of ``overrides`` is the first to match.

    The patterns of the overrides are those of :meth:`Key.compared_as`. ``pause`` is called now and then while many of
    them are looked at, so that who shares the interpreter runs meanwhile.
    """

    def __init__(
        self,
        key: Key,
        limits: Limits,
        overrides: Sequence[tuple[Pattern, Limits]],
        pause: Callable[[], object] | None = None,
    ) -> None:
        self._pause = pause
        self.key = key
        self.limits = limits
        self.overrides = tuple(overrides)
        self._of_addresses = key.compared_as() == ADDRESS
        self._patterns = Patterns(self._paced_patterns(), key.compared_as())

    def charged(self, request: Request) -> Charged | None:
        key = self.key.of(request)
        return Charged(key, self.limits_of_key(key)) if key else None

    def limits_of_key(self, key: str) -> Limits:
        first = self._override_of(key)
        return self.limits if first < 0 else self.overrides[first][1]

    def pattern_of_key(self, key: str) -> Pattern | None:
        """The pattern of the override that gives ``key`` its limits; None: none does."""
        first = self._override_of(key)
        return None if first < 0 else self.overrides[first][0]

    def _override_of(self, key: str) -> int:
        """The index of the override that counts for ``key``; -1: none does."""
        if not self.overrides:
            return -1
        name = key.partition(":")[2]
        if not self._of_addresses:
            return self._patterns.first(name)
        with contextlib.suppress(ValueError):  # a database may hold anything
            return self._patterns.first_network(parse_network(name))  # which is in an override when all of it is
        return -1

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
        longest = longest_of(self.limits)
        for _, limits in self._paced():
            longest = max(longest, longest_of(limits))
        return longest

    def may_look_back_further(self, before: Charging) -> bool:
        assert isinstance(before, KeyedSubjects)  # noqa: S101 - rules of one name are of one class
        if self.limits == before.limits and len(self.overrides) == len(before.overrides):
            mine, others = self._paced(), iter(before.overrides)
            if all(one == next(others) for one in mine):
                return False
        shortest = longest_of(before.limits)
        for _, limits in before._paced():
            shortest = min(shortest, longest_of(limits))
        return self.longest > shortest

    def _paced_patterns(self) -> Iterator[Pattern]:
        for pattern, _ in self._paced():
            yield pattern

    def _paced(self) -> Iterator[tuple[Pattern, Limits]]:
        """The overrides; others may run now and then."""
        for count, override in enumerate(self.overrides):
            if count % IDS_AT_ONCE == 0 and self._pause is not None:
                self._pause()
            yield override
