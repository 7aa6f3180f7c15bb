"""What somebody was shown and has still to confirm, and what they are to be told once: in memory, and bounded."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MINUTES = 15
"""So long somebody may think about what they were shown."""

MOST_PENDING = 1_000
"""Of all that wait, the oldest go."""

MOST_OF_ONE = 50
"""Likewise of one login, which so takes nobody else's place."""


class _Kept(NamedTuple, Generic[T]):
    of: str
    until: float
    what: T


class Pending(Generic[T]):
    """Things that one login, and no other, may take once. ``clock``: a monotonic one, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def keep(self, login: str, what: T) -> str:
        """Keep ``what`` for ``login``; by this it is taken."""
        of_one = [name for name, kept in self._kept.items() if kept.of == login]
        if len(of_one) >= MOST_OF_ONE:
            del self._kept[of_one[0]]
        while len(self._kept) >= MOST_PENDING:
            self._kept.popitem(last=False)
        name = secrets.token_urlsafe(32)
        self._kept[name] = _Kept(login, self._clock() + 60 * MINUTES, what)
        return name

    def take(self, login: str, name: str) -> T | None:
        """What was kept for ``login`` under ``name``; None: there is none, it is another's, or it is too old."""
        kept = self._kept.get(name)
        if kept is None or kept.of != login:
            return None
        del self._kept[name]
        return kept.what if self._clock() < kept.until else None
