"""Conditions of rules in words: what has to be so that one holds."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.domain.rules.patterns import AGE, EXPRESSION, GLOB, HOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.language.wording import Wording

MOST_NAMED: Final = 10
"""The most overrides, networks or patterns of which a paragraph tells one by one."""

_OF_SEVERAL: Final = frozenset({"pattern.exact", "pattern.glob", "pattern.expression", "pattern.network"})
"""Texts that say it of several patterns at once: ``is alice or bob``."""

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
    more = len(condition.patterns) - MOST_NAMED
    named = condition.patterns if more <= 0 else condition.patterns[:MOST_NAMED]
    told: list[str] = []
    groups = [(name, list(group)) for name, group in groupby(named, _text_name)]
    for at, (name, group) in enumerate(groups):
        if name not in _OF_SEVERAL:
            told += [_one(pattern, name, words) for pattern in group]
            continue
        texts = [pattern.text for pattern in group]
        if more > 0 and at == len(groups) - 1:
            texts.append(words.say("list.more", count=more))
            more = 0
        told.append(words.say(name, text=words.listed(texts, "or")))
    if more > 0:
        told.append(words.say("list.more", count=more))
    return words.say("condition.one", attribute=condition.attribute, patterns=words.listed(told, "or"))


def _text_name(pattern: Pattern) -> str:
    """By which text it is said what ``pattern`` says of a value."""
    if not pattern.text:
        return "pattern.empty"
    if pattern.how == AGE:
        return "pattern.younger" if pattern.age < 0 else "pattern.older"
    if pattern.table:
        return "pattern.table_says" if pattern.says else "pattern.table"
    if pattern.how == HOURS:
        return "pattern.hours"
    if pattern.network is not None and not pattern.network.is_address:
        return "pattern.network"
    return f"pattern.{_COMPARED.get(pattern.how, 'exact')}"


def _one(pattern: Pattern, name: str, words: Wording) -> str:
    """What ``pattern`` says of a value, by the text ``name``."""
    if pattern.table:
        return words.say(name, table=pattern.table, text=pattern.exact)
    if pattern.how == HOURS:
        begin, end = (part.strip() for part in pattern.text.split("-"))
        return words.say(name, begin=begin, end=end)
    return words.say(name, age=words.period(abs(pattern.age)) if pattern.how == AGE else "")


def some_of(told: Sequence[str], how: str, words: Wording) -> str:
    """The first of those that are ``told``, and how many more there are; ``how``: as :meth:`Wording.listed` has it."""
    more = len(told) - MOST_NAMED
    return words.listed(told if more <= 0 else [*told[:MOST_NAMED], words.say("list.more", count=more)], how)


def _put_together(told: Sequence[str], name: str, words: Wording) -> str:
    found, *others = told
    for one in others:
        found = words.say(name, first=found, last=one)
    return found
