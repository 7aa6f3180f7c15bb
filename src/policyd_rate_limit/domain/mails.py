"""What was charged for each mail of the last moments, so that no recipient is charged twice.

Postfix asks several times about one mail: for each recipient, again at DATA and END-OF-MESSAGE, and once more
when the connection broke before the answer (SMTPD_POLICY_README). Its ``instance`` attribute says which requests
belong together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from policyd_rate_limit.domain.charge import Entry

ENTRIES_PER_GENERATION: Final = 50_000
MOST_ENTRIES_OF_A_MAIL: Final = 2_000  # twice Postfix's smtpd_recipient_limit
REMEMBERED_SECONDS: Final = 900  # of what a restarted daemon reads back: three times Postfix's smtpd_timeout


_NOTHING: Final[list[Entry]] = []


class Mails:
    """The entries of the mails of the last moments.

    Two generations of about :data:`ENTRIES_PER_GENERATION` entries each bound the memory. A mail that is
    forgotten too early is charged again: the error is to the strict side.
    """

    def __init__(self) -> None:
        self._young: dict[str, list[Entry]] = {}
        self._old: dict[str, list[Entry]] = {}
        self._entries = 0

    def __len__(self) -> int:
        """How many mails are remembered."""
        return len(self._young) + len(self._old)

    def entries(self, mail: str) -> list[Entry]:
        """What was charged for ``mail``, in order, less what was given back."""
        found = self._young.get(mail)
        if found is None and self._old:
            found = self._old.get(mail)
        return _NOTHING if found is None else found

    def add(self, entry: Entry) -> None:
        """Remember a charge of the mail that ``entry`` names, or take one back when its amount is negative."""
        mail = entry.mail
        if entry.amount < 0:
            _take_back(self.entries(mail), entry)
            return
        found = self._young.get(mail)
        if found is None:
            found = self._old.pop(mail, None) if self._old else None
            if found is None:
                self._young[mail] = [entry]
                self._entries += 1
            else:
                self._young[mail] = found
                self._entries += len(found)
        if found is not None and len(found) < MOST_ENTRIES_OF_A_MAIL:
            found.append(entry)
            self._entries += 1
        if self._entries >= ENTRIES_PER_GENERATION:
            self._old = self._young
            self._young = {}
            self._entries = 0

    def redate(self, latest: int) -> None:
        """The clock stepped back: what is dated later than ``latest`` (Unix second) happened just then."""
        for entries in (*self._young.values(), *self._old.values()):
            entries[:] = [replace(entry, date=min(entry.date, latest)) for entry in entries]


def _take_back(entries: list[Entry], taken: Entry) -> None:
    """Newest first, as it was given back."""
    left = -taken.amount
    for index in range(len(entries) - 1, -1, -1):
        entry = entries[index]
        if left and entry.counter == taken.counter and entry.amount > 0:
            amount = min(left, entry.amount)
            entries[index] = replace(entry, amount=entry.amount - amount)
            left -= amount
