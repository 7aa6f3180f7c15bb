"""Rules in words: to whom one applies, how much it lets pass, at which stage, and what comes of the excess."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Final

from policyd_rate_limit.admin.condition_words import MOST_NAMED, alternatives_in_words, some_of
from policyd_rate_limit.config.rules import USER
from policyd_rate_limit.domain.counting import BYTES, MESSAGES, RECIPIENTS, attribute_of
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.keys import ClientTerm
from policyd_rate_limit.domain.rules.patterns import LIMITS_OF_TABLE
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.domain.rules.tables import table_and_attribute
from policyd_rate_limit.postfix.actions import holds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.domain.rules.keys import Key, Term
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.language.wording import Wording
    from policyd_rate_limit.policy import Rule

_PREPOSITIONS: Final = {
    "recipient": "to",
    "recipient_domain": "to",
    "sender": "from",
    "sender_domain": "from",
    "sasl_username": "from",
    "sasl_domain": "from",
    "client_address": "from",
    "country": "from",
}
"""What stands before what different ones are counted of: one of the texts ``of``."""

_IN_ORDER: Final = (RCPT, DATA, END_OF_MESSAGE)
_PASSING: Final = {
    "dunno": "pass",
    "ok": "pass",
    "permit": "pass",
    "prepend": "prepend",
    "warn": "log",
    "info": "log",
    "filter": "filter",
    "redirect": "redirect",
    "bcc": "bcc",
    "defer_if_reject": "defer_if_reject",
}
"""What Postfix does with a mail that it neither refuses nor holds (access(5)): one of the texts ``does``."""


def paragraph(rule: Rule, settings: Settings, words: Wording) -> str:
    """What ``rule``, which was made of ``settings``, does, for whoever administers the server.

    It begins with a small letter: the name of the rule may stand before it.
    """
    sentences = [
        *_subjects(rule, settings, words),
        *_conditions(rule, words),
        _stages(rule, words),
        *_warning(rule, words),
        _excess(rule, settings.fail_action, words),
        *_block(rule, words),
        *_notified(rule, settings, words),
    ]
    return " ".join(sentences)


def stages_in_words(rule: Rule, words: Wording) -> str:
    """At which stages ``rule`` counts: ``RCPT, DATA and END-OF-MESSAGE``."""
    return words.listed([stage for stage in _IN_ORDER if stage in rule.stages])


# To whom, and how much


def _subjects(rule: Rule, settings: Settings, words: Wording) -> Iterator[str]:
    subjects = rule.subjects
    if not isinstance(subjects, KeyedSubjects):
        yield from _by_default(rule, settings, words)
        return
    key = subjects.key
    yield words.say("rule.sentence", text=_may(key, rule.unit, subjects.limits, words))
    if subjects.overrides:
        others = [_override(pattern, limits, rule.unit, words) for pattern, limits in subjects.overrides]
        name = "rule.others_in_order" if len(others) > 1 else "rule.others"
        yield words.say(name, limits=_in_a_row(others, words))
    counted = attribute_of(rule.unit)
    if counted and counted != "client_address":  # there always is a client
        yield words.say("rule.empty", attribute=counted)
    yield from _without(key, words)


def _override(pattern: Pattern, limits: Limits, unit: str, words: Wording) -> str:
    if pattern.how == LIMITS_OF_TABLE:
        return words.say("rule.other_table", table=pattern.text)
    shown = pattern.text or words.say("rule.other_empty")
    return words.say("rule.other", pattern=shown, limits=_numbers(limits, unit, words))


def _by_default(rule: Rule, settings: Settings, words: Wording) -> Iterator[str]:
    """The rule that limits, limits_by_id and sql_limits_by_id are."""
    whom = []
    if settings.limit_by_sasl:
        whom.append(words.say("whom.sasl_username"))
    if settings.limit_by_sender:
        whom.append(words.say("whom.sender"))
    if settings.limit_by_ip:
        networks = some_of(list(settings.limited_networks), "and", words) or words.say("whom.no_networks")
        client = _client("whom", 32, settings.ipv6_prefix, words)
        whom.append(words.say("whom.in_networks", whom=client, networks=networks))
    if not whom:
        yield words.say("rule.nobody")
        return
    may = _with_verb("send", _first(whom, words), _preposition(rule.unit), rule.unit, settings.limits, words)
    yield words.say("rule.sentence", text=may)
    if settings.limits_by_id:
        yield words.say("rule.ids", count=len(settings.limits_by_id))
    if settings.sql_limits_by_id.strip():
        yield words.say("rule.table")


def _whom(key: Key, words: Wording) -> str:
    if key.is_combination:
        return words.say("whom.combination", terms=words.listed([_term("term", term, words) for term in key.terms]))
    return _first(
        [
            words.say("whom.others") if term.name == "server" and len(key.terms) > 1 else _term("whom", term, words)
            for term in key.terms
        ],
        words,
    )


def _first(whom: Sequence[str], words: Wording) -> str:
    """The first of ``whom`` that there is."""
    return reduce(lambda first, last: words.say("list.else", first=first, last=last), whom)


def _term(section: str, term: Term, words: Wording) -> str:
    """A term of a key, by the texts of ``section``."""
    if isinstance(term, ClientTerm):
        return _client(section, term.lengths[4], term.lengths[6], words)
    found = table_and_attribute(term.name)
    if found is None:
        return words.say(f"{section}.{term.name}")
    return words.say(f"{section}.table", table=found[0], attribute=found[1])


def _client(section: str, ipv4: int, ipv6: int, words: Wording) -> str:
    if ipv4 != 32:
        return words.say(f"{section}.network", ipv4=ipv4, ipv6=ipv6)
    return words.say(f"{section}.address") if ipv6 == 128 else words.say(f"{section}.address_6", ipv6=ipv6)


def _without(key: Key, words: Wording) -> Iterator[str]:
    """To which mail a rule with ``key`` does not apply, since it has no such key."""
    terms = [term for term in key.terms if term.name != "server" and not isinstance(term, ClientTerm)]
    if not terms or (not key.is_combination and len(terms) < len(key.terms)):
        return  # there always is a client
    if len(terms) == 1:
        yield words.say("rule.without", what=_term("lacking", terms[0], words))
        return
    parts = [_term("term", term, words) for term in terms]
    if key.is_combination:
        yield words.say("rule.lacks", what=words.listed(parts, "or"))
    else:
        yield words.say("rule.neither", what=words.listed(parts, "nor"))


def _may(key: Key, unit: str, limits: Limits, words: Wording) -> str:
    whom = _whom(key, words)
    of_recipients = [term.name.startswith("recipient") for term in key.terms]
    if attribute_of(unit):
        verb = "sent_mail" if any(of_recipients) else "send"
        return _with_verb(verb, whom, _preposition(unit), unit, limits, words)
    if not any(of_recipients):
        return _with_verb("send", whom, _preposition(unit), unit, limits, words)
    if not all(of_recipients):
        return _with_verb("have", whom, "nothing", unit, limits, words)
    may = _with_verb("sent", whom, "nothing", MESSAGES, limits, words)
    if unit == RECIPIENTS and any(term.name == "recipient_domain" for term in key.terms):
        return words.say("may.each_of_them", may=may)
    return may


def _preposition(unit: str) -> str:
    counted = attribute_of(unit)
    return _PREPOSITIONS.get(counted, "with") if counted else "to" if unit == RECIPIENTS else "nothing"


def _with_verb(verb: str, whom: str, preposition: str, unit: str, limits: Limits, words: Wording) -> str:
    """``each sender may send to 100 recipients in any hour and 300 in any day, and to 50 in one mail``."""

    def of(what: str) -> str:
        return words.say(f"of.{preposition}", what=what)

    if not limits:
        return words.say(f"may_any.{verb}", whom=whom, what=of(words.any_amount(unit)))
    if any(limit.maximum == 0 for limit in limits):
        return words.say(f"may_not.{verb}", whom=whom)
    windows = [limit for limit in limits if not limit.is_per_mail]
    mail = [limit for limit in limits if limit.is_per_mail]
    first, *others = windows or mail
    told = words.say("limit.one", amount=words.amount(first.maximum, unit), window=words.window(first))
    what = of(words.listed([told, *(_number(limit, unit, words) for limit in others)]))
    if windows and mail:
        what = words.say("may.in_one_mail_too", what=what, in_one_mail=of(_number(mail[0], unit, words)))
    return words.say(f"may.{verb}", whom=whom, what=what)


def _numbers(limits: Limits, unit: str, words: Wording) -> str:
    if any(limit.maximum == 0 for limit in limits):
        return words.say("rule.other_nothing")
    return words.listed([_number(limit, unit, words) for limit in limits]) or words.say("rule.other_unlimited")


def _number(limit: Limit, unit: str, words: Wording) -> str:
    """``limit`` without what it counts, where that was said before."""
    amount = words.amount(limit.maximum, unit) if unit == BYTES else words.number(limit.maximum)
    return words.say("limit.one", amount=amount, window=words.window(limit))


def _in_a_row(told: Sequence[str], words: Wording) -> str:
    more = len(told) - MOST_NAMED
    last = [words.say("list.and_more", count=more)] if more > 0 else []
    return reduce(lambda first, one: words.say("list.row", first=first, last=one), [*told[:MOST_NAMED], *last])


# To which mail, and when


def _conditions(rule: Rule, words: Wording) -> Iterator[str]:
    if rule.match is not None:
        yield words.say("rule.applies", conditions=alternatives_in_words(rule.match, words))
    if rule.unless is not None:
        yield words.say("rule.exempts", conditions=alternatives_in_words(rule.unless, words))


def _stages(rule: Rule, words: Wording) -> str:
    name = "rule.stages"
    if rule.unit == BYTES:
        name = "rule.stages_of_size"
    elif tuple(rule.stages) == (RCPT,) and isinstance(rule.subjects, KeyedSubjects):
        name = "rule.stages_of_recipient"
    return words.say(name, stages=stages_in_words(rule, words))


# What comes of the excess


def _warning(rule: Rule, words: Wording) -> Iterator[str]:
    if rule.warn:
        yield words.say("rule.warns", percent=rule.warn)


def _excess(rule: Rule, fail_action: str, words: Wording) -> str:
    action = fail_action if rule.action is None else rule.action.action
    usual = "_usual" if rule.action is None else ""
    if rule.shadow:
        return words.say(f"rule.shadow{usual}", action=action)
    does = words.say(f"does.{_does(action, refuses=rule.refuses)}")
    return words.say(f"rule.excess{usual}", action=action, does=does)


def _block(rule: Rule, words: Wording) -> Iterator[str]:
    if rule.block:
        subjects = rule.subjects
        here = "_here" if isinstance(subjects, KeyedSubjects) and subjects.key.is_combination else ""
        verb = "would_block" if rule.shadow else "blocks"
        yield words.say(f"rule.{verb}{here}", period=words.period(rule.block))


def _notified(rule: Rule, settings: Settings, words: Wording) -> Iterator[str]:
    found = next((one.notify for one in settings.rules if one.name == rule.name), ())
    whom = [words.say("rule.tells_user") if one == USER else one for one in found if one != USER or not rule.shadow]
    if whom:
        yield words.say("rule.tells", whom=some_of(whom, "and", words))


def _does(action: str, *, refuses: bool) -> str:
    """What Postfix does with a mail when it gets ``action``: one of the texts ``does``."""
    word = action.split(maxsplit=1)[0].lower() if action.strip() else ""
    if word == "discard":
        return "discard"
    if refuses:
        return "refuse_later" if word.startswith(("4", "defer")) else "refuse"
    return "hold" if holds(action) else _PASSING.get(word, "other")
