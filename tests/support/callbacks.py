"""Whoever waits for a verdict, or for an answer, as a function that gets it."""

from __future__ import annotations

from collections.abc import Callable

from policyd_rate_limit.domain.charge import Verdict, Waiting
from policyd_rate_limit.domain.outcome import Outcome
from policyd_rate_limit.service import Asking


class Concluding(Waiting):
    """Calls ``tell`` with the verdict."""

    def __init__(self, tell: Callable[[Verdict | Exception], object]) -> None:
        self._tell = tell

    def conclude(self, result: Verdict | Exception) -> None:
        self._tell(result)


class Answering(Asking):
    """Calls ``tell`` with the action."""

    def __init__(self, tell: Callable[[str | None], object]) -> None:
        self._tell = tell

    def answer(self, outcome: Outcome) -> None:
        self._tell(outcome.action)
