"""Connections that break at any point, again and again, and answers that are lost: each mail counts once in the end.

A daemon's storage (memory, spool, store) on a real server. Between the two, commands are cut off, carried out without
an answer, or carried out much later, when nobody waits for them any more, as by a server that was suspended. Several
batches are in flight at once, so that what has become of several is unknown. A batch is one command, or several, or,
with keys as a Cluster needs them, each of its demands is several.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pathlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest

from policyd_rate_limit.domain.charge import Charge, Demand, Verdict
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.engine import probe as probe_module
from policyd_rate_limit.storage.redis import keys
from policyd_rate_limit.storage.redis import link as redis_link
from policyd_rate_limit.storage.redis.keys import LANES
from policyd_rate_limit.storage.redis.node import Command, NodeError, Remedy
from policyd_rate_limit.storage.redis.session import Session
from policyd_rate_limit.storage.redis.store import RedisStore
from storage.daemon import opened
from storage.stores import Clock, new_memory
from support.demands import demand_of
from support.redis_servers import External, RedisServer

COUNTERS = ("user:a", "user:b", "user:c")
SHARED = "domain:x"  # by all of them, where each demand charges two counters
STEPS = 40
_prefixes = (f"test{number}" for number in itertools.count())


class Ticking:
    """A clock of which every look takes a millisecond, and sleeping takes no time."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class InLine:
    """In place of the module ``threading``: a thread that is started has ended."""

    class Thread:
        def __init__(self, target: Callable[[], None], **_: object) -> None:
            self.start = target

        def is_alive(self) -> bool:
            return False

        def join(self) -> None:
            pass


class Network:
    """What is between the daemon and the server. ``trouble``: how often it is cut while it is used, from 0 to 1."""

    def __init__(self, chance: random.Random, connect: Callable[[], Session]) -> None:
        self.trouble = 0.4
        self.down = 0  # that many connections will fail
        self._chance = chance
        self._connect = connect
        self._late: list[list[Command]] = []

    def connect(self) -> Any:
        """A session, as :meth:`policyd_rate_limit.storage.redis.topology.Servers.connect` returns one."""
        if self.down:
            self.down -= 1
            raise NodeError("no connection", Remedy.RECONNECT)
        return _Cut(self, self._connect(), self._chance)

    def deliver_late(self) -> None:
        """Something that was sent long ago is carried out now."""
        if self._late:
            with contextlib.closing(self._connect()) as session:
                session.exchange(self._late.pop(self._chance.randrange(len(self._late))), _soon())

    def deliver_all(self) -> None:
        """Everything that was ever sent has been carried out."""
        while self._late:
            self.deliver_late()

    def fate(self, commands: int) -> tuple[int, int]:
        """How many of so many commands arrive, and to how many of those the answers come back."""
        if self._chance.random() >= self.trouble:
            return commands, commands
        arrived = self._chance.randint(0, commands)
        if self._chance.random() < 0.5:
            self.down = self._chance.randint(1, 4)
        return arrived, self._chance.randint(0, arrived)

    def delay(self, commands: list[Command]) -> None:
        """These may arrive later, and what is still put behind them, too."""
        if self._chance.random() < 0.5:
            self._late.append(commands)


class _Cut:
    """A session on a bad network: nobody hears that it is cut before all answers have come that will come."""

    warnings = ()
    descriptors = ()
    is_sending = False
    is_broken = False

    def __init__(self, network: Network, session: Session, chance: random.Random) -> None:
        self._network = network
        self._session = session
        self._chance = chance
        self._answers: deque[tuple[Command, Command]] = deque()
        self._lost: list[Command] = []
        self._behind: list[Command] = []  # where it is cut
        self.close = session.close

    def send(self, commands: Sequence[Command]) -> None:
        arrived, answered = self._network.fate(len(commands))
        if self._lost:
            answered = 0
        if self._behind:
            arrived = 0
        sent = [Command(command.key, *command.arguments) for command in commands]
        assert self._session.exchange(sent[:arrived], _soon()) is None
        for command in commands:
            command.open = True
            command.failure = None
        self._answers += zip(commands[:answered], sent, strict=False)
        self._lost += commands[answered:]
        if arrived < len(sent):
            if not self._behind:
                self._network.delay(self._behind)
            self._behind += sent[arrived:]

    def take(self) -> None:
        """Some more answers have come."""
        for _ in range(self._chance.randint(0, len(self._answers))):
            self._take_one()
        if not self._answers and self._lost:
            self._take_one()

    def receive(self, commands: Sequence[Command], end: float) -> NodeError | None:
        while any(command.reply is None and command.failure is None for command in commands):
            self._take_one()
        return next((command.failure for command in commands if command.failure), None)

    def _take_one(self) -> None:
        if self._answers:
            command, answered = self._answers.popleft()
            command.reply = answered.reply
            command.open = False
        else:
            self.is_broken = True
            for command in self._lost:
                command.failure = NodeError("cut", Remedy.RECONNECT)


def _soon() -> float:
    return time.monotonic() + 20.0


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redis_link, "_within", lambda _seconds, connect: connect())
    monkeypatch.setattr(probe_module, "threading", InLine)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Daemon:
    """The storage of one daemon, and what its clients have been told."""

    def __init__(
        self, server: RedisServer | External, directory: pathlib.Path, chance: random.Random, most: int, *, split: bool
    ) -> None:
        self.chance = chance
        self.most = {**dict.fromkeys(COUNTERS, most), **({SHARED: 2 * most} if split else {})}
        self.limits = {counter: (Limit(most, 3600), Limit(10**6, 86400)) for counter, most in self.most.items()}
        self.clock, self.monotonic = Clock(), Clock(0.0)
        self.memory = new_memory(self.clock)
        self.config = {"url": server.url, "prefix": next(_prefixes)}
        ticking = Ticking()
        self.store = RedisStore(
            self.config,
            self.memory,
            longest=86400,
            timeout=20.0,
            clock=self.clock,
            monotonic=ticking.monotonic,
            sleep=ticking.sleep,
        )
        self.store._link.timeout = 0.03  # of the clock that ticks
        self.store._keys._clustered = split
        self.network = Network(chance, self.store._link.servers.connect)
        self.store._link.servers.connect = self.network.connect  # type: ignore[method-assign]
        self.engine = opened(self.store, self.memory, directory, patience=1.0, monotonic=self.monotonic)
        self.in_flight: deque[tuple[Sequence[Demand], Batch]] = deque()
        self.admitted: Counter[str] = Counter()  # of each counter, by the answers
        self.mails: dict[str, tuple[str, int, int]] = {}  # counter, recipients asked about, what it was charged

    def ask(self) -> None:
        """A batch of demands, as the worker has it decided; each mail is asked about by one client, who waits."""
        asked = [self._demand() for _ in range(self.chance.randint(1, 5))]
        waited_for = {demand.mail for demands, _ in self.in_flight for demand in demands}
        unique = list(
            {
                demand.mail or number: demand
                for number, demand in enumerate(asked)
                if not demand.mail or demand.mail not in waited_for
            }.values()
        )
        if not unique:
            return
        batch = self.engine.prepare(unique)
        if batch.descriptors:
            self.in_flight.append((unique, batch))
            while self.in_flight and self.chance.random() < 0.7:
                self._receive()
            if len(self.in_flight) == LANES:
                self._receive()
            if len(self.in_flight) == LANES:
                self.finish()  # the time is over
        else:
            self.finish()
            assert not batch.verdicts
            self._heed(unique, batch.finish())

    def _receive(self) -> None:
        demands, batch = self.in_flight[0]
        try:
            verdicts = batch.poll()
        except StoreError:
            self.finish()
        else:
            if verdicts is not None:
                self.in_flight.popleft()
                self._heed(demands, verdicts)

    def finish(self) -> None:
        """Wait for all that is in flight."""
        while self.in_flight:
            demands, batch = self.in_flight.popleft()
            self._heed(demands, batch.finish())

    def _heed(self, demands: Sequence[Demand], verdicts: Sequence[Verdict]) -> None:
        for demand, verdict in zip(demands, verdicts, strict=True):
            cost = demand.charges[0].cost
            counter = demand.charges[0].counter
            if demand.mail:
                _, recipients, charged = self.mails[demand.mail]
                if verdict.admitted:
                    charged = cost if demand.charges[0].settles else charged + cost
                self.mails[demand.mail] = (counter, recipients + 1, charged)
            elif verdict.admitted:
                self.admitted[counter] += cost

    def _demand(self) -> Demand:
        counter, cost = self.chance.choice(COUNTERS), self.chance.randint(1, 4)
        what = self.chance.random()
        if what < 0.3:
            return Demand(self._charges(counter, cost))
        mail = f"mail{len(self.mails)}"
        if what > 0.6 and self.mails:
            mail = self.chance.choice(sorted(self.mails))
        counter, recipients, _ = self.mails.setdefault(mail, (counter, 0, 0))
        if recipients and self.chance.random() < 0.4:
            return demand_of(self._charges(counter, cost), mail, settles=True)
        return demand_of(self._charges(counter, 1), mail, f"recipient{recipients}")

    def _charges(self, counter: str, cost: int) -> tuple[Charge, ...]:
        charged = (counter, SHARED) if SHARED in self.most else (counter,)
        return tuple(Charge(one, cost, self.limits[one]) for one in charged)

    def wait(self) -> None:
        """A while later: a probe knocks, then the server is tried."""
        self.finish()
        self.monotonic.now += 10.0
        self.engine.maintain()
        self.engine.maintain()

    @property
    def told(self) -> dict[str, int]:
        """What each counter should hold."""
        told = Counter(self.admitted)
        for counter, _, charged in self.mails.values():
            told[counter] += charged
        told[SHARED] = sum(told.values())
        return {counter: told[counter] for counter in self.most}

    @property
    def counted(self) -> dict[str, int]:
        """What each counter holds on the server."""
        never = Charge("never", 1, (Limit(0, 1),))
        counted = {}
        for counter in self.most:
            probes = [Demand((Charge(counter, 1, (Limit(most, 3600),)), never)) for most in range(1, 500)]
            counted[counter] = [len(verdict.exceeded) for verdict in self.store.admit(probes, (), 1.0)].index(1)
        return counted


@pytest.mark.parametrize("most", [10**6, 30], ids=["far from the limit", "at the limit"])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("commands", ["one", "several", "several of each"])
def test_every_mail_counts_once(
    server: RedisServer | External,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: str,
    seed: int,
    most: int,
) -> None:
    if commands == "several":
        monkeypatch.setattr(keys, "DEMANDS_PER_SCRIPT", 2)
    chance = random.Random(seed)
    random.seed(seed)  # of the back-off
    daemon = Daemon(server, tmp_path, chance, most, split=commands == "several of each")
    for _ in range(STEPS):
        daemon.clock.now += chance.uniform(0, 3)
        daemon.monotonic.now += chance.uniform(0, 3)
        if chance.random() < 0.5:
            daemon.network.deliver_late()
        daemon.ask()
        assert all(daemon.told[counter] <= most for counter, most in daemon.most.items())
        if chance.random() < 0.5:
            daemon.wait()
    daemon.network.trouble = 0.0
    daemon.network.down = 0
    daemon.finish()
    daemon.network.deliver_all()
    daemon.wait()  # the last probe may have failed
    daemon.wait()
    assert not daemon.engine._spool.records
    daemon.network.deliver_all()
    assert daemon.counted == daemon.told
    used = {counter: daemon.memory.ledger.windows.usage(counter, daemon.limits[counter])[0] for counter in daemon.most}
    assert used == daemon.told
    daemon.engine.close()
    assert list(tmp_path.glob("*")) == []


def test_a_refusal_stands_though_what_was_reserved_for_it_is_given_back_later(
    server: RedisServer | External, tmp_path: pathlib.Path
) -> None:
    """The server has refused it by what another daemon has counted, of which memory knows nothing."""
    daemon = Daemon(server, tmp_path, random.Random(1), 10, split=True)
    daemon.network.trouble = 0.0
    neighbour = RedisStore(daemon.config, new_memory(daemon.clock), longest=86400, timeout=20.0, clock=daemon.clock)
    used_up = Demand((Charge(SHARED, daemon.most[SHARED], daemon.limits[SHARED]),))
    assert neighbour.admit([used_up], (), 1.0)[0].admitted
    run, calls = daemon.store._run, itertools.count(1)

    def cut(commands: Sequence[Command], *others: Any) -> None:
        """The third script is the one that gives back what the first has counted."""
        if next(calls) == 3:
            raise NodeError("cut", Remedy.NONE)
        run(commands, *others)

    daemon.engine.admit([])  # it is connected
    with mock.patch.object(daemon.store, "_run", cut):
        (verdict,) = daemon.engine.admit([Demand(daemon._charges("user:a", 1))])
    assert next(calls) == 4
    assert not verdict.admitted
    assert daemon.engine.away_since is not None
    daemon.wait()
    daemon.wait()
    assert daemon.counted == {"user:a": 0, "user:b": 0, "user:c": 0, SHARED: daemon.most[SHARED]}
    daemon.engine.close()
    neighbour.close()
