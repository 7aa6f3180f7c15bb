"""The mails that were taken last, so that one that a content filter hands back is known again.

A filter keeps Message-ID and envelope sender. A mailing list, which hands in the mail of its member as well, has a
sender of its own; and what a program of this host submits has a Message-ID of its own.
"""

from __future__ import annotations

from typing import Final, final

from policyd_rate_limit.compiling import mypyc_attr

MOST_RECENT: Final = 50_000
"""Mails that are remembered."""

RECENT_SECONDS: Final = 86_400.0
"""For how long: a filter that is down has its mails wait."""


@mypyc_attr(acyclic=True)
@final
class Recent:
    """The last mails, each as a hash of host, Message-ID and sender.

    They are in two halves, of which the older is forgotten at once when the younger is full.
    """

    def __init__(self) -> None:
        self._young: dict[int, float] = {}
        self._old: dict[int, float] = {}

    def add(self, mail: int, time: float) -> None:
        """``mail`` was taken at ``time``, in Unix seconds."""
        if len(self._young) >= MOST_RECENT // 2:
            self._old = self._young
            self._young = {}
        self._young[mail] = time

    def has(self, mail: int, time: float) -> bool:
        """Whether ``mail`` was taken before."""
        before = self._young.get(mail, -1.0)
        if before < 0.0:
            before = self._old.get(mail, -1.0)
        return before >= 0.0 and time - before <= RECENT_SECONDS
