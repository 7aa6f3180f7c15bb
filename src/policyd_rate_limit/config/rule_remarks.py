"""What is odd in rules that are each right by themselves: overrides that can never apply, and what refuses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.config.references import references
from policyd_rate_limit.config.remark import Remark, named
from policyd_rate_limit.config.rules import USER, Conditions, RuleSettings
from policyd_rate_limit.domain.counting import BYTES
from policyd_rate_limit.domain.ids import looks_like_a_pattern
from policyd_rate_limit.domain.limits import shown
from policyd_rate_limit.domain.networks import parse_address
from policyd_rate_limit.domain.rules.attributes import DOMAIN
from policyd_rate_limit.domain.rules.keys import ClientTerm, Key, parse_key
from policyd_rate_limit.domain.rules.matching import Patterns
from policyd_rate_limit.domain.rules.patterns import (
    EXACT,
    EXPRESSION,
    GLOB,
    NETWORK,
    Pattern,
    asks_facts,
    may_take_long,
    parse_pattern,
)
from policyd_rate_limit.domain.rules.tables import kind_of_attribute

if TYPE_CHECKING:
    from policyd_rate_limit.config.schema import Settings

MOST_TRIED: Final = 1_000_000
"""How often a pattern is tried on another, of one rule, to see whether it hides that: these take a second."""

_ADDRESSES: Final = frozenset({"sasl_username", "sender", "recipient"})
_PASSING: Final = frozenset({"dunno", "ok", "permit"})
_REFUSING_NOTHING: Final = [
    [word] for word in (*_PASSING, "hold", "prepend", "warn", "info", "filter", "redirect", "bcc", "defer_if_reject")
]
_ANYTHING: Final = "*"

Found = dict[str, list[str]]
"""The patterns of which the same can be said, by that."""


def remarks_of_rules(settings: Settings) -> Iterator[Remark]:
    """Whatever in ``rules`` can never apply, or does not what it looks like."""
    yield from _of_tables(settings)
    for rule in settings.rules:
        key = parse_key(rule.key, settings.ipv6_prefix)
        patterns = [parse_pattern(text, key.compared_as()) for text, _ in rule.overrides]
        yield from _of_action(rule, settings.fail_action)
        yield from _of_warnings(rule)
        yield from _of_block(rule, settings.fail_action)
        yield from _of_notify(rule, settings)
        yield from _of_overrides(rule, key, patterns)
        yield from _of_expressions(rule, patterns)


def _of_tables(settings: Settings) -> Iterator[Remark]:
    used = {one.table for rule in settings.rules for one in references(rule, settings.ipv6_prefix)}
    for table in settings.tables:
        if settings.rules and table.name not in used:
            yield Remark(("tables", table.name), f"tables.{table.name}: no rule asks it")


def _of_action(rule: RuleSettings, fail_action: str) -> Iterator[Remark]:
    place = ("rules", rule.name)
    if not rule.limits and not any(limits is None or limits for _, limits in rule.overrides):
        yield Remark((*place, "limits"), f"rules.{rule.name}: it has no limit, and limits nobody")
    words = (rule.action or "").lower().split()
    if words and words[0] in _PASSING and not rule.shadow:
        text = f"rules.{rule.name}.action: {shown(rule.action)} lets all mail pass: the rule limits nobody"
        yield Remark((*place, "action"), text)
    if rule.unit == BYTES and rule.action is None and fail_action.lower().split()[:1] == ["prepend"]:
        text = f"rules.{rule.name}: fail_action is PREPEND, and Postfix adds no header where bytes are counted"
        yield Remark(place, text)


def _of_warnings(rule: RuleSettings) -> Iterator[Remark]:
    limits = [limit for some in (rule.limits, *(limits or () for _, limits in rule.overrides)) for limit in some]
    of_tables = any(some is None for _, some in rule.overrides)  # which may give any
    if rule.warn and limits and not of_tables and all(limit.is_per_mail for limit in limits):
        text = f"rules.{rule.name}.warn: it warns of nothing: all limits are per mail, whose use nobody is warned of"
        yield Remark(("rules", rule.name, "warn"), text)


def _of_block(rule: RuleSettings, fail_action: str) -> Iterator[Remark]:
    place = ("rules", rule.name, "block")
    if rule.block and rule.shadow:
        yield Remark(place, f"rules.{rule.name}.block: nobody is blocked in shadow: the log says whom it would block")
    elif rule.block and (rule.action or fail_action).lower().split()[:1] in _REFUSING_NOTHING:
        text = (
            f"rules.{rule.name}.block: its action refuses nothing, and does not refuse who is blocked either: that is"
            " done in other rules with the same key"
        )
        yield Remark(place, text)


def _of_notify(rule: RuleSettings, settings: Settings) -> Iterator[Remark]:
    place = ("rules", rule.name, "notify")
    mistakes = settings.mistakes_of("report_from", "smtp_") if rule.notify else ""
    if mistakes:
        yield Remark(place, f"rules.{rule.name}.notify: no mail can be sent: {mistakes}")
    if USER in rule.notify and rule.shadow:
        yield Remark(place, f"rules.{rule.name}.notify: users are told nothing in shadow")


def _of_overrides(rule: RuleSettings, key: Key, patterns: list[Pattern]) -> Iterator[Remark]:
    if not patterns:
        return
    if key.text == "server":
        text = f"rules.{rule.name}.overrides: they apply to nobody: with the key server there is one counter"
        yield Remark(("rules", rule.name, "overrides"), text)
        return
    never: Found = {}
    for pattern in patterns:
        why = _why_never(pattern, key)
        if why is not None:
            never.setdefault(why, []).append(pattern.text)
    for why, names in never.items():
        yield _about(rule, names, f"{'applies' if len(names) == 1 else 'apply'} to nobody: {why}")
    others = [one.text for one in patterns if one.how == EXACT and _is_meant_as_a_pattern(one.text, key)]
    if others:
        stands = "is that very name" if len(others) == 1 else "are those very names"
        yield _about(rule, others, f"{stands}, and no address in a domain: that is {shown(_glob_for(others[0]))}")
    for hiding, names in _hidden(patterns, key.compared_as()).items():
        never_apply = "never applies" if len(names) == 1 else "never apply"
        yield _about(rule, names, f"{never_apply}: {shown(hiding)} stands before, and counts")


def _about(rule: RuleSettings, names: list[str], what: str) -> Remark:
    return Remark(("rules", rule.name, "overrides", names[0]), f"rules.{rule.name}.overrides: {named(names)} {what}")


def _why_never(pattern: Pattern, key: Key) -> str | None:
    """Why no key is like ``pattern``; None when one may be."""
    if pattern.how == NETWORK:
        return _why_no_client(pattern, key)
    if not pattern.text and not any(term.name == "server" for term in key.terms):
        return "a mail without the key is not charged"
    if pattern.how not in (EXACT, GLOB):
        return None
    if key.compared_as() == DOMAIN and "@" in pattern.text:
        return f"the key {key.text} is a domain, without @"
    if pattern.how == GLOB:
        return None
    if key.is_combination and not key.written(pattern.text):
        return f"the key is {' + '.join(term.name for term in key.terms)}, whose parts are joined by +"
    if parse_address(pattern.text) is not None and not any(isinstance(term, ClientTerm) for term in key.terms):
        return f"the key {key.text} is no address"
    return None


def _why_no_client(pattern: Pattern, key: Key) -> str | None:
    network = pattern.network
    for term in key.terms:
        if network is not None and isinstance(term, ClientTerm) and network.length > term.lengths[network.version]:
            charged = term.network_of(network)
            return f"clients are charged by their /{charged.length} here, as in {charged}"
    return None


def _is_meant_as_a_pattern(name: str, key: Key) -> bool:
    """Whether ``name`` seems to stand for the users or addresses of a domain, as no exact one does."""
    return all(term.name in _ADDRESSES for term in key.terms) and not key.is_combination and looks_like_a_pattern(name)


def _glob_for(name: str) -> str:
    domain = name.removeprefix("%").removeprefix("@")
    return f"*@*{domain}" if domain.startswith(".") else f"*@{domain}"


def _hidden(patterns: list[Pattern], kind: str) -> Found:
    """Patterns that never count, since all that they match is matched by another before them."""
    # What may take long would do so here too.
    quick = [(index, pattern) for index, pattern in enumerate(patterns) if not may_take_long(pattern)]
    tried = sum(pattern.how in (GLOB, EXPRESSION) for _, pattern in quick)
    if tried * len(quick) > MOST_TRIED:
        quick = [(index, pattern) for index, pattern in quick if pattern.how not in (GLOB, EXPRESSION)]
    all_of_them = Patterns([pattern for _, pattern in quick], kind)
    hidden: Found = {}
    seen: dict[str, int] = {}
    everything = -1
    for number, (_, pattern) in enumerate(quick):
        if pattern.how in (GLOB, EXPRESSION) or asks_facts(pattern):
            first = seen.setdefault(pattern.exact if pattern.how == GLOB else pattern.text, number)
            if everything >= 0:
                first = min(first, everything)
            elif pattern.text == _ANYTHING:
                everything = number
        elif pattern.network is not None and not pattern.network.is_address:
            first = all_of_them.first_network(pattern.network)
        else:
            first = all_of_them.first(pattern.text)
        if 0 <= first < number:
            hidden.setdefault(quick[first][1].text, []).append(pattern.text)
    return hidden


def _of_expressions(rule: RuleSettings, overrides: Iterable[Pattern]) -> Iterator[Remark]:
    for pattern in overrides:
        if may_take_long(pattern):
            yield _about_expression(("rules", rule.name, "overrides", pattern.text), pattern)
    conditions: tuple[tuple[str, Conditions], ...] = (("match", rule.match), ("unless", rule.unless))
    for word, alternatives in conditions:
        for alternative in alternatives:
            for attribute, texts in alternative:
                for pattern in (parse_pattern(text, kind_of_attribute(attribute)) for text in texts):
                    if may_take_long(pattern):
                        yield _about_expression(("rules", rule.name, word, attribute), pattern)


def _about_expression(place: tuple[str, ...], pattern: Pattern) -> Remark:
    where = ".".join(place[:3])
    text = f"{where}: {shown(pattern.text)} repeats what is repeated in it: on some values it takes very long"
    return Remark(place, text)
