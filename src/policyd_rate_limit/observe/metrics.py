"""What is counted of decisions, for the metrics: plain integers, which the event loop raises and a scrape reads.

No label is ever an id: how many series there are does not depend on what clients send.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counter import kind_of, rule_and_key
from policyd_rate_limit.domain.decision import ADMITTED, KINDS, MARKED, NOBODY, REFUSED, VERDICTS, WOULD_REFUSE
from policyd_rate_limit.domain.limits import shown_limit

if TYPE_CHECKING:
    from collections.abc import Collection

    from policyd_rate_limit.domain.limits import Limit

MOST_LIMITS = 100
"""Different limits with a series of their own; what further ones refuse is counted as :data:`OTHER`."""

OTHER = "other"

MOST_LABELS = 200
"""Rules, and kinds of ids, with series of their own; reloads may bring new ones."""

OF_RULES = (ADMITTED, REFUSED, MARKED, WOULD_REFUSE)
"""What a rule may come to: the mail is counted, or its limits are exceeded."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets of :attr:`Metrics.answers`; there is one more without a bound."""


class Metrics:
    """Counters since the start of the daemon.

    ``decisions``: how many of each verdict, by what was charged. ``rules``: what each rule has come to, how often;
    ``warnings``: how often one of its limits came to what it warns of; ``blocks``: how often it has blocked somebody.
    ``refusals``: by limit. ``answers``: how many took how long, for each of SECONDS and beyond; ``answer_seconds``: all
    together.
    """

    def __init__(self) -> None:
        self.decisions = {kind: dict.fromkeys(VERDICTS, 0) for kind in KINDS}
        self.rules: dict[str, dict[str, int]] = {}
        self.warnings: dict[str, int] = {}
        self.blocks: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.answers = [0] * (len(SECONDS) + 1)
        self.answer_seconds = 0.0
        self._of_kind = {"" if kind == NOBODY else kind: of_kind for kind, of_kind in self.decisions.items()}
        self._labels: dict[Limit, str] = {}

    def decided(self, counter: str, verdict: str, seconds: float) -> None:
        """``verdict`` on what ``counter`` was to be charged for, ``seconds`` after the request."""
        kind = kind_of(counter)
        of_kind = self._of_kind.get(kind)
        if of_kind is None:
            of_kind = self.decisions.setdefault(_label(kind, self.decisions), dict.fromkeys(VERDICTS, 0))
        of_kind[verdict] += 1
        self.answers[bisect_left(SECONDS, seconds)] += 1
        self.answer_seconds += seconds

    def ruled(self, counter: str, verdict: str) -> None:
        """The rule of ``counter`` has come to ``verdict`` about a mail."""
        rule = rule_and_key(counter)[0]
        of_rule = self.rules.get(rule)
        if of_rule is None:
            of_rule = self.rules.setdefault(_label(rule, self.rules), dict.fromkeys(OF_RULES, 0))
        of_rule[verdict] += 1

    def warned(self, counter: str) -> None:
        """A limit of the rule of ``counter`` has come to what that warns of."""
        label = _label(rule_and_key(counter)[0], self.warnings)
        self.warnings[label] = self.warnings.get(label, 0) + 1

    def blocked(self, counter: str) -> None:
        """The rule of ``counter`` has blocked whose that is."""
        label = _label(rule_and_key(counter)[0], self.blocks)
        self.blocks[label] = self.blocks.get(label, 0) + 1

    def refused(self, limit: Limit) -> None:
        """``limit`` has refused something."""
        label = self._labels.get(limit)
        if label is None:
            if len(self._labels) < MOST_LIMITS:
                label = self._labels[limit] = shown_limit(limit)
            else:
                label = OTHER
        self.refusals[label] = self.refusals.get(label, 0) + 1


def _label(name: str, known: Collection[str]) -> str:
    """``name``, or :data:`OTHER` where there are so many others already that no further one gets a series."""
    return name if name in known or len(known) < MOST_LABELS else OTHER
