"""The store in Redis or Valkey: it decides on the server, by a script that is one step there.

A daemon needs no memory of all ids here, and a Cluster spreads them over its masters. The demands of a batch go in one
pipeline, which the server answers once they are on its disk (``appendfsync always``). The clock is the server's.

The keys, with *tag* as ``{length:counter}``, or ``{#digest}`` for a long one, so that a Cluster keeps them together::

    policyd:c:{tag}        what lies in the windows of the counter; expires with the longest of them
    policyd:m:{tag}mail    what a mail was charged on the counter; expires after 15 minutes

A counter also remembers what the last batch of each daemon has done to it. That makes it safe to send a batch again
after a connection broke: a batch has a number, a demand an ordinal among those for the same counter, and the script
knows which it has done. A demand that was sent and has no answer at the end of its time is decided from memory. The
record of such a batch is replayed under the number of the batch: the script adds, or gives back, the difference to what
it had counted, and is deaf to what may still be on its way.

What was admitted is counted in memory too, which decides when the server is away.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import random
import re
import threading
import time
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from policyd_rate_limit.domain.charge import MOST_SECONDS_LOOKED_AT, Entry, Usage, Verdict
from policyd_rate_limit.errors import StoreUnavailable
from policyd_rate_limit.storage.base import CommitFailed
from policyd_rate_limit.storage.record import pack
from policyd_rate_limit.storage.redis_nodes import (
    Command,
    NodeError,
    Remedy,
    Servers,
    Session,
    script,
    slot_of,
)
from policyd_rate_limit.storage.redis_tables import RedisTables, decoded, encoded, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Charge, Demand
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Hits, Override
    from policyd_rate_limit.storage.base import Commit
    from policyd_rate_limit.storage.memory import Memory
    from policyd_rate_limit.storage.record import Record
    from policyd_rate_limit.storage.redis_nodes import Argument

DEFAULT_PREFIX = "policyd"
LONGEST_TAG = 300  # no address is longer: characters of a counter that stand in a key as they are
DEMANDS_PER_SCRIPT = 32  # some hundred microseconds, in which the server serves nobody else
BATCHES_PER_TRIM = 8  # after one of so many, at random, what has expired leaves the memory of its ids
MOST_TERMS_PACKED = 1_024  # different ones that are kept packed
MOST_VERDICTS_KEPT = 256  # amounts that are often charged
COMMANDS_PER_EXCHANGE = 500  # of a replay, so that each exchange ends within the timeout
EXPLAIN_SECONDS = 0.5  # that nobody but a log line waits for, while demands may
CONNECTING_SECONDS = 0.5  # for tries to connect, one of which may meet with an accident
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds between two tries within the time of a batch

_T = TypeVar("_T")

_SAME = b""  # instead of the terms of a demand
_REFUSED, _LATER = 0, 3  # what a reply of the script begins with

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
        self._keys = _Keys(str(config.get("prefix") or DEFAULT_PREFIX), clustered=bool(config.get("cluster")))
        self._session: Session | None = None
        self._spare: Session | None = None  # opened by a probe
        self._replays = _Replays()
        self._overrides_version: Hashable = None
        self.tables = RedisTables(self._keys.prefix, lambda commands: self._run(commands, self._end()))

    def prepare(self, demands: Sequence[Demand], patience: float) -> Commit | None:  # noqa: ARG002 - nobody waits
        """See :meth:`policyd_rate_limit.storage.base.Store.prepare`: there is a network between."""
        return None

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
        # It takes a number whether or not anything will be counted: nothing of another batch may pass for it.
        number = self._memory.record(()).number
        batch = _Batch(number, self._memory.writer, self._keys, self._keep(demands), self._time)
        questions = [batch.question(demand) for demand in demands]
        try:
            self._ask_all(batch, questions)
        except NodeError as error:
            if not any(question.may_be_counted for question in questions):
                raise StoreUnavailable(str(error)) from error
            verdicts, record = self._decide_rest(batch, questions)
            raise CommitFailed(str(error), verdicts, record) from error
        trims = random.randrange(BATCHES_PER_TRIM) == 0  # noqa: S311 - no secret; counting up would miss regular ids
        for question in questions:
            self._count(question, trims=trims)
        return [question.result for question in questions]

    def explain(self, demands: Sequence[Demand]) -> list[tuple[Usage, ...]]:
        """See :meth:`policyd_rate_limit.storage.base.Store.explain`: the server is asked, and writes nothing."""
        missing = self._memory.ledger.missing
        asked = [(number, charge) for number, demand in enumerate(demands) for charge in missing(demand)]
        commands: list[tuple[Command, Sequence[tuple[int, Charge]]]] = []
        for together in self._keys.in_scripts(asked, lambda of_demand: of_demand[1].counter):
            keys = [self._keys.counter(charge.counter) for _, charge in together]
            arguments: list[Argument] = []
            for _, charge in together:
                terms = _terms("explain", b"", ((MOST_SECONDS_LOOKED_AT, charge.cost, charge.limits),))
                arguments += (terms, b"")
            commands.append((script(keys, (_name(self._memory.writer), 0, 0, self._time, *arguments)), together))
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
        pattern = _escaped(self._keys.counters) + b"*"
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
        self._replays = _Replays()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _run(self, commands: Sequence[Command], end: float) -> None:
        """Have ``commands`` answered until ``end`` (of the monotonic clock), and memory know the server's time.

        What has no answer is sent again, over new connections if need be.
        """
        clock = Command(None, "TIME")
        waiting = [*commands, clock]
        pause = FIRST_PAUSE
        while True:
            try:
                failure = self._connect(end - time.monotonic()).exchange(waiting, end)
            except NodeError as error:
                if not any(command.open for command in waiting):
                    raise  # nothing is to be found out by waiting
                failure = error
            for command in waiting:
                if command.reply == [_LATER]:
                    command.reply = None
            waiting = [command for command in waiting if command.reply is None]
            if not waiting:
                seconds, microseconds = map(int, clock.reply)
                self._memory.synchronise(self._clock() if self._clock else seconds + microseconds / 1e6)
                return
            if failure is None:
                failure = NodeError("Redis has lost what was replayed before", Remedy.NONE)
            left = end - time.monotonic()
            if self._session is not None and (self._session.is_broken or any(command.open for command in waiting)):
                self._disconnect()
            if failure.remedy is Remedy.NONE or left <= pause:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

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
                self._replays = _Replays()
                raise
            replays.done.update(record[:2] for record in waiting[:count])
            del waiting[:count]

    def _ask_all(self, batch: _Batch, questions: Sequence[_Question]) -> None:
        """Have all ``questions`` answered; on NodeError some are."""
        end = self._end()
        asked = list(questions)
        while asked:
            commands = list(batch.ask(asked))
            try:
                self._run([command for command, _ in commands], end)
            finally:
                for command, together in commands:
                    if command.reply is None:
                        for question in together:
                            question.may_be_counted = question.may_be_counted or command.open
                        continue
                    date, *replies = command.reply
                    for question, reply in zip(together, replies, strict=True):
                        question.take(reply, date)
            asked = [question for question in asked if question.verdict is None]
        rest = [last for question in questions for last in batch.conclude(question)] if batch.is_split else ()
        if rest:
            self._run([command for command, _, _ in rest], end)
            for command, question, group in rest:
                question.conclude(command.reply[1], group)

    def _decide_rest(self, batch: _Batch, questions: Sequence[_Question]) -> tuple[list[Verdict], Record]:
        """Decide from memory what has no answer.

        The record tells of every counter of which the server may know more than its answers: that is how the two come
        to agree in the end.
        """
        self._memory.advance()
        entries: list[Entry] = []
        for question in questions:
            if question.verdict is not None and not question.has_reserved:
                self._count(question)
                entries += question.entries
        for question in questions:
            if question.verdict is None or question.has_reserved:
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
        return [question.result for question in questions], record

    def _count(self, question: _Question, *, trims: bool = True) -> None:
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


class _Keys:
    """The names of all keys."""

    def __init__(self, prefix: str, *, clustered: bool) -> None:
        self.prefix = prefix
        self._clustered = clustered
        self._counter, self._mail = f"{prefix}:c:", f"{prefix}:m:"

    @property
    def counters(self) -> bytes:
        """What the keys of all counters begin with."""
        return encoded(f"{self.prefix}:c:{{")

    def name(self, key: bytes) -> str:
        """Of which counter ``key`` is, as far as it says so."""
        tag = decoded(key[len(self.counters) : -1])
        return tag if tag.startswith("#") else tag.partition(":")[2]

    def counter(self, counter: str) -> bytes:
        """The key of ``counter``."""
        return encoded(self._counter + _tag(counter))

    def mail(self, counter: str, mail: str) -> bytes:
        """The key of what ``mail`` was charged on ``counter``."""
        return encoded(self._mail + _tag(counter) + mail)

    def counter_and_mail(self, counter: str, mail: str) -> tuple[bytes, bytes]:
        """Both."""
        tag = _tag(counter)
        return encoded(self._counter + tag), encoded(self._mail + tag + mail)

    def together(self, charges: Sequence[Charge]) -> Sequence[Sequence[Charge]]:
        """``charges`` in groups that one script can decide."""
        if not self._clustered or len(charges) == 1:
            return (charges,)
        groups: dict[int, list[Charge]] = defaultdict(list)
        for charge in charges:
            groups[slot_of(self.counter(charge.counter))].append(charge)
        return list(groups.values())

    def in_scripts(self, asked: Sequence[_T], counter_of: Callable[[_T], str]) -> Iterator[Sequence[_T]]:
        """What is ``asked`` as it goes together in a script, by one counter of each."""
        places: Iterable[Sequence[_T]] = (asked,)
        if self._clustered:
            by_slot: dict[int, list[_T]] = defaultdict(list)
            for item in asked:
                by_slot[slot_of(self.counter(counter_of(item)))].append(item)
            places = by_slot.values()
        for place in places:
            for first in range(0, len(place), DEMANDS_PER_SCRIPT):
                yield place[first : first + DEMANDS_PER_SCRIPT]


class _Question:
    """A demand on its way: ``groups`` of its charges are asked one after the other, each counts if it admits.

    ``field`` is where the mail remembers the charge, ``own_field`` where it does until all groups have admitted: others
    are not to rely on what may be undone. ``verdict`` is None until all groups are answered; then ``entries`` are what
    was counted: where one of them refuses, what the others have reserved. ``may_be_counted``: the servers may have
    counted something of it.
    """

    __slots__ = ("demand", "entries", "field", "groups", "may_be_counted", "own_field", "verdict")

    def __init__(self, demand: Demand, field: bytes, own_field: bytes, groups: Sequence[Sequence[Charge]]) -> None:
        self.demand = demand
        self.field = field
        self.own_field = own_field
        self.groups = list(groups)
        self.entries: list[Entry] = []
        self.verdict: Verdict | None = None
        self.may_be_counted = False

    @property
    def result(self) -> Verdict:
        """The verdict, once there is one."""
        if self.verdict is None:
            raise AssertionError(f"no verdict on {self.demand}")
        return self.verdict

    @property
    def has_reserved(self) -> bool:
        """Whether some charges were counted before another one was refused."""
        return bool(self.entries) and self.verdict is not None and not self.verdict.admitted

    def take(self, reply: Sequence[int] | int, date: int) -> None:
        """The ``reply`` about the first of the groups; a bare number says that it was counted at ``date``."""
        group = self.groups.pop(0)
        if isinstance(reply, int):
            charge = group[0]
            self.entries.append(Entry(charge.counter, charge.cost, date, self.demand.mail, self.demand.part))
            self.may_be_counted = True
            if len(self.demand.charges) == 1:
                self.verdict = _admitted(charge.cost)
                return
        elif reply[0] == _REFUSED:
            charge = group[reply[1] - 1]
            self.verdict = Verdict(False, charge.key, charge.limits[reply[2] - 1])
            return
        else:
            self._note(group, reply)
        if not self.groups:
            first = self.demand.charges[0].counter
            charged = 0
            for entry in self.entries:
                if entry.counter == first:
                    charged += entry.amount
            self.verdict = Verdict(True, charged=charged)

    def conclude(self, reply: Sequence[int], group: Sequence[Charge]) -> None:
        """The ``reply`` to a command of :meth:`_Batch.conclude`."""
        if self.has_reserved:
            counters = {charge.counter for charge in group}
            self.entries = [entry for entry in self.entries if entry.counter not in counters]
        else:
            self._note(group, reply)

    def _note(self, group: Sequence[Charge], reply: Sequence[int]) -> None:
        mail, part = self.demand.mail, self.demand.part
        for at in range(1, len(reply), 3):
            self.entries.append(Entry(group[reply[at] - 1].counter, reply[at + 1], reply[at + 2], mail, part))
            self.may_be_counted = True


class _Batch:
    """Makes the commands of one batch, the ``number``-th of ``writer``."""

    def __init__(self, number: int, writer: int, keys: _Keys, keep: int, time: str) -> None:
        self.number = number
        self._writer = writer
        self._keys = keys
        self._common: tuple[Argument, ...] = (_name(writer), number, keep, time)
        self._ordinals: dict[str, int] = {}
        self._own_fields = 0
        self.is_split = False  # some demands need several scripts

    def question(self, demand: Demand) -> _Question:
        """``demand``, before anything of it is asked."""
        mail = demand.mail
        field = b""
        if mail:
            field = _settled_field(self._writer, self.number) if demand.settles else _part_field(demand.part)
        groups = self._keys.together(demand.charges)
        own_field = b""
        if len(groups) > 1:
            self.is_split = True
            if mail:
                self._own_fields += 1
                own_field = b"t%x.%d.%d" % (self._writer, self.number, self._own_fields)
        return _Question(demand, field, own_field, groups)

    def ask(self, questions: Sequence[_Question]) -> Iterator[tuple[Command, Sequence[_Question]]]:
        """Decide the first of the groups of each of ``questions``: the commands, and what each asks."""
        for together in self._keys.in_scripts(questions, lambda question: question.groups[0][0].counter):
            keys: list[bytes] = []
            arguments: list[Argument] = []
            before = b""
            for question in together:
                kind = "settle" if question.demand.settles and question.demand.mail else "charge"
                group = question.groups[0]
                terms = _terms(
                    kind,
                    question.own_field,
                    tuple([(self._name(keys, question, charge), charge.cost, charge.limits) for charge in group]),
                )
                arguments += (_SAME if terms == before else terms, question.field)
                before = terms
            yield script(keys, (*self._common, *arguments)), together

    def conclude(self, question: _Question) -> Iterator[tuple[Command, _Question, Sequence[Charge]]]:
        """Give back what was reserved, or confirm what was counted, by scripts that knew of some charges only.

        What a mail was charged too much before, and a refused demand has given back, stays given back.
        """
        if not question.has_reserved and not question.own_field:
            return
        kind = "undo" if question.has_reserved else "confirm"
        counted = {entry.counter: entry for entry in question.entries if entry.amount > 0}
        for group in self._keys.together([c for c in question.demand.charges if c.counter in counted]):
            keys: list[bytes] = []
            terms: list[tuple[int, int, int]] = []
            for charge in group:
                entry = counted[charge.counter]
                terms.append((self._name(keys, question, charge), entry.amount, entry.date))
            arguments = (*self._common, packed((kind, question.own_field, *terms)), question.field)
            yield script(keys, arguments), question, group

    def _name(self, keys: list[bytes], question: _Question, charge: Charge) -> int:
        """Put the keys of ``charge`` behind ``keys``; which of the demands on its counter in this batch this is."""
        counter = charge.key + charge.unit
        if question.demand.mail:
            keys += self._keys.counter_and_mail(counter, question.demand.mail)
        else:
            keys.append(self._keys.counter(counter))
        ordinal = self._ordinals[counter] = self._ordinals.get(counter, 0) + 1
        return ordinal


class _Replays:
    """Makes the commands that bring in records, in the order in which they were written.

    ``done``: (writer, number) of the records that are in.
    """

    def __init__(self) -> None:
        self.done: set[tuple[int, int]] = set()
        self._former: dict[tuple[int, str], int] = {}  # writer, counter -> number of the last record

    def commands(self, record: Record, keys: _Keys, keep: int, time: str) -> Iterator[Command]:
        """One command for each counter of ``record``."""
        entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in record.dated_until(record.date):
            entries[entry.counter].append(entry)
        for counter, of_counter in entries.items():
            mails: dict[str, int] = {}
            arguments: list[Argument] = ["replay", self._former.get((record.writer, counter), 0), record.date]
            for entry in _merged(of_counter):
                mail = entry.mail
                field = b""
                if mail and entry.part and entry.amount > 0:
                    field = _part_field(entry.part)
                elif mail:
                    field = _settled_field(record.writer, record.number)
                arguments += (entry.amount, entry.date, mails.setdefault(mail, len(mails) + 2) if mail else 0, field)
            names = [keys.counter(counter), *(keys.mail(counter, mail) for mail in mails)]
            yield script(names, (_name(record.writer), record.number, keep, time, *arguments))
            self._former[record.writer, counter] = record.number


def _tag(counter: str) -> str:
    """What has a Cluster keep all keys of ``counter`` together: it counts what lies between the braces only."""
    if len(counter) <= LONGEST_TAG:
        # With its length no two counters have keys in common, whatever characters they are made of.
        return f"{{{len(counter)}:{counter}}}"
    return f"{{#{hashlib.blake2b(encoded(counter), digest_size=20).hexdigest()}}}"


def _name(writer: int) -> bytes:
    return writer.to_bytes(8, "big")


@lru_cache(MOST_TERMS_PACKED)
def _terms(kind: str, own_field: bytes, charges: tuple[tuple[int, int, Limits], ...]) -> bytes:
    """What is asked of ``charges``: ordinal, amount and limits of each."""
    together = [
        (ordinal, amount, [number for limit in limits for number in limit]) for ordinal, amount, limits in charges
    ]
    return packed((kind, own_field, *together))


@lru_cache(MOST_VERDICTS_KEPT)
def _admitted(amount: int) -> Verdict:
    return Verdict(True, charged=amount)


def _part_field(part: str) -> bytes:
    return encoded(f"p{part}")


def _settled_field(writer: int, number: int) -> bytes:
    """One for all that a batch settles for a mail: Postfix asks about one stage of a mail after the other."""
    return b"s%x.%d" % (writer, number)


def _merged(entries: Sequence[Entry]) -> Iterator[Entry]:
    """``entries`` of one counter, those that have a field in common as one."""
    settled: dict[str, Entry] = {}
    for entry in entries:
        if entry.mail and not entry.part and entry.amount > 0:
            before = settled.get(entry.mail)
            settled[entry.mail] = replace(entry, amount=entry.amount + (before.amount if before else 0))
        else:
            yield entry
    yield from settled.values()


def _escaped(text: bytes) -> bytes:
    """``text`` as a pattern of Redis that means itself."""
    return re.sub(rb"[\\*?\[\]^-]", rb"\\\g<0>", text)


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

    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        found = outcome.get(timeout=max(seconds, 0))
    except queue.Empty:
        late.set()
        close_late()
        raise NodeError("Redis: no connection in time", Remedy.RECONNECT) from None
    if isinstance(found, NodeError):
        raise found
    return found
