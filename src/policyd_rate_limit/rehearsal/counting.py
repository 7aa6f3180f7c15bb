"""Counts what one configuration does with each mail: by rule, and by id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.charge import Verdict
from policyd_rate_limit.domain.counter import prefix_and_key
from policyd_rate_limit.domain.request import RCPT
from policyd_rate_limit.postfix.actions import holds, refuses
from policyd_rate_limit.rehearsal.ids import Ids, IdState
from policyd_rate_limit.rehearsal.result import RuleResult
from policyd_rate_limit.service import Observer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from policyd_rate_limit.domain.charge import Charge, Demand, Usage
    from policyd_rate_limit.domain.ledger import Ledger
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.policy import Policy, Rule


class _OfRule:
    """What one rule has done until now. ``state``: all its ids together."""

    def __init__(self, rule: Rule, action: str) -> None:
        self.rule = rule
        self.action = action
        self.holds = holds(action)
        self.refuses = refuses(action)
        self.all = IdState(rule.name, ())
        self.ids = Ids(rule.name)


class Counting(Observer):
    """Is told of each decision about a mail, between :meth:`begin` and :meth:`end`.

    ``ledger``: that by which it is decided.
    """

    def __init__(self, policy: Policy, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rules = {rule.prefix: _OfRule(rule, policy.excess_action(rule)) for rule in policy.rules}
        self._by_name = {one.rule.name: one for one in self._rules.values()}
        self._mail = 0
        self._now = 0.0
        self._recipients = 0
        self._refused_then = False
        self._is_limited = False
        self._compared: tuple[float, float] | None = None
        self._blocked_for: dict[str, int] = {}  # seconds, from this mail on, by counter
        self._hit: dict[IdState, tuple[_OfRule, int]] = {}  # by this mail: and how many of its recipients
        self.unlimited = 0
        """Mails that no rule charged anybody for."""

    def compare_within(self, since: float, until: float) -> None:
        """Count by itself what is refused, or would be, from ``since`` to ``until`` (Unix seconds), in requests."""
        self._compared = since, until

    def begin(self, now: float, recipients: int, *, refused_then: bool) -> None:
        """The next mail comes ``now`` (Unix seconds). ``refused_then``: it was, at least in part, in the past."""
        self._mail += 1
        self._now = now
        self._recipients = recipients
        self._refused_then = refused_then
        self._is_limited = False
        self._blocked_for.clear()

    def end(self, passed: int) -> None:
        """The mail is over; so many of its recipients ``passed``."""
        if not self._is_limited:
            self.unlimited += 1
        if not self._hit:
            return
        rules: dict[_OfRule, int] = {}
        for state, (rule, recipients) in self._hit.items():
            rules[rule] = rules.get(rule, 0) + recipients
            state.refused += 1
            state.refused_recipients += recipients
            if self._is_partly(rule, recipients, passed):
                state.partly += 1
        for rule, recipients in rules.items():
            rule.all.refused += 1
            rule.all.refused_recipients += recipients
            if self._is_partly(rule, recipients, passed):
                rule.all.partly += 1
        self._hit.clear()

    def _is_partly(self, rule: _OfRule, recipients: int, passed: int) -> bool:
        return recipients < self._recipients if rule.rule.shadow else passed > 0

    def passed(self, request: Request, key: str, verdict: str, began: float) -> None:
        """It is not limited, or not counted."""

    def decided(
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict | Exception,
        outcome: Outcome,  # noqa: ARG002 - the verdict says more
        began: float,  # noqa: ARG002 - of interest to nobody
    ) -> None:
        if not isinstance(result, Verdict):
            raise result  # memory has no outage
        self._is_limited = True
        counted = result.counted
        charges = demand.charges
        for index, charge in enumerate(charges):
            state = self._state(self._by_name[rules[index].name], charge)
            if counted and counted[index] > 0:
                self._look_at_peaks(state, charge, demand.mail)
        if result.exceeded:
            self._excess(request, demand, rules, result)
        for warned in result.warned:
            of_rule = self._by_name[rules[warned.charge].name]
            for state in (of_rule.ids.states[charges[warned.charge].counter], of_rule.all):
                if state.warned_mail != self._mail:
                    state.warned_mail = self._mail
                    state.warned += 1

    def blocked(
        self,
        request: Request,
        key: str,
        cost: int,  # noqa: ARG002 - recipients are counted, whatever the rule counts
        limit: Limit,
        free_in: int,
        began: float,  # noqa: ARG002 - of interest to nobody
    ) -> None:
        of_rule = self._rules[prefix_and_key(key)[0]]
        state = of_rule.ids.states.get(key) or of_rule.ids.begin(key, (), self._mail)
        self._is_limited = True
        self._heed(of_rule, state)
        self._refuse(of_rule, state, request, limit, free_in)

    def blocks(
        self,
        request: Request,  # noqa: ARG002 - its counter says enough
        counter: str,
        limit: Limit,  # noqa: ARG002 - likewise
        seconds: int,
        *,
        shadow: bool,
    ) -> None:
        if not shadow:
            self._blocked_for[counter] = seconds
        of_rule = self._rules[prefix_and_key(counter)[0]]
        of_rule.all.blocks += 1
        # Before decided(), which makes the state of an id that comes for the first time.
        state = of_rule.ids.states.get(counter) or of_rule.ids.begin(counter, (), self._mail)
        state.blocks += 1

    def _state(self, of_rule: _OfRule, charge: Charge) -> IdState:
        """That of whom ``charge`` charges, by whom this mail is counted."""
        ids = of_rule.ids
        state = ids.states.get(charge.counter)
        if state is None:
            state = ids.begin(charge.counter, charge.limits, self._mail)
        if state.mail != self._mail:
            self._heed(of_rule, state)
        if state.limits is not charge.limits and state.limits != charge.limits:
            # Others hold for it now: what was used of those that stay is still true.
            before = dict(zip(state.limits, state.used, strict=True))
            state.limits = charge.limits
            state.used = [before.get(limit, 0) for limit in charge.limits]
        return state

    def _heed(self, of_rule: _OfRule, state: IdState) -> None:
        if state.mail != self._mail:
            state.mail = self._mail
            state.mails += 1
            if self._refused_then:
                state.refused_then += 1
        if of_rule.all.mail != self._mail:
            of_rule.all.mail = self._mail
            of_rule.all.mails += 1

    def _look_at_peaks(self, state: IdState, charge: Charge, mail: str) -> None:
        used_now = self._ledger.usage(charge.counter, charge.limits)
        used = state.used
        for index, one in enumerate(used_now):
            if one > used[index]:
                used[index] = one
        if charge.limits[0].is_per_mail:
            used[0] = max(used[0], self._ledger.explain_per_mail(charge, mail).used)

    def _excess(self, request: Request, demand: Demand, rules: Sequence[Rule], result: Verdict) -> None:
        usages: tuple[Usage, ...] | None = None
        for index, limit in result.exceeded:
            rule = rules[index]
            of_rule = self._by_name[rule.name]
            counter = demand.charges[index].counter
            state = of_rule.ids.states[counter]
            if not of_rule.refuses and not result.admitted:
                continue  # nothing was done by it
            if usages is None:
                usages = self._ledger.explain(demand)
            waits = [usage.free_in for usage in usages if usage.counter == counter]
            free_in = None if None in waits else max([self._blocked_for.get(counter, 0), *(one or 0 for one in waits)])
            if of_rule.refuses:
                self._refuse(of_rule, state, request, limit, free_in)
            else:
                self._mark(of_rule, state, limit, free_in)

    def _refuse(self, of_rule: _OfRule, state: IdState, request: Request, limit: Limit, free_in: int | None) -> None:
        if self._compared is not None and self._compared[0] <= self._now <= self._compared[1]:
            if not state.compared_requests:
                state.compared_from = self._now
            state.compared_requests += 1
            state.compared_to = self._now
        at_rcpt = request.protocol_state == RCPT
        _, before = self._hit.get(state, (of_rule, 0))
        if before and not at_rcpt and of_rule.rule.shadow:
            return  # what passed at RCPT in shadow would not have come so far
        self._hit[state] = (of_rule, before + (1 if at_rcpt else max(1, request.recipient_count)))
        self._note(state, limit, free_in)

    def _mark(self, of_rule: _OfRule, state: IdState, limit: Limit, free_in: int | None) -> None:
        for one in (state, of_rule.all):
            if one.marked_mail != self._mail:
                one.marked_mail = self._mail
                if of_rule.holds:
                    one.held += 1
                else:
                    one.marked += 1
        self._note(state, limit, free_in)

    def _note(self, state: IdState, limit: Limit, free_in: int | None) -> None:
        if state.since is None:
            state.since, state.limit = self._now, limit
        state.last = self._now
        state.free_at = None
        if free_in is not None:
            state.longest_wait = max(state.longest_wait or 0, free_in)
            state.free_at = int(self._now) + free_in

    def ids(self) -> Mapping[str, Ids]:
        """Those of each rule that refuses, by its name."""
        return {name: one.ids for name, one in self._by_name.items() if one.rule.refuses}

    def all_ids(self) -> Mapping[str, Ids]:
        """Those of each rule, also of one that refuses nothing, by its name."""
        return {name: one.ids for name, one in self._by_name.items()}

    def results(self, cannot: Mapping[str, Sequence[str]]) -> tuple[RuleResult, ...]:
        """What each rule has done; ``cannot``: what of it cannot be rehearsed, by its name."""
        return tuple(
            RuleResult(
                name,
                one.rule.unit,
                one.rule.shadow,
                one.rule.refuses,
                one.action,
                one.all.counts(),
                *one.ids.told(),
                one.ids.heaviest(),
                tuple(cannot.get(name, ())),
            )
            for name, one in self._by_name.items()
        )

    @property
    def forgotten(self) -> int:
        """Ids that are not known any more, and were not refused until then."""
        return sum(one.ids.forgotten for one in self._by_name.values())

    @property
    def dropped(self) -> int:
        """Ids that were refused, and are not known any more."""
        return sum(one.ids.dropped for one in self._by_name.values() if one.rule.refuses)
