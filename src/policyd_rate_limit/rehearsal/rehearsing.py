"""A rehearsal: the mails of a log, one after the other, before one configuration or two, and what comes of that."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.request import DATA, RCPT
from policyd_rate_limit.maillog.mail import Origin
from policyd_rate_limit.rehearsal.decided import DecidedMails
from policyd_rate_limit.rehearsal.figures import Figures, of_log
from policyd_rate_limit.rehearsal.gathering import Gathering
from policyd_rate_limit.rehearsal.ids import MOST_IDS
from policyd_rate_limit.rehearsal.knowable import cannot_be_rehearsed
from policyd_rate_limit.rehearsal.opening import open_trial
from policyd_rate_limit.rehearsal.replies import Replies
from policyd_rate_limit.rehearsal.result import IdResult, Rehearsal, Side
from policyd_rate_limit.rehearsal.series import Steps
from policyd_rate_limit.rehearsal.shadow_comparison import compare
from policyd_rate_limit.rehearsal.shadow_figures import ShadowFigures
from policyd_rate_limit.rehearsal.users import Users
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.maillog.mail import Decided, Mail
    from policyd_rate_limit.maillog.tally import Tally
    from policyd_rate_limit.rehearsal.ids import Ids, IdState
    from policyd_rate_limit.rehearsal.past import Past
    from policyd_rate_limit.rehearsal.result import ShadowComparison
    from policyd_rate_limit.rehearsal.stages import Stages
    from policyd_rate_limit.rehearsal.trial import Trial

MOST_REMARKS: Final = 100
"""The most things that are remarked."""


class _Remarks:
    """What else is to be said, each once."""

    def __init__(self) -> None:
        self.told: dict[str, None] = {}

    def tell(self, sentence: str) -> None:
        if len(self.told) < MOST_REMARKS:
            self.told[sentence] = None


class _Watched:
    """The mails as they pass, which says which stage refused any in the past."""

    def __init__(self) -> None:
        self.refused_at: set[str] = set()

    def watch(self, items: Iterable[Mail | Decided], replies: Replies) -> Iterator[Mail | Decided]:
        for item in items:
            if getattr(item, "origin", None) is Origin.REJECTED and replies.match(item.reply):  # type: ignore[union-attr]
                self.refused_at.add(item.stage)
            yield item


def rehearse(
    new: Settings, old: Settings | ShadowFigures | None, stages: Stages, items: Iterable[Mail | Decided], tally: Tally
) -> Rehearsal:
    """What ``new`` would have done with the mails that ``items`` tell of, in the order of time, and what ``old`` would.

    Without ``old`` what was done in the past takes its place; likewise for rules of which it does not tell, where it
    is what rules in shadow would have refused. ``tally`` is what whoever reads ``items`` counts.

    :raises ConfigError: a driver is not installed, or the file of countries cannot be read.
    """
    shadow, before = (old, None) if isinstance(old, ShadowFigures) else (None, old)
    configurations = [new] if before is None else [new, before]
    replies = Replies(configurations)
    figures, remarks, watched = Figures(), _Remarks(), _Watched()
    units = {
        rule.name: rule.unit
        for settings in configurations
        for rule in make_rules(settings, make_subjects(settings), None)
    }
    users = Users()
    decided = DecidedMails(units, users, figures)
    gathering = Gathering(replies, users, figures)
    with contextlib.ExitStack() as stack:
        trials = [stack.enter_context(open_trial(settings, stages.stages, remarks.tell)) for settings in configurations]
        mails = decided.told(gathering.gather(watched.watch(items, replies)))
        run = _Run(trials[0], trials[1] if before is not None else None)
        if shadow is not None:
            run.new.counting.compare_within(shadow.since, shadow.until + 1)
        run.pass_all(mails)
    _remark(run, watched, stages, remarks.tell)
    return _result(new, before, run, _changes(run, shadow, remarks.tell), stages, tally, figures, tuple(remarks.told))


class _Run:
    """Both trials pass the mails, each mail at once."""

    def __init__(self, new: Trial, old: Trial | None) -> None:
        self.new = new
        self.old = old
        self.steps = Steps()
        self.mails = self.recipients = 0
        self.began: float | None = None
        self.refused_before = self.newly_refused = self.no_longer_refused = 0

    @property
    def ended(self) -> float | None:
        """When the last mail was rehearsed, by its own clock (Unix seconds); None: there was none."""
        return self.new.now if self.mails else None

    def pass_all(self, mails: Iterable[Past]) -> None:
        """Rehearse all of them."""
        new, old, steps = self.new, self.old, self.steps
        for past in mails:
            is_refused = new.rehearse(past) > 0
            was_refused = past.refused > 0 if old is None else old.rehearse(past) > 0
            self.mails += 1
            self.recipients += past.recipient_count
            if self.began is None:
                self.began = past.time
            if is_refused != was_refused:
                if is_refused:
                    self.newly_refused += 1
                else:
                    self.no_longer_refused += 1
            if was_refused:
                self.refused_before += 1
            steps.add(new.now, refused=is_refused, refused_before=was_refused)


class _Changes(NamedTuple):
    """Who is refused on one side alone, by rule, and how many cannot be compared."""

    newly: Mapping[str, tuple[IdResult, ...]]
    no_longer: Mapping[str, tuple[IdResult, ...]]
    incomparable: int
    shadow: ShadowComparison | None


def _remark(run: _Run, watched: _Watched, stages: Stages, tell: Callable[[str], None]) -> None:
    elsewhere = sorted(watched.refused_at - set(stages.stages))
    if elsewhere:
        where = " and ".join(elsewhere)
        more = " ".join(f"--stage {stage}" for stage in elsewhere)
        if DATA in elsewhere or RCPT in elsewhere:
            tell(
                f"the log has refusals of rate limits at {where}, where Postfix is not taken to ask: {more} says that"
                " it does"
            )
    for trial in (run.new, run.old):
        if trial is not None and trial.counting.forgotten:
            ids = quantity(trial.counting.forgotten, "id")
            tell(f"there was no room to remember {ids} who came nowhere near a limit: their mails count from anew")


def _changes(run: _Run, shadow: ShadowFigures | None, tell: Callable[[str], None]) -> _Changes:
    ids = run.new.counting.ids()
    incomparable = sum(one.counting.dropped for one in (run.new, run.old) if one is not None)
    if run.old is not None:
        before = run.old.counting.ids()
        newly, no_longer = _named(ids, _not_among(before)), _named(before, _not_among(ids))
        return _Changes(newly, no_longer, incomparable, None)
    if shadow is None:
        return _Changes(_named(ids, _is_new), {}, incomparable, None)
    found = compare(shadow, run.new.counting.all_ids(), run.began, run.ended, tell)
    others = {name: of_rule for name, of_rule in ids.items() if name not in shadow.rules}
    newly = {**_named(others, _is_new), **{name: _most(name, states) for name, states in found.newly.items()}}
    no_longer = {
        name: tuple(sorted(gone, key=lambda one: (-one.counts.refused, one.key))[:MOST_IDS])
        for name, gone in found.no_longer.items()
    }
    incomparable += sum(rule.unnamed + rule.outside for rule in found.comparison.rules)
    return _Changes(newly, no_longer, incomparable, found.comparison)


def _is_new(state: IdState) -> bool:
    """Whether somebody was not refused in the past."""
    return not state.refused_then


def _result(
    new: Settings,
    old: Settings | None,
    run: _Run,
    changes: _Changes,
    stages: Stages,
    tally: Tally,
    figures: Figures,
    remarks: tuple[str, ...],
) -> Rehearsal:
    return Rehearsal(
        new=_side(new, run.new, stages),
        old=None if old is None or run.old is None else _side(old, run.old, stages),
        mails=run.mails,
        recipients=run.recipients,
        began=run.began,
        ended=run.ended,
        refused_before=run.refused_before,
        newly_refused=run.newly_refused,
        no_longer_refused=run.no_longer_refused,
        newly_hit=changes.newly,
        no_longer_hit=changes.no_longer,
        incomparable=changes.incomparable,
        shadow=changes.shadow,
        series=run.steps.series(),
        stages=stages.stages,
        stages_from=stages.why,
        log=of_log(tally, figures),
        damaged=tuple(tally.damaged),
        remarks=remarks,
    )


def _side(settings: Settings, trial: Trial, stages: Stages) -> Side:
    counting = trial.counting
    rules = counting.results(cannot_be_rehearsed(settings, stages.stages))
    return Side(settings.config_file, trial.refused, trial.refused_recipients, counting.unlimited, rules)


def _not_among(others: Mapping[str, Ids]) -> Callable[[IdState], bool]:
    """What says whether somebody is refused by none of the rules of ``others``."""
    keys = {prefix_and_key(one.counter)[1] for ids in others.values() for one in ids.refused()}
    return lambda state: prefix_and_key(state.counter)[1] not in keys


def _named(ids: Mapping[str, Ids], is_meant: Callable[[IdState], bool]) -> dict[str, tuple[IdResult, ...]]:
    """By rule, whom of those who are refused is meant, at most :data:`MOST_IDS`, who have most refusals."""
    found = {}
    for name, of_rule in ids.items():
        meant = [one for one in of_rule.refused() if is_meant(one)]
        if meant:
            found[name] = _most(name, meant)
    return found


def _most(name: str, states: Iterable[IdState]) -> tuple[IdResult, ...]:
    """Those of ``states``, of the rule ``name``, who have most refusals."""
    order = sorted(states, key=lambda one: (-one.refused, one.counter))
    return tuple(one.result(name) for one in order[:MOST_IDS])
