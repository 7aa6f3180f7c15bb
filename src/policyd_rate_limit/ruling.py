"""Makes the rules that the settings have mails charged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import MESSAGES, RECIPIENTS, attribute_of, stages, stages_of_unit
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.patterns import LIMITS_OF_TABLE, parse_pattern
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.domain.rules.tables import kind_of_attribute
from policyd_rate_limit.domain.rules.texts import Text
from policyd_rate_limit.domain.rules.values import value_reader
from policyd_rate_limit.policy import Actions, Policy, Rule
from policyd_rate_limit.postfix.actions import refuses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.config.rules import Conditions as ConditionSettings
    from policyd_rate_limit.config.rules import RuleSettings
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.rules.facts import Countries
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.domain.rules.tables import Table
    from policyd_rate_limit.policy import LimitsOfIds

_OF_RECIPIENTS = frozenset({"recipient", "recipient_domain"})


def make_actions(settings: Settings) -> Actions:
    """What Postfix is told, as ``settings`` say."""
    return Actions(settings.success_action, settings.fail_action, settings.db_error_action, block=settings.block_action)


def make_policy(
    settings: Settings,
    subjects: Subjects,
    sql_limits: LimitsOfIds | None,
    actions: Actions,
    pause: Callable[[], object] | None = None,
    countries: Countries | None = None,
    tables: Mapping[str, Table] | None = None,
    heed: Callable[[int], object] | None = None,
    no_limits: Callable[[str, str, str], object] | None = None,
) -> Policy:
    """What ``settings`` say about each mail.

    ``countries``: where any rule asks for one. The other parameters are those of :func:`make_rules`.
    """
    rules = make_rules(settings, subjects, sql_limits, pause, tables, heed, no_limits)
    return Policy(rules, actions, settings.count_mode, countries)


def make_rules(
    settings: Settings,
    subjects: Subjects,
    sql_limits: LimitsOfIds | None,
    pause: Callable[[], object] | None = None,
    tables: Mapping[str, Table] | None = None,
    heed: Callable[[int], object] | None = None,
    no_limits: Callable[[str, str, str], object] | None = None,
) -> tuple[Rule, ...]:
    """The rules of ``settings``: that of version 1, where it limits anybody or there is no other, and ``rules``.

    ``subjects`` and ``sql_limits`` are those of the settings of version 1. ``tables`` are asked by name; one that is
    not among them is silent. ``heed`` is told of windows (seconds) that tables give, when they are longer than all
    before; ``no_limits`` where one gives none: see :class:`KeyedSubjects`. ``pause`` is called now and then while rules
    are made of many overrides.
    """
    rules = tuple(make_rule(settings, rule, pause, tables, heed, no_limits) for rule in settings.rules)
    if rules and not (settings.limits or settings.limits_by_id or settings.sql_limits_by_id):
        return rules
    unit = MESSAGES if settings.count_mode == 2 else RECIPIENTS
    return (Rule(DEFAULT, subjects, stages(settings.count_mode), sql_limits, unit=unit), *rules)


def make_rule(
    settings: Settings,
    rule: RuleSettings,
    pause: Callable[[], object] | None = None,
    tables: Mapping[str, Table] | None = None,
    heed: Callable[[int], object] | None = None,
    no_limits: Callable[[str, str, str], object] | None = None,
) -> Rule:
    """The rule that ``rule`` declares, beside the other ``settings``; see :func:`make_rules`."""
    key = parse_key(rule.key, settings.ipv6_prefix, tables)
    kind = key.compared_as()
    overrides = [_override(pattern, kind, limits) for pattern, limits in rule.overrides]
    match, unless = _conditions(rule.match, tables), _conditions(rule.unless, tables)
    counted = attribute_of(rule.unit)
    named = key.attributes.union({counted}, *(one.attributes for one in (match, unless) if one is not None))
    value_of = value_reader(counted, settings.ipv6_prefix) if counted else None
    return Rule(
        rule.name,
        KeyedSubjects(
            key, rule.limits, overrides, pause, tables=tables, unit=rule.unit, heed=heed, no_limits=no_limits
        ),
        stages_of_unit(rule.unit, by_recipient=not named.isdisjoint(_OF_RECIPIENTS), value_of=value_of),
        match=match,
        unless=unless,
        action=Text(rule.action) if rule.action is not None else None,
        refuses=refuses(settings.fail_action if rule.action is None else rule.action),
        shadow=rule.shadow,
        warn=rule.warn,
        block=rule.block,
        unit=rule.unit,
        value_of=value_of,
    )


def _override(text: str, kind: str, limits: Limits | None) -> tuple[Pattern, Limits]:
    pattern = parse_pattern(text, kind)
    return (pattern._replace(how=LIMITS_OF_TABLE), ()) if limits is None else (pattern, limits)


def _conditions(alternatives: ConditionSettings, tables: Mapping[str, Table] | None) -> Conditions | None:
    """None: nothing is said of it."""
    if not alternatives:
        return None
    return Conditions(
        [
            [
                Condition(name, [parse_pattern(pattern, kind_of_attribute(name)) for pattern in patterns], tables)
                for name, patterns in one
            ]
            for one in alternatives
        ]
    )
