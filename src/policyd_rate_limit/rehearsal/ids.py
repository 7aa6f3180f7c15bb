"""What has become of the mails of each id by one rule, and whom to name of them.

Memory is bounded: of ids that were never refused, held or warned of those are forgotten who came least near to a limit,
and of others those with fewest refusals are added up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.rehearsal.result import Counts, IdResult, Peak

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policyd_rate_limit.domain.limits import Limit, Limits

MOST_KEPT: Final = 50_000
"""The most ids of one rule that are remembered, some 600 bytes each; beyond them a quarter is forgotten at once."""

MOST_IDS: Final = 1_000
"""The most ids of one rule that are named, those with most refusals; the others are added up."""

MOST_HEAVIEST: Final = 20
"""The most ids of one rule that are named for what they used of their limits."""


@final
class IdState:
    """What has become of the mails of one id until now; see :class:`IdResult`. ``mail``: the number of its last one.

    ``refused_then``: mails that were refused in the past. ``compared_requests``: that were refused, or would have been,
    in the time that is compared with figures of shadow, from ``compared_from`` to ``compared_to``. The use of each of
    ``limits`` at its peak is in ``used``.
    """

    __slots__ = (
        "blocks",
        "compared_from",
        "compared_requests",
        "compared_to",
        "counter",
        "free_at",
        "held",
        "hit_mail",
        "last",
        "limit",
        "limits",
        "longest_wait",
        "mail",
        "mails",
        "marked",
        "marked_mail",
        "partly",
        "refused",
        "refused_recipients",
        "refused_then",
        "since",
        "used",
        "warned",
        "warned_mail",
    )

    def __init__(self, counter: str, limits: Limits) -> None:
        self.counter = counter
        self.limits = limits
        self.used = [0] * len(limits)
        self.mail = self.hit_mail = self.marked_mail = self.warned_mail = 0
        self.mails = self.refused = self.partly = self.held = self.marked = self.warned = 0
        self.refused_recipients = self.blocks = self.refused_then = self.compared_requests = 0
        self.compared_from = self.compared_to = 0.0
        self.since: float | None = None
        self.last: float | None = None
        self.limit: Limit | None = None
        self.longest_wait: int | None = None
        self.free_at: int | None = None

    @property
    def is_told(self) -> bool:
        """Whether anything has come of it but that its mails were counted."""
        return bool(self.refused or self.held or self.marked or self.warned)

    @property
    def share(self) -> float:
        """The largest share of a limit that was ever used."""
        most = 0.0
        for limit, used in zip(self.limits, self.used, strict=True):
            most = max(most, Peak(limit, used).share)
        return most

    def counts(self) -> Counts:
        """Them as they are now."""
        return Counts(
            self.mails,
            self.refused,
            self.partly,
            self.held,
            self.marked,
            self.warned,
            self.refused_recipients,
            self.blocks,
        )

    def result(self, rule: str) -> IdResult:
        """All of it; ``rule``: whose counter it is."""
        return IdResult(
            rule,
            prefix_and_key(self.counter)[1],
            self.counts(),
            self.since,
            self.last,
            self.limit,
            self.longest_wait,
            self.free_at,
            tuple(Peak(limit, used) for limit, used in zip(self.limits, self.used, strict=True)),
        )


class Ids:
    """Those of one rule, by counter."""

    def __init__(self, rule: str, most_kept: int = MOST_KEPT) -> None:
        self.rule = rule
        self.states: dict[str, IdState] = {}
        self.forgotten = 0
        """Ids of which it is not known any more how many mails they had, who were not refused until then."""
        self.dropped = 0
        """Ids who were added up, and are not known any more."""
        self._dropped_counts = Counts()
        self._most_kept = most_kept

    def begin(self, counter: str, limits: Limits, mail: int) -> IdState:
        """The state of an id that comes for the first time, with the mail of the number ``mail``."""
        if len(self.states) >= self._most_kept:
            self._forget(mail)
        state = self.states[counter] = IdState(counter, limits)
        return state

    def _forget(self, mail: int) -> None:
        """Make room: a quarter goes, first those of whom there is nothing to tell. Those of ``mail`` stay."""
        by_weight = sorted((one for one in self.states.values() if one.mail != mail), key=_weight)
        for state in by_weight[: -(-len(by_weight) // 4)]:
            del self.states[state.counter]
            if state.is_told:
                self.dropped += 1
                self._dropped_counts = _sum((self._dropped_counts, state.counts()))
            else:
                self.forgotten += 1

    def told(self) -> tuple[tuple[IdResult, ...], int, Counts]:
        """Whom to name, how many are not named, and what became of those."""
        told = sorted((one for one in self.states.values() if one.is_told), key=_most_hit)
        left = told[MOST_IDS:]
        named = tuple(one.result(self.rule) for one in told[:MOST_IDS])
        return named, self.dropped + len(left), _sum((self._dropped_counts, *(one.counts() for one in left)))

    def heaviest(self) -> tuple[IdResult, ...]:
        """Who came nearest to a limit, or beyond."""
        found = sorted(self.states.values(), key=_heaviest)[:MOST_HEAVIEST]
        return tuple(one.result(self.rule) for one in found if one.share)

    def refused(self) -> Iterator[IdState]:
        """Who was refused."""
        return (one for one in self.states.values() if one.refused)


def _weight(state: IdState) -> tuple[bool, int, float, int]:
    return (state.is_told, state.refused, state.share, state.mails)


def _most_hit(state: IdState) -> tuple[int, int, int, str]:
    return (-state.refused, -state.held - state.marked, -state.warned, state.counter)


def _heaviest(state: IdState) -> tuple[float, int, str]:
    return (-state.share, -state.mails, state.counter)


def _sum(counts: Iterable[Counts]) -> Counts:
    return Counts(*map(sum, zip(*counts, strict=True)))
