"""The policy, which a reload replaces as a whole: the rules, and what Postfix is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from policyd_rate_limit.domain.counter import DEFAULT, rule_and_key
from policyd_rate_limit.domain.outcome import ACCEPT, AWAY, BLOCK, NO_ANSWER, REFUSE, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.domain.counting import Cost
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.request import Request


class Actions(NamedTuple):
    """What Postfix is told, each an action of access(5). ``away`` None: memory decides while the database is away.

    ``block``: of whom an administrator has blocked.
    """

    success: str
    fail: str
    away: str | None
    block: str


class LimitsOfIds(Protocol):
    """What a table of limits by id says: :class:`policyd_rate_limit.tables.sql.SqlLimits`."""

    def ask(self, ids: tuple[str, ...], done: Callable[[Limits | None], None]) -> None:
        """Have ``done`` called with the limits of the first of ``ids`` that has any, None when the table is silent."""

    @property
    def keep_seconds(self) -> int:
        """For so long what is counted may be asked for, whatever limits an id has now."""


class Rule:
    """One rule: whose counter a mail is charged on, how much at which stage, and within which limits.

    ``name``: unique among the rules, without ``|`` and ``:``. ``subjects`` say who is charged, and within which limits;
    what ``sql_limits`` says of an id counts before. ``stages``: ``protocol_state`` -> what a request costs there.
    ``refuses``: whether who exceeds a limit is refused; otherwise it is told and not counted.
    """

    __slots__ = ("_prefix", "name", "refuses", "sql_limits", "stages", "subjects")

    def __init__(
        self,
        name: str,
        subjects: Subjects,
        stages: Mapping[str, Callable[[Request], Cost]],
        sql_limits: LimitsOfIds | None = None,
        *,
        refuses: bool = True,
    ) -> None:
        self.name = name
        self.subjects = subjects
        self.stages = stages
        self.sql_limits = sql_limits
        self.refuses = refuses
        self._prefix = "" if name == DEFAULT else f"{name}|"

    def counter(self, key: str) -> str:
        """The name of the counter of ``key``; text that a client has chosen comes last."""
        return self._prefix + key if self._prefix else key


class Policy:
    """All that a reload may change about how requests are answered; never changed itself.

    ``rules`` in the order of the configuration, with a name of their own each; ``count_mode`` is told to whoever asks
    at a stage that no rule counts.
    """

    __slots__ = ("accept", "away", "block", "count_mode", "refuse", "rules")

    def __init__(self, rules: tuple[Rule, ...], actions: Actions, count_mode: int | None) -> None:
        self.rules = rules
        self.accept = Outcome(ACCEPT, actions.success)
        self.refuse = Outcome(REFUSE, actions.fail)
        self.block = Outcome(BLOCK, actions.block)
        self.away = NO_ANSWER if actions.away is None else Outcome(AWAY, actions.away)
        self.count_mode = count_mode

    def limits_of_counter(self, counter: str) -> Limits:
        """The limits that the configuration has for ``counter``; none: it is unlimited, or no rule is its own."""
        name, key = rule_and_key(counter)
        for rule in self.rules:
            if rule.name == name:
                return rule.subjects.limits_of_key(key)[0]
        return ()
