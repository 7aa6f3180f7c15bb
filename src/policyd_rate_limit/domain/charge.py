"""What a mail asks of the store, and what the store answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.tuples import maker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyd_rate_limit.domain.limits import Limit, Limits

RECIPIENTS = ""  # the unit that every limit counts in today


class Charge(NamedTuple):
    """``cost`` more for ``key``, within ``limits``. What a key stands for is nobody's business here.

    ``unit`` separates counters of one key that count different things; it is a suffix of the counter's name.
    """

    key: str
    unit: str
    cost: int
    limits: Limits

    @property
    def counter(self) -> str:
        """The name of the counter that is charged."""
        return self.key + self.unit


class Demand(NamedTuple):
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
    mail: str = ""
    part: str = ""
    settles: bool = False


class Verdict(NamedTuple):
    """The answer to a :class:`Demand`.

    ``key`` and ``exceeded``: the key and the limit that refused it, None when it was admitted.
    ``charged``: what was counted for the first charge, 0 when that had been counted before, negative for what was
    given back.
    """

    admitted: bool
    key: str | None = None
    exceeded: Limit | None = None
    charged: int = 0


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


class Entry(NamedTuple):
    """One line of the ledger: ``amount`` on ``counter`` at ``date`` (Unix second), for a part of a mail or for none.

    A negative amount gives back what was counted at ``date``.
    """

    counter: str
    amount: int
    date: int
    mail: str
    part: str


make_charge = maker(Charge)
make_demand = maker(Demand)
make_entry = maker(Entry)
