"""A worker that a test gives demands to."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Generic, TypeVar

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.engine.worker import Decider, Worker
from support.callbacks import Concluding

RARELY = 3600.0

S = TypeVar("S", bound=Decider)


def demand(number: int) -> Demand:
    """A demand that is known by its cost."""
    return Demand((Charge("k", number, (Limit(1, 1),)),))


class FedWorker(Generic[S]):
    """A worker, its store, and the results in the order in which they came."""

    def __init__(self, store: S, maintenance_seconds: float = RARELY) -> None:
        self.store = store
        self.worker = Worker(store, asyncio.get_running_loop(), maintenance_seconds=maintenance_seconds)
        self.submitted = 0
        self.results: list[tuple[int, Verdict | Exception]] = []
        self.explained: list[tuple[Usage, ...]] = []

    def submit(self, *numbers: int) -> None:
        for number in numbers:
            self.submitted += 1
            self.worker.submit(demand(number), Concluding(partial(self._keep, number)))

    def explain(self, *numbers: int) -> None:
        for number in numbers:
            self.worker.explain(demand(number), self.explained.append)

    def _keep(self, number: int, result: Verdict | Exception) -> None:
        self.results.append((number, result))

    @property
    def answered(self) -> list[int]:
        return [number for number, _ in self.results]
