"""Limits that spare whoever behaves, of what people really have sent.

For each window: the maximum that spares so many per cent of all ids, and some room above it, up to a round number. Who
goes beyond that and does not look stolen has limits of its own, with as much room. Whoever looks stolen is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from statistics import median
from typing import Final

from policyd_rate_limit.domain.limits import Limit, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.rules.attributes import domain_of
from policyd_rate_limit.plots.histogram import Bin, bins
from policyd_rate_limit.rehearsal import stolen
from policyd_rate_limit.rehearsal.observing import DOMAIN, USER, Observation, Observed, Subject
from policyd_rate_limit.rehearsal.peaks import Peaks, Sent
from policyd_rate_limit.rehearsal.readable import readable
from policyd_rate_limit.rehearsal.stolen import LEAST_DAYS, Suspect

SPARE: Final = Fraction("99.9")
"""Per cent of the ids that a maximum spares, before there is room above it."""

ROOM: Final = Fraction("1.5")
"""So many times that is the maximum."""

WINDOWS: Final = (60, 3600, 86_400)

LEAST_MAXIMUM: Final = 5
"""No maximum is lower, however little was sent: less would refuse whoever answers a few mails in a row."""

MOST_OVERRIDES: Final = 300
"""The most ids that go beyond one maximum: where there are more of them it is higher."""

_DAY: Final = 86_400

LEAST_DOMAINS: Final = 2
"""With fewer domains a limit for each would be one for all."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a rule: in ``seconds``, ``spared`` is what the spared part of the ids never had more than.

    ``maximum``: what is suggested. ``curve``: for each round maximum it, how many ids it would refuse, and mails at the
    most. ``bins``: how many ids have which peak, without those that look stolen.
    """

    seconds: int
    spared: int
    maximum: int
    curve: tuple[tuple[int, int, int], ...]
    bins: tuple[Bin, ...]

    @property
    def limit(self) -> Limit:
        """What is suggested for all."""
        return Limit(self.maximum, self.seconds)


@dataclass(frozen=True, slots=True)
class Outlier:
    """An id that goes beyond what is suggested for all: its peak in each window, when, limits of its own, and why."""

    name: str
    peaks: tuple[int, ...]
    times: tuple[int, ...]
    limits: tuple[Limit, ...]
    why: str


@dataclass(frozen=True, slots=True)
class SuggestedRule:
    """One rule. ``ids``: how many were looked at, without those left out; ``forgotten``: how often one had to go for
    want of room; ``is_crowded``: peaks may be too high for the same reason."""

    subject: Subject
    ids: int
    mails: int
    windows: tuple[Window, ...]
    outliers: tuple[Outlier, ...]
    left_out: tuple[str, ...]
    forgotten: int
    is_crowded: bool


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What is suggested, ``rules``, and of what; ``suspects``: the accounts that look stolen, by what they sent."""

    rules: tuple[SuggestedRule, ...]
    suspects: tuple[Suspect, ...]
    spare: Fraction
    room: Fraction
    mails: int
    recipients: int
    without_subject: int
    began: float | None
    ended: float | None
    knows_countries: bool
    forgotten_habits: int

    @property
    def remarks(self) -> tuple[str, ...]:
        """What makes it less certain than it looks, each a sentence without a full stop."""
        found = []
        covered = int(self.ended - self.began) if self.began is not None and self.ended is not None else 0
        longer = [one for one in (self.rules[0].windows if self.rules else ()) if one.seconds > covered]
        if longer:
            periods = ", ".join(spell_period(one.seconds) for one in longer)
            found.append(f"the log is shorter than {periods}: what is suggested for that may be too low")
        if self.rules and covered < LEAST_DAYS * _DAY:
            found.append(f"in less than {LEAST_DAYS} days nobody shows a habit, so that hardly anybody can look stolen")
        if self.forgotten_habits:
            often = quantity(self.forgotten_habits, "time", "times")
            found.append(f"the habits of those users who send least had to be forgotten {often} for want of room")
        return tuple(found)


def suggest(observation: Observation, spare: Fraction = SPARE, room: Fraction = ROOM) -> Suggestion:
    """Limits for what ``observation`` has seen, that spare ``spare`` per cent of all ids, ``room`` times as high."""
    suspects = tuple(stolen.find(observation.habits))
    maker = _Maker(observation, suspects, spare, room)
    return Suggestion(
        tuple(maker.rules()),
        suspects,
        spare,
        room,
        observation.mails,
        observation.recipients,
        observation.without_subject,
        observation.began,
        observation.ended,
        observation.habits.knows_countries,
        observation.habits.forgotten,
    )


class _Maker:
    def __init__(self, observation: Observation, suspects: Sequence[Suspect], spare: Fraction, room: Fraction) -> None:
        self._observation = observation
        self._spare = spare
        self._room = room
        self._suspects = frozenset(suspect.name for suspect in suspects)
        self._their_domains: dict[str, list[str]] = {}
        for suspect in suspects:
            self._their_domains.setdefault(domain_of(suspect.name), []).append(suspect.name)

    def rules(self) -> Iterator[SuggestedRule]:
        for observed in self._observation.observed:
            ids = len(observed.peaks.ids)
            if ids and (observed.subject != DOMAIN or ids >= LEAST_DOMAINS):
                yield self._rule(observed)

    def _rule(self, observed: Observed) -> SuggestedRule:
        subject, peaks = observed
        left_out = self._left_out(subject, peaks)
        windows = tuple(self._window(peaks, at, left_out) for at in range(len(peaks.windows)))
        # A domain of somebody who looks stolen has others in it, who must not be refused for that.
        kept_out = left_out if subject == USER else frozenset[str]()
        outliers = [
            self._outlier(subject, name, sent, windows)
            for name, sent in peaks.ids.items()
            if name not in kept_out and any(peak > one.maximum for peak, one in zip(sent.peaks, windows, strict=True))
        ]
        outliers.sort(key=lambda one: (*(-peak for peak in reversed(one.peaks)), one.name))
        forgotten = peaks.forgotten
        return SuggestedRule(
            subject,
            len(peaks.ids) - len(left_out) + sum(forgotten.peaks[0].values()),
            peaks.mails,
            windows,
            tuple(outliers),
            tuple(sorted(left_out)),
            forgotten.times,
            peaks.is_crowded,
        )

    def _left_out(self, subject: Subject, peaks: Peaks) -> frozenset[str]:
        if subject == USER:
            return self._suspects & peaks.ids.keys()
        return frozenset(self._their_domains) & peaks.ids.keys() if subject == DOMAIN else frozenset()

    def _window(self, peaks: Peaks, at: int, left_out: frozenset[str]) -> Window:
        found = peaks.sorted_peaks(at, left_out) or peaks.sorted_peaks(at)
        spared = found[-(-len(found) * self._spare // 100) - 1] if self._spare else found[0]
        most_overrides = found[-1 - MOST_OVERRIDES] if len(found) > MOST_OVERRIDES else 0
        maximum = readable(max(spared * self._room, Fraction(most_overrides), Fraction(LEAST_MAXIMUM)))
        return Window(peaks.windows[at], spared, maximum, tuple(peaks.curve(at)), tuple(bins(found)))

    def _outlier(self, subject: Subject, name: str, sent: Sent, windows: Sequence[Window]) -> Outlier:
        limits = tuple(
            Limit(max(one.maximum, readable(peak * self._room)), one.seconds)
            for peak, one in zip(sent.peaks, windows, strict=True)
        )
        why = "; ".join(self._why(subject, name, sent, windows))
        return Outlier(name, tuple(sent.peaks), tuple(sent.times), limits, why)

    def _why(self, subject: Subject, name: str, sent: Sent, windows: Sequence[Window]) -> Iterator[str]:
        zone = self._observation.habits.zone
        for at, one in enumerate(windows):
            if sent.peaks[at] > one.maximum:
                when = datetime.fromtimestamp(sent.times[at], zone)
                yield f"{sent.peaks[at]} in {spell_period(one.seconds)} by {when:%a %Y-%m-%d %H:%M}"
        habit = self._observation.habits.accounts.get(name) if subject == USER else None
        if habit is not None:
            days = habit.days
            usual = median(day.recipients for day in days)
            yield f"active on {len(days)} {'day' if len(days) == 1 else 'days'}, usually {usual:g} a day"
        if subject == DOMAIN and name in self._their_domains:
            users = self._their_domains[name]
            look = "looks" if len(users) == 1 else "look"
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            yield f"with what {', '.join(users[:3])}{more} sent, which {look} stolen: lower it once that is settled"
