"""The policy, which a reload replaces as a whole: the rules, and what Postfix is told."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from policyd_rate_limit.domain.counter import DEFAULT, counter_prefix, kind_of, prefix_and_key
from policyd_rate_limit.domain.counting import RECIPIENTS
from policyd_rate_limit.domain.limits import longest_of
from policyd_rate_limit.domain.outcome import ACCEPT, AWAY, BLOCK, NO_ANSWER, REFUSE, Outcome
from policyd_rate_limit.postfix.actions import holds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from policyd_rate_limit.domain.charge import Exceeded, Verdict
    from policyd_rate_limit.domain.charging import Charged, Charging
    from policyd_rate_limit.domain.counting import Cost
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request
    from policyd_rate_limit.domain.rules.conditions import Conditions
    from policyd_rate_limit.domain.rules.facts import Countries
    from policyd_rate_limit.domain.rules.texts import Text


class Actions(NamedTuple):
    """What Postfix is told, each an action of access(5). ``away`` None: memory decides while the database is away.

    ``block``: of whom an administrator has blocked.
    """

    success: str
    fail: str
    away: str | None
    block: str


class LimitsOfIds(Protocol):
    """What a table of limits by id says: :class:`policyd_rate_limit.tables.limits.SqlLimits`."""

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None], began: float) -> None:
        """Have ``done`` called with the limits of the first of ``ids`` that has any, None when the table is silent.

        ``began``: as with :meth:`policyd_rate_limit.domain.rules.facts.Source.ask`.
        """

    @property
    def keep_seconds(self) -> int:
        """For so long what is counted may be asked for, whatever limits an id has now."""


class Rule:
    """One rule: whose counter a mail is charged on, how much at which stage, within which limits, and what comes of it.

    ``name``: unique among the rules, without ``|`` and ``:``. ``subjects`` say who is charged, and within which limits;
    what ``sql_limits`` says of an id counts before. ``stages``: ``protocol_state`` -> what a request costs there.
    ``match`` and ``unless``: to which mails it applies. ``action``: what is done with the excess; None: ``fail`` of the
    policy. ``refuses``: whether the mail does not go on its way then; otherwise only what this rule counts is left out.
    ``shadow``: nothing is done with the excess but that it is told. ``warn``: per cent of a limit at which its use is
    told; 0: it is not. ``block``: seconds for which who exceeds it is blocked; 0: nobody is. ``unit``: what is counted:
    one of :data:`policyd_rate_limit.domain.counting.UNITS`, or different values of an attribute, which ``value_of``
    reads: to a mail without one the rule does not apply. ``prefix``: what the names of its counters begin with; a
    counter with another is that of another rule, or of what this one has counted before.
    """

    __slots__ = (
        "action",
        "asks_facts",
        "block",
        "is_conditional",
        "limits_may_change",
        "match",
        "name",
        "prefix",
        "refuses",
        "shadow",
        "sql_limits",
        "stages",
        "subjects",
        "unit",
        "unless",
        "value_of",
        "warn",
    )

    def __init__(
        self,
        name: str,
        subjects: Charging,
        stages: Mapping[str, Callable[[Request], Cost]],
        sql_limits: LimitsOfIds | None = None,
        *,
        match: Conditions | None = None,
        unless: Conditions | None = None,
        action: Text | None = None,
        refuses: bool = True,
        shadow: bool = False,
        warn: int = 0,
        block: int = 0,
        unit: str = RECIPIENTS,
        value_of: Callable[[Request], str] | None = None,
    ) -> None:
        self.name = name
        self.subjects = subjects
        self.stages = stages
        self.sql_limits = sql_limits
        self.match = match
        self.unless = unless
        self.is_conditional = match is not None or unless is not None or value_of is not None
        conditions = [one for one in (match, unless) if one is not None]
        self.asks_facts = subjects.asks_facts or any(one.asks_facts for one in conditions)
        self.limits_may_change = subjects.limits_may_change
        self.action = action
        self.refuses = refuses and not shadow
        self.shadow = shadow
        self.warn = warn
        self.block = block
        self.unit = unit
        self.value_of = value_of
        self.prefix = counter_prefix(name, unit)

    def counter(self, key: str) -> str:
        """The name of the counter of ``key``; text that a client has chosen comes last."""
        return self.prefix + key

    def charged(self, request: Request) -> Charged | None:
        """Whom ``request`` charges; None: the rule does not apply to it."""
        # Where something has to be asked first, all is looked at, so that all of it is asked at once.
        if self.match is not None and not self.match.hold(request) and not request.facts.questions:
            return None
        if self.unless is not None and self.unless.hold(request) and not request.facts.questions:
            return None
        if self.value_of is not None and not self.value_of(request):
            return None
        return self.subjects.charged(request)


class Policy:
    """All that a reload may change about how requests are answered; never changed itself, but for ``waiting``.

    That is how many requests wait for what its tables say, and may ask these for more. ``rules`` in the order of the
    configuration, with a name of their own each; ``count_mode`` is told to whoever asks at a stage that no rule counts;
    without one no equal requests are charged each. ``countries``: where any rule asks for one.
    """

    __slots__ = (
        *("accept", "asks_facts", "away", "block", "blocks", "count_mode", "countries", "refuse", "rules"),
        "waiting",
    )

    def __init__(
        self, rules: tuple[Rule, ...], actions: Actions, count_mode: int | None, countries: Countries | None = None
    ) -> None:
        self.rules = rules
        self.countries = countries
        self.accept = Outcome(ACCEPT, actions.success)
        self.refuse = Outcome(REFUSE, actions.fail)
        self.block = Outcome(BLOCK, actions.block)
        self.away = NO_ANSWER if actions.away is None else Outcome(AWAY, actions.away)
        self.blocks = any(rule.block for rule in rules)
        self.count_mode = count_mode
        self.asks_facts = countries is not None or any(rule.asks_facts for rule in rules)
        self.waiting = 0

    @property
    def stages(self) -> frozenset[str]:
        """The stages at which some rule counts."""
        return frozenset(stage for rule in self.rules for stage in rule.stages)

    @property
    def why_not_counted(self) -> str:
        """Why nothing is counted at any other stage, in words."""
        if any(rule.name != DEFAULT for rule in self.rules):
            return "no rule counts at"
        return f"does not count with count_mode {'unset' if self.count_mode is None else self.count_mode}"

    def may_look_back_further(self, before: Policy) -> bool:
        """Whether somebody may have a longer window in a rule than in that rule ``before``.

        A new one starts empty, and so does one that counts something else than before.
        """
        former = {rule.prefix: rule.subjects for rule in before.rules}
        return any(
            rule.prefix in former and rule.subjects.may_look_back_further(former[rule.prefix]) for rule in self.rules
        )

    def applied(self, rules: Sequence[Rule], verdict: Verdict) -> Exceeded | None:
        """What decides over a mail with ``verdict``, whose charges are of ``rules``; None: no action.

        Actions that refuse come first, then HOLD, then the rest; of equals the first in the order of the rules.
        """
        if verdict.refused_by is not None:
            return verdict.refused_by
        found: Exceeded | None = None
        for exceeded in verdict.exceeded:
            rule = rules[exceeded.charge]
            if not rule.shadow:
                if holds(self.excess_action(rule)):
                    return exceeded
                found = found or exceeded
        return found

    def excess_action(self, rule: Rule) -> str:
        """What is done with what goes over the limits of ``rule``, with its variables."""
        return rule.action.action if rule.action is not None else self.refuse.action or ""

    def counters_of_id(self, counter: str) -> tuple[str, ...]:
        """The counters of the id that ``counter`` counts, in all rules that are keyed by it: where it is blocked.

        Of a combination that is ``counter`` alone.
        """
        found = {counter: None}
        _, key = prefix_and_key(counter)
        if "+" not in kind_of(counter):
            for rule in self.rules:
                with contextlib.suppress(ValueError):  # it is no key there
                    if key in rule.subjects.keys_of_id(key):
                        found[rule.counter(key)] = None
        return tuple(found)

    def window_of_counter(self, counter: str) -> int:
        """How far back (seconds) what is counted on ``counter`` may be asked for; 0: nothing is, or no rule's it is."""
        prefix, key = prefix_and_key(counter)
        for rule in self.rules:
            if rule.prefix == prefix:
                return max(longest_of(rule.subjects.limits_of_key(key)), rule.subjects.keep_seconds)
        return 0
