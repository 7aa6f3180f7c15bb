"""What a rehearsal has found, for whoever shows it: counted by rule and by id, over time, and compared.

Times are Unix seconds by the clock of the log, a *mail* is one mail of the log, whatever Postfix would have asked about
it. What is refused *before* is what the other configuration refuses, or, where there is no other, what was refused in
the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.limits import Limit


class Peak(NamedTuple):
    """The most that was ever used of ``limit``."""

    limit: Limit
    used: int

    @property
    def share(self) -> float:
        """How much of the limit that is: 1.0 is all of it."""
        return self.used / self.limit.maximum if self.limit.maximum else float(self.used > 0)


class Counts(NamedTuple):
    """What became of mails by one rule; all but the recipients and the blocks count mails.

    ``mails``: those that the rule charged somebody for. ``refused``: of which it refused a recipient at least, or would
    have, where it is in shadow; ``partly``: of these those that went to other recipients. ``held``, ``marked``: whose
    excess its action held, or let pass with a mark (PREPEND, WARN and such). ``warned``: that brought a limit so far
    that it warns. ``refused_recipients``: at RCPT one each, at later stages all that the mail had then. ``blocks``: how
    often it blocked somebody.
    """

    mails: int = 0
    refused: int = 0
    partly: int = 0
    held: int = 0
    marked: int = 0
    warned: int = 0
    refused_recipients: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class IdResult:
    """What became of the mails of one id by one rule.

    ``key``: whom the rule charges, with its kind: ``user:alice``. ``since`` and ``last``: when it was refused first and
    last (marked, where the rule refuses nothing), None: never. ``limit``: the one that did so first. ``longest_wait``:
    the most seconds that it had to wait until the same would have passed; ``free_at``: when that was after the last;
    None: it never would, since it costs more than the limit. ``peaks``: the most that was used of each limit.
    """

    rule: str
    key: str
    counts: Counts
    since: float | None = None
    last: float | None = None
    limit: Limit | None = None
    longest_wait: int | None = None
    free_at: int | None = None
    peaks: tuple[Peak, ...] = ()

    @property
    def id(self) -> str:
        """Who that is, without the kind: ``alice``; the kind, where it is all: ``server``."""
        return id_of_key(self.key) or self.key.partition(":")[0]

    @property
    def share(self) -> float:
        """The largest share of a limit that was ever used."""
        return max((peak.share for peak in self.peaks), default=0.0)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule has done.

    ``unit``: what it counts. ``action``: what it does with the excess, as the configuration has it. ``ids``: whom it
    refused, held, marked, warned of, those with most refusals first, at most
    :data:`policyd_rate_limit.rehearsal.ids.MOST_IDS`; ``other_ids``: how many more there are, and ``others`` what
    became of their mails. ``heaviest``: who came nearest to a limit, or went beyond, those first who used the largest
    share of one. ``cannot``: what of it cannot be rehearsed, and why, each a sentence without a full stop.
    """

    name: str
    unit: str
    shadow: bool
    refuses: bool
    action: str
    counts: Counts
    ids: tuple[IdResult, ...] = ()
    other_ids: int = 0
    others: Counts = field(default_factory=Counts)
    heaviest: tuple[IdResult, ...] = ()
    cannot: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Mails over time, in steps of ``seconds`` from ``begin`` on.

    ``mails``: all; ``refused``: of these the ones of which the rules refused a recipient at least, without those in
    shadow; ``refused_before``: likewise before.
    """

    begin: int
    seconds: int
    mails: tuple[int, ...]
    refused: tuple[int, ...]
    refused_before: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """What one configuration has done, ``file``, with all its rules together; None: the defaults, without a file.

    ``refused``: mails of which it refused a recipient at least, ``refused_recipients`` these; ``unlimited``: mails that
    no rule charged anybody for. Rules in shadow refuse nothing.
    """

    file: str | None
    refused: int
    refused_recipients: int
    unlimited: int
    rules: tuple[RuleResult, ...]


class DifferingId(NamedTuple):
    """Of ``key`` shadow would have refused so many requests, ``told``, and the rehearsal refuses ``rehearsed``."""

    key: str
    told: int
    rehearsed: int


class ComparedRule(NamedTuple):
    """So many requests would shadow have refused in all, ``told``; of that time the rehearsal refuses ``rehearsed``.

    ``differing``: ids for whom these differ, by how much, those first for whom it is most. ``unnamed``: ids whom the
    rehearsal refuses, and who may be among those whom the figures do not name. ``outside``: ids of whom one side alone
    tells, at a time of which the other one does not, or may not.
    """

    name: str
    told: int
    rehearsed: int
    differing: tuple[DifferingId, ...]
    unnamed: int
    outside: int


class ShadowComparison(NamedTuple):
    """``file`` tells of requests from ``since`` to ``until``; compared are those from ``began`` to ``ended``.

    Unix seconds; the latter are None where the log has no mail of that time.
    """

    file: str
    since: int
    until: int
    began: float | None
    ended: float | None
    rules: tuple[ComparedRule, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal has found.

    ``new``: what the configuration in question does. ``old``: what the other one does; None: there is none, and the
    past takes its place. ``mails``, ``recipients``: that were rehearsed, from ``began`` to ``ended`` (None: there were
    none). ``refused_before``: mails; ``newly_refused``, ``no_longer_refused``: mails that are refused on one side
    alone. ``newly_hit``: by rule of the new side, who is refused and was not before, in any rule;
    ``no_longer_hit``: by rule of the old side, whom the new one does not refuse, in any rule. (Where the past takes its
    place that is not known.) ``incomparable``: ids that were too many to be remembered, so that nobody knows of them.
    ``stages``: at which Postfix is taken to ask, ``stages_from`` says why in words. ``log``: what was in the log, a
    figure by its name. ``damaged``: files that could not be read to their end, and why. ``remarks``: what else is to be
    said, each a sentence without a full stop.

    ``shadow``: how it compares with what rules in shadow would have refused; None: nothing was told of that. With it
    ``old`` is None: ``newly_hit`` by a rule of which it tells are ids whom shadow would not have refused, and
    ``no_longer_hit`` are those whom it would have: their ``refused`` counts requests.
    """

    new: Side
    old: Side | None
    mails: int
    recipients: int
    began: float | None
    ended: float | None
    refused_before: int
    newly_refused: int
    no_longer_refused: int
    newly_hit: Mapping[str, tuple[IdResult, ...]]
    no_longer_hit: Mapping[str, tuple[IdResult, ...]]
    incomparable: int
    series: Series
    stages: tuple[str, ...]
    stages_from: str
    log: Mapping[str, int]
    damaged: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    shadow: ShadowComparison | None = None


def why_incomparable(result: Rehearsal) -> str:
    """Why there are ids that could not be compared, in words."""
    too_many = "there were too many of them to be remembered"
    if result.shadow is None:
        return too_many
    return f"the log is not of their time, or {result.shadow.file} does not name all, or {too_many}"
