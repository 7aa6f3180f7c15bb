"""Connections that break at any point, again and again, and answers that are lost: each mail counts once in the end.

A daemon's storage (memory, journal, store) on a real server. Between the two, commands are cut off, carried out without
an answer, or carried out much later, when nobody waits for them any more, as by a server that was suspended.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pathlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from policyd_rate_limit.domain.charge import RECIPIENTS, Charge, Demand
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage import fallback as fallback_module
from policyd_rate_limit.storage import redis as redis_module
from policyd_rate_limit.storage.fallback import Fallback
from policyd_rate_limit.storage.redis import RedisStore
from policyd_rate_limit.storage.redis_nodes import Command, NodeError, Remedy, Session
from storage.stores import Clock, new_memory
from support.redis_servers import External, RedisServer, single

COUNTERS = ("user:a", "user:b", "user:c")
STEPS = 40
_prefixes = (f"test{number}" for number in itertools.count())


class Ticking:
    """In place of the module ``time``: every look at the clock takes a millisecond, and sleeping takes no time."""

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
    """What is between the daemon and the server. ``trouble``: how often an exchange is cut, from 0 to 1."""

    def __init__(self, chance: random.Random, connect: Callable[[], Session]) -> None:
        self.trouble = 0.4
        self.down = 0  # that many connections will fail
        self._chance = chance
        self._connect = connect
        self._late: list[list[Command]] = []

    def connect(self) -> Any:
        """A session, as :meth:`policyd_rate_limit.storage.redis_nodes.Servers.connect` returns one."""
        if self.down:
            self.down -= 1
            raise NodeError("no connection", Remedy.RECONNECT)
        return _Cut(self, self._connect())

    def deliver_late(self) -> None:
        """Something that was sent long ago is carried out now."""
        if self._late:
            with contextlib.closing(self._connect()) as session:
                session.exchange(self._late.pop(self._chance.randrange(len(self._late))), _soon())

    def deliver_all(self) -> None:
        """Everything that was ever sent has been carried out."""
        while self._late:
            self.deliver_late()

    def pass_on(self, session: Session, commands: Sequence[Command], end: float) -> NodeError | None:
        """Some of ``commands`` arrive, the answers to some of those come back."""
        if self._chance.random() >= self.trouble:
            return session.exchange(commands, _soon())
        arrived = self._chance.randint(0, len(commands))
        assert session.exchange(commands[:arrived], _soon()) is None
        answered = self._chance.randint(0, arrived)
        for command in commands[answered:]:
            command.reply = None
            command.open = True
        if self._chance.random() < 0.5:
            self._late.append([Command(command.key, *command.arguments) for command in commands[arrived:]])
        if self._chance.random() < 0.5:
            self.down = self._chance.randint(1, 4)
        return NodeError("cut", Remedy.RECONNECT)


class _Cut:
    """A session on a bad network."""

    warnings = ()
    is_broken = False

    def __init__(self, network: Network, session: Session) -> None:
        self._network = network
        self._session = session
        self.close = session.close

    def exchange(self, commands: Sequence[Command], end: float) -> NodeError | None:
        failure = self._network.pass_on(self._session, commands, end)
        self.is_broken = failure is not None
        return failure


def _soon() -> float:
    return time.monotonic() + 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | External]:
    """A server for all tests here, each with a prefix of its own."""
    with single(tmp_path_factory.mktemp("redis")) as server, server.client() as client:
        yield server
        client.flushdb()


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redis_module, "time", Ticking())
    monkeypatch.setattr(redis_module, "_within", lambda _seconds, connect: connect())
    monkeypatch.setattr(fallback_module, "threading", InLine)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Daemon:
    """The storage of one daemon, and what its clients have been told."""

    def __init__(
        self, server: RedisServer | External, directory: pathlib.Path, chance: random.Random, most: int
    ) -> None:
        self.chance = chance
        self.limits = (Limit(most, 3600), Limit(10**6, 86400))
        self.clock, self.monotonic = Clock(), Clock(0.0)
        self.memory = new_memory(self.clock)
        config = {"url": server.url, "prefix": next(_prefixes)}
        self.store = RedisStore(config, self.memory, longest=86400, timeout=20.0, clock=self.clock)
        self.network = Network(chance, self.store._servers.connect)
        self.store._servers.connect = self.network.connect  # type: ignore[method-assign]
        self.store._timeout = 0.03  # of the clock that ticks
        self.fallback = Fallback(
            self.store,
            self.memory,
            journal_directory=directory,
            journal_name="redis",
            journal_size=1 << 20,
            enforce=True,
            patience=1.0,
            monotonic=self.monotonic,
        )
        self.fallback.open()
        self.admitted: Counter[str] = Counter()  # of each counter, by the answers
        self.mails: dict[str, tuple[str, int, int]] = {}  # counter, recipients asked about, what it was charged

    def ask(self) -> None:
        """A batch of demands; each mail is asked about by one client, who waits for the answer."""
        asked = [self._demand() for _ in range(self.chance.randint(1, 5))]
        unique = list({demand.mail or number: demand for number, demand in enumerate(asked)}.values())
        for demand, verdict in zip(unique, self.fallback.admit(unique), strict=True):
            cost = demand.charges[0].cost
            counter = demand.charges[0].counter
            if demand.mail:
                _, recipients, charged = self.mails[demand.mail]
                if verdict.admitted:
                    charged = cost if demand.settles else charged + cost
                self.mails[demand.mail] = (counter, recipients + 1, charged)
            elif verdict.admitted:
                self.admitted[counter] += cost

    def _demand(self) -> Demand:
        counter, cost = self.chance.choice(COUNTERS), self.chance.randint(1, 4)
        what = self.chance.random()
        if what < 0.3:
            return Demand((Charge(counter, RECIPIENTS, cost, self.limits),))
        mail = f"mail{len(self.mails)}"
        if what > 0.6 and self.mails:
            mail = self.chance.choice(sorted(self.mails))
        counter, recipients, _ = self.mails.setdefault(mail, (counter, 0, 0))
        if recipients and self.chance.random() < 0.4:
            return Demand((Charge(counter, RECIPIENTS, cost, self.limits),), mail, "", True)
        return Demand((Charge(counter, RECIPIENTS, 1, self.limits),), mail, f"recipient{recipients}")

    def wait(self) -> None:
        """A while later: a probe knocks, then the server is tried."""
        self.monotonic.now += 10.0
        self.fallback.maintain()
        self.fallback.maintain()

    @property
    def told(self) -> dict[str, int]:
        """What each counter should hold."""
        told = Counter(self.admitted)
        for counter, _, charged in self.mails.values():
            told[counter] += charged
        return {counter: told[counter] for counter in COUNTERS}

    @property
    def counted(self) -> dict[str, int]:
        """What each counter holds on the server."""
        never = Charge("never", RECIPIENTS, 1, (Limit(0, 1),))
        counted = {}
        for counter in COUNTERS:
            probes = [Demand((Charge(counter, RECIPIENTS, 1, (Limit(most, 3600),)), never)) for most in range(1, 500)]
            counted[counter] = [verdict.key for verdict in self.store.admit(probes, (), 1.0)].index("never")
        return counted


@pytest.mark.parametrize("most", [10**6, 30], ids=["far from the limit", "at the limit"])
@pytest.mark.parametrize("seed", range(12))
def test_every_mail_counts_once(server: RedisServer | External, tmp_path: pathlib.Path, seed: int, most: int) -> None:
    chance = random.Random(seed)
    random.seed(seed)  # of the back-off
    daemon = Daemon(server, tmp_path, chance, most)
    for _ in range(STEPS):
        daemon.clock.now += chance.uniform(0, 3)
        daemon.monotonic.now += chance.uniform(0, 3)
        if chance.random() < 0.5:
            daemon.network.deliver_late()
        daemon.ask()
        if chance.random() < 0.5:
            daemon.wait()
    daemon.network.trouble = 0.0
    daemon.network.down = 0
    daemon.network.deliver_all()
    daemon.wait()  # the last probe may have failed
    daemon.wait()
    assert not daemon.fallback._pending
    daemon.network.deliver_all()
    assert daemon.counted == daemon.told
    used = {counter: daemon.memory.ledger.windows.usage(counter, daemon.limits)[0] for counter in COUNTERS}
    assert used == daemon.told
    daemon.fallback.close()
    assert list(tmp_path.glob("*")) == []
