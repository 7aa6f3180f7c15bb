"""Conditions of rules in words: what has to be so that one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.rules.patterns import AGE, EXPRESSION, GLOB, HOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.language.wording import Wording

MOST_NAMED: Final = 10
"""The most overrides, networks or patterns of which a paragraph tells one by one."""

_COMPARED: Final = {GLOB: "glob", EXPRESSION: "expression"}


def alternatives_in_words(conditions: Conditions, words: Wording) -> str:
    """What has to be so that one of the alternatives of ``conditions`` holds."""
    found = [conditions_in_words(one, words) for one in conditions.alternatives]
    return _put_together(found, "condition.or", words)


def conditions_in_words(conditions: Sequence[Condition], words: Wording) -> str:
    """What has to be so that all of ``conditions`` hold."""
    return _put_together([condition_in_words(one, words) for one in conditions], "condition.and", words)


def condition_in_words(condition: Condition, words: Wording) -> str:
    """What has to be so that ``condition`` holds: ``client_address lies in 192.0.2.0/24``."""
    patterns = [pattern_in_words(pattern, words) for pattern in condition.patterns]
    return words.say("condition.one", attribute=condition.attribute, patterns=some_of(patterns, "or", words))


def pattern_in_words(pattern: Pattern, words: Wording) -> str:
    """What ``pattern`` says of a value: ``lies in 192.0.2.0/24``."""
    text = pattern.text
    if not text:
        return words.say("pattern.empty")
    if pattern.how == AGE:
        return words.say("pattern.younger" if pattern.age < 0 else "pattern.older", age=words.period(abs(pattern.age)))
    if pattern.table:
        name = "pattern.table_says" if pattern.says else "pattern.table"
        return words.say(name, table=pattern.table, text=pattern.exact)
    if pattern.how == HOURS:
        begin, end = (part.strip() for part in text.split("-"))
        return words.say("pattern.hours", begin=begin, end=end)
    if pattern.network is not None and not pattern.network.is_address:
        return words.say("pattern.network", text=text)
    return words.say(f"pattern.{_COMPARED.get(pattern.how, 'exact')}", text=text)


def some_of(told: Sequence[str], how: str, words: Wording) -> str:
    """The first of those that are ``told``, and how many more there are; ``how``: as :meth:`Wording.listed` has it."""
    more = len(told) - MOST_NAMED
    return words.listed(told if more <= 0 else [*told[:MOST_NAMED], words.say("list.more", count=more)], how)


def _put_together(told: Sequence[str], name: str, words: Wording) -> str:
    found, *others = told
    for one in others:
        found = words.say(name, first=found, last=one)
    return found
