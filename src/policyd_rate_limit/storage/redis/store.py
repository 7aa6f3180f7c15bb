"""The store in Redis or Valkey: it decides on the server, by a script that is one step there.

A daemon needs no memory of all ids here, and a Cluster spreads them over its masters. The demands of a batch go in one
pipeline, which the server answers once they are on its disk (``appendfsync always``). The clock is the server's.

The keys, with *tag* as ``{length:counter}``, or ``{#digest}`` for a long one, so that a Cluster keeps them together::

    policyd:c:{tag}        what lies in the windows of the counter; expires with the longest, or after 15 minutes
    policyd:m:{tag}mail    what a mail was charged on the counter; expires after 15 minutes
    policyd:v:{tag}        the values of a counter that counts different ones; expires with it

The mail that is the first on its counter for 15 minutes has no key of its own: with one charge, it is kept with the
counter. Few ids send more often, and a key costs more than all the rest.

Batches are sent by the event loop, which goes on with something else until the answers are there: the next batch is
made and sent while the server works on this one. Everything that has to wait, and everything that goes wrong, is the
matter of the store thread.

A counter also remembers what the last batches of each daemon have done to it: one in each of its *lanes*, which take
turns, as many as there may be batches in flight. So each lane has one batch after the other, whatever becomes of the
others. That makes it safe to send a batch again after a connection broke: a batch has a number, a demand its place
in it, and the script knows which it has done. A demand that was sent and has no answer at
the end of its time is decided from memory. The record of such a batch is replayed under the number of the batch: the
script adds, or gives back, the difference to what it had counted, and ignores what may still arrive.

What was admitted is counted in memory too, which decides when the server is away. Memory decides only after all answers
that will ever be heeded have been counted there: as soon as one batch is given up, so are the others in flight.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from policyd_rate_limit.domain.charge import Demand, Usage
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import longest_of, windows_of
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.batch import Batch
from policyd_rate_limit.storage.contract import CommitFailed, Refused
from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis.canary import Canary
from policyd_rate_limit.storage.redis.encoding import encoded
from policyd_rate_limit.storage.redis.inquiry import Inquiry, explaining, explaining_values
from policyd_rate_limit.storage.redis.keys import LANES, keys_of, lane_of
from policyd_rate_limit.storage.redis.link import Link
from policyd_rate_limit.storage.redis.node import Command, NodeError, Remedy, script
from policyd_rate_limit.storage.redis.replay import Replays
from policyd_rate_limit.storage.redis.tables import RedisTables

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Charge, Verdict
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.errors import StoreError
    from policyd_rate_limit.storage.administration import Hits, HourOfHits, Override
    from policyd_rate_limit.storage.heartbeat import Introduction
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis.inquiry import Question
    from policyd_rate_limit.storage.redis.node import Argument
    from policyd_rate_limit.storage.redis.session import Session
    from policyd_rate_limit.storage.replica import Memory

BATCHES_PER_TRIM = 8  # after one of so many, at random, what has expired leaves the memory of its ids
TRIED_EACH = 3600  # seconds between two tries to tell of this daemon where that is not allowed
EXPLAIN_SECONDS = 0.5  # that nobody but a log line waits for, while demands may

_logger = logging.getLogger(__name__)


class RedisStore:
    """Has the server decide: a :class:`policyd_rate_limit.storage.contract.Store`, whose methods are described there.

    ``config`` is ``redis_config``; docs/redis.md tells its keys. ``memory`` is shared with whoever decides while the
    server is away. ``longest`` is the longest window in use (seconds): as long are counts kept of which only memory
    knows the limits. ``timeout`` (seconds) bounds each batch. ``clock`` (Unix seconds) takes the place of the server's
    in tests; so do ``monotonic`` and ``sleep`` that of the tries.

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
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link = Link(config, timeout, clock, monotonic=monotonic, sleep=sleep)
        self._memory = memory
        memory.spacing = LANES  # of what is not in flight together
        self._longest = longest
        self._keys = keys_of(config)
        self._in_flight: deque[_BatchInFlight] = deque()  # in order
        self._canary = Canary(memory, self._keys, self._link)
        self._replays = Replays(self._link, self._keys, self._exchange, self._canary.check)
        self._overrides_version: Hashable = None
        self._tables = RedisTables(self._keys.prefix, self._exchange)
        self.installation: str | None = None
        self._proposed = secrets.token_hex(16)
        self._run_name = secrets.token_hex(16)  # of this daemon, in its heartbeats
        self._is_heard = False  # these are there
        self._unheard = -1  # the hour in which they could not be
        self._identified: Session | None = None  # over which the installation was asked for

    @property
    def reach(self) -> int:
        return self._longest

    def prepare(self, demands: Sequence[Demand], patience: float) -> Batch | None:  # noqa: ARG002 - nobody waits
        """The batch is sent."""
        session = self._link.session
        if session is None or session.is_broken:
            return None
        inquiry = self._inquire(demands)
        if inquiry.is_split:
            return None
        batch = _BatchInFlight(self, inquiry, self._link.end())
        batch.send(session)
        self._in_flight.append(batch)
        return batch

    def admit(self, demands: Sequence[Demand], pending: Sequence[Record], patience: float) -> list[Verdict]:
        """Decide ``demands``. There is no lock to wait for: a ``patience`` beyond the timeout is one for connecting."""
        try:
            if self._link.connect(max(patience, self._link.timeout)) is not self._identified:
                self._identify()
            self._replays.bring_in(pending, self._longest)
            if not demands:
                self._exchange(())
                self._replays.raise_refused([])
                return []
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        batch = _BatchInFlight(self, self._inquire(demands), self._link.end())
        self._in_flight.append(batch)
        try:
            verdicts = batch.finish()
        except Refused as refused:
            self._replays.raise_refused(refused.verdicts, refused)
            raise
        self._replays.raise_refused(verdicts)
        return verdicts

    def offer(self, records: Sequence[Record], patience: float) -> None:
        self.admit((), records, patience)

    def propose(self, installation: str) -> None:
        self._proposed = installation or self._proposed

    def _identify(self) -> None:
        """Learn which installation the keys are of; those that were lost go on being of the one that they were."""
        before = self.installation
        try:
            self.installation = self._tables.installation(before or self._proposed)
        except NodeError as error:
            if error.code not in ("NOPERM", "WRONGTYPE"):
                raise
            _logger.warning("%s: which installation it is of cannot be kept there", error)
            self.installation = ""
        self._identified = self._link.session
        if before and self.installation and self.installation != before:
            raise NodeError(
                f"Redis is another database now (installation {self.installation}, not {before}): "
                "what waits for the other one is not brought into it",
                Remedy.NONE,
            )

    def _inquire(self, demands: Sequence[Demand]) -> Inquiry:
        # It takes a number whether or not anything will be counted: nothing of another batch may pass for it.
        number = self._memory.next_number(1 if self._in_flight else LANES)
        return Inquiry(number, self._memory.writer, self._keys, self._keep(demands), self._link.time, demands)

    def receive(self, batch: _BatchInFlight) -> list[Verdict] | None:
        """The verdicts on ``batch``, the first in flight, if they are there; NodeError where all is not well."""
        session = batch.session
        if session is not None:
            for command in batch.all:
                if command.reply is None:
                    session.take()
                    break
        for command in batch.all:
            if command.reply is None:
                if command.failure is not None:
                    raise command.failure
                if session is None or session.is_broken:
                    raise NodeError("Redis: the connection to another master is broken", Remedy.RECONNECT)
                return None
        self._memory.synchronise(self._link.time_of(batch.clock))
        batch.inquiry.take()
        verdicts = self._conclude(batch.inquiry)
        self._in_flight.popleft()
        return verdicts

    def finish(self, batch: _BatchInFlight) -> list[Verdict]:
        """The verdicts on ``batch``, the first in flight, waited for; raises as :meth:`admit`."""
        try:
            if batch.given_up is None:
                self._ask(batch)
        except NodeError as error:
            self._give_up(error)
        finally:
            self._in_flight.popleft()
        if batch.given_up is not None:
            raise batch.given_up
        failed = batch.inquiry.failed
        if failed:
            self._set_aside(batch.inquiry, failed)
        return self._conclude(batch.inquiry)

    def _ask(self, batch: _BatchInFlight) -> None:
        """Have all that ``batch`` asks answered; on NodeError some is."""
        inquiry = batch.inquiry
        try:
            self._run(batch.commands, batch.deadline, batch.clock, batch.session)
        finally:
            inquiry.take()
        self._ask_one_by_one(inquiry, batch.deadline)
        while commands := inquiry.ask(again=True):
            try:
                self._run(commands, batch.deadline)
            finally:
                inquiry.take()
            self._ask_one_by_one(inquiry, batch.deadline)
        if inquiry.failed:
            self._canary.check()
        rest = inquiry.rest()
        if rest:
            self._run([command for command, _, _ in rest], batch.deadline)
            for command, question, group in rest:
                question.conclude(command.reply[1], group)

    def _ask_one_by_one(self, inquiry: Inquiry, end: float) -> None:
        """Find out for whose keys a command was refused."""
        for command, question in inquiry.one_by_one():
            self._run((command,), end)
            inquiry.take_single(command, question)

    def _set_aside(self, inquiry: Inquiry, failed: Sequence[Question]) -> NoReturn:
        """Decide from memory what the servers cannot decide, all else is as they say.

        :raises Refused: always.
        """
        entries: list[Entry] = []
        for question in inquiry.questions:
            if not question.failure:
                self._count(question)
                continue
            question.entries.clear()
            question.verdict = self._memory.ledger.decide(question.demand, question.entries)
            entries += question.entries
        reasons = {charge.counter: question.failure for question in failed for charge in question.demand.charges}
        # Of a writer of its own: the server knows others of this one.
        records = [pack(secrets.randbits(62), 1, self._memory.date, entries)] if entries else []
        unkept = [at for at, question in enumerate(inquiry.questions) if question.failure and question.entries]
        raise Refused([question.result for question in inquiry.questions], records, reasons, unkept)

    def _conclude(self, inquiry: Inquiry) -> list[Verdict]:
        """Have memory know what the server has counted; the verdicts.

        :raises NodeError: there is none on some of it.
        """
        verdicts = [question.verdict for question in inquiry.questions]
        if not all(verdicts):  # None is the only one that is false
            raise NodeError("Redis: some keys are of no use", Remedy.NONE)
        trims = random.randrange(BATCHES_PER_TRIM) == 0  # noqa: S311 - no secret; counting up would miss regular ids
        for question in inquiry.questions:
            self._count(question, trims=trims)
        return cast("list[Verdict]", verdicts)

    def _give_up(self, error: NodeError) -> None:
        """Decide from memory what is in flight and has no answer: none will be heeded any more."""
        inquiries = [batch.inquiry for batch in self._in_flight]
        for inquiry in inquiries:
            inquiry.take()
            for question in inquiry.questions:
                if question.is_answered:
                    self._count(question)
        if len(inquiries) == 1 and not any(question.may_be_counted for question in inquiries[0].questions):
            self._in_flight[0].given_up = StoreUnavailable(str(error))
            return
        self._memory.advance()
        for batch in self._in_flight:
            verdicts, record = self._decide_rest(batch.inquiry)
            batch.given_up = CommitFailed(str(error), verdicts, record)

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """The server is asked, and writes nothing."""
        ledger = self._memory.ledger
        asked = [(number, charge) for number, demand in enumerate(demands) for charge in ledger.missing(demand)]
        commands: list[tuple[Command, Sequence[tuple[int, Charge]]]] = []
        for together in self._keys.in_scripts(asked, lambda of_demand: of_demand[1].counter):
            keys: list[bytes] = []
            arguments: list[Argument] = []
            for _, charge in together:
                keys.append(self._keys.counter(charge.counter))
                if charge.is_distinct:
                    keys.append(self._keys.values(charge.counter))
                    arguments += (explaining_values(windows_of(charge.limits)), encoded(charge.part))
                else:
                    arguments += (explaining(charge.cost, windows_of(charge.limits)), b"")
            common = (lane_of(self._memory.writer, 0), 0, 0, self._link.time, 0)
            commands.append((script(keys, (*common, *arguments)), together))
        try:
            self._run([command for command, _ in commands], self._link.end(EXPLAIN_SECONDS))
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        found: list[list[Usage]] = [[] for _ in demands]
        for command, together in commands:
            for (number, charge), reply in zip(together, command.reply[1:], strict=True):
                limits = windows_of(charge.limits)
                if limits is not charge.limits:
                    found[number].append(ledger.explain_per_mail(charge, demands[number].mail))
                if len(reply) != 2 * len(limits) or any(isinstance(told, bytes) for told in reply):
                    found[number] += ledger.explain(Demand((replace(charge, limits=limits),)))  # its key is of no use
                    continue
                found[number] += (
                    Usage(charge.counter, limit, used, None if free_in < 0 else free_in)
                    for limit, used, free_in in zip(limits, reply[::2], reply[1::2], strict=True)
                )
        return [tuple(usages) for usages in found]

    def probe(self, patience: float) -> None:  # noqa: ARG002 - there are no turns
        self._link.probe()

    def reload(self) -> None:
        """There is nothing to be read."""
        self._memory.forget()

    def need(self, seconds: int) -> None:
        """What the server has let go is gone."""
        self._longest = max(self._longest, seconds)

    def look_back(self, seconds: int) -> None:
        """Nothing is kept but on the server."""
        self.need(seconds)

    def add_hits(self, hits: Sequence[Hits]) -> None:
        try:
            self._tables.add_hits(hits)
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error

    def add_history(self, rows: Sequence[HourOfHits]) -> None:
        try:
            self._tables.history.add(rows)
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error

    def beat(self, who: Introduction, uptime: int, waiting: int) -> None:
        if self._link.session is None:
            return
        try:
            now = self._now()
            if now // TRIED_EACH != self._unheard:
                heartbeat = Heartbeat(self._run_name, *who, since=now - uptime, heard=now, waiting=waiting)
                self._tables.daemons.beat(heartbeat, is_first=not self._is_heard)
                self._is_heard = True
        except NodeError as error:
            if error.code not in ("NOPERM", "WRONGTYPE"):
                raise StoreUnavailable(str(error)) from error
            self._is_heard, self._unheard = False, now // TRIED_EACH
            _logger.warning("nobody sees in the database that this daemon is at work: %s", error)

    def leave(self) -> None:
        if self._is_heard:
            try:
                self._tables.daemons.leave(self._run_name)
            except NodeError as error:
                raise StoreUnavailable(str(error)) from error

    def clean_trails(self) -> bool:
        if self._link.session is None:
            return True
        try:
            if self._is_heard:
                self._tables.daemons.clean(self._now())
            return self._tables.clean_trails(self._now())
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error

    def block(self, blocks: Sequence[Override]) -> int:
        try:
            return self._tables.block(blocks, self._now())
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error

    def overrides(self) -> list[Override] | None:
        if self._link.session is None:
            return None
        try:
            version = self._tables.overrides_version()
            if version == self._overrides_version:
                return None
            found = self._tables.overrides(self._now())
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        self._overrides_version = version
        return found

    def maintain(self) -> None:
        self._memory.sweep(self._longest)

    def clean(
        self,
        patience: float,
        limits_of: Callable[[str], Limits | None] | None = None,  # noqa: ARG002 - counts expire by themselves
    ) -> int:
        """See that the server is there, for at most ``patience`` seconds, and delete overrides that have ended.

        :returns: 0, since counts expire by themselves.
        :raises StoreUnavailable: it is not there.
        """
        try:
            self._link.connect(patience)
            self._tables.remove_expired(self._now())
            while self._tables.clean_trails(self._now()):
                pass
        except NodeError as error:
            raise StoreUnavailable(str(error)) from error
        return 0

    def close(self) -> None:
        self._link.close()

    def _now(self) -> int:
        """The Unix second of the server; NodeError where it does not answer."""
        self._exchange(())
        return self._memory.ledger.windows.now

    def _run(
        self, commands: Sequence[Command], end: float, clock: Command | None = None, sent: Session | None = None
    ) -> None:
        """Have ``commands`` answered, see :meth:`Link.run`, and memory know the servers' time."""
        self._memory.synchronise(self._link.run(commands, end, clock, sent))

    def _exchange(self, commands: Sequence[Command]) -> None:
        """Likewise, in the time that one batch has."""
        self._run(commands, self._link.end())

    def _decide_rest(self, inquiry: Inquiry) -> tuple[list[Verdict], Record]:
        """Decide from memory what has no answer; what has one is counted there.

        The record tells of every counter of which the server may know more than its answers: that is how the two come
        to agree in the end.
        """
        entries = [entry for question in inquiry.questions if question.is_answered for entry in question.entries]
        for question in inquiry.questions:
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
        record = pack(self._memory.writer, inquiry.number, self._memory.date, entries)
        return [question.result for question in inquiry.questions], record

    def _count(self, question: Question, *, trims: bool = True) -> None:
        """Have memory know what the server has counted; ``trims``: what has expired leaves the memory."""
        ledger = self._memory.ledger
        if question.entries:
            if trims:
                for charge in question.demand.charges:
                    ledger.trim(charge)
            for entry in question.entries:
                ledger.apply(entry)

    def _keep(self, demands: Sequence[Demand]) -> int:
        """How long (seconds) a server has to remember what a batch has done: as long as what it has counted."""
        for demand in demands:
            for charge in demand.charges:
                self._longest = max(self._longest, longest_of(charge.limits), charge.keep_seconds)
        return self._longest


class _BatchInFlight(Batch):
    """What ``inquiry`` asks, for ``store``, until ``deadline``.

    ``session``: over which its ``commands`` and the question for the time, ``clock``, are sent; None: not yet. ``all``
    are both.
    ``given_up``: what came of it, where not all is answered that was asked.
    """

    def __init__(self, store: RedisStore, inquiry: Inquiry, deadline: float) -> None:
        self._store = store
        self.inquiry = inquiry
        self.commands: Sequence[Command] = inquiry.ask()
        self.clock = Command(None, "TIME")
        self.all = (*self.commands, self.clock)
        self.deadline = deadline
        self.most_in_flight = LANES
        self.session: Session | None = None
        self.given_up: StoreError | None = None

    def send(self, session: Session) -> None:
        """Send all over ``session``, without waiting; what is not sent at once has to wait."""
        self.session = session
        session.send(self.all)
        if not session.is_broken and not session.is_sending:
            self.descriptors = session.descriptors

    def poll(self) -> list[Verdict] | None:
        return self._store.receive(self)

    def finish(self) -> list[Verdict]:
        return self._store.finish(self)
