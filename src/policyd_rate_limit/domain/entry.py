"""Entries: what has been counted, as the ledger, the records and the databases keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policyd_rate_limit.compiling import mypyc_attr

RESET: Final = "reset"  # no recipient has a part that is as short


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Entry:
    """One line of the ledger: ``amount`` on ``counter`` at ``date`` (Unix second), for a part of a mail or for none.

    A negative amount gives back what was counted at ``date``. The part :data:`RESET`, with an amount of 0, takes back
    all that is still counted on ``counter`` at ``date`` or before. On a counter of different values, ``part`` is one of
    them, whatever mail it came with: an amount of 1 has it be there at ``date``, if it is not there later, and -1 takes
    it back, if it has not been there since.
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
