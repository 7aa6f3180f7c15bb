"""The use case: a policy request comes, an action goes.

Who is charged, what it costs, whether that is within the limits, what Postfix is told.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import partial
from math import ceil
from time import monotonic, time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, Waiting
from policyd_rate_limit.domain.counting import Repetitions, mail_id, stages
from policyd_rate_limit.domain.decision import NOT_COUNTED, NOT_LIMITED
from policyd_rate_limit.domain.identity import Charged
from policyd_rate_limit.domain.limits import LARGEST, Limit, longest_of
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.request import WITHOUT_MAIL
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.postfix.lists import hooking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policyd_rate_limit.domain.counting import Cost
    from policyd_rate_limit.domain.identity import Rules
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.storage.administration import Override
    from policyd_rate_limit.system.throttle import Throttle

# The answer when not even the journal has room: a temporary error, as for any mail system that is out of disk.
FULL_ACTION: Final = "defer_if_permit Rate limits cannot be checked at the moment, retry later"

_logger = logging.getLogger(__name__)


class Actions(NamedTuple):
    """What Postfix is told, each an action of access(5). ``away`` None: memory decides while the database is away.

    ``block``: of whom an administrator has blocked.
    """

    success: str
    fail: str
    away: str | None
    block: str


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Asking(ABC):
    """Whoever asks a :class:`PolicyService` and waits for its answer."""

    @abstractmethod
    def answer(self, action: str | None) -> None:
        """The answer is ``action``, of access(5); None: there is none, and the client is to ask again."""


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class PolicyService(ABC):
    """What answers policy requests."""

    @abstractmethod
    def ask(self, request: Request, asking: Asking) -> None:
        """Have ``asking`` told of the action for ``request``, at once or later.

        As SMTPD_POLICY_README wants it, a server that is in trouble sends no answer but disconnects. When the
        client cannot get the answer, for this or any other reason, call :meth:`unanswered`.
        """

    @abstractmethod
    def unanswered(self, request: Request) -> None:
        """``request`` was asked, and the answer did not reach the client: Postfix will ask again."""


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Observer(ABC):
    """Whoever is told of decisions. ``began``: when the request came, by the monotonic clock."""

    @abstractmethod
    def passed(self, request: Request, key: str, verdict: str, began: float) -> None:
        """``request``, which charges ``key`` or nobody, was let pass without any counting."""

    @abstractmethod
    def decided(
        self, request: Request, demand: Demand, result: Verdict | Exception, action: str | None, began: float
    ) -> None:
        """``demand``, which ``request`` had made, was decided, or could not be.

        ``action`` was the answer; None: there was none.
        """

    @abstractmethod
    def blocked(self, request: Request, key: str, cost: int, limit: Limit, free_in: int, began: float) -> None:
        """``request``, which charges ``cost`` to ``key``, was refused without asking the store: an override blocks it.

        ``limit`` is the one of the override that lets nothing pass, ``free_in`` the seconds until it ends.
        """


class LimitsOfIds(Protocol):
    """What a table of limits by id says: :class:`policyd_rate_limit.tables.sql.SqlLimits`."""

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


class Service(PolicyService):
    """Answers policy requests.

    ``policy`` may be replaced between two requests: each request is answered wholly by the one it met.
    ``submit`` has a demand decided, and whoever waits for that told of its verdict.
    ``observer`` is told of each decision, once its answer has left. ``uncounted`` bounds how often a request at a stage
    that does not count is logged. ``policy_service`` is how main.cf names this daemon. ``clock`` (Unix seconds) says
    when an override ends.
    """

    def __init__(
        self,
        policy: Policy,
        submit: Callable[[Demand, Waiting], None],
        *,
        observer: Observer,
        uncounted: Throttle,
        policy_service: str,
        clock: Callable[[], float] = time,
    ) -> None:
        self.policy = policy
        self._repetitions = Repetitions()
        self._submit = submit
        self.observer = observer
        self._uncounted = uncounted
        self._policy_service = policy_service
        self._clock = clock
        self._overrides: dict[str, Override] = {}

    def override(self, overrides: Iterable[Override]) -> int:
        """These, and no others, are in force from now on, each until its end.

        :returns: the longest window (seconds) of those that look back further than what was asked about their key
            before; 0 where there is none.
        """
        before, self._overrides = self._overrides, {override.key: override for override in overrides}
        further = 0
        for key, override in self._overrides.items():
            usual, _ = self.policy.rules.limits_of_key(key)
            if usual:  # or nothing was counted
                former = before[key].limits if key in before else ()
                longest = longest_of(override.limits)
                if longest > longest_of((*usual, *former)):
                    further = max(further, longest)
        return further

    def ask(self, request: Request, asking: Asking) -> None:
        """See :meth:`PolicyService.ask`."""
        began = monotonic()
        policy = self.policy
        cost_of = policy.stages.get(request.protocol_state)
        if cost_of is None:
            asking.answer(policy.actions.success)
            self.observer.passed(request, "", NOT_COUNTED, began)
            if request.protocol_state not in WITHOUT_MAIL:
                self._hint(request, policy.count_mode)
            return
        charged = policy.rules.charged(request)
        sql_limits = policy.sql_limits
        if self._overrides and charged is not None and charged.key in self._overrides:
            if self._is_blocked(request, charged.key, policy, asking, began):
                return
            charged, sql_limits = self._overridden(charged, sql_limits)
        if charged is None or (sql_limits is None and not charged.limits):
            asking.answer(policy.actions.success)
            self.observer.passed(request, charged.key if charged else "", NOT_LIMITED, began)
            return
        cost = cost_of(request)
        part = cost.part
        if cost.each:
            # Before anything is waited for: equal requests are numbered in the order in which they come.
            part = self._repetitions.part(part)
        asked = _Asked(self, request, charged.key, cost, part, policy, asking, began)
        if sql_limits is None:
            self._submit(asked.demand(charged.limits), asked)
        else:
            sql_limits.ask(
                policy.rules.ids_for_query(request, charged), partial(self._found, asked, charged.limits, sql_limits)
            )

    def _found(self, asked: _Asked, limits: Limits, sql_limits: LimitsOfIds, found: Limits | None) -> None:
        """The table has told of the limits of whom ``asked`` charges; those of the configuration are ``limits``."""
        limits = sql_limits.keeping(limits if found is None else found)
        if limits:
            self._submit(asked.demand(limits), asked)
        else:
            asked.pass_by()

    def _is_blocked(self, request: Request, key: str, policy: Policy, asking: Asking, began: float) -> bool:
        """Whether ``key`` is blocked; then that is answered, whatever the database and the journal are up to."""
        override = self._overrides[key]
        left = override.until - self._clock()
        limit = next((limit for limit in override.limits if limit.maximum == 0), None)
        if limit is None or left <= 0:
            return False
        asking.answer(policy.actions.block)
        self.observer.blocked(
            request, key, policy.stages[request.protocol_state](request).amount, limit, ceil(left), began
        )
        return True

    def _overridden(self, charged: Charged, sql_limits: LimitsOfIds | None) -> tuple[Charged, LimitsOfIds | None]:
        """``charged`` within the limits of its override, and nobody else to ask; both as they are once it has ended."""
        override = self._overrides[charged.key]
        if override.until <= self._clock():
            del self._overrides[charged.key]
            return charged, sql_limits
        limits = override.limits
        if limits:
            # So that nothing is forgotten that the usual limits will have to know again.
            usual = longest_of(charged.limits)
            if all(limit.seconds < usual for limit in limits):
                limits = (*limits, Limit(LARGEST, usual))
            if sql_limits is not None:
                limits = sql_limits.keeping(limits)
        return Charged(charged.key, limits), None

    def unanswered(self, request: Request) -> None:
        """See :meth:`PolicyService.unanswered`."""
        cost_of = self.policy.stages.get(request.protocol_state)
        cost = cost_of(request) if cost_of else None
        if cost is not None and cost.each:
            self._repetitions.unanswered(cost.part)

    def _hint(self, request: Request, count_mode: int | None) -> None:
        log_it, suppressed = self._uncounted.hit()
        if log_it:
            _logger.warning(
                "Postfix asks at stage %s, which does not count with count_mode %s; main.cf should have: %s%s",
                request.protocol_state or "(none)",
                "unset" if count_mode is None else count_mode,
                hooking(stages(count_mode), self._policy_service),
                f" ({quantity(suppressed, 'more such request')} since the last line)" if suppressed else "",
            )


class _Asked(Waiting):
    """A request that waits for the verdict on what it charges."""

    def __init__(
        self,
        service: Service,
        request: Request,
        key: str,
        cost: Cost,
        part: str,
        policy: Policy,
        asking: Asking,
        began: float,
    ) -> None:
        self._service = service
        self._request = request
        self._key = key
        self._cost = cost
        self._part = part
        self._policy = policy
        self._asking = asking
        self._began = began
        self._demand: Demand | None = None

    def demand(self, limits: Limits) -> Demand:
        """What it demands of whom it charges, within ``limits``."""
        charge = Charge(self._key, self._cost.amount, limits, self._part, self._cost.settles)
        demand = self._demand = Demand((charge,), mail_id(self._request.instance))
        return demand

    def pass_by(self) -> None:
        """There is no limit."""
        self._asking.answer(self._policy.actions.success)
        self._service.observer.passed(self._request, self._key, NOT_LIMITED, self._began)

    def conclude(self, result: Verdict | Exception) -> None:
        """Answer it."""
        action = _action(self._policy.actions, result)
        if action is None and isinstance(result, StoreUnavailable):
            action = self._service.policy.actions.away  # set while this waited for the store
        self._asking.answer(action)
        assert self._demand is not None  # noqa: S101 - a result is that of a demand
        self._service.observer.decided(self._request, self._demand, result, action, self._began)


def _action(actions: Actions, result: Verdict | Exception) -> str | None:
    """The action for ``result``; None: no answer."""
    if isinstance(result, Verdict):
        return actions.success if result.admitted else actions.fail
    if isinstance(result, StoreFull):
        return FULL_ACTION
    return actions.away if isinstance(result, StoreUnavailable) else None
