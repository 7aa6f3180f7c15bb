"""Two batches in flight to Redis at once, and everything that can have become of them when the connection breaks.

The commands really go to a server; a session between says which arrive, and which answers come back.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed
from policyd_rate_limit.storage.record import Record
from policyd_rate_limit.storage.redis.keys import LANES
from policyd_rate_limit.storage.redis.node import Command, NodeError, Remedy
from policyd_rate_limit.storage.redis.session import Session
from policyd_rate_limit.storage.redis.source import constants, text
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.stores import Clock, new_memory
from support.demands import demand_of
from support.redis_servers import External, RedisServer
from support.wait import wait_until

HOUR = 3_600
PATIENCE = 20.0
MOST = 10
LIMITS = (Limit(MOST, HOUR),)
FATES = list(itertools.product(("well", "unanswered", "lost"), repeat=LANES))
ALICE, BOB = "user:alice", "user:bob"

Server = RedisServer | External
_prefixes = (f"in-flight{number}" for number in itertools.count())


class Wire:
    """A session whose batches meet with what the test says: ``fates``, for each batch that is sent.

    "well"; "unanswered": it arrives, the answers do not come back; "lost"; "late": it arrives when the test delivers
    it. What is sent again arrives.
    """

    warnings = ()
    is_sending = False

    def __init__(self, session: Session, fates: list[str], late: list[list[Command]]) -> None:
        self._session = session
        self._fates = fates
        self._late = late
        self._unanswered: list[Command] = []
        self.descriptors = session.descriptors
        self.is_broken = False

    def send(self, commands: Sequence[Command]) -> None:
        fate = self._fates.pop(0) if self._fates else "well"
        if fate == "well":
            self._session.send(commands)
            return
        copies = [Command(command.key, *command.arguments) for command in commands]
        for command in commands:
            command.open = True
        self._unanswered += commands
        if fate == "unanswered":
            assert self._session.exchange(copies, _end()) is None
        elif fate == "late":
            self._late.append(copies)

    def take(self) -> None:
        self._session.take()
        self._break()

    def receive(self, commands: Sequence[Command], end: float) -> NodeError | None:
        self._break()
        return self._session.receive(commands, end)

    def _break(self) -> None:
        for command in self._unanswered:
            self.is_broken = True
            command.failure = NodeError("cut", Remedy.RECONNECT)

    def close(self) -> None:
        self._session.close()


def _end() -> float:
    return time.monotonic() + PATIENCE


class FatedStore:
    """A store with a connection, over which the next batches meet with ``fates``."""

    def __init__(self, server: Server) -> None:
        self.clock = Clock()
        self.memory = new_memory(self.clock)
        config = {"url": server.url, "prefix": next(_prefixes)}
        self.store = RedisStore(config, self.memory, longest=HOUR, timeout=PATIENCE, clock=self.clock)
        self.late: list[list[Command]] = []
        self.connect = self.store._link.servers.connect
        self.store.admit((), (), PATIENCE)

    def meet(self, *fates: str) -> None:
        assert self.store._link.session is not None
        self.store._link.session = cast("Session", Wire(self.store._link.session, list(fates), self.late))

    def send(self, *batches: Sequence[Demand]) -> list[Batch]:
        prepared = [self.store.prepare(batch, PATIENCE) for batch in batches]
        assert all(batch is not None and batch.descriptors for batch in prepared)
        return cast("list[Batch]", prepared)

    def conclude(self, in_flight: Sequence[Batch]) -> list[list[Verdict]]:
        """As the worker does: once one cannot be received, it and all behind it are left to the thread."""
        results: list[list[Verdict]] = []
        waits = False
        for batch in in_flight:
            verdicts = None
            while not waits and verdicts is None:
                try:
                    verdicts = batch.poll()
                except NodeError:
                    waits = True
            results.append(batch.finish() if verdicts is None else verdicts)
        return results

    def count(self, key: str) -> int:
        """What lies in the window of ``key`` on the server, and, the same, in memory."""
        [[usage]] = self.store.explain([charge(key, 1)])
        assert self.memory.ledger.windows.usage(key, LIMITS) == (usage.used,)
        return usage.used

    def has_answers_to_second(self) -> bool:
        assert self.store._link.session is not None
        self.store._link.session.take()
        return self.store._in_flight[1].clock.reply is not None

    def deliver_late(self) -> None:
        for commands in self.late:
            with contextlib.closing(self.connect()) as session:
                assert session.exchange(commands, _end()) is None


def charge(key: str, cost: int, mail: str = "", part: str = "", *, settles: bool = False) -> Demand:
    return demand_of((Charge(key, cost, LIMITS),), mail, part, settles)


@pytest.fixture
def fated(server: Server) -> Iterator[FatedStore]:
    fated = FatedStore(server)
    yield fated
    fated.store.close()


@pytest.mark.parametrize("fates", FATES)
def test_each_of_two_batches_counts_once(fated: FatedStore, fates: tuple[str, ...]) -> None:
    """Whatever order the server comes to see them in."""
    fated.meet(*fates)
    batches = [charge(ALICE, 1), charge(BOB, 3, "m1", "r1")], [charge(ALICE, 2, "m2", "r1"), charge(ALICE, 8)]
    admitted = [[verdict.admitted for verdict in verdicts] for verdicts in fated.conclude(fated.send(*batches))]
    if fates[0] == "lost" != fates[1]:  # the second comes first
        assert admitted == [[False, True], [True, True]]
        assert fated.count(ALICE) == 2 + 8
    else:
        assert admitted == [[True, True], [True, False]]
        assert fated.count(ALICE) == 1 + 2
    assert fated.count(BOB) == 3


def test_a_batch_of_which_every_other_mail_was_refused_counts_once(fated: FatedStore) -> None:
    """What the counter remembers of it is long then."""
    fated.meet("unanswered")
    batch = [charge(ALICE, cost) for cost in (1, MOST + 1) * (MOST - 1)]
    [verdicts] = fated.conclude(fated.send(batch))
    assert [verdict.admitted for verdict in verdicts] == [True, False] * (MOST - 1)
    assert fated.count(ALICE) == MOST - 1


@pytest.mark.parametrize("fates", FATES)
def test_a_mail_that_is_in_two_batches_is_charged_once(fated: FatedStore, fates: tuple[str, ...]) -> None:
    fated.meet(*fates)
    same = charge(ALICE, 4, "mail", "recipient")
    results = fated.conclude(fated.send([same], [same]))
    assert all(verdict.admitted for [verdict] in results)
    assert fated.count(ALICE) == 4


@pytest.mark.parametrize(
    "fates", [("lost", "lost"), ("unanswered", "lost"), ("unanswered", "unanswered"), ("lost", "well")]
)
def test_what_is_given_up_stays_within_the_limit(
    fated: FatedStore, fates: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory decides what has no answer, once it knows all answers that there are."""
    fated.store.admit([charge(ALICE, MOST - 1)], (), PATIENCE)
    fated.meet(*fates)

    def away() -> Session:
        raise NodeError("away", Remedy.NONE)

    fated.store._link.timeout = 0.3
    in_flight = fated.send([charge(ALICE, 1)], [charge(ALICE, 1), charge(BOB, 1)])
    if fates[1] == "well":
        wait_until(fated.has_answers_to_second, "the answers are there")
    monkeypatch.setattr(fated.store._link.servers, "connect", away)
    told: list[Verdict] = []
    records: list[Record] = []
    for batch in in_flight:
        with pytest.raises(CommitFailed) as failure:
            batch.finish()
        told += failure.value.verdicts
        assert failure.value.record is not None
        records.append(failure.value.record)
    assert [verdict.admitted for verdict in told].count(True) == 2
    assert told[2].admitted
    monkeypatch.undo()
    fated.store._link.timeout = PATIENCE
    fated.store.admit((), records, PATIENCE)
    assert fated.count(ALICE) == MOST
    assert fated.count(BOB) == 1
    assert fated.store.prepare([charge(BOB, 1)], PATIENCE) is not None  # batches are sent again


def test_a_batch_that_comes_late_does_nothing_any_more(fated: FatedStore) -> None:
    """Though its own lane has had nothing to do with that id since, the other one has."""
    fated.store.admit([charge(ALICE, 1, "mail", "recipient")], (), PATIENCE)
    fated.meet("late")
    fated.conclude(fated.send([charge(ALICE, 1, "mail", settles=True)]))
    fated.conclude(fated.send([charge(BOB, 1)], [charge(ALICE, 5, "mail", settles=True)]))
    assert fated.count(ALICE) == 5
    fated.deliver_late()
    assert fated.count(ALICE) == 5


def test_the_script_knows_how_many_lanes_there_are() -> None:
    assert int(constants(text())["LANES"]) == LANES
