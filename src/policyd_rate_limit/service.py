"""The use case: a policy request comes, an action goes.

Who is charged, what it costs, whether that is within the limits, what Postfix is told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from policyd_rate_limit.domain.charge import RECIPIENTS, Charge, Demand, Verdict
from policyd_rate_limit.domain.counting import Repetitions, mail_id, main_cf_hint, stages
from policyd_rate_limit.errors import StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.domain.request import Request

# The answer when not even the journal has room: a temporary error, as for any mail system that is out of disk.
FULL_ACTION = "defer_if_permit Rate limits cannot be checked at the moment, retry later"

_logger = logging.getLogger(__name__)


class Actions(NamedTuple):
    """What Postfix is told, each an action of access(5). ``away`` None: memory decides while the database is away."""

    success: str
    fail: str
    away: str | None


class Throttle(Protocol):
    """Says how often a line may be logged."""

    def hit(self, key: str) -> tuple[bool, int]:
        """Whether to log a line about ``key`` now, and how many were suppressed since the last one."""


class LimitsOfIds(Protocol):
    """What a table of limits by id says: :class:`policyd_rate_limit.storage.sql_limits.SqlLimits`."""

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None]) -> None:
        """Have ``done`` called with the limits of the first of ``ids`` that has any, None when the table is silent."""

    def keeping(self, limits: Limits) -> Limits:
        """``limits``, such that what longer ones may need is not forgotten."""


class Policy:
    """All that a reload may change about how requests are answered; never changed itself.

    What ``sql_limits`` says of an id counts before what ``rules`` say.
    """

    __slots__ = ("actions", "count_mode", "rules", "sql_limits", "stages")

    def __init__(
        self, rules: Rules, actions: Actions, count_mode: int | None, sql_limits: LimitsOfIds | None = None
    ) -> None:
        self.rules = rules
        self.actions = actions
        self.count_mode = count_mode
        self.sql_limits = sql_limits
        self.stages = stages(count_mode)


class Service:
    """Answers policy requests.

    ``policy`` may be replaced between two requests: each request is answered wholly by the one it met.
    ``submit`` has a demand decided and calls back with its verdict, or with the error that prevented it.
    ``uncounted`` bounds how often a request at a stage that does not count is logged, ``refused`` how often a
    refusal of one key, or a failure of one kind, is. ``policy_service`` is how main.cf names this daemon.
    """

    def __init__(
        self,
        policy: Policy,
        submit: Callable[[Demand, Callable[[Verdict | Exception], None]], None],
        *,
        uncounted: Throttle,
        refused: Throttle,
        policy_service: str,
    ) -> None:
        self.policy = policy
        self._repetitions = Repetitions()
        self._submit = submit
        self._uncounted = uncounted
        self._refused = refused
        self._policy_service = policy_service

    def ask(self, request: Request, answer: Callable[[str | None], None]) -> None:
        """Have ``answer`` called with the action for ``request``, at once or later, or with None: no answer.

        As SMTPD_POLICY_README wants it, a server that is in trouble sends no answer but disconnects. When the
        client cannot get the answer, for this or any other reason, call :meth:`unanswered`.
        """
        policy = self.policy
        cost_of = policy.stages.get(request.protocol_state)
        if cost_of is None:
            self._hint(request, policy.count_mode)
            answer(policy.actions.success)
            return
        charged = policy.rules.charged(request)
        sql_limits = policy.sql_limits
        if charged is None or (sql_limits is None and not charged.limits):
            _log_decision(request, charged.key if charged else "", "not-limited")
            answer(policy.actions.success)
            return
        cost = cost_of(request)
        # Before anything is waited for: equal requests are numbered in the order in which they come.
        part = self._repetitions.part(cost.part) if cost.each else cost.part

        def demand_within(limits: Limits) -> None:
            demand = Demand(
                (Charge(charged.key, RECIPIENTS, cost.amount, limits),), mail_id(request.instance), part, cost.settles
            )
            self._submit(demand, lambda result: answer(self._conclude(policy.actions, request, demand, result)))

        if sql_limits is None:
            demand_within(charged.limits)
            return

        def go_on(found: Limits | None) -> None:
            limits = sql_limits.keeping(charged.limits if found is None else found)
            if limits:
                demand_within(limits)
            else:
                _log_decision(request, charged.key, "not-limited")
                answer(policy.actions.success)

        sql_limits.ask(policy.rules.ids_for_query(request, charged), go_on)

    def unanswered(self, request: Request) -> None:
        """``request`` was asked, and the answer did not reach the client: Postfix will ask again."""
        cost_of = self.policy.stages.get(request.protocol_state)
        cost = cost_of(request) if cost_of else None
        if cost is not None and cost.each:
            self._repetitions.unanswered(cost.part)

    def _conclude(self, actions: Actions, request: Request, demand: Demand, result: Verdict | Exception) -> str | None:
        """The action for ``result``."""
        if isinstance(result, Verdict):
            if result.admitted:
                _log_decision(request, _key(demand), "admitted", result.charged)
                return actions.success
            self._log_refusal(request, demand, result)
            return actions.fail
        if isinstance(result, StoreFull):
            _log_decision(request, _key(demand), "full")
            return FULL_ACTION
        if isinstance(result, StoreUnavailable) and actions.away is not None:
            _log_decision(request, _key(demand), "away")
            return actions.away
        self._log_failure(request, result)
        return None

    def _log_refusal(self, request: Request, demand: Demand, verdict: Verdict) -> None:
        log_it, suppressed = self._refused.hit(_key(demand))
        if not log_it and not _logger.isEnabledFor(logging.DEBUG):
            return
        _, _, cost, limits = demand.charges[0]
        impossible = next((limit for limit in limits if cost > limit.maximum), None)
        _logger.log(
            logging.INFO if log_it else logging.DEBUG,
            "%s key=%s cost=%d verdict=refused limit=%s%s%s",
            _about(request),
            _key(demand),
            cost,
            _written(verdict.exceeded),
            f" (a mail that costs more than {_written(impossible)} can never pass)" if impossible else "",
            f" ({suppressed} more refused since the last line about this key)" if suppressed else "",
        )

    def _log_failure(self, request: Request, failure: Exception) -> None:
        log_it, suppressed = self._refused.hit(type(failure).__name__)
        if log_it:
            more = f" ({suppressed} more since the last such line)" if suppressed else ""
            _logger.error("%s verdict=none%s", _about(request), more, exc_info=failure)

    def _hint(self, request: Request, count_mode: int | None) -> None:
        _log_decision(request, "", "not-counted")
        log_it, suppressed = self._uncounted.hit("")
        if log_it:
            _logger.warning(
                "Postfix asks at stage %s, which does not count with count_mode %s; main.cf should have: %s%s",
                request.protocol_state or "(none)",
                "unset" if count_mode is None else count_mode,
                main_cf_hint(count_mode, self._policy_service),
                f" ({suppressed} more such requests since the last line)" if suppressed else "",
            )


def _key(demand: Demand) -> str:
    return demand.charges[0].key


def _log_decision(request: Request, key: str, verdict: str, charged: int = 0) -> None:
    """With the setting ``debug`` each request and decision is a line."""
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s key=%s charged=%d verdict=%s", _about(request), key, charged, verdict)


def _written(limit: Limit | None) -> str:
    return f"{limit.maximum}/{limit.seconds}s" if limit else ""


def _about(request: Request) -> str:
    return (
        f"stage={request.protocol_state} instance={request.instance} queue_id={request.queue_id} "
        f"sender={request.sender} recipient={request.recipient} client_address={request.client_address}"
    )
