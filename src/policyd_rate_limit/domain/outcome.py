"""What becomes of a mail, before any protocol has words for it: a front end makes its answer of an outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from policyd_rate_limit.compiling import mypyc_attr

ACCEPT: Final = "accept"
"""No limit refuses it."""
REFUSE: Final = "refuse"
"""A limit is exceeded."""
MARK: Final = "mark"
"""A limit is exceeded by whose rule the mail goes on all the same: held, marked or told of, as the action says."""
BLOCK: Final = "block"
"""An administrator has blocked whoever sends it."""
AWAY: Final = "away"
"""The database is away, and somebody else than memory is to decide: the configuration."""
FULL: Final = "full"
"""There is no room to keep what would be counted: it is to come again later."""
FAIL: Final = "fail"
"""Nothing is known of it, by an error of our own: no answer, so that whoever asked asks again."""


@mypyc_attr(acyclic=True)
@dataclass(init=False, unsafe_hash=True)
class Outcome:
    """What becomes of a mail: ``kind`` is one of the constants of this module.

    ``action`` is what the administrator wants to be done then, in the words of access(5); None: there is no answer.
    """

    kind: str
    action: str | None

    def __init__(self, kind: str, action: str | None) -> None:
        self.kind = kind
        self.action = action


NO_ANSWER: Final = Outcome(FAIL, None)
