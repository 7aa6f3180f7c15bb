"""What the rules make of one request: which apply, why the others do not, and what would be answered now.

The request is asked of the very service that the daemons have, which decides on a ledger that nobody else sees: nothing
is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import credible
from policyd_rate_limit.domain.counting import attribute_of
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.ruling import make_actions, make_policy
from policyd_rate_limit.service import Asking, Observer, Service
from policyd_rate_limit.system.throttle import Throttle
from policyd_rate_limit.tables.countries import asks_for_countries, open_countries

if TYPE_CHECKING:
    from collections.abc import Callable

    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.charge import Demand, Usage, Waiting
    from policyd_rate_limit.domain.ledger import Ledger
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.outcome import Outcome
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.conditions import Condition
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.storage.administration import Override


class Applied(NamedTuple):
    """``rule`` applies: the request charges ``cost`` to ``counter``, within the limits ``in_force``.

    ``pattern``: of the override of the rule that gave them; empty: none did. ``usages``: how each limit stands; None:
    the database is away. ``blocked``: an override lets nothing pass.
    """

    rule: Rule
    counter: str
    cost: int
    in_force: InForce
    pattern: str
    usages: tuple[Usage, ...] | None
    blocked: bool


class Skipped(NamedTuple):
    """``rule`` does not apply, for the first of these that says anything.

    ``stages``: at which alone it counts. ``failing``: a condition of each alternative of match that does not hold, with
    the value that was seen. ``exempting``: the conditions of unless that hold, likewise. ``empty``: terms of the key
    without a value; for the rule of version 1 the settings that say whom it charges.
    """

    rule: Rule
    stages: tuple[str, ...] = ()
    failing: tuple[tuple[Condition, str], ...] = ()
    exempting: tuple[tuple[Condition, str], ...] = ()
    empty: tuple[str, ...] = ()


class Explanation(NamedTuple):
    """What becomes of a request. ``outcome`` is None, and ``failure`` says why, where the database is away.

    ``country``: that of the client, empty where it has none; None: no rule asks for it. ``unasked``: the tables in the
    database, which are taken to say nothing while it is away.
    """

    rules: tuple[Applied | Skipped, ...]
    outcome: Outcome | None
    failure: StoreError | None
    country: str | None
    unasked: tuple[str, ...] = ()


class _Observer(Observer):
    """Nobody is told."""

    def passed(self, *_: object) -> None: ...
    def decided(self, *_: object) -> None: ...
    def blocked(self, *_: object) -> None: ...


class _Table:
    """The table of ``sql_limits_by_id``, as a service asks it."""

    keep_seconds = 0

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:  # noqa: ARG002
        done(self._desk.table(ids) if self._desk.table else None)


class _Asked(Asking):
    """Takes the outcome, and the demand where the request makes one."""

    def __init__(self, desk: Desk) -> None:
        self.outcome: Outcome | None = None
        self.demand: Demand | None = None
        self.usages: tuple[Usage, ...] = ()
        self._desk = desk
        self._ledger: Ledger | None = None

    def answer(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def submit(self, demand: Demand, waiting: Waiting) -> None:
        """Decide ``demand`` by what is on record, and count nothing there."""
        store = self._desk.store
        now = store.now()
        ledger = self._desk.ledger(now)
        keys = tuple(charge.counter for charge in demand.charges)
        longest = max((longest_of(charge.limits) for charge in demand.charges), default=0)
        for entry in credible(store.entries(keys, max(0, now - longest)), now):
            ledger.apply(entry)
        self.demand, self.usages = demand, ledger.explain(demand)
        waiting.conclude(ledger.decide(demand, []))

    def explain(self, _demand: Demand, done: Callable[[tuple[Usage, ...]], None]) -> None:
        """How the limits stood before the request."""
        done(self.usages)


def explain(settings: Settings, desk: Desk, request: Request) -> Explanation:
    """What the rules of ``settings`` make of ``request`` now.

    Raises ConfigError where they ask for countries, and the file of them cannot be read.
    """
    countries = open_countries(settings) if asks_for_countries(settings) else None
    table = _Table(desk) if desk.table else None
    policy = make_policy(
        settings, desk.subjects, table, make_actions(settings), tables=desk.tables, countries=countries
    )
    asked = _Asked(desk)
    service = Service(
        policy,
        asked.submit,
        observer=_Observer(),
        uncounted=_silent(),
        policy_service="",
        explain=asked.explain,
    )
    failure: StoreError | None = None
    overrides: dict[str, Override] = {}
    try:
        overrides = desk.overrides()
        service.override(overrides.values())
        service.ask(request, asked)
    except StoreError as error:
        failure = error

    def of_rules(usages: tuple[Usage, ...] | None) -> tuple[Applied | Skipped, ...]:
        request.facts = Facts(service.clock(), countries)
        return tuple(_of_rule(rule, request, settings, desk, overrides, usages) for rule in policy.rules)

    rules: tuple[Applied | Skipped, ...] = ()
    unasked: tuple[str, ...] = ()
    if failure is None:
        try:
            rules = of_rules(asked.usages)
        except StoreError as error:  # of a table that only a rule behind the one that decided asks
            failure = error
    if failure is not None:
        # Each table would be waited for once more, for each rule that asks it.
        unasked = desk.silence_tables()
        rules = of_rules(None)
    country = None if countries is None else countries.country_of(request.client_address)
    return Explanation(rules, None if failure else asked.outcome, failure, country, unasked)


def _of_rule(
    rule: Rule,
    request: Request,
    settings: Settings,
    desk: Desk,
    overrides: dict[str, Override],
    usages: tuple[Usage, ...] | None,
) -> Applied | Skipped:
    cost_of = rule.stages.get(request.protocol_state)
    if cost_of is None:
        return Skipped(rule, stages=tuple(rule.stages))
    charged = rule.charged(request)
    if charged is None:
        return _why_not(rule, request, settings)
    counter = rule.counter(charged.key)
    from_table: Limits | None = None
    if rule.sql_limits is not None and desk.table is not None and usages is not None:
        from_table = desk.table(rule.subjects.ids_for_query(request, charged))
    in_force = desk.in_force(counter, overrides.get(counter), from_table, request.facts)
    pattern = None
    if in_force.override is None and isinstance(rule.subjects, KeyedSubjects):
        pattern = rule.subjects.pattern_of_key(charged.key, request.facts)
    return Applied(
        rule,
        counter,
        cost_of(request).most,
        in_force,
        pattern.text or '""' if pattern is not None else "",
        None if usages is None else tuple(usage for usage in usages if usage.counter == counter),
        in_force.override is not None and any(limit.maximum == 0 for limit in in_force.limits),
    )


def _why_not(rule: Rule, request: Request, settings: Settings) -> Skipped:
    if rule.match is not None:
        failing = rule.match.first_failing(request)
        if failing:
            return Skipped(rule, failing=tuple((one, one.value(request)) for one in failing))
    if rule.unless is not None:
        holding = rule.unless.first_holding(request)
        if holding:
            return Skipped(rule, exempting=tuple((one, one.value(request)) for one in holding))
    if rule.value_of is not None and not rule.value_of(request):
        return Skipped(rule, empty=(attribute_of(rule.unit),))
    if isinstance(rule.subjects, KeyedSubjects):
        return Skipped(rule, empty=rule.subjects.key.empty_in(request))
    by = ("limit_by_sasl", "limit_by_sender", "limit_by_ip")
    return Skipped(rule, empty=tuple(name for name in by if getattr(settings, name)))


def _silent() -> Throttle:
    """What lets nothing be logged of a stage that no rule counts at: the explanation says it."""
    silent = Throttle(float("inf"), lambda: 0.0)
    silent.hit()
    return silent
