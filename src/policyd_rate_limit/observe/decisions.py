"""Tells of decisions after their answers have left: the log, the metrics, the listeners.

With ``debug`` each decision is a line; else the refusals are, one a minute for each id, the failures, and what a rule
warns of. A line says
how much of each limit is used: the store is asked for that when it has a moment (``explain``).
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.domain import outcome as outcomes
from policyd_rate_limit.domain.charge import Usage, Verdict
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.decision import (
    ADMITTED,
    AWAY,
    BLOCKS,
    FULL,
    MARKED,
    NONE,
    REFUSED,
    WARNED,
    WOULD_BLOCK,
    WOULD_REFUSE,
    Decision,
)
from policyd_rate_limit.domain.limits import BLOCKED, shown_limit
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.service import Observer
from policyd_rate_limit.system.fields import Line, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Demand
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.observe.metrics import Metrics
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.system.throttle import Throttle

    Explain = Callable[[Demand, Callable[[tuple[Usage, ...]], None]], None]

MOST_LIMITS_TOLD: Final = 6
"""In one line; the use of an id's further limits is left out."""

NEVER: Final = Shown("never", None)

_OF_FAILURES: Final = {outcomes.FULL: FULL, outcomes.AWAY: AWAY}

_logger = logging.getLogger(__name__)


class Decisions(Observer):
    """Tells the log, the metrics and the listeners of each decision of the service.

    ``explain`` finds out how the limits of a demand stand:
    :meth:`policyd_rate_limit.storage.engine.worker.Worker.explain`. ``refused`` bounds how often a refusal of one
    counter, or a failure of one kind, is logged, ``warned`` how often a warning of one limit of one counter is:
    its use may hover there. ``metrics`` count, where anybody wants to know. ``clock``: that by
    which the service says when a request came.
    """

    def __init__(
        self,
        explain: Explain,
        *,
        refused: Throttle,
        warned: Throttle,
        listeners: Sequence[Listener] = (),
        metrics: Metrics | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._explain = explain
        self._refused = refused
        self._warned = warned
        self._listeners = list(listeners)
        self.heed_level()

    def heed_level(self) -> None:
        """Call it when another level may be logged than before: finding that out for each decision takes long."""
        self._each = _logger.isEnabledFor(logging.DEBUG)
        self._is_quiet = self._metrics is None and not self._each

    def passed(self, request: Request, counter: str, verdict: str, began: float) -> None:
        seconds = self._clock() - began
        self._count(counter, verdict, seconds)
        if self._each:
            _log(logging.DEBUG, Decision(request, verdict, counter, seconds=seconds))

    def decided(
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict | Exception,
        outcome: Outcome,
        began: float,
    ) -> None:
        if self._is_quiet and isinstance(result, Verdict) and not result.exceeded and not result.warned:
            return  # most are of no interest to anybody
        seconds = self._clock() - began
        charge = demand.charges[0]
        if not isinstance(result, Verdict):
            verdict = _OF_FAILURES.get(outcome.kind, NONE)
            self._told_of_failure(Decision(request, verdict, charge.counter, charge.most, seconds=seconds), result)
            return
        exceeded = {one.charge: one.limit for one in result.exceeded}
        if result.refused_by is None:
            self._count(charge.counter, MARKED if outcome.kind == outcomes.MARK else ADMITTED, seconds)
            self._told_of_admission(request, demand, result, exceeded, seconds)
        else:
            self._count(demand.charges[result.refused_by.charge].counter, REFUSED, seconds)
        if result.warned:
            self._told_of_warnings(request, demand, rules, result, seconds)
        if exceeded:
            self._told_of_excess(request, demand, rules, result, exceeded, seconds)

    def blocked(self, request: Request, counter: str, cost: int, limit: Limit, free_in: int, began: float) -> None:
        seconds = self._clock() - began
        usages = (Usage(counter, limit, 0, free_in),)
        self._count(counter, REFUSED, seconds)
        level, suppressed, wanted = self._who_wants(request, REFUSED, counter, limit)
        decision = Decision(request, REFUSED, counter, cost, 0, limit, usages, False, seconds)
        _tell(_Told(decision, level, suppressed, wanted))

    def blocks(self, request: Request, counter: str, limit: Limit, seconds: int, *, shadow: bool) -> None:
        """Count and log it; what would be done again and again is logged as refusals are."""
        if self._metrics is not None and not shadow:
            self._metrics.blocked(counter)
        verdict = WOULD_BLOCK if shadow else BLOCKS
        decision = Decision(request, verdict, counter, exceeded=limit, shadow=shadow, blocked_for=seconds)
        self._notice(decision, f"{verdict} {counter}")

    def _notice(self, decision: Decision, about: str) -> None:
        """Log it, as often as may be said ``about`` that, and tell who wants to know."""
        log_it, suppressed = self._warned.hit(about)
        if log_it:
            _log(logging.WARNING, decision, suppressed)
        for one in self._listeners:
            one.noticed(decision)

    def _count(self, counter: str, verdict: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.decided(counter, verdict, seconds)

    def _told_of_admission(
        self, request: Request, demand: Demand, result: Verdict, exceeded: Mapping[int, Limit], seconds: float
    ) -> None:
        """Count what each rule has counted, and log it where each decision is logged."""
        decisions: list[Decision] = []
        for index in range(len(demand.charges)):
            if index in exceeded:
                continue
            charge = demand.charges[index]
            if self._metrics is not None:
                self._metrics.ruled(charge.counter, ADMITTED)
            if self._each:
                counted = result.counted[index]
                decisions.append(Decision(request, ADMITTED, charge.counter, charge.most, counted, seconds=seconds))
        if decisions:
            self._explain(demand, partial(_log_with_use, decisions))

    def _told_of_warnings(
        self, request: Request, demand: Demand, rules: Sequence[Rule], result: Verdict, seconds: float
    ) -> None:
        """Count and log each window that has come so far, with what was used of it then."""
        for index, limit, used in result.warned:
            counter = demand.charges[index].counter
            if self._metrics is not None:
                self._metrics.warned(counter)
            decision = Decision(
                request,
                WARNED,
                counter,
                demand.charges[index].most,
                result.counted[index],
                limit,
                (Usage(counter, limit, used, 0),),
                seconds=seconds,
                shadow=rules[index].shadow,
            )
            self._notice(decision, f"{limit.maximum}/{limit.seconds} {counter}")

    def _told_of_excess(
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict,
        exceeded: Mapping[int, Limit],
        seconds: float,
    ) -> None:
        """Count each excess, log it, and tell who wants to know; the store is asked once how the limits stand."""
        told: list[_Told] = []
        for index, limit in exceeded.items():
            verdict = _verdict(rules[index], result)
            charge = demand.charges[index]
            if verdict:
                level, suppressed, wanted = self._who_wants(request, verdict, charge.counter, limit)
                if level or wanted:
                    impossible = any(charge.most > limit.maximum for limit in charge.limits)
                    decision = Decision(
                        request, verdict, charge.counter, charge.most, 0, limit, (), impossible, seconds
                    )
                    told.append(_Told(decision, level, suppressed, wanted))
        if told:
            self._explain(demand, partial(_tell_with_use, told))

    def _who_wants(
        self, request: Request, verdict: str, counter: str, exceeded: Limit
    ) -> tuple[int, int, list[Listener]]:
        """Count an excess; the level at which it is logged, 0 where it is not, how many were not, and who wants it."""
        if self._metrics is not None:
            self._metrics.ruled(counter, verdict)
            if verdict == REFUSED:
                self._metrics.refused(exceeded)
        log_it, suppressed = self._refused.hit(counter)
        level = 0  # not logged
        if log_it and _logger.isEnabledFor(logging.INFO):
            level = logging.INFO
        elif self._each:
            level = logging.DEBUG
        for one in self._listeners:
            one.met(request, counter, exceeded, verdict)
        wanted = [one for one in self._listeners if one.exceeded(counter, exceeded, verdict)]
        return level, suppressed if log_it else 0, wanted

    def _told_of_failure(self, decision: Decision, failure: Exception) -> None:
        self._count(decision.counter, decision.verdict, decision.seconds)
        if decision.verdict != NONE:
            # That the database is away, or the spool full, has been said once.
            if self._each:
                _log(logging.DEBUG, decision)
            return
        log_it, suppressed = self._refused.hit(type(failure).__name__)
        if log_it:
            _log(logging.ERROR, decision, suppressed, failure)


def _verdict(rule: Rule, result: Verdict) -> str:
    """What came of an excess of ``rule``; empty: another rule has refused the mail, so that nothing was done by it."""
    if rule.shadow:
        return WOULD_REFUSE
    if rule.refuses:
        return REFUSED
    return MARKED if result.admitted else ""


class _Told(NamedTuple):
    """A decision that is logged at ``level``, unless that is 0, and told to those who have ``wanted`` it."""

    decision: Decision
    level: int
    suppressed: int
    wanted: list[Listener]


def _tell(told: _Told) -> None:
    if told.level:
        _log(told.level, told.decision, told.suppressed)
    for one in told.wanted:
        one.explained(told.decision)


def _tell_with_use(told: Sequence[_Told], usages: tuple[Usage, ...]) -> None:
    for one in told:
        of_counter = tuple(usage for usage in usages if usage.counter == one.decision.counter)
        never = any(usage.free_in is None for usage in of_counter) if of_counter else one.decision.impossible
        _tell(one._replace(decision=one.decision._replace(usages=of_counter, impossible=never)))


def _log_with_use(decisions: Sequence[Decision], usages: tuple[Usage, ...]) -> None:
    for decision in decisions:
        of_counter = tuple(usage for usage in usages if usage.counter == decision.counter)
        _log(logging.DEBUG, decision._replace(usages=of_counter))


def _log(level: int, decision: Decision, suppressed: int = 0, failure: Exception | None = None) -> None:
    _logger.log(level, line(decision, suppressed), exc_info=failure)


def line(decision: Decision, suppressed: int = 0) -> Line:
    """``decision`` as a line; docs/logging.md tells its fields. ``suppressed``: how many like it were left out."""
    request = decision.request
    free_in = decision.free_in if decision.exceeded is not None and decision.verdict != WARNED else None
    return Line(
        verdict=decision.verdict,
        rule="" if decision.rule == DEFAULT else decision.rule,
        shadow="true" if decision.shadow else "",
        kind=decision.kind,
        id=decision.id,
        stage=request.protocol_state,
        cost=decision.cost if decision.cost else "",
        charged=decision.charged if decision.cost else "",
        limit=shown_limit(decision.exceeded) if decision.exceeded else "",
        free_in=NEVER if decision.impossible else "" if free_in is None else free_in,
        usage=_usage(decision.usages[:MOST_LIMITS_TOLD]) if decision.usages and decision.exceeded != BLOCKED else "",
        ms=1000 * decision.seconds,
        queue_id=request.queue_id,
        instance=request.instance,
        sasl_username=request.sasl_username,
        sender=request.sender,
        recipient=request.recipient,
        client_address=request.client_address,
        suppressed=suppressed or "",
    )


def _usage(usages: Sequence[Usage]) -> Shown:
    return Shown(
        ",".join(f"{usage.used}/{shown_limit(usage.limit)}" for usage in usages),
        [{"used": usage.used, "maximum": usage.limit.maximum, "seconds": usage.limit.seconds} for usage in usages],
    )
