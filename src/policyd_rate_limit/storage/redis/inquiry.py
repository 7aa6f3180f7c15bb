"""What a batch asks of Redis, and what the answers mean."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from policyd_rate_limit.domain.charge import Exceeded, Verdict, Warned, warns_from
from policyd_rate_limit.domain.entry import Entry
from policyd_rate_limit.domain.limits import LARGEST, Limit, longest_of, windows_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS
from policyd_rate_limit.domain.values import MOST_VALUES
from policyd_rate_limit.storage.redis.encoding import encoded, packed
from policyd_rate_limit.storage.redis.keys import lane_of, part_field, settled_field
from policyd_rate_limit.storage.redis.node import Command, NodeError, Remedy, refusable, script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyd_rate_limit.domain.charge import Charge, Demand
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.redis.keys import Keys
    from policyd_rate_limit.storage.redis.node import Argument

MOST_TERMS_PACKED = 1_024  # different ones that are kept packed
MOST_VERDICTS_KEPT = 256  # amounts that are often charged
MOST_SECONDS_LOOKED_AT = (1 << 12) - 1  # to explain: so that the server is held up for microseconds

_SAME = b""  # instead of the terms of a demand
_REFUSED, _FAILED, _WARNED = 0, 5, 6  # what a reply of the script begins with
_NO_PART = part_field("")
_SETTLES, _LETS_PASS, _OF_VALUES = 1, 2, 4  # flags of a charge
_COMMON = 5  # arguments of the script before those of the demands


class Question:
    """A demand in flight: ``groups`` of its charges are asked one after the other, each counts if it admits.

    ``own_field`` is where the mail remembers its charges until all groups have admitted: others are not to rely on what
    may be undone. ``verdict`` is None until all groups are answered; then ``entries`` are what was counted: where one
    of them refuses, what the others have reserved. ``may_be_counted``: the servers may have counted something of it.
    """

    __slots__ = (
        "_exceeded",
        "_failure",
        "_warned",
        "demand",
        "entries",
        "groups",
        "may_be_counted",
        "own_field",
        "verdict",
    )

    def __init__(self, demand: Demand, own_field: bytes, groups: Sequence[Sequence[Charge]]) -> None:
        self.demand = demand
        self.own_field = own_field
        self._exceeded: tuple[Exceeded, ...] = ()
        self.groups = list(groups)
        self.entries: list[Entry] = []
        self.verdict: Verdict | None = None
        self.may_be_counted = False

    @property
    def result(self) -> Verdict:
        """The verdict, once there is one.

        :raises NodeError: there will be none.
        """
        if self.verdict is None:
            raise NodeError(self.failure or f"no verdict on {self.demand}", Remedy.NONE)
        return self.verdict

    @property
    def failure(self) -> str:
        """Why the servers cannot decide this one, such as a key that is of another type; empty: they can."""
        return getattr(self, "_failure", "")  # what nearly none has costs nothing

    @property
    def is_refused(self) -> bool:
        """Whether a group has refused it: the others are asked only whether they would have refused it, too."""
        if not self._exceeded:
            return False
        return any(self.demand.charges[one.charge].refuses for one in self._exceeded)

    @property
    def is_answered(self) -> bool:
        """Whether nothing more is to be said to the servers, nor by them."""
        return self.verdict is not None and not self.has_reserved

    @property
    def has_reserved(self) -> bool:
        """Whether some charges were counted before another one was refused."""
        if not self.entries:
            return False
        return bool(self.failure) if self.verdict is None else not self.verdict.admitted

    def fail(self, why: str, *, may_be_counted: bool) -> None:
        """The servers cannot decide this one."""
        self._failure = why
        self.may_be_counted = self.may_be_counted or may_be_counted

    def take(self, reply: Sequence[int] | int, date: int) -> None:
        """The ``reply`` about the first of the groups; a bare number says that all of it was counted at ``date``."""
        group = self.groups.pop(0)
        if isinstance(reply, int):
            counted: tuple[int, ...] = ()
            for charge in group:
                cost = charge.cost
                if cost:
                    self.entries.append(Entry(charge.counter, cost, date, self.demand.mail, charge.part))
                else:
                    cost = 1
                    self.entries.append(_entry_of_value(charge, date))
                counted += (cost,)
            self.may_be_counted = True
            if len(counted) == len(self.demand.charges):
                self.verdict = _admitted(counted)
                return
        elif reply[0] == _REFUSED:
            self._note_exceeded(group, reply[1:])
        elif reply[0] == _WARNED:
            told: Any = reply
            self._note_warned(group, told[1])
            if isinstance(told[2], int):
                self._note_all(group, date)
            else:
                self._note(group, told[2])
        elif reply[0] == _FAILED:
            failed: Any = reply  # the only one that is not of numbers, which a compiled module insists on
            self.fail(_text(failed[1]), may_be_counted=True)
            return
        else:
            self._note(group, reply)
        if not self.groups:
            self.verdict = self._verdict()

    def _verdict(self) -> Verdict:
        exceeded = tuple(sorted(self._exceeded))
        charges = self.demand.charges
        refused_by = next((one for one in exceeded if charges[one.charge].refuses), None)
        if refused_by is not None:
            return Verdict((), exceeded, refused_by)
        warned: tuple[Warned, ...] = tuple(
            sorted(getattr(self, "_warned", ()), key=_charge_of)
        )  # limits in their order
        counted: dict[str, int] = {}
        for entry in self.entries:
            counted[entry.counter] = counted.get(entry.counter, 0) + entry.amount
        return Verdict(tuple([counted.get(charge.counter, 0) for charge in charges]), exceeded, None, warned)

    def conclude(self, reply: Sequence[int], group: Sequence[Charge]) -> None:
        """The ``reply`` to a command of :meth:`Inquiry.rest`."""
        if reply[0] == _FAILED:
            return  # what cannot be given back stays counted
        if self.has_reserved:
            counters = {charge.counter for charge in group}
            self.entries = [entry for entry in self.entries if entry.counter not in counters]
        else:
            self._note(group, reply)

    def _note_all(self, group: Sequence[Charge], date: int) -> None:
        for charge in group:
            self.entries.append(self._entry(charge, charge.most, date))
        self.may_be_counted = True

    def _note(self, group: Sequence[Charge], reply: Sequence[int]) -> None:
        if len(reply) > 1:
            first = 2 + 2 * reply[1]
            self._note_exceeded(group, reply[2:first])
            for at in range(first, len(reply), 3):
                self.entries.append(self._entry(group[reply[at] - 1], reply[at + 1], reply[at + 2]))
                self.may_be_counted = True

    def _entry(self, charge: Charge, amount: int, date: int) -> Entry:
        if charge.is_distinct:
            return _entry_of_value(charge, date)
        return Entry(charge.counter, amount, date, self.demand.mail, charge.part)

    def _note_exceeded(self, group: Sequence[Charge], numbers: Sequence[int]) -> None:
        """``numbers``: charge of the ``group`` and limit of that, each counted from 1, for each that is exceeded."""
        exceeded = []
        for at in range(0, len(numbers), 2):
            charge = group[numbers[at] - 1]
            limit = numbers[at + 1] - 1
            if limit == len(charge.limits):  # the bound of what is kept for other limits, which is none of them
                limit = 0
            exceeded.append(Exceeded(self.demand.charges.index(charge), charge.limits[limit]))
        self._exceeded += tuple(exceeded)

    def _note_warned(self, group: Sequence[Charge], numbers: Sequence[int]) -> None:
        """``numbers``: charge of the ``group`` and limit of that, each counted from 1, and what of it is used."""
        warned: tuple[Warned, ...] = getattr(self, "_warned", ())  # what nearly none has costs nothing
        for at in range(0, len(numbers), 3):
            charge = group[numbers[at] - 1]
            limit = charge.limits[numbers[at + 1] - 1]
            warned += (Warned(self.demand.charges.index(charge), limit, numbers[at + 2]),)
        self._warned = warned


class Inquiry:
    """Asks the servers what ``demands`` want to know: the ``number``-th batch of ``writer``.

    ``keep``: seconds for which a server remembers it at the least; ``time``: that of the script.
    """

    def __init__(self, number: int, writer: int, keys: Keys, keep: int, time: str, demands: Sequence[Demand]) -> None:
        self.number = number
        self._writer = writer
        self._keys = keys
        self._common: tuple[Argument, ...] = (lane_of(writer, number), number, keep, time)
        self._places = 0  # so many demands were asked, some of them twice: of several servers, or to conclude
        self._own_fields = 0
        self._settled_field = settled_field(writer, number)
        self._asked: list[tuple[Command, Sequence[Question]]] = []
        self._refused: list[tuple[Command, Sequence[Question]]] = []
        self.is_split = False  # some demands need several scripts
        self.questions = [self._question(demand) for demand in demands]

    def _question(self, demand: Demand) -> Question:
        groups = self._keys.together(demand.charges)
        own_field = b""
        if len(groups) > 1:
            self.is_split = True
            if demand.mail or any(charge.is_distinct for charge in demand.charges):
                self._own_fields += 1
                own_field = b"t%x.%d.%d" % (self._writer, self.number, self._own_fields)
        return Question(demand, own_field, groups)

    def ask(self, again: bool = False) -> list[Command]:
        """Ask for what is to be known next of each question that has no verdict; none: all have one.

        ``again``: some may have failed, and will have none.
        """
        asked = [question for question in self.questions if question.verdict is None]
        if again:
            asked = [question for question in asked if not question.failure]
        for together in self._keys.in_scripts(asked, lambda question: question.groups[0][0].counter):
            keys: list[bytes] = []
            arguments: list[Argument] = []
            before: object = None  # the terms of the demand before, which those of the next may be
            for question in together:
                group, own_field = question.groups[0], question.own_field
                kind = "check" if question.is_refused else "charge"
                asked_of = tuple([(c.cost, c.limits, c.settles, c.refuses, c.keep_seconds, c.warn) for c in group])
                terms = (kind, own_field, asked_of)
                arguments.append(_SAME if terms == before else terms_of(kind, own_field, asked_of))
                before = terms
                self._name(keys, arguments, question.demand, group)
            command = script(keys, (*self._common, self._take_places(len(together)), *arguments))
            command.may_be_refused = True
            self._asked.append((command, together))
        return [command for command, _ in self._asked]

    def take(self) -> None:
        """Take the replies to what has been asked, as far as there are any."""
        unanswered = []
        for command, together in self._asked:
            if command.reply is None:
                if command.is_refused:
                    self._refused.append((command, together))
                    continue
                unanswered.append((command, together))
                for question in together:
                    question.may_be_counted = question.may_be_counted or command.open
                continue
            date, *replies = command.reply
            for question, reply in zip(together, replies, strict=True):
                question.take(reply, date)
        self._asked = unanswered

    @property
    def failed(self) -> list[Question]:
        """What the servers cannot decide."""
        return [question for question in self.questions if question.failure]

    def one_by_one(self) -> list[tuple[Command, Question]]:
        """Once more, each by itself, what was refused together: for the keys of one, as it seems."""
        refused, self._refused = self._refused, []
        return [single for command, together in refused for single in self._singles(command, together)]

    def _singles(self, command: Command, together: Sequence[Question]) -> Iterator[tuple[Command, Question]]:
        _, _, count, *rest = command.arguments
        keys, arguments = rest[: int(count)], list(rest[int(count) + _COMMON :])
        place = int(rest[int(count) + _COMMON - 1])
        terms: Argument = _SAME
        for question in together:
            group = question.groups[0]
            size = sum([2 if question.demand.mail or charge.is_distinct else 1 for charge in group])
            own = [bytes(key) for key in keys[:size] if isinstance(key, bytes)]
            del keys[:size]
            terms = arguments[0] or terms
            fields = arguments[1 : 1 + len(group)]
            del arguments[: 1 + len(group)]
            yield refusable(script(own, (*self._common, place, terms, *fields))), question
            place += 1

    def take_single(self, command: Command, question: Question) -> None:
        """Take the reply to one of :meth:`one_by_one`."""
        if command.reply is None:
            question.fail(str(command.failure), may_be_counted=command.open)
        else:
            date, reply = command.reply
            question.take(reply, date)

    def rest(self) -> list[tuple[Command, Question, Sequence[Charge]]]:
        """What is to be said about questions that all have a verdict."""
        return [last for question in self.questions for last in self._conclude(question)] if self.is_split else []

    def _conclude(self, question: Question) -> Iterator[tuple[Command, Question, Sequence[Charge]]]:
        """Give back what was reserved, or confirm what was counted, by scripts that knew of some charges only.

        What a mail was charged too much before, and a refused demand has given back, stays given back.
        """
        if not question.has_reserved and not question.own_field:
            return
        kind = "undo" if question.has_reserved else "confirm"
        counted = {entry.counter: entry for entry in question.entries if entry.amount > 0}
        for group in self._keys.together([c for c in question.demand.charges if c.counter in counted]):
            keys: list[bytes] = []
            of_group: list[tuple[int, ...]] = []
            for charge in group:
                entry = counted[charge.counter]
                flags = (_OF_VALUES,) if charge.is_distinct else ()
                of_group.append((entry.amount, entry.date, *flags))
            terms = packed((kind, question.own_field, *of_group))
            arguments: list[Argument] = [*self._common, self._take_places(1), terms]
            self._name(keys, arguments, question.demand, group)
            yield script(keys, arguments), question, group

    def _name(self, keys: list[bytes], fields: list[Argument], demand: Demand, group: Sequence[Charge]) -> None:
        """Put the keys of ``group`` behind ``keys``, and behind ``fields`` where the mail remembers each charge."""
        mail = demand.mail
        if not mail:
            for charge in group:
                keys.append(self._keys.counter(charge.counter))
                if charge.is_distinct:
                    keys.append(self._keys.values(charge.counter))
                fields.append(encoded(charge.part) if charge.is_distinct else b"")
            return
        name = encoded(mail)
        part, field = "", _NO_PART
        for charge in group:
            if charge.is_distinct:
                keys += (self._keys.counter(charge.counter), self._keys.values(charge.counter))
                fields.append(encoded(charge.part))
                continue
            keys += self._keys.counter_and_mail(charge.counter, name)
            if charge.part != part:
                part, field = charge.part, part_field(charge.part)
            fields.append(self._settled_field if charge.settles else field)

    def _take_places(self, number: int) -> int:
        """Have ``number`` demands be asked; how many were before. The place of each tells it from the others."""
        self._places += number
        return self._places - number


@lru_cache(MOST_TERMS_PACKED)
def terms_of(kind: str, own_field: bytes, charges: tuple[tuple[int, Limits, bool, bool, int, int], ...]) -> bytes:
    """What is asked of ``charges``: cost and limits, whether each settles and refuses, how long it is kept, and the per
    cent at which it warns.
    """
    together: list[tuple[object, ...]] = []
    for cost, limits, settles, refuses, keep, warn in charges:
        flags = (_SETTLES if settles else 0) + (0 if refuses else _LETS_PASS)
        windows = windows_of(limits)
        of_mail: object = False  # an object: a compiled module would make 0 of it beside numbers, which is true in Lua
        if windows is not limits:
            of_mail = limits[0].maximum
        if not cost and not settles:  # of different values
            terms: tuple[object, ...] = (1, _numbers_of_values(windows, keep), flags + _OF_VALUES)
        else:
            # As in the ledger: what is counted has to be dropped some time, even if no window needs it.
            kept = keep if windows is limits else max(keep, REMEMBERED_SECONDS)
            terms = (cost, _numbers(windows, kept), flags)
        if windows is not limits or warn:
            terms += (of_mail,)
        if warn:
            terms += ([warns_from(limit, warn) for limit in windows],)
        together.append(terms)
    return packed((kind, own_field, *together))


@lru_cache(MOST_TERMS_PACKED)
def explaining(cost: int, limits: Limits) -> bytes:
    """What is asked to have explained how ``limits``, none of them per mail, stand to a charge of ``cost``."""
    return packed(("explain", b"", (cost, _numbers(limits), MOST_SECONDS_LOOKED_AT)))


@lru_cache(MOST_TERMS_PACKED)
def explaining_values(limits: Limits) -> bytes:
    """What is asked to have explained how ``limits``, none of them per mail, stand to a value."""
    return packed(("explain values", b"", (1, _numbers_of_values(limits))))


def _numbers_of_values(limits: Limits, keep: int = 0) -> list[int]:
    """As :func:`_numbers`; whatever is kept of different values has a bound, which may be exceeded."""
    if keep > longest_of(limits):
        limits = (*limits, Limit(MOST_VALUES, keep))
    return [number for limit in limits for number in (min(limit.maximum, MOST_VALUES), limit.seconds)]


def _charge_of(warned: Warned) -> int:
    return warned.charge


def _entry_of_value(charge: Charge, date: int) -> Entry:
    return Entry(charge.counter, 1, date, "", charge.part)


def _numbers(limits: Limits, keep: int = 0) -> list[int]:
    """Maximum and seconds of each limit; what is to be kept for longer needs a window, which nothing exceeds."""
    if keep > longest_of(limits):
        limits = (*limits, Limit(LARGEST, keep))
    return [number for limit in limits for number in limit]


@lru_cache(MOST_VERDICTS_KEPT)
def _admitted(counted: tuple[int, ...]) -> Verdict:
    return Verdict(counted)


def _text(reply: object) -> str:
    return " ".join(reply.decode("utf-8", "replace").split()) if isinstance(reply, bytes) else str(reply)
