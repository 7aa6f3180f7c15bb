"""What the setting ``rules`` says, as plain data: keys, patterns and actions are text, checked and kept as written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from policyd_rate_limit.domain.limits import Limits, spell_period

Conditions = tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]
"""Alternatives, each of (attribute, patterns); empty where none is given."""

_NAME: Final = re.compile(r"\$[a-z][a-z0-9_-]*|[a-z_]+")  # of a table, or of an attribute
_VARIABLE: Final = re.compile(r"\{[^{}]*\}")


USER = "user"
"""Who is meant by this among the addresses of ``notify``: the SASL user."""


class RuleSettings(NamedTuple):
    """One rule.

    ``unit``: what it counts: one of :data:`policyd_rate_limit.domain.counting.UNITS`, or ``distinct`` and an attribute
    of which it counts the different values. ``overrides`` are (pattern, limits), of which the first that matches
    counts; None: the pattern is a table, which has the limits. ``action`` is None where the rule answers as
    ``fail_action`` says. ``warn``: per cent of a limit at which its use is told; 0: it is not. ``block``: seconds for
    which who exceeds it is blocked; 0: nobody is. ``notify``: mail addresses, and :data:`USER`, to which that is told.
    """

    name: str
    key: str
    unit: str
    limits: Limits
    overrides: tuple[tuple[str, Limits | None], ...]
    match: Conditions
    unless: Conditions
    action: str | None
    shadow: bool
    warn: int = 0
    block: int = 0
    notify: tuple[str, ...] = ()


def names_in(rule: RuleSettings) -> frozenset[str]:
    """All words of ``rule`` that may be terms or attributes: of its key, its conditions, its count and its action."""
    texts = [rule.key, rule.unit, *_VARIABLE.findall(rule.action or "")]
    texts += [attribute for alternatives in (rule.match, rule.unless) for one in alternatives for attribute, _ in one]
    return frozenset(word for text in texts for word in _NAME.findall(text) if not word.startswith("$"))


def as_written(rules: Iterable[RuleSettings]) -> dict[str, dict[str, object]]:
    """``rules`` as a file may have them: mappings, lists and plain values, which are read as the same rules."""
    return {rule.name: _as_written(rule) for rule in rules}


def _as_written(rule: RuleSettings) -> dict[str, object]:
    words: dict[str, object] = {
        "key": rule.key,
        "count": rule.unit,
        "limits": _limits_as_written(rule.limits),
        "overrides": _overrides_as_written(rule.overrides),
        "match": _conditions_as_written(rule.match),
        "unless": _conditions_as_written(rule.unless),
        "action": rule.action,
        "warn": rule.warn or None,
        "block": spell_period(rule.block) if rule.block else None,
        "notify": list(rule.notify) or None,
        "shadow": rule.shadow,
    }
    return {word: value for word, value in words.items() if value is not None}


def _overrides_as_written(overrides: Iterable[tuple[str, Limits | None]]) -> object:
    """One mapping; with tables that give limits a list of mappings and those, since the first that matches counts."""
    parts: list[dict[str, object] | str] = [{}]
    for pattern, limits in overrides:
        last = parts[-1]
        if limits is None:
            parts += [pattern, {}]
        elif isinstance(last, dict):
            last.setdefault(pattern, _limits_as_written(limits))
    found = [part for part in parts if part]
    return parts[0] if len(parts) == 1 else found[0] if len(found) == 1 else found


def _limits_as_written(limits: Limits) -> list[list[object]]:
    return [[limit.maximum, spell_period(limit.seconds) if limit.is_per_mail else limit.seconds] for limit in limits]


def _conditions_as_written(conditions: Conditions) -> object:
    alternatives = [
        {attribute: patterns[0] if len(patterns) == 1 else list(patterns) for attribute, patterns in alternative}
        for alternative in conditions
    ]
    if not alternatives:
        return None
    return alternatives[0] if len(alternatives) == 1 else alternatives
