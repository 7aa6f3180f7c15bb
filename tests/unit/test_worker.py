"""The store's thread: what it is fed, in which batches, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from policyd_rate_limit.domain.charge import Demand, Usage, Verdict, refusal
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.engine import worker as worker_module
from policyd_rate_limit.storage.engine.pacing import Pace
from support.callbacks import Concluding, Finishing
from support.feeding import RARELY, FedWorker, demand
from support.wait import PATIENCE, until


def usage_of(demand: Demand) -> Usage:
    charge = demand.charges[0]
    return Usage(charge.counter, charge.limits[0], charge.cost, 0)


class Store:
    """Admits everything, at the gates that are open; remembers who called what, and in which thread.

    ``decides_at_once``: only the commit is left to the thread.
    """

    decides_at_once = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.batches: list[list[int]] = []
        self.maintained = 0
        self.threads: set[int] = set()
        self.fails: dict[str, Exception] = {}
        self.gates = {name: threading.Event() for name in ("open", "admit", "explain", "maintain", "close")}
        for gate in self.gates.values():
            gate.set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        assert self.gates[name].wait(PATIENCE)
        if name in self.fails:
            raise self.fails[name]

    def open(self) -> None:
        self._call("open")

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        assert threading.get_ident() not in self.threads
        if "prepare" in self.fails:
            raise self.fails["prepare"]
        costs = [demand.charges[0].cost for demand in demands]
        verdicts = [Verdict((cost,)) for cost in costs]
        return Finishing(partial(self.admit, costs, verdicts), verdicts if self.decides_at_once else ())

    def admit(self, costs: list[int], verdicts: list[Verdict]) -> list[Verdict]:
        self.batches.append(costs)
        self._call("admit")
        return verdicts

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        self._call("explain")
        return [(usage_of(demand),) for demand in demands]

    def maintain(self) -> None:
        self.maintained += 1
        self._call("maintain")

    def close(self) -> None:
        self._call("close")


class GatedWorker(FedWorker[Store]):
    """On a store with gates."""

    def __init__(self, store: Store | None = None, maintenance_seconds: float = RARELY) -> None:
        super().__init__(store or Store(), maintenance_seconds)

    async def start(self) -> None:
        """With the first maintenance done."""
        self.worker.start()
        await until(lambda: self.store.maintained and not self.worker._running)

    async def start_paced(self, pace: Pace) -> None:
        """With a first batch answered, of demand 1; what comes next waits until there are four, or as ``pace`` says."""
        await self.start()
        self.worker.pace = pace
        self.submit(1)
        await until(lambda: self.answered == [1])
        pace.enough = 4

    async def busy_with(self, number: int) -> None:
        """The store has ``number`` in hand, until its gate opens."""
        self.store.gates["admit"].clear()
        self.submit(number)
        await until(lambda: self.store.batches[-1:] == [[number]])


@pytest.fixture(params=["waiting", "deciding"], autouse=True)
def _decides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with a store that decides in its thread, and with one that decides in the event loop."""
    monkeypatch.setattr(Store, "decides_at_once", request.param == "deciding")


async def test_an_idle_store_gets_a_demand_at_once() -> None:
    fed = GatedWorker()
    await fed.start()
    for number in (1, 2, 3):
        fed.submit(number)
        await until(lambda: len(fed.answered) == fed.submitted)
    assert fed.store.batches == [[1], [2], [3]]
    await fed.worker.stop()


async def test_what_needs_no_commit_does_not_go_to_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Store, demands: Sequence[Demand]) -> Batch:
        return Finishing(pytest.fail, [refusal(Limit(1, 1)) for _ in demands], is_done=True)

    fed = GatedWorker()
    await fed.start()
    monkeypatch.setattr(Store, "prepare", prepare)
    for numbers in ((1,), (2, 3), (4,)):
        fed.submit(*numbers)
        fed.worker._maintain()
        await until(lambda: len(fed.answered) == fed.submitted)
    assert fed.answered == [1, 2, 3, 4]
    await until(lambda: fed.store.maintained == 4)
    assert fed.store.calls == ["open", *["maintain"] * 4]
    await fed.worker.stop()


async def test_batches_form_while_the_store_is_busy() -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.submit(2, 3, 4)
    await asyncio.sleep(0)
    fed.submit(5)
    assert not fed.results
    fed.store.gates["admit"].set()
    await until(lambda: len(fed.results) == 5)
    assert fed.store.batches == [[1], [2, 3, 4, 5]]
    assert fed.results == [(number, Verdict((number,))) for number in range(1, 6)]
    await fed.worker.stop()


class Deciding(Store):
    """Decides at once, and refuses odd numbers; an admission waits for the gate of ``admit``."""

    def prepare(self, demands: Sequence[Demand]) -> Batch:
        costs = [demand.charges[0].cost for demand in demands]
        verdicts = [refusal(Limit(1, 1)) if cost % 2 else Verdict((cost,)) for cost in costs]
        return Finishing(partial(self.admit, costs, verdicts), verdicts)


async def test_a_refusal_does_not_wait_for_the_disk() -> None:
    fed = GatedWorker(Deciding())
    await fed.start()
    fed.store.gates["admit"].clear()
    fed.submit(1, 2, 3, 4)
    await until(lambda: fed.answered == [1, 3])
    assert fed.results == [(1, refusal(Limit(1, 1))), (3, refusal(Limit(1, 1)))]
    fed.store.gates["admit"].set()
    await until(lambda: len(fed.results) == 4)
    assert fed.results[2:] == [(2, Verdict((2,))), (4, Verdict((4,)))]
    assert fed.store.batches == [[1, 2, 3, 4]]
    await fed.worker.stop()


async def test_an_admission_whose_commit_fails_beside_refusals() -> None:
    fed = GatedWorker(Deciding())
    await fed.start()
    fed.store.fails["admit"] = failure = StoreUnavailable("gone")
    fed.submit(1, 2, 3, 4)
    await until(lambda: len(fed.results) == 4)
    refused = refusal(Limit(1, 1))
    assert fed.results == [(1, refused), (3, refused), (2, failure), (4, failure)]
    await fed.worker.stop()


async def test_a_batch_waits_for_more_until_there_are_enough() -> None:
    fed = GatedWorker()
    await fed.start_paced(Pace(distance=RARELY))
    for number in (2, 3, 4):
        fed.submit(number)
        await asyncio.sleep(0.01)
    assert fed.store.batches == [[1]]
    fed.submit(5, 6)
    await until(lambda: fed.answered == [1, 2, 3, 4, 5, 6])
    assert fed.store.batches == [[1], [2, 3, 4, 5, 6]]
    await fed.worker.stop()


async def test_a_batch_waits_for_a_moment_only() -> None:
    fed = GatedWorker()
    fed.worker.pace = Pace(distance=0.05)
    await fed.start()
    await fed.busy_with(1)
    fed.worker.pace.enough = 4
    fed.submit(2)
    fed.worker._maintain()
    fed.store.gates["admit"].set()
    await until(lambda: fed.answered == [1, 2])
    assert fed.store.batches == [[1], [2]]
    await until(lambda: fed.store.maintained == 2)
    await fed.worker.stop()


async def test_what_needs_no_batch_is_served_while_one_waits() -> None:
    """Another client's request, metrics, a signal: the event loop goes on."""
    fed = GatedWorker()
    await fed.start_paced(Pace(distance=RARELY))
    fed.submit(2)
    await until(lambda: fed.worker._delayed)
    ours, theirs = socket.socketpair()
    read = asyncio.Event()
    asyncio.get_running_loop().add_reader(ours, read.set)
    theirs.send(b"x")
    await asyncio.wait_for(read.wait(), 10)
    assert fed.store.batches == [[1]]
    asyncio.get_running_loop().remove_reader(ours)
    ours.close()
    theirs.close()
    await fed.worker.stop()


async def test_a_batch_that_waits_does_not_keep_the_worker_from_its_end() -> None:
    fed = GatedWorker()
    await fed.start_paced(Pace(distance=RARELY))
    fed.submit(2)
    await until(lambda: fed.worker._delayed)
    await fed.worker.stop()
    # Its moment comes all the same.
    fed.worker.pace = Pace(distance=0.0)
    fed.worker._go_on()
    assert fed.worker.batched == 1
    assert fed.store.batches == [[1]]
    assert fed.store.calls[-1] == "close"


async def test_demands_wait_for_a_store_that_is_slow_to_open() -> None:
    fed = GatedWorker()
    fed.store.gates["open"].clear()
    fed.worker.start()
    fed.submit(1, 2)
    await until(lambda: fed.store.calls == ["open"])
    assert not fed.results
    fed.store.gates["open"].set()
    await until(lambda: fed.answered == [1, 2])
    await fed.worker.stop()


async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MOST_DEMANDS", 3)

    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(0)
    fed.submit(*range(1, 8))
    fed.store.gates["admit"].set()
    await until(lambda: len(fed.results) == 8)
    assert fed.store.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert fed.answered == list(range(8))
    await fed.worker.stop()


async def test_batches_are_counted_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One demand, two or three, four to seven, and so on: what the metrics tell."""
    monkeypatch.setattr(worker_module, "MOST_DEMANDS", 9)

    fed = GatedWorker()
    await fed.start()
    for size in (1, 2, 3, 4, 7, 8, 9):
        fed.submit(*range(size))
        await until(lambda: len(fed.answered) == fed.submitted)
    assert fed.worker.batched == fed.submitted == 34
    assert fed.worker.batch_sizes == [0, 1, 2, 2, 2]
    await fed.worker.stop()


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreFull("full"), ValueError("a fault of ours")])
async def test_an_error_reaches_all_who_wait_and_ends_nothing(error: Exception) -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.store.fails["admit"] = error
    fed.submit(2, 3)
    fed.store.gates["admit"].set()
    await until(lambda: len(fed.results) == 3)
    assert fed.results == [(1, error), (2, error), (3, error)]
    del fed.store.fails["admit"]
    fed.submit(4)
    await until(lambda: fed.results[-1] == (4, Verdict((4,))))
    await fed.worker.stop()


async def test_an_answer_that_fails_keeps_nobody_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_result: Verdict | Exception) -> None:
        raise ZeroDivisionError

    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.worker.submit(demand(2), Concluding(fails))
    fed.submit(3)
    fed.store.gates["admit"].set()
    await until(lambda: fed.answered == [1, 3])
    fed.submit(4)
    await until(lambda: fed.answered == [1, 3, 4])
    await fed.worker.stop()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_demand_may_be_submitted_from_within_an_answer() -> None:
    """As when an answer makes room for the next request of a connection."""
    fed = GatedWorker()
    await fed.start()

    def again(number: int) -> None:
        fed.results.append((number, Verdict((0,))))
        if number < 20:
            fed.worker.submit(demand(number + 1), Concluding(lambda _result: again(number + 1)))

    again(0)
    await until(lambda: fed.answered == list(range(21)))
    assert fed.store.batches == [[number] for number in range(1, 21)]
    await fed.worker.stop()


async def test_maintenance_comes_when_nothing_is_asked() -> None:
    fed = GatedWorker(maintenance_seconds=0.002)
    fed.worker.start()
    await until(lambda: fed.store.maintained >= 5)
    assert not fed.store.batches
    await fed.worker.stop()
    maintained = fed.store.maintained
    await asyncio.sleep(0.01)
    assert fed.store.maintained == maintained


async def test_maintenance_comes_at_once_where_it_is_to_hurry() -> None:
    """Once before the next turn of it, however often somebody says so."""
    fed = GatedWorker(maintenance_seconds=3600)
    fed.worker.start()
    await until(lambda: fed.store.maintained == 1)
    for _ in range(3):
        fed.worker.hurry()
        await until(lambda: fed.store.maintained == 2)
    await asyncio.sleep(0.01)
    assert fed.store.maintained == 2
    fed.worker._maintain()
    await until(lambda: fed.store.maintained == 3)
    fed.worker.hurry()
    await until(lambda: fed.store.maintained == 4)
    await fed.worker.stop()


async def test_maintenance_comes_under_load() -> None:
    fed = GatedWorker(maintenance_seconds=0.002)
    fed.worker.start()
    loaded = True

    def again(_result: object = None) -> None:
        if loaded:
            fed.worker.submit(demand(1), Concluding(again))

    for _ in range(10):
        again()
    await until(lambda: fed.store.maintained >= 5 and len(fed.store.batches) > 5)
    loaded = False
    await fed.worker.stop()


async def test_answers_do_not_wait_for_the_maintenance_of_their_batch() -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.submit(2)
    fed.worker._maintain()
    fed.store.gates["maintain"].clear()
    fed.store.gates["admit"].set()
    await until(lambda: fed.answered == [1, 2])
    await until(lambda: fed.store.maintained == 2)
    fed.submit(3)
    fed.store.gates["maintain"].set()
    await until(lambda: fed.answered == [1, 2, 3])
    assert fed.store.calls == ["open", "maintain", "admit", "admit", "maintain", "admit"]
    await fed.worker.stop()


async def test_an_idle_store_explains_at_once() -> None:
    fed = GatedWorker()
    await fed.start()
    fed.explain(1, 2)
    await until(lambda: len(fed.explained) == 2)
    assert fed.explained == [(usage_of(demand(number)),) for number in (1, 2)]
    assert not fed.store.batches
    await fed.worker.stop()


async def test_no_answer_waits_for_an_explanation() -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.explain(7)
    fed.submit(2)
    fed.store.gates["explain"].clear()
    fed.store.gates["admit"].set()
    await until(lambda: fed.answered == [1, 2])
    assert not fed.explained
    fed.store.gates["explain"].set()
    await until(lambda: fed.explained == [(usage_of(demand(7)),)])
    assert fed.store.calls == ["open", "maintain", "admit", "admit", "explain"]
    await fed.worker.stop()


async def test_what_cannot_be_explained_is_told_as_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_usages: tuple[Usage, ...]) -> None:
        raise ZeroDivisionError

    fed = GatedWorker()
    await fed.start()
    fed.store.fails["explain"] = ValueError("no idea")
    fed.explain(1)
    fed.submit(2)
    await until(lambda: fed.explained == [()] and fed.answered == [2])
    del fed.store.fails["explain"]
    fed.worker.explain(demand(3), fails)
    fed.explain(4)
    await until(lambda: fed.explained[1:] == [(usage_of(demand(4)),)])
    await fed.worker.stop()
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ValueError, ZeroDivisionError]


async def test_whoever_waits_for_an_explanation_is_told_at_the_end() -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    fed.explain(7)
    stopping = asyncio.create_task(fed.worker.stop())
    await asyncio.sleep(0.01)
    fed.store.gates["admit"].set()
    await stopping
    assert fed.explained == [()]


@pytest.mark.parametrize("step", ["open", "maintain", "close"])
async def test_a_step_that_fails_is_logged_and_ends_nothing(step: str, caplog: pytest.LogCaptureFixture) -> None:
    fed = GatedWorker()
    fed.store.fails[step] = ValueError(f"no {step}")
    fed.worker.start()
    fed.submit(1)
    await until(lambda: fed.answered == [1])
    await fed.worker.stop()
    assert fed.store.calls[-1] == "close"
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [f"no {step}"]


async def test_all_of_the_store_lives_in_one_thread_of_its_own() -> None:
    fed = GatedWorker()
    await fed.start()
    fed.submit(1)
    await until(lambda: fed.answered == [1])
    await fed.worker.stop()
    assert fed.store.calls == ["open", "maintain", "admit", "close"]
    assert len(fed.store.threads) == 1
    assert threading.get_ident() not in fed.store.threads


async def test_stop_finishes_what_is_in_hand() -> None:
    fed = GatedWorker()
    await fed.start()
    await fed.busy_with(1)
    stopping = asyncio.create_task(fed.worker.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    assert not fed.results
    fed.store.gates["admit"].set()
    await stopping
    # The answer came before the end, and nothing is called after it.
    assert fed.results == [(1, Verdict((1,)))]
    assert fed.store.calls[-1] == "close"
