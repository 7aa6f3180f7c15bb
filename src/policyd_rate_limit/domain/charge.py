"""What a mail asks of the store, and what the store answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.domain.limits import Limit, Limits

RESET: Final = "reset"  # no recipient has a part that is as short

RECIPIENTS: Final = ""  # the unit that every limit counts in today


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Charge:
    """``cost`` more for ``key``, within ``limits``. What a key stands for is nobody's business here.

    ``unit`` separates counters of one key that count different things; it is a suffix of the counter's name.
    """

    key: str
    unit: str
    cost: int
    limits: Limits

    def __init__(self, key: str, unit: str, cost: int, limits: Limits) -> None:
        self.key = key
        self.unit = unit
        self.cost = cost
        self.limits = limits

    @property
    def counter(self) -> str:
        """The name of the counter that is charged."""
        return self.key + self.unit


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Demand:
    """The charges of one policy request, of a different counter each: admitted all or none.

    ``mail``
        Postfix's ``instance``, empty when the request has none. Requests of the same mail share it.
    ``part``
        What of that mail is charged, such as one recipient. The same part of the same mail is charged once,
        however often Postfix asks. Empty: see ``settles``.
    ``settles``
        The costs are those of the whole mail: what was charged for it before is brought up, or down, to them.
    """

    charges: tuple[Charge, ...]
    mail: str
    part: str
    settles: bool

    def __init__(self, charges: tuple[Charge, ...], mail: str = "", part: str = "", settles: bool = False) -> None:
        self.charges = charges
        self.mail = mail
        self.part = part
        self.settles = settles


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Verdict:
    """The answer to a :class:`Demand`.

    ``key`` and ``exceeded``: the key and the limit that refused it, None when it was admitted.
    ``charged``: what was counted for the first charge, 0 when that had been counted before, negative for what was
    given back.
    """

    admitted: bool
    key: str | None
    exceeded: Limit | None
    charged: int

    def __init__(self, admitted: bool, key: str | None = None, exceeded: Limit | None = None, charged: int = 0) -> None:
        self.admitted = admitted
        self.key = key
        self.exceeded = exceeded
        self.charged = charged


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Waiting(ABC):
    """Whoever waits for the verdict on a demand."""

    @abstractmethod
    def conclude(self, result: Verdict | Exception) -> None:
        """The verdict, or the error that prevented it."""


class Usage(NamedTuple):
    """How one limit of a charge stands.

    ``used``: what lies in its window. ``free_in``: seconds until the charge is within it, if nothing else is counted
    meanwhile; 0: it is now; None: it never will be. Where more than :data:`MOST_SECONDS_LOOKED_AT` different seconds
    have to leave the window first, it is the time until all of them have.
    """

    key: str
    limit: Limit
    used: int
    free_in: int | None


MOST_SECONDS_LOOKED_AT = (1 << 12) - 1  # so that explaining takes microseconds, whatever an id has sent


def free_in(usages: Iterable[Usage]) -> int | None:
    """Seconds until all limits of ``usages`` admit the demand that they explain; None: never."""
    latest = 0
    for usage in usages:
        if usage.free_in is None:
            return None
        latest = max(latest, usage.free_in)
    return latest


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Entry:
    """One line of the ledger: ``amount`` on ``counter`` at ``date`` (Unix second), for a part of a mail or for none.

    A negative amount gives back what was counted at ``date``. The part :data:`RESET`, with an amount of 0, takes back
    all that is still counted on ``counter`` at ``date`` or before.
    """

    counter: str
    amount: int
    date: int
    mail: str
    part: str

    def __init__(self, counter: str, amount: int, date: int, mail: str, part: str) -> None:
        self.counter = counter
        self.amount = amount
        self.date = date
        self.mail = mail
        self.part = part
