"""What each recent mail was charged, so that no recipient is charged twice.

Postfix asks several times about one mail: for each recipient, again at DATA and END-OF-MESSAGE, and once more
when the connection broke before the answer (SMTPD_POLICY_README). Its ``instance`` attribute says which requests
belong together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.entry import Entry

ENTRIES_PER_GENERATION: Final = 50_000
MOST_ENTRIES_OF_A_MAIL: Final = 2_000  # twice Postfix's smtpd_recipient_limit
REMEMBERED_SECONDS: Final = 900  # of what a restarted daemon reads back: three times Postfix's smtpd_timeout


class Mails:
    """The entries of recent mails.

    Two generations of about ``per_generation`` entries each bound the memory, and ``most_of_a_mail`` what one mail
    takes of it. A mail that is forgotten too early is charged again: the error is to the strict side, but with a limit
    per mail. Beyond ``most_of_a_mail`` parts are forgotten, and not what they were charged. What was charged twice is
    taken for what DATA or END-OF-MESSAGE asks for later: a window that begins between the two may lack so much, after
    those before have held too much.
    """

    def __init__(
        self, per_generation: int = ENTRIES_PER_GENERATION, most_of_a_mail: int = MOST_ENTRIES_OF_A_MAIL
    ) -> None:
        self._per_generation = per_generation
        self._most_of_a_mail = most_of_a_mail
        # Tuples of what cannot be part of a cycle are nothing that the garbage collector visits for long.
        self._young: dict[str, tuple[Entry, ...]] = {}
        self._old: dict[str, tuple[Entry, ...]] = {}
        self._entries = 0

    def __len__(self) -> int:
        """How many mails are remembered."""
        return len(self._young) + len(self._old)

    def entries(self, mail: str) -> tuple[Entry, ...]:
        """What was charged for ``mail``, in order, less what was given back."""
        found = self._young.get(mail)
        if found is None and self._old:
            found = self._old.get(mail)
        return () if found is None else found

    def add(self, entry: Entry) -> None:
        """Remember a charge of the mail that ``entry`` names, or take one back when its amount is negative."""
        mail = entry.mail
        before = self.entries(mail)
        if not before:
            if entry.amount >= 0:
                self._remember(mail, (entry,))
        elif entry.amount < 0:
            (self._young if mail in self._young else self._old)[mail] = _less(before, entry)
        else:
            if mail not in self._young:
                del self._old[mail]
                self._entries += len(before)
            if len(before) < self._most_of_a_mail:
                self._remember(mail, (*before, entry))
            else:
                self._young[mail] = _joined(before, entry)

    def _remember(self, mail: str, entries: tuple[Entry, ...]) -> None:
        """``entries``, of which the last is new, are those of ``mail``."""
        self._young[mail] = entries
        self._entries += 1
        if self._entries >= self._per_generation:
            self._age()

    def redate(self, latest: int) -> None:
        """The clock stepped back: what is dated later than ``latest`` (Unix second) happened just then."""
        for generation in (self._young, self._old):
            for mail, entries in generation.items():
                generation[mail] = tuple(replace(entry, date=min(entry.date, latest)) for entry in entries)

    def _age(self) -> None:
        self._old = self._young
        self._young = {}
        self._entries = 0


def _joined(entries: tuple[Entry, ...], more: Entry) -> tuple[Entry, ...]:
    """``entries``, of which the newest on the counter of ``more`` has that amount as well, and goes on being dated so.

    An earlier date is the strict one: what is given back there leaves the windows earlier.
    """
    for index in range(len(entries) - 1, -1, -1):
        entry = entries[index]
        if entry.counter == more.counter:
            return (*entries[:index], replace(entry, amount=entry.amount + more.amount), *entries[index + 1 :])
    return entries


def _less(entries: Sequence[Entry], taken: Entry) -> tuple[Entry, ...]:
    """``entries`` less what was given back: the newest first."""
    left = -taken.amount
    kept = list(entries)
    for index in range(len(kept) - 1, -1, -1):
        entry = kept[index]
        if left and entry.counter == taken.counter and entry.amount > 0:
            amount = min(left, entry.amount)
            kept[index] = replace(entry, amount=entry.amount - amount)
            left -= amount
    return tuple(kept)
