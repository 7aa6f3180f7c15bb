"""What a reader of mail logs has come across, so that nothing is lost in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from policyd_rate_limit.maillog.mail import Origin


@final
@dataclass(slots=True)
class Tally:
    """How many lines and mails were read, and what could not be used. The reader counts while it reads.

    ``lines`` is the sum of ``of_postfix``, ``of_daemon``, ``others`` and ``not_understood``; an entry of the journal is
    a line as well.

    ``of_daemon``
        Lines of this daemon.
    ``others``
        Lines of other programs.
    ``not_understood``
        What is no line of a log in any form that is known, or says that journalctl(1) leaves out what it said. Empty
        lines are not counted.
    ``mails``
        What was read, by how it came.
    ``decisions``
        Decisions of this daemon that were read.
    ``unfinished``
        Queue ids without the line that tells sender and size, at the end of the log, or given up for the bound: of a
        client that went away, of mail that the log does not see queued, of one whose content cleanup(8) threw away.
    ``again``
        Lines of qmgr(8) about mails that had come before: deferred ones, or from before the log begins.
    ``backwards``
        How often the clock of a log stepped back, or far beyond the present.
    ``damaged``
        Name of each file that ends early or is damaged, and what is wrong with it. What came before was read. So is
        a copy of another one, of which nothing is.
    """

    lines: int = 0
    of_postfix: int = 0
    of_daemon: int = 0
    others: int = 0
    not_understood: int = 0
    mails: Counter[Origin] = field(default_factory=Counter)
    decisions: int = 0
    unfinished: int = 0
    again: int = 0
    backwards: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)
