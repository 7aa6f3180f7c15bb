"""Rules of all kinds and mails of all kinds: what is answered and counted is what a model of the promises says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Demand, Usage, Verdict
from policyd_rate_limit.domain.outcome import Outcome
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.observe.decisions import Decisions
from policyd_rate_limit.observe.metrics import Metrics
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.system.throttle import Throttle
from support.examples import examples
from support.model_of_rules import Asked, Model, Said, as_text, refuses
from support.ruled import NOON, Ruled, request
from support.traffic import (
    BACK,
    LETTING_PASS,
    LONGEST,
    MAILS,
    NEXT,
    RELOAD,
    WAIT,
    WAITS,
    Mail,
    Postfix,
    Step,
    all_exceeded,
    changed,
    files,
    overridden,
    plain_requests,
    rules,
    steps,
)

SOME_MAILS = st.lists(MAILS, min_size=1, max_size=6)
START = NOON + 50.0  # shortly before the minute in which some rules begin to hold
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Noting(Decisions):
    """Notes the warnings of the last decision: rule, maximum and seconds of the limit, what is used."""

    def decided(
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict | Exception,
        outcome: Outcome,
        began: float,
    ) -> None:
        assert isinstance(result, Verdict)
        self.warnings = [(rules[index].name, *limit, used) for index, limit, used in result.warned]
        super().decided(request, demand, rules, result, outcome, began)


class Told(Ruled):
    """Rules in memory, and what the log and the metrics were told of each."""

    def __init__(self, said: Iterable[Said], now: float = START) -> None:
        super().__init__(as_text(said), now)
        self.metrics = Metrics()
        self.service.observer = self.noting = Noting(
            lambda demand, done: done(tuple[Usage, ...]()),
            refused=Throttle(60, lambda: self.now),
            warned=Throttle(60, lambda: self.now),
            metrics=self.metrics,
        )

    def put(self, asked: Asked) -> str:
        """The action that answers the request with these attributes."""
        others = {name: value for name, value in asked.items() if name not in ("protocol_state", "instance")}
        self.noting.warnings = []
        return self.ask(request(str(asked["protocol_state"]), str(asked["instance"]), **others))

    def told(self) -> Counter[tuple[str, str]]:
        """How often each rule has come to each verdict."""
        return Counter(
            {(rule, verdict): times for rule, found in self.metrics.rules.items() for verdict, times in found.items()}
        )

    def events(self) -> list[tuple[str, int, int]]:
        """All that is remembered of what was counted: counter, date, amount."""
        return list(self.ledger.charges())


class Beside:
    """The program and the model, of which the same is asked."""

    def __init__(self, said: Sequence[Said]) -> None:
        self.said = said
        self.program = Told(said)
        self.model = Model()
        self.true = 0.0  # seconds that have passed, whatever the clock says
        self.expected = Counter[tuple[str, str]]()
        self.warned = Counter[str]()

    def put(self, asked: Asked) -> bool:
        """Whether the request is refused."""
        program = self.program
        written = len(program.entries)
        expected = self.model.ask(self.said, asked, program.now, self.true)
        assert program.put(asked) == expected.action
        assert program.noting.warnings == list(expected.warned)
        assert refuses(expected.action) == expected.refused
        if expected.refused:
            assert len(program.entries) == written
        self.expected.update(expected.told)
        assert +program.told() == self.expected
        self.warned.update(rule for rule, *_ in expected.warned)
        assert program.metrics.warnings == self.warned
        return expected.refused

    def step(self, step: Step, postfix: Postfix) -> None:
        if step[0] == WAIT:
            self.program.now += WAITS[step[1]]
            self.true += WAITS[step[1]]
        elif step[0] == BACK and not self.model.would_return(self.program.now - WAITS[step[1]]):
            self.program.now -= WAITS[step[1]]
        for conversation, asked in postfix.requests(step):
            conversation.answered(refused=self.put(asked))

    def reload(self, said: Sequence[Said]) -> None:
        self.said = said
        self.program.reload(as_text(said))

    def check_windows(self) -> None:
        """In each there is what the model says."""
        events, now = self.program.events(), self.program.ledger.windows.now
        for counter, limits in self.model.limits.items():
            for seconds in (one.seconds for one in limits if not one.is_per_mail):
                used = sum(amount for name, date, amount in events if name == counter and date + seconds > now)
                assert used == self.model.used(counter, seconds)

    def check_promise(self) -> None:
        """In the last seconds, or of one mail, no more has been admitted than each limit says."""
        mails = {one.mail for one in self.model.charges}
        for counter, limits in self.model.limits.items():
            for bound in limits:
                if bound.is_per_mail:
                    assert all(self.model.used_of_mail(mail, counter) <= bound.maximum for mail in mails)
                else:
                    assert self.model.admitted_within(counter, bound.seconds, self.true) <= bound.maximum


@settings(UNHURRIED, max_examples=examples(60))
@given(said=files(), mails=SOME_MAILS, happening=steps(BACK))
def test_answers_and_counts_are_those_of_the_model(
    said: tuple[Said, ...], mails: list[Mail], happening: list[Step]
) -> None:
    """And no window ever holds more than its limit, also where the clock steps back."""
    beside, postfix = Beside(said), Postfix(mails)
    for step in happening:
        beside.step(step, postfix)
        beside.check_windows()
        beside.check_promise()


@settings(UNHURRIED, max_examples=examples(30))
@given(said=files(longest=LONGEST), mails=SOME_MAILS, happening=steps(RELOAD, RELOAD), data=st.data())
def test_a_reload_changes_rules_between_two_requests(
    said: tuple[Said, ...], mails: list[Mail], happening: list[Step], data: st.DataObject
) -> None:
    """What was counted stays; rules that are new, or count something else, start empty."""
    beside, postfix = Beside(said), Postfix(mails)
    for number, step in enumerate(happening):
        if step[0] == RELOAD:
            beside.reload(data.draw(changed(beside.said, number, longest=LONGEST)))
        beside.step(step, postfix)
        beside.check_windows()


@settings(UNHURRIED, max_examples=examples(100))
@given(said=all_exceeded(), mails=SOME_MAILS)
def test_which_of_several_exceeded_rules_decides(said: tuple[Said, ...], mails: list[Mail]) -> None:
    """One that refuses, else one that holds, else the first; and all of them are told, and count the same."""
    beside, postfix = Beside(said), Postfix(mails)
    for _ in range(12):
        beside.step((NEXT, 0), postfix)
    beside.check_windows()


@settings(UNHURRIED, max_examples=examples(60))
@given(said=overridden())
def test_the_first_override_that_matches_counts(said: Said) -> None:
    """Whatever kind of pattern it is."""
    mail = Mail("alice@example.org", "", "192.0.2.1", "", ("x@example.net",), 100)
    beside, postfix = Beside([said]), Postfix([mail])
    for _ in range(12):
        beside.step((NEXT, 0), postfix)
    beside.check_windows()


def replayed(said: Sequence[Said], happening: Iterable[Asked | float]) -> tuple[Told, list[str]]:
    """A program with these rules after all of this, and its answers."""
    program = Told(said)
    answers = []
    for one in happening:
        if isinstance(one, float):
            program.now += one
        else:
            answers.append(program.put(one))
    return program, answers


PLAIN = st.builds(plain_requests, SOME_MAILS, steps())


@settings(UNHURRIED, max_examples=examples(20))
@given(said=files(), happening=PLAIN)
def test_what_is_refused_is_counted_nowhere(said: tuple[Said, ...], happening: list[Asked | float]) -> None:
    """Without it, all else is answered and counted as with it."""
    program, answers = replayed(said, happening)
    left = iter(answers)
    others = [one for one in happening if isinstance(one, float) or not refuses(next(left))]
    alone, admitted = replayed(said, others)
    assert admitted == [action for action in answers if not refuses(action)]
    program.ledger.advance(program.now)
    alone.ledger.advance(alone.now)
    assert alone.entries == program.entries


def exceeded_by(said: Sequence[Said], happening: Iterable[Asked | float], name: str) -> tuple[list[int], Told]:
    """The numbers of the requests at which the rule ``name`` was exceeded, as it was told."""
    program, found = Told(said), []
    for number, one in enumerate(happening):
        if isinstance(one, float):
            program.now += one
            continue
        before = program.told()
        program.put(one)
        for rule, verdict in program.told() - before:
            if rule == name and verdict != "admitted":
                found.append(number)
    return found, program


@settings(UNHURRIED, max_examples=examples(20))
@given(said=rules(letting_pass=False), others=files(letting_pass=True, most=2), happening=PLAIN)
@pytest.mark.parametrize("way", ["shadow", *LETTING_PASS])
def test_shadow_and_hold_tell_exactly_what_would_be_refused(
    way: str, said: Said, others: tuple[Said, ...], happening: list[Asked | float]
) -> None:
    """The same requests are over the limits, beside rules that refuse nothing, and the same is counted."""
    if way.startswith("prepend") and said.count == "bytes":
        return
    beside = [replace(other, name=f"beside-{other.name}") for other in others]
    enforced = replace(said, shadow=False)
    softly = replace(said, shadow=True) if way == "shadow" else replace(said, shadow=False, action=way)
    refused, one = exceeded_by([*beside, enforced], happening, said.name)
    told, two = exceeded_by([*beside, softly], happening, said.name)
    assert told == refused
    of_rule = [
        [entry for entry in program.entries if entry.counter.startswith(said.counters)] for program in (one, two)
    ]
    assert of_rule[0] == of_rule[1]


@settings(UNHURRIED, max_examples=examples(20))
@given(said=rules("extra"), others=files(), happening=PLAIN, at=st.integers(0, 4))
def test_a_rule_in_shadow_changes_nothing(
    said: Said, others: tuple[Said, ...], happening: list[Asked | float], at: int
) -> None:
    """Neither an answer nor what other rules count."""
    extra = replace(said, shadow=True)
    without, answers = replayed(others, happening)
    with_it, others_answers = replayed([*others[:at], extra, *others[at:]], happening)
    assert others_answers == answers
    assert [entry for entry in with_it.entries if not entry.counter.startswith(extra.counters)] == without.entries
