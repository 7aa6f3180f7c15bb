"""The store's thread: what it is fed, in which batches, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
import uvloop

from policyd_rate_limit.domain.charge import Charge, Demand, Usage, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.storage import pace as pace_module
from policyd_rate_limit.storage import worker as worker_module
from policyd_rate_limit.storage.base import Commit, Decided
from policyd_rate_limit.storage.worker import Worker
from support.callbacks import Concluding

PATIENCE = 20.0  # seconds, for a machine that is very busy
RARELY = 3600.0


def demand(number: int) -> Demand:
    return Demand((Charge("k", "", number, (Limit(1, 1),)),))


def usage_of(demand: Demand) -> Usage:
    charge = demand.charges[0]
    return Usage(charge.key, charge.limits[0], charge.cost, 0)


class Store:
    """Admits everything, at the gates that are open; remembers who called what, and in which thread."""

    prepares = False

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

    def prepare(self, demands: Sequence[Demand]) -> Commit | Decided | None:
        assert threading.get_ident() not in self.threads
        if "prepare" in self.fails:
            raise self.fails["prepare"]
        return partial(self.admit, demands) if self.prepares else None

    def admit(self, demands: Sequence[Demand]) -> list[Verdict]:
        costs = [demand.charges[0].cost for demand in demands]
        self.batches.append(costs)
        self._call("admit")
        return [Verdict(True, charged=cost) for cost in costs]

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        self._call("explain")
        return [(usage_of(demand),) for demand in demands]

    def maintain(self) -> None:
        self.maintained += 1
        self._call("maintain")

    def close(self) -> None:
        self._call("close")


class World:
    """A worker, its store, and the results in the order in which they came."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.worker = Worker(self.store, asyncio.get_running_loop())
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

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)

    async def start(self) -> None:
        """With the first maintenance done."""
        self.worker.start()
        await self.until(lambda: self.store.maintained and not self.worker._running)

    async def start_paced(self, enough: int) -> None:
        """With a first batch answered, of demand 1; what comes next waits until there is ``enough``, or for a while."""
        await self.start()
        self.submit(1)
        await self.until(lambda: self.answered == [1])
        self.worker.pace.enough = enough

    async def busy_with(self, number: int) -> None:
        """The store has ``number`` in hand, until its gate opens."""
        self.store.gates["admit"].clear()
        self.submit(number)
        await self.until(lambda: self.store.batches[-1:] == [[number]])


@pytest.fixture(params=["waiting", "preparing"])
def _prepares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test with a store that decides in its thread, and with one that decides in the event loop."""
    monkeypatch.setattr(Store, "prepares", request.param == "preparing")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _prepares: None
) -> Callable[[Coroutine[Any, Any, None]], None]:
    monkeypatch.setattr(worker_module, "MAINTENANCE_SECONDS", RARELY)
    return asyncio.run if request.param == "asyncio" else uvloop.run


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_an_idle_store_gets_a_demand_at_once(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        for number in (1, 2, 3):
            world.submit(number)
            await world.until(lambda: len(world.answered) == world.submitted)
        assert world.store.batches == [[1], [2], [3]]
        await world.worker.stop()

    run(scenario())


def test_what_needs_no_commit_does_not_go_to_the_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Store, demands: Sequence[Demand]) -> list[Verdict]:
        return [Verdict(False, "k", Limit(1, 1)) for _ in demands]

    async def scenario() -> None:
        world = World()
        await world.start()
        monkeypatch.setattr(Store, "prepare", prepare)
        for numbers in ((1,), (2, 3), (4,)):
            world.submit(*numbers)
            world.worker._maintain()
            await world.until(lambda: len(world.answered) == world.submitted)
        assert world.answered == [1, 2, 3, 4]
        await world.until(lambda: world.store.maintained == 4)
        assert world.store.calls == ["open", *["maintain"] * 4]
        await world.worker.stop()

    run(scenario())


def test_batches_form_while_the_store_is_busy(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.submit(2, 3, 4)
        await asyncio.sleep(0)
        world.submit(5)
        assert not world.results
        world.store.gates["admit"].set()
        await world.until(lambda: len(world.results) == 5)
        assert world.store.batches == [[1], [2, 3, 4, 5]]
        assert world.results == [(number, Verdict(True, charged=number)) for number in range(1, 6)]
        await world.worker.stop()

    run(scenario())


class Deciding(Store):
    """Decides at once, and refuses odd numbers; an admission waits for the gate of ``admit``."""

    def prepare(self, demands: Sequence[Demand]) -> Commit | Decided | None:
        costs = [demand.charges[0].cost for demand in demands]
        verdicts = [Verdict(False, "k") if cost % 2 else Verdict(True, charged=cost) for cost in costs]

        def commit() -> list[Verdict]:
            self.batches.append(costs)
            self._call("admit")
            return verdicts

        return Decided(verdicts, commit)


def test_a_refusal_does_not_wait_for_the_disk(run: Run) -> None:
    async def scenario() -> None:
        world = World(Deciding())
        await world.start()
        world.store.gates["admit"].clear()
        world.submit(1, 2, 3, 4)
        await world.until(lambda: world.answered == [1, 3])
        assert world.results == [(1, Verdict(False, "k")), (3, Verdict(False, "k"))]
        world.store.gates["admit"].set()
        await world.until(lambda: len(world.results) == 4)
        assert world.results[2:] == [(2, Verdict(True, charged=2)), (4, Verdict(True, charged=4))]
        assert world.store.batches == [[1, 2, 3, 4]]
        await world.worker.stop()

    run(scenario())


def test_an_admission_whose_commit_fails_beside_refusals(run: Run) -> None:
    async def scenario() -> None:
        world = World(Deciding())
        await world.start()
        world.store.fails["admit"] = failure = StoreUnavailable("gone")
        world.submit(1, 2, 3, 4)
        await world.until(lambda: len(world.results) == 4)
        refused = Verdict(False, "k")
        assert world.results == [(1, refused), (3, refused), (2, failure), (4, failure)]
        await world.worker.stop()

    run(scenario())


def test_a_batch_waits_for_more_until_there_are_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "DISTANCE_SECONDS", RARELY)

    async def scenario() -> None:
        world = World()
        await world.start_paced(4)
        for number in (2, 3, 4):
            world.submit(number)
            await asyncio.sleep(0.01)
        assert world.store.batches == [[1]]
        world.submit(5, 6)
        await world.until(lambda: world.answered == [1, 2, 3, 4, 5, 6])
        assert world.store.batches == [[1], [2, 3, 4, 5, 6]]
        await world.worker.stop()

    run(scenario())


def test_a_batch_waits_for_a_moment_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "DISTANCE_SECONDS", 0.05)

    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.worker.pace.enough = 4
        world.submit(2)
        world.worker._maintain()
        world.store.gates["admit"].set()
        await world.until(lambda: world.answered == [1, 2])
        assert world.store.batches == [[1], [2]]
        await world.until(lambda: world.store.maintained == 2)
        await world.worker.stop()

    run(scenario())


def test_what_comes_while_all_rest_is_read_before_the_batch_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "DISTANCE_SECONDS", 0.3)

    async def scenario() -> None:
        world = World()
        await world.start_paced(4)
        world.worker.pace._rate = 1.0
        ours, theirs = socket.socketpair()
        reads: list[float] = []

        def read() -> None:
            reads.append(asyncio.get_running_loop().time())
            world.submit(*ours.recv(10))

        asyncio.get_running_loop().add_reader(ours, read)
        world.submit(2)
        for number in (3, 4):
            threading.Timer(0.05 * number, theirs.send, [bytes([number])]).start()
        await world.until(lambda: world.answered == [1, 2, 3, 4])
        assert world.store.batches == [[1], [2, 3, 4]]
        assert len(reads) == 1
        asyncio.get_running_loop().remove_reader(ours)
        ours.close()
        theirs.close()
        await world.worker.stop()

    run(scenario())


def test_a_batch_that_waits_does_not_keep_the_worker_from_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "DISTANCE_SECONDS", RARELY)

    async def scenario() -> None:
        world = World()
        await world.start_paced(4)
        world.submit(2)
        await world.until(lambda: world.worker._delayed)
        await world.worker.stop()
        # Its moment comes all the same.
        monkeypatch.setattr(pace_module, "DISTANCE_SECONDS", 0.0)
        world.worker._go_on()
        assert world.worker.batched == 1
        assert world.store.batches == [[1]]
        assert world.store.calls[-1] == "close"

    run(scenario())


def test_demands_wait_for_a_store_that_is_slow_to_open(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        world.store.gates["open"].clear()
        world.worker.start()
        world.submit(1, 2)
        await world.until(lambda: world.store.calls == ["open"])
        assert not world.results
        world.store.gates["open"].set()
        await world.until(lambda: world.answered == [1, 2])
        await world.worker.stop()

    run(scenario())


def test_a_batch_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MOST_DEMANDS", 3)

    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(0)
        world.submit(*range(1, 8))
        world.store.gates["admit"].set()
        await world.until(lambda: len(world.results) == 8)
        assert world.store.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
        assert world.answered == list(range(8))
        await world.worker.stop()

    run(scenario())


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreFull("full"), ValueError("a fault of ours")])
def test_an_error_reaches_all_who_wait_and_ends_nothing(run: Run, error: Exception) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.store.fails["admit"] = error
        world.submit(2, 3)
        world.store.gates["admit"].set()
        await world.until(lambda: len(world.results) == 3)
        assert world.results == [(1, error), (2, error), (3, error)]
        del world.store.fails["admit"]
        world.submit(4)
        await world.until(lambda: world.results[-1] == (4, Verdict(True, charged=4)))
        await world.worker.stop()

    run(scenario())


def test_an_answer_that_fails_keeps_nobody_from_theirs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_result: Verdict | Exception) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.worker.submit(demand(2), Concluding(fails))
        world.submit(3)
        world.store.gates["admit"].set()
        await world.until(lambda: world.answered == [1, 3])
        world.submit(4)
        await world.until(lambda: world.answered == [1, 3, 4])
        await world.worker.stop()

    run(scenario())
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_demand_may_be_submitted_from_within_an_answer(run: Run) -> None:
    """As when an answer makes room for the next request of a connection."""

    async def scenario() -> None:
        world = World()
        await world.start()

        def again(number: int) -> None:
            world.results.append((number, Verdict(True)))
            if number < 20:
                world.worker.submit(demand(number + 1), Concluding(lambda _result: again(number + 1)))

        again(0)
        await world.until(lambda: world.answered == list(range(21)))
        assert world.store.batches == [[number] for number in range(1, 21)]
        await world.worker.stop()

    run(scenario())


def test_maintenance_comes_when_nothing_is_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MAINTENANCE_SECONDS", 0.002)

    async def scenario() -> None:
        world = World()
        world.worker.start()
        await world.until(lambda: world.store.maintained >= 5)
        assert not world.store.batches
        await world.worker.stop()
        maintained = world.store.maintained
        await asyncio.sleep(0.01)
        assert world.store.maintained == maintained

    run(scenario())


def test_maintenance_comes_under_load(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "MAINTENANCE_SECONDS", 0.002)

    async def scenario() -> None:
        world = World()
        world.worker.start()
        loaded = True

        def again(_result: object = None) -> None:
            if loaded:
                world.worker.submit(demand(1), Concluding(again))

        for _ in range(10):
            again()
        await world.until(lambda: world.store.maintained >= 5 and len(world.store.batches) > 5)
        loaded = False
        await world.worker.stop()

    run(scenario())


def test_answers_do_not_wait_for_the_maintenance_of_their_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.submit(2)
        world.worker._maintain()
        world.store.gates["maintain"].clear()
        world.store.gates["admit"].set()
        await world.until(lambda: world.answered == [1, 2])
        await world.until(lambda: world.store.maintained == 2)
        world.submit(3)
        world.store.gates["maintain"].set()
        await world.until(lambda: world.answered == [1, 2, 3])
        assert world.store.calls == ["open", "maintain", "admit", "admit", "maintain", "admit"]
        await world.worker.stop()

    run(scenario())


def test_an_idle_store_explains_at_once(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.explain(1, 2)
        await world.until(lambda: len(world.explained) == 2)
        assert world.explained == [(usage_of(demand(number)),) for number in (1, 2)]
        assert not world.store.batches
        await world.worker.stop()

    run(scenario())


def test_no_answer_waits_for_an_explanation(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.explain(7)
        world.submit(2)
        world.store.gates["explain"].clear()
        world.store.gates["admit"].set()
        await world.until(lambda: world.answered == [1, 2])
        assert not world.explained
        world.store.gates["explain"].set()
        await world.until(lambda: world.explained == [(usage_of(demand(7)),)])
        assert world.store.calls == ["open", "maintain", "admit", "admit", "explain"]
        await world.worker.stop()

    run(scenario())


def test_what_cannot_be_explained_is_told_as_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_usages: tuple[Usage, ...]) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        world = World()
        await world.start()
        world.store.fails["explain"] = ValueError("no idea")
        world.explain(1)
        world.submit(2)
        await world.until(lambda: world.explained == [()] and world.answered == [2])
        del world.store.fails["explain"]
        world.worker.explain(demand(3), fails)
        world.explain(4)
        await world.until(lambda: world.explained[1:] == [(usage_of(demand(4)),)])
        await world.worker.stop()

    run(scenario())
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ValueError, ZeroDivisionError]


def test_whoever_waits_for_an_explanation_is_told_at_the_end(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        world.explain(7)
        stopping = asyncio.create_task(world.worker.stop())
        await asyncio.sleep(0.01)
        world.store.gates["admit"].set()
        await stopping
        assert world.explained == [()]

    run(scenario())


@pytest.mark.parametrize("step", ["open", "maintain", "close"])
def test_a_step_that_fails_is_logged_and_ends_nothing(run: Run, step: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world = World()
        world.store.fails[step] = ValueError(f"no {step}")
        world.worker.start()
        world.submit(1)
        await world.until(lambda: world.answered == [1])
        await world.worker.stop()
        assert world.store.calls[-1] == "close"

    run(scenario())
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == [f"no {step}"]


def test_all_of_the_store_lives_in_one_thread_of_its_own(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        world.submit(1)
        await world.until(lambda: world.answered == [1])
        await world.worker.stop()
        assert world.store.calls == ["open", "maintain", "admit", "close"]
        assert len(world.store.threads) == 1
        assert threading.get_ident() not in world.store.threads

    run(scenario())


def test_stop_finishes_what_is_in_hand(run: Run) -> None:
    async def scenario() -> None:
        world = World()
        await world.start()
        await world.busy_with(1)
        stopping = asyncio.create_task(world.worker.stop())
        await asyncio.sleep(0.01)
        assert not stopping.done()
        assert not world.results
        world.store.gates["admit"].set()
        await stopping
        # The answer came before the end, and nothing is called after it.
        assert world.results == [(1, Verdict(True, charged=1))]
        assert world.store.calls[-1] == "close"

    run(scenario())
