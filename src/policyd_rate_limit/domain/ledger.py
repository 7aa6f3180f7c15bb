"""Deciding: one demand after the other, against the windows and against what each mail was charged before.

What was decided is told in entries, which a store makes durable and which rebuild the same ledger elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.charge import Charge, Exceeded, Usage, Verdict, Warned, warns_from
from policyd_rate_limit.domain.counter import is_distinct
from policyd_rate_limit.domain.entry import RESET, Entry
from policyd_rate_limit.domain.limits import longest_of, windows_of
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS, Mails
from policyd_rate_limit.domain.values import Values
from policyd_rate_limit.domain.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from policyd_rate_limit.domain.charge import Demand
    from policyd_rate_limit.domain.limits import Limit, Limits

_A_VALUE: Final = -(1 << 60)  # in place of a cost, which nothing that is given back comes to
_NEW: Final = "new"  # no value is known by this


class Ledger:
    """All that is needed to decide, in memory; ``max_keys`` bounds the windows and the values."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a new ledger."""
        self.windows = Windows(self._max_keys)
        self.values = Values(self.windows, self._max_keys)
        self.mails = Mails()

    def advance(self, time: float) -> None:
        """The clock shows ``time`` (Unix seconds)."""
        if self.windows.advance(time):
            self.mails.redate(self.windows.date)

    def decide(self, demand: Demand, entries: list[Entry]) -> Verdict:
        """Admit or refuse ``demand`` at the moment of the last :meth:`advance`.

        What is counted is appended to ``entries``: where a charge that refuses is exceeded nothing, otherwise each
        charge that is not exceeded.
        """
        windows, charges, mail = self.windows, demand.charges, demand.mail
        before = self.mails.entries(mail) if mail else ()
        counted: list[int] = []
        exceeded: tuple[Exceeded, ...] = ()
        refused_by: Exceeded | None = None
        for index in range(len(charges)):  # compiled, it costs less than enumerate() and zip()
            charge = charges[index]
            cost = _missing(charge, before) if before else charge.cost
            if cost > 0:
                limits = charge.limits
                if limits and not limits[0].seconds:  # PER_MAIL
                    limit = self._exceeded_per_mail(charge, cost, before)
                else:
                    limit = windows.exceeded(charge.counter, cost, limits, charge.keep_seconds)
                if limit is not None:
                    cost = 0
                    one = Exceeded(index, limit)
                    exceeded += (one,)
                    if charge.refuses and refused_by is None:
                        refused_by = one
            elif charge.is_distinct:
                cost = _A_VALUE
                limit = self.values.exceeded(charge.counter, charge.part, charge.limits, charge.keep_seconds)
                if limit is not None:
                    cost = 0
                    one = Exceeded(index, limit)
                    exceeded += (one,)
                    if charge.refuses and refused_by is None:
                        refused_by = one
            counted.append(cost)
        if refused_by is not None:
            return Verdict((), exceeded, refused_by)
        warned: tuple[Warned, ...] = ()
        for index in range(len(charges)):
            charge, cost = charges[index], counted[index]
            if cost > 0:
                entry = Entry(charge.counter, cost, windows.date, mail, charge.part)
                entries.append(entry)
                windows.add(charge.counter, windows.date, cost)
                if mail:
                    self.mails.add(entry)
                if charge.warn:
                    warned += self._warned(index, charge, cost)
            elif cost == _A_VALUE:
                before_it = self.values.usage(charge.counter, charge.limits) if charge.warn else ()
                counted[index] = self._count_value(charge, entries)
                if charge.warn:
                    warned += self._warned_of_values(index, charge, before_it)
            elif cost:
                self._give_back(charge.counter, -cost, before, entries)
        return Verdict(tuple(counted), exceeded, None, warned)

    def explain(self, demand: Demand) -> tuple[Usage, ...]:
        """How the limits of all charges of ``demand`` stand, at the moment of the last :meth:`advance`."""
        usages: list[Usage] = []
        for charge in self.missing(demand):
            counter, limits = charge.counter, windows_of(charge.limits)
            if limits is not charge.limits:
                usages.append(self.explain_per_mail(charge, demand.mail))
            if is_distinct(counter):
                outlook = self.values.outlook(counter, charge.part, limits, charge.keep_seconds)
            else:
                outlook = self.windows.outlook(counter, charge.cost, limits)
            usages += (Usage(counter, limit, *one) for limit, one in zip(limits, outlook, strict=True))
        return tuple(usages)

    def usage(self, counter: str, limits: Limits) -> tuple[int, ...]:
        """What lies in the window of each of ``limits`` now; a limit per mail has none."""
        return (self.values if is_distinct(counter) else self.windows).usage(counter, limits)

    def counters(self) -> Iterator[str]:
        """All of which anything is remembered, but for those beyond the bound of the windows."""
        yield from self.windows
        yield from self.values

    def charges(self) -> Iterator[tuple[str, int, int]]:
        """All that is remembered, as (counter, date, amount): of different values one each, when it came last."""
        yield from self.windows.charges()
        for counter, date, _ in self.values.all():
            yield counter, date, 1

    def charges_of(self, counter: str) -> list[tuple[int, int]]:
        """What is remembered of ``counter``, as (date, amount), oldest first: of different values one each."""
        if is_distinct(counter):
            return [(date, 1) for date in self.values.dates_of(counter)]
        return self.windows.charges_of(counter)

    def explain_per_mail(self, charge: Charge, mail: str) -> Usage:
        """How the limit per mail stands that ``charge`` has, which is as :meth:`missing` gives it; see :class:`Usage`.

        No mail becomes smaller: where it does not admit the charge, it never will.
        """
        limit = charge.limits[0]
        used = _charged(charge.counter, self.mails.entries(mail)) if mail else 0
        return Usage(charge.counter, limit, used, None if used + charge.cost > limit.maximum else 0)

    def missing(self, demand: Demand) -> Sequence[Charge]:
        """The charges of ``demand``, less what its mail was charged before where that is settled."""
        before = self.mails.entries(demand.mail) if demand.mail else ()
        if not before:
            return demand.charges
        return [
            replace(charge, cost=_missing(charge, before)) if charge.settles else charge for charge in demand.charges
        ]

    def trim(self, charge: Charge) -> None:
        """Have what has expired on the counter of ``charge`` take no more room."""
        keep = max(longest_of(charge.limits), charge.keep_seconds)
        if charge.is_distinct:
            self.values.trim(charge.counter, keep)
        else:
            self.windows.exceeded(charge.counter, 0, (), keep)

    def sweep(self, longest: int) -> None:
        """Forget some of what has expired; called about once a second. ``longest``: the longest window, in seconds."""
        self.windows.sweep(longest)
        self.values.sweep(longest)

    def apply(self, entry: Entry) -> None:
        """Count ``entry``, which was decided here, by another daemon, or before a restart."""
        counter, amount, date, mail = entry.counter, entry.amount, entry.date, entry.mail
        if not mail and entry.part and is_distinct(counter):
            self._apply_value(entry)
        elif amount > 0:
            self.windows.add(counter, date, amount)
        elif amount:
            self.windows.give_back(counter, date, -amount)
        elif entry.part == RESET:
            self.windows.empty(counter, date)
        # What is given back is always taken from what is remembered, or it could be given back again.
        if mail and (date > self.windows.now - REMEMBERED_SECONDS or amount < 0):
            self.mails.add(entry)

    def reset(self, counter: str, mails: Iterable[str], entries: list[Entry]) -> None:
        """Give back all that is counted for ``counter``, of ``mails`` and of others, and append that to ``entries``.

        ``mails`` are those that may be remembered: what they were charged must not be given back once more. The last of
        ``entries`` is for whoever counts more here than this ledger, which knows its own longest window: daemons with
        another configuration, or with another one later. What is counted from this second on is none of its business.
        """
        for mail in mails:
            for entry in tuple(self.mails.entries(mail)):
                if entry.counter == counter and entry.amount > 0:
                    self._count(replace(entry, amount=-entry.amount), entries)
        for key, date, amount in tuple(self.windows.charges()):
            if key == counter:
                self._count(Entry(counter, -amount, date, "", ""), entries)
        for key, date, value in tuple(self.values.all()):
            if key == counter:
                self._count(Entry(counter, -1, date, "", value), entries)
        self._count(Entry(counter, 0, self.windows.date - 1, "", RESET), entries)

    def snapshot(self) -> Iterator[Entry]:
        """All that windows and values hold, as entries that rebuild them."""
        for counter, date, amount in self.windows.charges():
            yield Entry(counter, amount, date, "", "")
        for counter, date, value in self.values.all():
            yield Entry(counter, 1, date, "", value)

    def _exceeded_per_mail(self, charge: Charge, cost: int, before: Sequence[Entry]) -> Limit | None:
        """The first of the limits of ``charge`` that ``cost`` more would exceed; the first of them is per mail.

        What it counts is kept in the windows for as long as the mail is remembered, even if no other limit needs it:
        they have to drop it some time.
        """
        counter, limits, of_mail = charge.counter, charge.limits, cost + _charged(charge.counter, before)
        keep = max(charge.keep_seconds, REMEMBERED_SECONDS)
        limit = self.windows.exceeded(counter, cost, limits[1:], keep)
        return limits[0] if of_mail > limits[0].maximum else limit

    def _warned(self, index: int, charge: Charge, cost: int) -> tuple[Warned, ...]:
        """Which windows of ``charge``, which stands at ``index``, ``cost`` has brought so far that it warns."""
        limits = windows_of(charge.limits)
        used = self.windows.usage(charge.counter, limits)
        found: tuple[Warned, ...] = ()
        for at in range(len(limits)):
            if used[at] - cost < warns_from(limits[at], charge.warn) <= used[at]:
                found += (Warned(index, limits[at], used[at]),)
        return found

    def _count_value(self, charge: Charge, entries: list[Entry]) -> int:
        """Have the value of ``charge`` be there now; how much that counts: 0, where it has come in this second before.

        What it is part of does not matter: the same value of another mail is the same.
        """
        date = self.windows.date
        if not self.values.add(charge.counter, date, charge.part):
            return 0
        entries.append(Entry(charge.counter, 1, date, "", charge.part))
        return 1

    def _warned_of_values(self, index: int, charge: Charge, before: Sequence[int]) -> tuple[Warned, ...]:
        """As :meth:`_warned`; ``before``: what was in the window of each limit."""
        used = self.values.usage(charge.counter, charge.limits)
        found: tuple[Warned, ...] = ()
        for at, limit in enumerate(charge.limits):
            if before[at] < warns_from(limit, charge.warn) <= used[at]:
                found += (Warned(index, limit, used[at]),)
        return found

    def _apply_value(self, entry: Entry) -> None:
        counter, amount, date, part = entry.counter, entry.amount, entry.date, entry.part
        if amount > 0:
            self.values.add(counter, date, part)
        elif amount:
            self.values.remove(counter, date, part)
        elif part == RESET:
            self.values.empty(counter, date)

    def _count(self, entry: Entry, entries: list[Entry]) -> None:
        entries.append(entry)
        self.apply(entry)

    def _give_back(self, counter: str, amount: int, before: Sequence[Entry], entries: list[Entry]) -> None:
        """Give ``amount`` back of what was charged ``before``, the newest charges first."""
        for entry in reversed(tuple(before)):
            taken = min(amount, entry.amount) if entry.counter == counter else 0
            if taken > 0:
                amount -= taken
                self._count(replace(entry, amount=-taken), entries)


def one_more(counter: str, limits: Limits) -> Charge:
    """A charge of one more on ``counter``, whatever that counts: of different values one that was not there yet."""
    return Charge(counter, 0, limits, _NEW) if is_distinct(counter) else Charge(counter, 1, limits)


def _charged(counter: str, entries: Sequence[Entry]) -> int:
    """What ``entries`` of one mail have charged it on ``counter``, less what was given back."""
    total = 0
    for entry in entries:
        if entry.counter == counter:
            total += entry.amount
    return total


def _missing(charge: Charge, before: Sequence[Entry]) -> int:
    """What ``charge`` costs a mail that was charged ``before``; negative: so much is given back."""
    counter, cost = charge.counter, charge.cost
    if charge.settles:
        for entry in before:
            if entry.counter == counter:
                cost -= entry.amount
        return cost
    part = charge.part
    for entry in before:
        if entry.part == part and entry.counter == counter:
            return 0
    return cost
