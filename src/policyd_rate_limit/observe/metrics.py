"""What is counted of decisions, for the metrics: plain integers, which the event loop raises and a scrape reads.

No label is ever an id: how many series there are does not depend on what clients send.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counter import kind_of
from policyd_rate_limit.domain.decision import KINDS, NOBODY, VERDICTS
from policyd_rate_limit.domain.limits import shown_limit

if TYPE_CHECKING:
    from policyd_rate_limit.domain.limits import Limit

MOST_LIMITS = 100
"""Different limits with a series of their own; what further ones refuse is counted as :data:`OTHER`."""

OTHER = "other"

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets of :attr:`Metrics.answers`; there is one more without a bound."""


class Metrics:
    """Counters since the start of the daemon.

    ``decisions``: how many of each verdict, by what was charged. ``refusals``: by limit. ``answers``: how many took how
    long, for each of SECONDS and beyond; ``answer_seconds``: all together.
    """

    def __init__(self) -> None:
        self.decisions = {kind: dict.fromkeys(VERDICTS, 0) for kind in KINDS}
        self.refusals: dict[str, int] = {}
        self.answers = [0] * (len(SECONDS) + 1)
        self.answer_seconds = 0.0
        self._of_kind = {"" if kind == NOBODY else kind: of_kind for kind, of_kind in self.decisions.items()}
        self._labels: dict[Limit, str] = {}

    def decided(self, counter: str, verdict: str, seconds: float) -> None:
        """``verdict`` on what ``counter`` was to be charged for, ``seconds`` after the request."""
        self._of_kind[kind_of(counter)][verdict] += 1
        self.answers[bisect_left(SECONDS, seconds)] += 1
        self.answer_seconds += seconds

    def refused(self, limit: Limit) -> None:
        """``limit`` has refused something."""
        label = self._labels.get(limit)
        if label is None:
            if len(self._labels) < MOST_LIMITS:
                label = self._labels[limit] = shown_limit(limit)
            else:
                label = OTHER
        self.refusals[label] = self.refusals.get(label, 0) + 1
