"""Tells of decisions after their answers have left: the log, the metrics, the listeners.

With ``debug`` each decision is a line; else the refusals are, one a minute for each id, and the failures. A line says
how much of each limit is used: the store is asked for that when it has a moment (``explain``).
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain import outcome as outcomes
from policyd_rate_limit.domain.charge import Usage, Verdict
from policyd_rate_limit.domain.decision import ADMITTED, AWAY, FULL, NONE, REFUSED, Decision
from policyd_rate_limit.domain.limits import BLOCKED, shown_limit
from policyd_rate_limit.service import Observer
from policyd_rate_limit.system.fields import Line, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policyd_rate_limit.domain.charge import Demand, Exceeded
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.domain.listener import Listener
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.observe.metrics import Metrics
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
    counter, or a failure of one kind, is logged. ``metrics`` count, where anybody wants to know. ``clock``: that by
    which the service says when a request came.
    """

    def __init__(
        self,
        explain: Explain,
        *,
        refused: Throttle,
        listeners: Sequence[Listener] = (),
        metrics: Metrics | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._explain = explain
        self._refused = refused
        self._listeners = list(listeners)
        self.heed_level()

    def heed_level(self) -> None:
        """Call it when another level may be logged than before: finding that out for each decision takes long."""
        self._each = _logger.isEnabledFor(logging.DEBUG)

    def passed(self, request: Request, counter: str, verdict: str, began: float) -> None:
        seconds = self._clock() - began
        self._count(counter, verdict, seconds)
        if self._each:
            _log(logging.DEBUG, Decision(request, verdict, counter, seconds=seconds))

    def decided(
        self, request: Request, demand: Demand, result: Verdict | Exception, outcome: Outcome, began: float
    ) -> None:
        if self._metrics is None and not self._each and isinstance(result, Verdict) and result.admitted:
            return  # most are of no interest to anybody
        seconds = self._clock() - began
        charge = demand.charges[0]
        counter, cost = charge.counter, charge.cost
        if isinstance(result, Verdict):
            if result.admitted:
                self._count(counter, ADMITTED, seconds)
                if self._each:
                    decision = Decision(request, ADMITTED, counter, cost, result.counted[0], seconds=seconds)
                    self._tell_of_admission(decision, demand)
            else:
                self._told_of_refusal(request, demand, result, seconds)
        else:
            verdict = _OF_FAILURES.get(outcome.kind, NONE)
            self._told_of_failure(Decision(request, verdict, counter, cost, seconds=seconds), result)

    def blocked(self, request: Request, counter: str, cost: int, limit: Limit, free_in: int, began: float) -> None:
        seconds = self._clock() - began
        usages = (Usage(counter, limit, 0, free_in),)
        level, suppressed, wanted = self._who_wants(counter, limit, seconds)
        self._tell(
            Decision(request, REFUSED, counter, cost, 0, limit, usages, False, seconds), level, suppressed, wanted
        )

    def _count(self, counter: str, verdict: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.decided(counter, verdict, seconds)

    def _tell_of_admission(self, decision: Decision, demand: Demand) -> None:
        self._explain(demand, lambda usages: _log(logging.DEBUG, decision._replace(usages=usages)))

    def _told_of_refusal(self, request: Request, demand: Demand, result: Verdict, seconds: float) -> None:
        refused_by = result.refused_by
        assert refused_by is not None  # noqa: S101 - it is a refusal
        charge = demand.charges[refused_by.charge]
        level, suppressed, wanted = self._who_wants(charge.counter, refused_by.limit, seconds)
        if level or wanted:
            self._explain_refusal(request, demand, refused_by, seconds, level, suppressed, wanted)

    def _who_wants(self, counter: str, exceeded: Limit | None, seconds: float) -> tuple[int, int, list[Listener]]:
        """Count a refusal; the level at which it is logged, 0 where it is not, how many were not, and who wants it."""
        self._count(counter, REFUSED, seconds)
        if self._metrics is not None and exceeded is not None:
            self._metrics.refused(exceeded)
        log_it, suppressed = self._refused.hit(counter)
        level = 0  # not logged
        if log_it and _logger.isEnabledFor(logging.INFO):
            level = logging.INFO
        elif self._each:
            level = logging.DEBUG
        wanted = [] if exceeded is None else [one for one in self._listeners if one.refused(counter, exceeded)]
        return level, suppressed if log_it else 0, wanted

    def _tell(self, decision: Decision, level: int, suppressed: int, wanted: Sequence[Listener]) -> None:
        if level:
            _log(level, decision, suppressed)
        for one in wanted:
            one.explained(decision)

    def _explain_refusal(
        self,
        request: Request,
        demand: Demand,
        refused_by: Exceeded,
        seconds: float,
        level: int,
        suppressed: int,
        wanted: Sequence[Listener],
    ) -> None:
        """Find out how the limits stand; then log it, unless ``level`` is 0, and tell those who want to know."""
        charge = demand.charges[refused_by.charge]
        counter = charge.counter
        impossible = any(charge.cost > limit.maximum for limit in charge.limits)
        decision = Decision(request, REFUSED, counter, charge.cost, 0, refused_by.limit, (), impossible, seconds)

        def go_on(usages: tuple[Usage, ...]) -> None:
            of_counter = tuple(usage for usage in usages if usage.counter == counter)
            never = any(usage.free_in is None for usage in of_counter) if of_counter else impossible
            explained = decision._replace(usages=of_counter, impossible=never)
            self._tell(explained, level, suppressed, wanted)

        self._explain(demand, go_on)

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


def _log(level: int, decision: Decision, suppressed: int = 0, failure: Exception | None = None) -> None:
    _logger.log(level, line(decision, suppressed), exc_info=failure)


def line(decision: Decision, suppressed: int = 0) -> Line:
    """``decision`` as a line; docs/logging.md tells its fields. ``suppressed``: how many like it were left out."""
    request = decision.request
    free_in = decision.free_in if decision.verdict == REFUSED else None
    return Line(
        verdict=decision.verdict,
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
