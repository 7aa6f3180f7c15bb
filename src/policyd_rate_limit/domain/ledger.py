"""Deciding: one demand after the other, against the windows and against what each mail was charged before.

What was decided is told in entries, which a store makes durable and which rebuild the same ledger elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.charge import RESET, Charge, Demand, Entry, Usage, Verdict
from policyd_rate_limit.domain.mails import REMEMBERED_SECONDS, Mails
from policyd_rate_limit.domain.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ALREADY_CHARGED: Final = Verdict(admitted=True)
_ADMITTED: Final = [Verdict(admitted=True, charged=cost) for cost in range(256)]


class Ledger:
    """All that is needed to decide, in memory; ``max_keys`` bounds the windows."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a new ledger."""
        self.windows = Windows(self._max_keys)
        self.mails = Mails()

    def advance(self, time: float) -> None:
        """The clock shows ``time`` (Unix seconds)."""
        if self.windows.advance(time):
            self.mails.redate(self.windows.date)

    def decide(self, demand: Demand, entries: list[Entry]) -> Verdict:
        """Admit or refuse ``demand`` at the moment of the last :meth:`advance`.

        When it is admitted it is counted, and what was counted is appended to ``entries``.
        """
        charges, mail, part = demand.charges, demand.mail, demand.part
        before = self.mails.entries(mail) if mail else None
        if before:
            if demand.settles:
                return self._settle(charges, mail, before, entries)
            for entry in before:
                if entry.part == part and _is_of(entry, charges):
                    return _ALREADY_CHARGED
        windows = self.windows
        if len(charges) == 1:
            charge = charges[0]
            counter, cost = charge.key + charge.unit, charge.cost
            exceeded = windows.charge(counter, cost, charge.limits)
            if exceeded is not None:
                return Verdict(False, charge.key, exceeded)
            entry = Entry(counter, cost, windows.date, mail, part)
            entries.append(entry)
            if mail:
                self.mails.begin(entry) if not before else self.mails.add(entry)
            return _ADMITTED[cost] if cost < len(_ADMITTED) else Verdict(True, charged=cost)
        exceeding = self._exceeding(charges)
        if exceeding is not None:
            return exceeding
        for charge in charges:
            self._count(Entry(charge.counter, charge.cost, windows.date, mail, part), entries)
        return Verdict(True, charged=charges[0].cost)

    def explain(self, demand: Demand) -> tuple[Usage, ...]:
        """How the limits of all charges of ``demand`` stand, at the moment of the last :meth:`advance`."""
        return tuple(
            Usage(charge.key, limit, used, free_in)
            for charge in self.missing(demand)
            for limit, (used, free_in) in zip(
                charge.limits, self.windows.outlook(charge.counter, charge.cost, charge.limits), strict=True
            )
        )

    def missing(self, demand: Demand) -> Sequence[Charge]:
        """The charges of ``demand``, less what its mail was charged before where it settles that."""
        before = self.mails.entries(demand.mail) if demand.settles and demand.mail else ()
        return _less(demand.charges, before) if before else demand.charges

    def apply(self, entry: Entry) -> None:
        """Count ``entry``, which was decided here, by another daemon, or before a restart."""
        counter, amount, date, mail = entry.counter, entry.amount, entry.date, entry.mail
        if amount > 0:
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
        self._count(Entry(counter, 0, self.windows.date - 1, "", RESET), entries)

    def snapshot(self) -> Iterator[Entry]:
        """All that the windows hold, as entries that rebuild them."""
        for counter, date, amount in self.windows.charges():
            yield Entry(counter, amount, date, "", "")

    def _exceeding(self, charges: Sequence[Charge]) -> Verdict | None:
        for charge in charges:
            exceeded = self.windows.exceeded(charge.counter, charge.cost, charge.limits)
            if exceeded is not None:
                return Verdict(False, charge.key, exceeded)
        return None

    def _count(self, entry: Entry, entries: list[Entry]) -> None:
        entries.append(entry)
        self.apply(entry)

    def _settle(self, charges: Sequence[Charge], mail: str, before: Sequence[Entry], entries: list[Entry]) -> Verdict:
        """Bring what ``mail`` was charged ``before`` up, or down, to the costs of ``charges``."""
        missing = _less(charges, before)
        exceeding = self._exceeding([charge for charge in missing if charge.cost > 0])
        if exceeding is not None:
            return exceeding
        for charge in missing:
            if charge.cost > 0:
                self._count(Entry(charge.counter, charge.cost, self.windows.date, mail, ""), entries)
            else:
                self._give_back(charge.counter, -charge.cost, before, entries)
        return Verdict(True, charged=missing[0].cost)

    def _give_back(self, counter: str, amount: int, before: Sequence[Entry], entries: list[Entry]) -> None:
        """Give ``amount`` back of what was charged ``before``, the newest charges first."""
        for entry in reversed(tuple(before)):
            taken = min(amount, entry.amount) if entry.counter == counter else 0
            if taken > 0:
                amount -= taken
                self._count(replace(entry, amount=-taken), entries)


def _is_of(entry: Entry, charges: Sequence[Charge]) -> bool:
    """Whether ``entry`` is about one of ``charges``: another user's of the same mail is another matter."""
    counter = entry.counter
    for charge in charges:  # noqa: SIM110 - a generator costs more than all of this
        if charge.key + charge.unit == counter:
            return True
    return False


def _less(charges: Sequence[Charge], before: Sequence[Entry]) -> list[Charge]:
    """``charges`` less what was charged ``before``; negative where that was more."""
    return [
        replace(charge, cost=charge.cost - sum(entry.amount for entry in before if entry.counter == charge.counter))
        for charge in charges
    ]
