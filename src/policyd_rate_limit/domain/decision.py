"""A decision, for the log, the alerts and the metrics: a verdict beside its request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.charge import free_in
from policyd_rate_limit.domain.counter import kind_of, rule_and_key

if TYPE_CHECKING:
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.request import Request

ADMITTED: Final = "admitted"
REFUSED: Final = "refused"
MARKED: Final = "marked"
"""A rule whose action refuses nothing was exceeded: HOLD or PREPEND, for instance."""
WOULD_REFUSE: Final = "would-refuse"
"""A rule with ``shadow`` was exceeded."""
WARNED: Final = "warned"
"""A mail was admitted, and has brought a window so far that its rule warns of it: no verdict on the request."""
BLOCKS: Final = "blocked"
"""A limit was exceeded whose rule blocks the id for that."""
WOULD_BLOCK: Final = "would-block"
"""Such a rule with ``shadow`` was exceeded."""
NOT_LIMITED: Final = "not-limited"
"""Nobody is charged, or an id without limits."""
NOT_COUNTED: Final = "not-counted"
"""The stage does not count."""
AWAY: Final = "away"
"""The database is away, and ``db_error_action`` is the answer."""
FULL: Final = "full"
"""Neither the database nor the spool can take more."""
NONE: Final = "none"
"""No answer: an error of our own."""

VERDICTS = (ADMITTED, REFUSED, MARKED, WOULD_REFUSE, NOT_LIMITED, NOT_COUNTED, AWAY, FULL, NONE)

USER, SENDER, CLIENT, NOBODY = "user", "sender", "client", "none"
KINDS = (USER, SENDER, CLIENT, NOBODY)
"""What is charged: the kind of the subject, ``none`` where nobody is."""


class Decision(NamedTuple):
    """What was decided on ``request``: one of :data:`VERDICTS`, ``seconds`` after it came.

    ``counter``: where it is charged, empty: nowhere. ``cost``: what was asked for; ``charged``: what was counted,
    negative for what was given back. ``exceeded``: the limit that refused it. ``usages``: how the limits of
    ``counter`` stand after it, empty where that is not known. ``impossible``: it costs more than one of the limits,
    and is never admitted. ``shadow``: the rule refuses nothing.

    With :data:`WARNED` ``exceeded`` is the limit that is warned of, and ``usages`` has what of it is used. With
    :data:`BLOCKS` and :data:`WOULD_BLOCK` it is the one that was exceeded, and ``blocked_for`` are the seconds of the
    block.
    """

    request: Request
    verdict: str
    counter: str = ""
    cost: int = 0
    charged: int = 0
    exceeded: Limit | None = None
    usages: tuple[Usage, ...] = ()
    impossible: bool = False
    seconds: float = 0.0
    shadow: bool = False
    blocked_for: int = 0

    @property
    def kind(self) -> str:
        """What is charged: one of :data:`KINDS`."""
        return kind_of(self.counter) or NOBODY

    @property
    def rule(self) -> str:
        """The name of the rule that charges it."""
        return rule_and_key(self.counter)[0]

    @property
    def id(self) -> str:
        """Who is charged, without the kind."""
        return self.counter.partition(":")[2]

    @property
    def free_in(self) -> int | None:
        """Seconds until the same would be admitted; None: that is not known, or ``impossible``."""
        if self.blocked_for:
            return self.blocked_for
        return free_in(self.usages) if self.usages and not self.impossible else None
