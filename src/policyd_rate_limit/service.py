"""The use case: a policy request comes, an action goes.

Who is charged, what it costs, whether that is within the limits, what Postfix is told.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import partial
from math import ceil
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.compiling import mypyc_attr
from policyd_rate_limit.domain.charge import Charge, Demand, Verdict, Waiting
from policyd_rate_limit.domain.counter import kind_of, rule_and_key
from policyd_rate_limit.domain.counting import Repetitions, mail_id
from policyd_rate_limit.domain.decision import NOT_COUNTED, NOT_LIMITED
from policyd_rate_limit.domain.ids import id_of_key
from policyd_rate_limit.domain.limits import BLOCKED, longest_of, spell_limit
from policyd_rate_limit.domain.outcome import FULL, MARK, NO_ANSWER, REFUSE, Outcome
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.request import WITHOUT_MAIL
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.errors import StoreFull, StoreUnavailable
from policyd_rate_limit.postfix.lists import hooking
from policyd_rate_limit.storage.administration import Override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from policyd_rate_limit.domain.charge import Exceeded, Usage
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.facts import Question
    from policyd_rate_limit.policy import LimitsOfIds, Policy, Rule
    from policyd_rate_limit.system.throttle import Throttle

    Explain = Callable[[Demand, Callable[[tuple[Usage, ...]], None]], None]

# The answer when not even the spool has room: a temporary error, as for any mail system that is out of disk.
FULL_ACTION: Final = "defer_if_permit Rate limits cannot be checked at the moment, retry later"

_FULL: Final = Outcome(FULL, FULL_ACTION)

_logger = logging.getLogger(__name__)


@mypyc_attr(allow_interpreted_subclasses=True)  # those of the tests; the calls cost no more
class Asking(ABC):
    """Whoever asks a :class:`PolicyService` and waits for its answer."""

    @abstractmethod
    def answer(self, outcome: Outcome) -> None:
        """This becomes of the mail; without an action in it there is no answer, and the client is to ask again."""


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
        self,
        request: Request,
        demand: Demand,
        rules: Sequence[Rule],
        result: Verdict | Exception,
        outcome: Outcome,
        began: float,
    ) -> None:
        """``demand``, which ``request`` had made by ``rules``, one for each charge, was decided, or could not be.

        ``outcome`` was the answer.
        """

    def blocks(  # noqa: B027 - who asks for nothing more gets nothing more
        self, request: Request, counter: str, limit: Limit, seconds: int, *, shadow: bool
    ) -> None:
        """``request`` has exceeded ``limit`` of ``counter``, whose id the rule blocks for so many ``seconds``.

        ``shadow``: it would, if the rule were not in shadow.
        """

    @abstractmethod
    def blocked(self, request: Request, key: str, cost: int, limit: Limit, free_in: int, began: float) -> None:
        """``request``, which charges ``cost`` to ``key``, was refused without asking the store: an override blocks it.

        ``limit`` is the one of the override that lets nothing pass, ``free_in`` the seconds until it ends.
        """


class Service(PolicyService):
    """Answers policy requests.

    ``policy`` may be replaced between two requests: each request is answered wholly by the one it met.
    ``submit`` has a demand decided, and whoever waits for that told of its verdict. ``explain`` finds out how the
    limits of a demand stand, for texts that tell it; without it they do not know.
    ``observer`` is told of each decision, once its answer has left. ``uncounted`` bounds how often a request at a stage
    that does not count is logged. ``policy_service`` is how main.cf names this daemon. ``clock`` (Unix seconds) says
    when an override ends. ``keep_blocks`` has every daemon heed what a rule blocks: it numbers its calls, and says 0
    where there is no room; without it nobody is blocked.
    """

    def __init__(
        self,
        policy: Policy,
        submit: Callable[[Demand, Waiting], None],
        *,
        observer: Observer,
        uncounted: Throttle,
        policy_service: str,
        explain: Explain | None = None,
        keep_blocks: Callable[[Sequence[Override]], int] | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.policy = policy
        self._repetitions = Repetitions()
        self._submit = submit
        self.explain = explain
        self.observer = observer
        self._uncounted = uncounted
        self._policy_service = policy_service
        self.clock = clock
        self._overrides: dict[str, Override] = {}
        self._keep_blocks = keep_blocks
        self._own_blocks: dict[str, tuple[int, Override]] = {}  # that the database may not have yet

    def override(self, overrides: Iterable[Override], brought: int = 0) -> int:
        """These, and no others, are in force from now on, each until its end.

        Those that this service has put in force stay as well, until the database has what ``keep_blocks`` was given in
        its ``brought``-th call: from then on that knows, and an administrator may have ended them.

        :returns: the longest window (seconds) of those that look back further than what was asked about their counter
            before; 0 where there is none.
        """
        before, self._overrides = self._overrides, {override.key: override for override in overrides}
        if self._own_blocks:
            self._own_blocks = {
                key: own for key, own in self._own_blocks.items() if own[0] > brought and key not in self._overrides
            }
            self._overrides.update((key, block) for key, (_, block) in self._own_blocks.items())
        further = 0
        for counter, override in self._overrides.items():
            usual = self.policy.window_of_counter(counter)
            if usual:  # or nothing was counted
                former = longest_of(before[counter].limits) if counter in before else 0
                longest = longest_of(override.limits)
                if longest > max(usual, former):
                    further = max(further, longest)
        return further

    def ask(self, request: Request, asking: Asking, again: _Again | None = None) -> None:
        """See :meth:`PolicyService.ask`; ``again``: once more, since more is known of it now."""
        if again is None:
            began, policy, numbered = monotonic(), self.policy, ""
        else:
            began, policy, numbered = again.began, again.policy, again.numbered
        charges: list[Charge] = []
        lookups: list[_Lookup] | None = None
        charged_key = ""
        is_counted = False
        rules: list[Rule] = []  # that of each charge
        if policy.asks_facts and again is None:
            request.facts = Facts(self.clock(), policy.countries)
        for rule in policy.rules:
            cost_of = rule.stages.get(request.protocol_state)
            if cost_of is None:
                continue
            is_counted = True
            # A call less for the rule that most have alone.
            charged = rule.charged(request) if rule.is_conditional else rule.subjects.charged(request)
            if charged is None:
                continue
            counter = rule.prefix + charged.key
            limits = charged.limits
            sql_limits = rule.sql_limits
            keep = rule.subjects.keep_seconds if rule.limits_may_change else 0
            if self._overrides and (override := self._override_of(counter)) is not None:
                blocking = next((limit for limit in override.limits if limit.maximum == 0), None)
                if blocking is not None and rule.refuses and not request.facts.questions:
                    if not numbered:
                        self._number(request, policy)
                    asking.answer(policy.block)
                    left = ceil(override.until - self.clock())
                    self.observer.blocked(request, counter, cost_of(request).most, blocking, left, began)
                    return
                keep = max(keep, longest_of(limits), 0 if sql_limits is None else sql_limits.keep_seconds)
                limits, sql_limits = override.limits, None
                if not limits:
                    numbered = numbered or self._number(request, policy)
            if not limits and sql_limits is None:
                charged_key = charged_key or counter
                continue
            cost = cost_of(request)
            part = cost.part
            if cost.each:
                # Before anything is waited for: equal requests are numbered in the order in which they come.
                numbered = numbered or self._repetitions.part(part)
                part = numbered
            rules.append(rule)
            charges.append(Charge(counter, cost.amount, limits, part, cost.settles, rule.refuses, keep, rule.warn))
            if sql_limits is not None:
                lookups = lookups or []
                lookups.append(_Lookup(len(charges) - 1, sql_limits, rule.subjects.ids_for_query(request, charged)))
        if policy.asks_facts and request.facts.questions:
            _Again(self, request, asking, policy, began, numbered).find_out()
            return
        if charges:
            asked = _Asked(self, request, policy, rules, asking, began)
            if lookups:
                asked.look_up(charges, lookups)
            else:
                self.submit(asked, charges)
            return
        asking.answer(policy.accept)
        self.observer.passed(request, charged_key, NOT_LIMITED if is_counted else NOT_COUNTED, began)
        if not is_counted and request.protocol_state not in WITHOUT_MAIL:
            self._hint(request, policy)

    def submit(self, asked: _Asked, charges: Sequence[Charge]) -> None:
        """Have ``charges`` decided, and ``asked`` told of the verdict."""
        asked.demand = demand = Demand(tuple(charges), mail_id(asked.request.instance))
        self._submit(demand, asked)

    def block(self, request: Request, demand: Demand, policy: Policy, rules: Sequence[Rule], verdict: Verdict) -> None:
        """Block whom ``rules``, one for each charge of ``demand``, block for what ``verdict`` says they have exceeded.

        What a rule only marks is exceeded where the mail is admitted. An override that is in force stays as it is, and
        who exceeds one is not blocked: an administrator has decided about them.
        """
        for index, limit in verdict.exceeded:
            rule = rules[index]
            if not rule.block or not (rule.shadow or rule.refuses or verdict.admitted):
                continue
            counter = demand.charges[index].counter
            if self._override_of(counter) is not None:
                continue
            if rule.shadow:
                self.observer.blocks(request, counter, limit, rule.block, shadow=True)
            elif self._keep_blocks is not None:
                until = ceil(self.clock()) + rule.block
                note = f"rule {rule.name}: {spell_limit(limit)} exceeded"
                blocks = [
                    Override(one, (BLOCKED,), until, note)
                    for one in policy.counters_of_id(counter)
                    if self._override_of(one) is None
                ]
                number = self._keep_blocks(blocks) if blocks else 0
                if number:
                    for block in blocks:
                        self._overrides[block.key] = block
                        self._own_blocks[block.key] = (number, block)
                    self.observer.blocks(request, counter, limit, rule.block, shadow=False)

    def _override_of(self, counter: str) -> Override | None:
        """The override in force of ``counter``."""
        override = self._overrides.get(counter)
        if override is not None and override.until <= self.clock():
            del self._overrides[counter]
            return None
        return override

    def unanswered(self, request: Request) -> None:
        question = _repeated(request, self.policy)
        if question:
            self._repetitions.unanswered(question)

    def _number(self, request: Request, policy: Policy) -> str:
        """Number ``request``, which an override keeps from being charged; empty: equal requests are not numbered.

        Or :meth:`unanswered` would take the number from an equal one that was charged, and the next would pass for it.
        """
        question = _repeated(request, policy)
        return self._repetitions.part(question) if question else ""

    def _hint(self, request: Request, policy: Policy) -> None:
        log_it, suppressed = self._uncounted.hit()
        if log_it:
            _logger.warning(
                "Postfix asks at stage %s, which %s; main.cf should have: %s%s",
                request.protocol_state or "(none)",
                policy.why_not_counted,
                hooking(policy.stages, self._policy_service),
                f" ({quantity(suppressed, 'more such request')} since the last line)" if suppressed else "",
            )


def _repeated(request: Request, policy: Policy) -> str:
    """By what :class:`Repetitions` know ``request``; empty where equal ones are not charged each."""
    if policy.count_mode is not None:
        for rule in policy.rules:
            cost_of = rule.stages.get(request.protocol_state)
            # The cost of a rule that counts values may ask for something, and is never charged each.
            if cost_of is not None and rule.value_of is None and (cost := cost_of(request)).each:
                return cost.part  # the same for each rule
    return ""


class _Again:
    """A request that is asked once more when sources have said what its rules want to know."""

    def __init__(
        self, service: Service, request: Request, asking: Asking, policy: Policy, began: float, numbered: str
    ) -> None:
        self._service = service
        self._request = request
        self._asking = asking
        self.policy = policy
        self.began = began
        self.numbered = numbered
        self._missing = 0

    def find_out(self) -> None:
        """Ask all at once; the service is asked again when the last has answered."""
        facts = self._request.facts
        questions, facts.questions = facts.questions, []
        self._missing = len(questions)
        self.policy.waiting += 1
        for question in questions:
            question.source.ask(question.value, partial(self._learn, question), self.began)

    def _learn(self, question: Question, text: str | None) -> None:
        self._request.facts.learn(question, text)
        self._missing -= 1
        if not self._missing:
            self.policy.waiting -= 1
            self._service.ask(self._request, self._asking, self)


class _Lookup:
    """The limits of the ``charge`` with that index are those of the first of ``ids`` that ``sql_limits`` knows.

    Where it knows none of them, the limits that the charge has hold.
    """

    def __init__(self, charge: int, sql_limits: LimitsOfIds, ids: tuple[str, ...]) -> None:
        self.charge = charge
        self.sql_limits = sql_limits
        self.ids = ids


class _Asked(Waiting):
    """A request that waits for limits from tables, and then for the verdict on what it is charged."""

    def __init__(
        self, service: Service, request: Request, policy: Policy, rules: list[Rule], asking: Asking, began: float
    ) -> None:
        self._service = service
        self.request = request
        self._policy = policy
        self._rules = rules
        self._asking = asking
        self._began = began
        self.demand: Demand | None = None

    def look_up(self, charges: list[Charge], lookups: Sequence[_Lookup]) -> None:
        """Have ``charges`` decided once all ``lookups`` are answered."""
        missing = len(lookups)

        def found(lookup: _Lookup, limits: Limits | None) -> None:
            nonlocal missing
            charge = charges[lookup.charge]
            charges[lookup.charge] = Charge(
                charge.counter,
                charge.cost,
                charge.limits if limits is None else limits,
                charge.part,
                charge.settles,
                charge.refuses,
                lookup.sql_limits.keep_seconds,
                charge.warn,
            )
            missing -= 1
            if not missing:
                self._decide(charges)

        for lookup in lookups:
            lookup.sql_limits.ask(lookup.ids, partial(found, lookup), self._began)

    def _decide(self, charges: Sequence[Charge]) -> None:
        limited = [charge for charge in charges if charge.limits]
        if limited:
            self._rules = [rule for rule, charge in zip(self._rules, charges, strict=True) if charge.limits]
            self._service.submit(self, limited)
        else:
            self._asking.answer(self._policy.accept)
            self._service.observer.passed(self.request, charges[0].counter, NOT_LIMITED, self._began)

    def conclude(self, result: Verdict | Exception) -> None:
        """Answer it."""
        if not isinstance(result, Verdict):
            outcome = _failure(self._policy, result)
            if outcome is NO_ANSWER and isinstance(result, StoreUnavailable):
                outcome = self._service.policy.away  # set while this waited for the store
            self._answer(result, outcome)
        elif result.exceeded:
            self._answer_excess(result)
        else:
            self._answer(result, self._policy.accept)

    def _answer_excess(self, result: Verdict) -> None:
        """Answer a verdict by which limits are exceeded."""
        if self._policy.blocks and self.demand is not None:
            self._service.block(self.request, self.demand, self._policy, self._rules, result)
        applied = self._policy.applied(self._rules, result)
        if applied is None:
            self._answer(result, self._policy.accept)
            return
        action = self._rules[applied.charge].action
        explain = self._service.explain
        assert self.demand is not None  # noqa: S101 - a result is that of a demand
        if action is not None and action.asks_use and explain is not None:
            explain(self.demand, partial(self._answer_with_use, result, applied))
        elif action is None and result.refused_by is not None:
            self._answer(result, self._policy.refuse)
        else:
            self._answer_with_use(result, applied, ())

    def _answer_with_use(self, verdict: Verdict, applied: Exceeded, usages: tuple[Usage, ...]) -> None:
        """Answer with the action of the rule that ``applied``; ``usages``: how the limits stand, if that is known."""
        rule, demand = self._rules[applied.charge], self.demand
        assert demand is not None  # noqa: S101 - a verdict is that of a demand
        kind = MARK if verdict.refused_by is None else REFUSE
        action = rule.action
        if action is None:
            text = self._policy.refuse.action
        elif action.has_variables:
            counter, limit = demand.charges[applied.charge].counter, applied.limit
            usage = next((one for one in usages if one.counter == counter and one.limit == limit), None)
            key = rule_and_key(counter)[1]
            text = action.fill(
                self.request, rule.name, id_of_key(key) or kind_of(counter), limit, usage, self._service.clock()
            )
        else:
            text = action.action
        self._answer(verdict, Outcome(kind, text))

    def _answer(self, result: Verdict | Exception, outcome: Outcome) -> None:
        self._asking.answer(outcome)
        assert self.demand is not None  # noqa: S101 - a result is that of a demand
        self._service.observer.decided(self.request, self.demand, self._rules, result, outcome, self._began)


def _failure(policy: Policy, failure: Exception) -> Outcome:
    """What becomes of a mail that could not be decided for ``failure``, by ``policy``."""
    if isinstance(failure, StoreFull):
        return _FULL
    return policy.away if isinstance(failure, StoreUnavailable) else NO_ANSWER
