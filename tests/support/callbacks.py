"""Abstract classes with one method of interest, made of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from policyd_rate_limit.domain.charge import Verdict, Waiting
from policyd_rate_limit.domain.outcome import Outcome
from policyd_rate_limit.service import Asking
from policyd_rate_limit.storage.batch import Batch


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


class Finishing(Batch):
    """Calls ``finish`` for the verdicts; ``verdicts``: those that are known before."""

    def __init__(
        self, finish: Callable[[], list[Verdict]], verdicts: Sequence[Verdict] = (), *, is_done: bool = False
    ) -> None:
        self._finish = finish
        self.verdicts = verdicts
        self.is_done = is_done

    def finish(self) -> list[Verdict]:
        return self._finish()
