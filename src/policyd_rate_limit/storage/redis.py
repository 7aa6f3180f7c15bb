"""The store in Redis or Valkey: it decides on the server, by a script that is one step there.

A daemon needs no memory of all ids here, and a Cluster spreads them over its masters. The demands of a batch go in one
pipeline, which the server answers once they are on its disk (``appendfsync always``). The clock is the server's.

The keys, with *tag* as ``{length:counter}``, or ``{#digest}`` for a long one, so that a Cluster keeps them together::

    policyd:c:{tag}        what lies in the windows of the counter; expires with the longest, or after 15 minutes
    policyd:m:{tag}mail    what a mail was charged on the counter; expires after 15 minutes

The mail that is the first on its counter for 15 minutes has no key of its own: with one charge, it is kept with the
counter. Few ids send more often, and a key costs more than all the rest.

Batches are sent by the event loop, which goes on with something else until the answers are there: the next batch is
made and sent while the server works on this one. Everything that has to wait, and everything that goes wrong, is the
matter of the store's thread.

A counter also remembers what the last batches of each daemon have done to it: one in each of its *lanes*, which take
turns, as many as there may be batches under way. So each lane has one batch after the other, whatever becomes of the
others. That makes it safe to send a batch again after a connection broke: a batch has a number, a demand an ordinal
among those for the same counter, and the script knows which it has done. A demand that was sent and has no answer at
the end of its time is decided from memory. The record of such a batch is replayed under the number of the batch: the
script adds, or gives back, the difference to what it had counted, and is deaf to what may still be on its way.

What was admitted is counted in memory too, which decides when the server is away. Memory decides only after all answers
that will ever be heeded have been counted there: as soon as one batch is given up, so are the others under way.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.domain.charge import MOST_SECONDS_LOOKED_AT, Entry, Usage
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.base import CommitFailed, Underway
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis_batch import Batch, terms_of
from policyd_rate_limit.storage.redis_keys import DEFAULT_PREFIX, Keys, escaped, lane_of
from policyd_rate_limit.storage.redis_node import Command, NodeError, Remedy, script
from policyd_rate_limit.storage.redis_replay import Replays
from policyd_rate_limit.storage.redis_servers import Servers
from policyd_rate_limit.storage.redis_session import Session
from policyd_rate_limit.storage.redis_tables import RedisTables

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Charge, Demand, Verdict
    from policyd_rate_limit.errors import StoreError
    from policyd_rate_limit.storage.administration import Hits, Override
    from policyd_rate_limit.storage.base import Commit
    from policyd_rate_limit.storage.memory import Memory
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis_batch import Question
    from policyd_rate_limit.storage.redis_node import Argument

BATCHES_PER_TRIM = 8  # after one of so many, at random, what has expired leaves the memory of its ids
COMMANDS_PER_EXCHANGE = 500  # of a replay, so that each exchange ends within the timeout
EXPLAIN_SECONDS = 0.5  # that nobody but a log line waits for, while demands may
CONNECTING_SECONDS = 0.5  # for tries to connect, one of which may meet with an accident
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two tries within the time of a batch

_LATER = 3  # what the script replies to a record whose predecessor it does not know

_logger = logging.getLogger(__name__)


class RedisStore:
    """See :class:`policyd_rate_limit.storage.base.Store`.

    ``config`` is ``redis_config``; docs/redis.md tells its keys. ``memory`` is shared with whoever decides while the
    server is away. ``longest`` is the longest window in use (seconds): as long are counts kept of which only memory
    knows the limits. ``timeout`` (seconds) bounds each batch. ``clock`` (Unix seconds) takes the place of the server's
    in tests.

    :raises ConfigError: something in ``config`` is wrong.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        memory: Memory,
        *,
        longest: int,
        timeout: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._servers = Servers(config, timeout)
        self._memory = memory
        self._longest = longest
        self._timeout = timeout
        self._clock = clock
        self._keys = Keys(str(config.get("prefix") or DEFAULT_PREFIX), clustered=bool(config.get("cluster")))
        self._session: Session | None = None
        self._spare: Session | None = None  # opened by a probe
        self._flights: deque[_Flight] = deque()  # what is under way, in order
        self._replays = Replays()
        self._overrides_version: Hashable = None
        self.tables = RedisTables(self._keys.prefix, lambda commands: self._run(commands, self._end()))

    def prepare(self, demands: Sequence[Demand], patience: float) -> Commit | Underway | None:  # noqa: ARG002 - nobody waits
        """See :meth:`policyd_rate_limit.storage.base.Store.prepare`: the batch is sent."""
        session = self._session
        if session is None or session.is_broken:
            return None
        batch = self._batch(demands)
        if batch.is_split:
            return None
        flight = _Flight(batch, self._end())
        flight.send(session)
        self._flights.append(flight)
        commit = partial(self._finish, flight)
        if session.is_broken or session.is_sending:
            return commit
        return Underway(session.descriptors, flight.end, partial(self._receive, flight), commit)

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """See :meth:`policyd_rate_limit.storage.base.Store.admit`.

        There is no lock here, and nobody to wait for: a longer ``patience`` than the timeout is one for connecting.
        """
        try:
            self._connect(max(patience, self._timeout))
            self._replay(pending)
            if not demands:
                self._run((), self._end())
                return []
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        flight = _Flight(self._batch(demands), self._end())
        self._flights.append(flight)
        return self._finish(flight)

    def _batch(self, demands: Sequence[Demand]) -> Batch:
        # It takes a number whether or not anything will be counted: nothing of another batch may pass for it.
        number = self._memory.next_number(beside=bool(self._flights))
        return Batch(number, self._memory.writer, self._keys, self._keep(demands), self._time, demands)

    def _receive(self, flight: _Flight) -> list[Verdict] | None:
        """The verdicts on ``flight``, the first under way, if they are there; NodeError where all is not well."""
        session = flight.session
        if session is not None and any(command.reply is None for command in flight.all):
            session.take()
        for command in flight.all:
            if command.reply is None:
                if command.failure is not None:
                    raise command.failure
                if session is None or session.is_broken:
                    raise NodeError("Redis: the connection to another master is broken", Remedy.RECONNECT)
                return None
        self._synchronise(flight.clock)
        flight.batch.take()
        verdicts = self._conclude(flight.batch)
        self._flights.popleft()
        return verdicts

    def _finish(self, flight: _Flight) -> list[Verdict]:
        """The verdicts on ``flight``, the first under way, waited for; raises as :meth:`admit`."""
        try:
            if flight.given_up is None:
                self._ask(flight)
        except NodeError as error:
            self._give_up(error)
        finally:
            self._flights.popleft()
        if flight.given_up is not None:
            raise flight.given_up
        return self._conclude(flight.batch)

    def _ask(self, flight: _Flight) -> None:
        """Have all that ``flight`` asks answered; on NodeError some is."""
        batch = flight.batch
        try:
            self._run(flight.commands, flight.end, flight.clock, flight.session)
        finally:
            batch.take()
        while commands := batch.ask():
            try:
                self._run(commands, flight.end)
            finally:
                batch.take()
        rest = batch.rest()
        if rest:
            self._run([command for command, _, _ in rest], flight.end)
            for command, question, group in rest:
                question.conclude(command.reply[1], group)

    def _conclude(self, batch: Batch) -> list[Verdict]:
        """Have memory know what the server has counted; the verdicts."""
        trims = random.randrange(BATCHES_PER_TRIM) == 0  # noqa: S311 - no secret; counting up would miss regular ids
        for question in batch.questions:
            self._count(question, trims=trims)
        return [question.result for question in batch.questions]

    def _give_up(self, error: NodeError) -> None:
        """Decide from memory what is under way and has no answer: none will be heeded any more."""
        batches = [flight.batch for flight in self._flights]
        for batch in batches:
            batch.take()
            for question in batch.questions:
                if question.is_answered:
                    self._count(question)
        if len(batches) == 1 and not any(question.may_be_counted for question in batches[0].questions):
            self._flights[0].given_up = StoreUnavailable(str(error))
            return
        self._memory.advance()
        for flight in self._flights:
            verdicts, record = self._decide_rest(flight.batch)
            flight.given_up = CommitFailed(str(error), verdicts, record)

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """See :meth:`policyd_rate_limit.storage.base.Store.explain`: the server is asked, and writes nothing."""
        missing = self._memory.ledger.missing
        asked = [(number, charge) for number, demand in enumerate(demands) for charge in missing(demand)]
        commands: list[tuple[Command, Sequence[tuple[int, Charge]]]] = []
        for together in self._keys.in_scripts(asked, lambda of_demand: of_demand[1].counter):
            keys = [self._keys.counter(charge.counter) for _, charge in together]
            arguments: list[Argument] = []
            for _, charge in together:
                terms = terms_of("explain", b"", ((MOST_SECONDS_LOOKED_AT, charge.cost, charge.limits),))
                arguments += (terms, b"")
            commands.append((script(keys, (lane_of(self._memory.writer, 0), 0, 0, self._time, *arguments)), together))
        try:
            self._run([command for command, _ in commands], time.monotonic() + min(self._timeout, EXPLAIN_SECONDS))
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        found: list[list[Usage]] = [[] for _ in demands]
        for command, together in commands:
            for (number, charge), reply in zip(together, command.reply[1:], strict=True):
                found[number] += (
                    Usage(charge.key, limit, used, None if free_in < 0 else free_in)
                    for limit, used, free_in in zip(charge.limits, reply[::2], reply[1::2], strict=True)
                )
        return [tuple(usages) for usages in found]

    def probe(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.probe`."""
        spare, self._spare = self._spare, self._servers.connect()
        if spare is not None:
            spare.close()

    def reload(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.reload`: there is nothing to be read."""
        self._memory.forget()

    def need(self, seconds: int) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.need`: what the server has let go is not to be had again."""
        self._longest = max(self._longest, seconds)

    def look_back(self, seconds: int) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.look_back`: what the server still has is all there is."""
        self.need(seconds)

    def add_hits(self, hits: Sequence[Hits]) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.add_hits`."""
        try:
            self.tables.add_hits(hits)
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error

    def overrides(self) -> list[Override] | None:
        """See :meth:`policyd_rate_limit.storage.base.Store.overrides`."""
        if self._session is None:
            return None
        try:
            version = self.tables.overrides_version()
            if version == self._overrides_version:
                return None
            found = self.tables.overrides(self.now())
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        self._overrides_version = version
        return found

    def now(self) -> int:
        """The Unix second of the server.

        :raises StoreError: it does not answer; from the following as well.
        """
        self._run((), self._end())
        return self._memory.ledger.windows.now

    def reset(self, counter: str) -> int:
        """Empty ``counter``; how much was in its windows. What daemons did to it last stays known."""
        command = script([self._keys.counter(counter)], ("", 0, self._longest, self._time, "reset"))
        self._run([command], self._end())
        return int(command.reply)

    def counters(self, count: int) -> Iterator[list[tuple[str, bytes]]]:
        """Name and key of all counters, about ``count`` at a time; each once, unless it is new."""
        pattern = escaped(self._keys.counters) + b"*"
        seen: set[int] = set()
        for node in self._connect(self._timeout).nodes:
            cursor = None
            while cursor != b"0":
                cursor, keys = node.ask("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", count)
                new = [key for key in keys if hash(key) not in seen]  # SCAN may tell one twice
                seen.update(map(hash, new))
                yield [(self._keys.name(key), key) for key in new]

    def key(self, counter: str) -> tuple[str, bytes]:
        """Name and key of ``counter``."""
        return counter, self._keys.counter(counter)

    def read(self, counters: Sequence[tuple[str, bytes]]) -> list[tuple[str, Sequence[bytes]]]:
        """Name and content of ``counters``, as HGETALL has it."""
        commands = [Command(key, "HGETALL", key) for _, key in counters]
        self._run(commands, self._end())
        return [(name, command.reply) for (name, _), command in zip(counters, commands, strict=True)]

    def maintain(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.maintain`."""
        self._memory.ledger.windows.sweep(self._longest)

    def clean(self, patience: float) -> int:
        """See that the server is there, for at most ``patience`` seconds, and delete overrides that have ended.

        :returns: 0, since counts expire by themselves.
        :raises StoreUnavailable: it is not there.
        """
        try:
            self._connect(patience)
            self.tables.remove_expired(self.now())
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        return 0

    def close(self) -> None:
        """See :meth:`policyd_rate_limit.storage.base.Store.close`."""
        self._disconnect()
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    @property
    def _time(self) -> str:
        """The time as the script takes it; empty for the server's own."""
        return repr(self._clock()) if self._clock else ""

    def _end(self) -> float:
        """When what begins now has to be done, by the monotonic clock."""
        return time.monotonic() + self._timeout

    def _connect(self, seconds: float) -> Session:
        """The connections in use, or new ones within ``seconds``.

        One that is cut while it is made says little: a server that is there is tried again before it counts as away.
        """
        spare, self._spare = self._spare, None
        if self._session is not None and self._session.is_broken:
            self._disconnect()
        if self._session is None:
            end = time.monotonic() + seconds
            last_try = min(time.monotonic() + CONNECTING_SECONDS, end)
            while spare is None:
                try:
                    spare = _within(end - time.monotonic(), self._servers.connect)
                except NodeError:
                    if time.monotonic() + FIRST_PAUSE >= last_try:
                        raise
                    time.sleep(FIRST_PAUSE)
            self._session = spare
            for warning in self._session.warnings:
                _logger.warning("%s", warning)
        elif spare is not None:
            spare.close()
        return self._session

    def _disconnect(self) -> None:
        self._replays = Replays()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(
        self, commands: Sequence[Command], end: float, clock: Command | None = None, sent: Session | None = None
    ) -> None:
        """Have ``commands`` answered until ``end`` (of the monotonic clock), and memory know the server's time.

        What has no answer is sent again, over new connections if need be. ``sent``: where all, with ``clock``, which
        asks for the time, has been sent already.
        """
        clock = clock or Command(None, "TIME")
        waiting = [*commands, clock]
        pause = FIRST_PAUSE
        session = sent if sent is self._session else None
        while True:
            try:
                if session is None:
                    session = self._connect(end - time.monotonic())
                    session.send(waiting)
                failure = session.receive(waiting, end)
            except NodeError as error:
                if not any(command.open for command in waiting):
                    raise  # nothing is to be found out by waiting
                failure = error
            for command in waiting:
                if command.reply == [_LATER]:
                    command.reply = None
            waiting = [command for command in waiting if command.reply is None]
            if not waiting:
                self._synchronise(clock)
                return
            if failure is None:
                failure = NodeError("Redis has lost what was replayed before", Remedy.NONE)
            left = end - time.monotonic()
            if session is not None and (session.is_broken or any(command.open for command in waiting)):
                self._disconnect()
            session = None
            if failure.remedy is Remedy.NONE or left <= pause:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _synchronise(self, clock: Command) -> None:
        seconds, microseconds = map(int, clock.reply)
        self._memory.synchronise(self._clock() if self._clock else seconds + microseconds / 1e6)

    def _replay(self, pending: Sequence[Record]) -> None:
        """Bring in ``pending``, for as long as one batch may take; NodeError where that is not enough."""
        replays = self._replays
        waiting = [record for record in pending if record[:2] not in replays.done]
        end = self._end()
        while waiting:
            if time.monotonic() >= end:
                raise NodeError(f"{len(waiting)} batches are still to be brought into Redis", Remedy.REPEAT)
            commands: list[Command] = []
            count = 0
            for record in waiting:
                if len(commands) >= COMMANDS_PER_EXCHANGE:
                    break
                try:
                    commands += replays.commands(record, self._keys, self._longest, self._time)
                except ValueError as error:
                    _logger.error("a batch of the journal cannot be understood and does not count: %s", error)
                count += 1
            try:
                self._run(commands, self._end())
            except NodeError:
                # Which of them are done is known to the server.
                self._replays = Replays()
                raise
            replays.done.update(record[:2] for record in waiting[:count])
            del waiting[:count]

    def _decide_rest(self, batch: Batch) -> tuple[list[Verdict], Record]:
        """Decide from memory what has no answer; what has one is counted there.

        The record tells of every counter of which the server may know more than its answers: that is how the two come
        to agree in the end.
        """
        entries = [entry for question in batch.questions if question.is_answered for entry in question.entries]
        for question in batch.questions:
            if not question.is_answered:
                question.entries.clear()
                if question.verdict is None:
                    question.verdict = self._memory.ledger.decide(question.demand, question.entries)
                known = {entry.counter for entry in question.entries}
                question.entries += [
                    Entry(charge.counter, 0, self._memory.date, "", "")
                    for charge in question.demand.charges
                    if charge.counter not in known
                ]
                entries += question.entries
        record = pack(self._memory.writer, batch.number, self._memory.date, entries)
        return [question.result for question in batch.questions], record

    def _count(self, question: Question, *, trims: bool = True) -> None:
        """Have memory know what the server has counted; ``trims``: what has expired leaves the memory."""
        ledger = self._memory.ledger
        if question.entries:
            if trims:
                for charge in question.demand.charges:
                    ledger.windows.exceeded(charge.counter, 0, charge.limits)
            for entry in question.entries:
                ledger.apply(entry)

    def _keep(self, demands: Sequence[Demand]) -> int:
        """How long (seconds) a server has to remember what a batch has done: as long as what it has counted."""
        last = None
        for demand in demands:
            for charge in demand.charges:
                if charge.limits is not last:
                    last = charge.limits
                    self._longest = max(self._longest, *(limit.seconds for limit in last), 0)
        return self._longest


class _Flight:
    """A batch on its way until ``end`` (of the monotonic clock).

    ``session``: over which its ``commands`` and the question for the time, ``clock``, are sent; None: not yet. ``all``
    are both.
    ``given_up``: what came of it, where not all is answered that was asked.
    """

    __slots__ = ("all", "batch", "clock", "commands", "end", "given_up", "session")

    def __init__(self, batch: Batch, end: float) -> None:
        self.batch = batch
        self.commands: Sequence[Command] = batch.ask()
        self.clock = Command(None, "TIME")
        self.all = (*self.commands, self.clock)
        self.end = end
        self.session: Session | None = None
        self.given_up: StoreError | None = None

    def send(self, session: Session) -> None:
        """Send all over ``session``, without waiting."""
        self.session = session
        session.send(self.all)


def _within(seconds: float, connect: Callable[[], Session]) -> Session:
    """What ``connect`` returns. It takes as long as the resolver and all servers together take; this does not."""
    outcome: queue.SimpleQueue[Session | NodeError] = queue.SimpleQueue()
    late = threading.Event()

    def run() -> None:
        try:
            outcome.put(connect())
        except NodeError as error:
            outcome.put(error)
        if late.is_set():
            close_late()

    def close_late() -> None:
        with contextlib.suppress(queue.Empty):
            found = outcome.get_nowait()
            if isinstance(found, Session):
                found.close()

    try:
        threading.Thread(target=run, name="connect", daemon=True).start()
    except RuntimeError as error:  # the system has no room for another thread
        raise NodeError(f"Redis: {error}", Remedy.RECONNECT) from error
    try:
        found = outcome.get(timeout=max(seconds, 0))
    except queue.Empty:
        late.set()
        close_late()
        raise NodeError("Redis: no connection in time", Remedy.RECONNECT) from None
    if isinstance(found, NodeError):
        raise found
    return found
