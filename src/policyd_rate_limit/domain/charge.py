"""Charges, demands and verdicts: what a request asks of the store, and what the store answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.domain.limits import Limit, Limits


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Charge:
    """What one rule asks for one mail: ``cost`` more on ``counter``, within ``limits``.

    Where ``cost`` is 0 and there is a ``part``, that is a value, of which different ones are counted: whether it costs
    anything is known to the store alone. The counter is one of which
    :func:`policyd_rate_limit.domain.counter.is_distinct` says so.

    A limit per mail, the first of ``limits`` where there is one, bounds what the mail is charged on ``counter`` in all;
    where the mail is not known by an id, each charge is a mail of its own.

    ``part``
        What of the mail is charged, such as one recipient: the same part is counted once, however often Postfix asks.
        Empty: see ``settles``.
    ``settles``
        ``cost`` is that of the whole mail: what was counted for it before is brought up, or down, to that. A message
        is one, however often it is asked about; its recipients are as many as DATA says.
    ``refuses``
        Whether the mail is refused where a limit is exceeded. Otherwise only this charge is not counted.
    ``keep_seconds``
        What is counted is remembered for so long at the least, even if ``limits`` look back less far: others may hold
        for this counter soon.
    ``warn``
        Per cent of a limit, from 1 to 99, at which the verdict says that its window has come so far; 0: it says
        nothing, as of limits per mail.
    """

    counter: str
    cost: int
    limits: Limits
    part: str
    settles: bool
    refuses: bool
    keep_seconds: int
    warn: int

    def __init__(
        self,
        counter: str,
        cost: int,
        limits: Limits,
        part: str = "",
        settles: bool = False,
        refuses: bool = True,
        keep_seconds: int = 0,
        warn: int = 0,
    ) -> None:
        self.counter = counter
        self.cost = cost
        self.limits = limits
        self.part = part
        self.settles = settles
        self.refuses = refuses
        self.keep_seconds = keep_seconds
        self.warn = warn

    @property
    def is_distinct(self) -> bool:
        """Whether ``part`` is a value, of which different ones are counted."""
        return not self.cost and not self.settles and bool(self.part)

    @property
    def most(self) -> int:
        """How much it may count: ``cost``, or one value."""
        return self.cost or (1 if self.is_distinct else 0)


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Demand:
    """The charges of one policy request, of a different counter each, in the order of their rules.

    Where a charge that refuses is exceeded, none is counted; otherwise each that is not exceeded is.
    ``mail``: Postfix's ``instance``, which the requests of one mail share; empty when the request has none.
    """

    charges: tuple[Charge, ...]
    mail: str

    def __init__(self, charges: tuple[Charge, ...], mail: str = "") -> None:
        self.charges = charges
        self.mail = mail


class Exceeded(NamedTuple):
    """A limit that a demand would have exceeded: ``charge`` is the index of the charge among those of the demand."""

    charge: int
    limit: Limit


class Warned(NamedTuple):
    """By an admitted demand the window of ``limit`` has come to what its charge is to warn of: ``used`` lies in it now.

    ``charge`` is the index of the charge among those of the demand.
    """

    charge: int
    limit: Limit
    used: int


def warns_from(limit: Limit, percent: int) -> int:
    """How much has to lie in the window of ``limit`` for ``percent`` of it to be used."""
    return -(-limit.maximum * percent // 100)


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Verdict:
    """The answer to a :class:`Demand`.

    ``counted``
        For each charge what was counted: 0 when that had been counted before, or was not to be counted; negative for
        what was given back. Empty where the demand is refused: nothing was counted.
    ``exceeded``
        The first limit that each charge exceeds, of those that exceed one, in the order of the charges.
    ``refused_by``
        The first of them whose charge refuses; None: the demand is admitted.
    ``warned``
        The windows that were used less than their charges are to warn of, and are not any more: each crossing is told
        once. A demand that is refused crosses nothing.
    """

    counted: tuple[int, ...]
    exceeded: tuple[Exceeded, ...]
    refused_by: Exceeded | None
    warned: tuple[Warned, ...]

    def __init__(
        self,
        counted: tuple[int, ...],
        exceeded: tuple[Exceeded, ...] = (),
        refused_by: Exceeded | None = None,
        warned: tuple[Warned, ...] = (),
    ) -> None:
        self.counted = counted
        self.exceeded = exceeded
        self.refused_by = refused_by
        self.warned = warned

    @property
    def admitted(self) -> bool:
        """Whether the mail may go on its way, as far as limits are concerned."""
        return self.refused_by is None


def refusal(limit: Limit, charge: int = 0) -> Verdict:
    """A verdict that refuses by ``limit`` of the charge with the index ``charge``, which alone is exceeded."""
    exceeded = Exceeded(charge, limit)
    return Verdict((), (exceeded,), exceeded)


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Waiting(ABC):
    """Whoever waits for the verdict on a demand."""

    @abstractmethod
    def conclude(self, result: Verdict | Exception) -> None:
        """The verdict, or the error that prevented it."""


class Usage(NamedTuple):
    """How one limit of a counter stands.

    ``used``: what lies in its window; of a limit per mail, what the mail was charged. ``free_in``: seconds until the
    charge is within it, if nothing else is counted meanwhile; 0: it is now; None: it never will be. A store may look at
    a bounded number of seconds: where more have to leave the window first, it is the time until all of them have.
    """

    counter: str
    limit: Limit
    used: int
    free_in: int | None


def free_in(usages: Iterable[Usage]) -> int | None:
    """Seconds until all limits of ``usages`` admit the demand that they explain; None: never."""
    latest = 0
    for usage in usages:
        if usage.free_in is None:
            return None
        latest = max(latest, usage.free_in)
    return latest
