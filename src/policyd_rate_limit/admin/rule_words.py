"""Rules in words: to whom one applies, how much it lets pass, at which stage, and what comes of the excess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policyd_rate_limit.config.rules import USER
from policyd_rate_limit.domain.counting import BYTES, MESSAGES, RECIPIENTS, attribute_of
from policyd_rate_limit.domain.limits import SUFFIXES, spell_period
from policyd_rate_limit.domain.quantity import quantity
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.keys import ClientTerm
from policyd_rate_limit.domain.rules.patterns import AGE, EXPRESSION, GLOB, HOURS, LIMITS_OF_TABLE
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.domain.rules.tables import table_and_attribute
from policyd_rate_limit.mail.wording import different
from policyd_rate_limit.postfix.actions import holds

if TYPE_CHECKING:
    from policyd_rate_limit.config import Settings
    from policyd_rate_limit.domain.limits import Limit, Limits
    from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
    from policyd_rate_limit.domain.rules.keys import Key, Term
    from policyd_rate_limit.domain.rules.patterns import Pattern
    from policyd_rate_limit.policy import Rule

MOST_NAMED = 10
"""The most overrides, networks or patterns of which a paragraph tells one by one."""

_EACH = {
    "sasl_username": "each SASL user",
    "sasl_domain": "all SASL users of one domain together",
    "sender": "each envelope sender",
    "sender_domain": "all envelope senders of one domain together",
    "recipient": "each recipient",
    "recipient_domain": "all recipients of one domain together",
    "country": "all clients of one country together",
    "server": "the whole server",
}
"""Whom a key of one term charges."""

_PARTS = {
    "sasl_username": "SASL user",
    "sasl_domain": "domain of the SASL user",
    "sender": "envelope sender",
    "sender_domain": "domain of the envelope sender",
    "recipient": "recipient",
    "recipient_domain": "domain of the recipient",
    "country": "country of the client",
    "server": "server",
}
"""What each term of a key is."""

_PREPOSITIONS = {
    "recipient": "to ",
    "recipient_domain": "to ",
    "sender": "from ",
    "sender_domain": "from ",
    "sasl_username": "from ",
    "sasl_domain": "from ",
    "client_address": "from ",
    "country": "from ",
}
"""What stands before what different ones are counted of."""

_PERIODS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_COMPARED = {GLOB: "is like", EXPRESSION: "matches"}
_IN_ORDER = (RCPT, DATA, END_OF_MESSAGE)
_PASSING = {
    "dunno": "lets the mail pass",
    "ok": "lets the mail pass",
    "permit": "lets the mail pass",
    "prepend": "only adds a header to the mail",
    "warn": "only writes a line to Postfix's log",
    "info": "only writes a line to Postfix's log",
    "filter": "sends the mail through another filter",
    "redirect": "sends the mail to another address",
    "bcc": "sends a copy of the mail to another address",
    "defer_if_reject": "refuses only what is refused anyway",
}
"""What Postfix does with a mail that it neither refuses nor holds: access(5)."""


def paragraph(rule: Rule, settings: Settings) -> str:
    """What ``rule``, which was made of ``settings``, does, for whoever administers the server."""
    sentences = [
        *_subjects(rule, settings),
        *_conditions(rule),
        _stages(rule),
        *_warning(rule),
        _excess(rule, settings.fail_action),
        *_block(rule),
        *_notified(rule, settings),
    ]
    return f"{rule.name}: {' '.join(sentences)}"


def written_stages(rule: Rule) -> str:
    """At which stages ``rule`` counts: ``RCPT, DATA and END-OF-MESSAGE``."""
    return listed([stage for stage in _IN_ORDER if stage in rule.stages])


def written_amount(amount: int, unit: str) -> str:
    """``amount`` of what a rule counts: ``1 recipient``, ``50 MB``."""
    attribute = attribute_of(unit)
    if attribute:
        return different(amount, attribute)
    if unit != BYTES:
        return quantity(amount, {RECIPIENTS: "recipient", MESSAGES: "mail"}[unit])
    fitting = (suffix for suffix in SUFFIXES if suffix and amount and amount % SUFFIXES[suffix] == 0)
    suffix = max(fitting, key=SUFFIXES.__getitem__, default="")
    return f"{amount // SUFFIXES[suffix]} {suffix}B" if suffix else quantity(amount, "byte")


def written_pattern(pattern: Pattern) -> str:
    """What ``pattern`` says of a value: ``lies in 192.0.2.0/24``."""
    text = pattern.text
    if not text:
        return "is empty"
    if pattern.how == AGE:
        return f"is a date {'less' if pattern.age < 0 else 'more'} than {text[1:].strip()} ago"
    if pattern.table:
        return f"is {pattern.exact} in ${pattern.table}" if pattern.says else f"is in {text}"
    if pattern.how == HOURS:
        begin, end = (part.strip() for part in text.split("-"))
        return f"is between {begin} and {end}"
    if pattern.network is not None and not pattern.network.is_address:
        return f"lies in {text}"
    return f"{_COMPARED.get(pattern.how, 'is')} {text}"


def written_condition(condition: Condition) -> str:
    """What has to be so that ``condition`` holds: ``client_address lies in 192.0.2.0/24``."""
    patterns = [written_pattern(pattern) for pattern in condition.patterns]
    return f"{condition.attribute} {_named(patterns, 'or')}"


def written_conditions(conditions: Sequence[Condition]) -> str:
    """What has to be so that all of ``conditions`` hold."""
    return ", and ".join(map(written_condition, conditions))


def written_term(term: Term) -> str:
    """What a term of a key is: ``domain of the SASL user``."""
    if isinstance(term, ClientTerm):
        return f"client {_client(term)}"
    found = table_and_attribute(term.name)
    return _PARTS[term.name] if found is None else f"text that ${found[0]} has for its {found[1]}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """``words`` as a sentence has them: ``a, b and c``."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _named(words: Sequence[str], last: str) -> str:
    """The first of ``words``, and how many more there are."""
    more = len(words) - MOST_NAMED
    return listed(words, last) if more <= 0 else listed([*words[:MOST_NAMED], f"{more} more"], last)


# To whom, and how much


def _subjects(rule: Rule, settings: Settings) -> list[str]:
    subjects = rule.subjects
    if not isinstance(subjects, KeyedSubjects):
        return _by_default(rule, settings)
    key = subjects.key
    found = [f"{_whom(key)} {_may(key, rule.unit, subjects.limits)}."]
    if subjects.overrides:
        others = [
            f"what {pattern.text} says"
            if pattern.how == LIMITS_OF_TABLE
            else f"{_shown_pattern(pattern)} {_numbers(limits, rule.unit)}"
            for pattern, limits in subjects.overrides
        ]
        first = ", of which the first that matches counts" if len(others) > 1 else ""
        found.append(f"Other limits{first}: {_in_a_row(others)}.")
    counted = attribute_of(rule.unit)
    if counted and counted != "client_address":  # there always is a client
        found.append(f"It does not apply to mail of which {counted} is empty.")
    without = _without(key)
    if without:
        found.append(f"It does not apply to mail {without}.")
    return found


def _by_default(rule: Rule, settings: Settings) -> list[str]:
    """The rule that limits, limits_by_id and sql_limits_by_id are."""
    networks = _named(list(settings.limited_networks), "and") or "limited_networks, which is empty"
    whom = [
        words
        for is_on, words in (
            (settings.limit_by_sasl, "each SASL user"),
            (settings.limit_by_sender, "each envelope sender"),
            (settings.limit_by_ip, f"each client {_bits(32, settings.ipv6_prefix)} in {networks}"),
        )
        if is_on
    ]
    if not whom:
        return ["it charges nobody: limit_by_sasl, limit_by_sender and limit_by_ip are all off."]
    may = _sending(rule.unit, settings.limits)
    found = [f"{', else '.join(whom)} {may}."]
    if settings.limits_by_id:
        count = len(settings.limits_by_id)
        found.append(f"{quantity(count, 'id')} {'has' if count == 1 else 'have'} other limits (limits_by_id).")
    if settings.sql_limits_by_id.strip():
        found.append("Whoever sql_limits_by_id knows has the limits that it says.")
    return found


def _whom(key: Key) -> str:
    if key.is_combination:
        return f"each combination of {listed([written_term(term) for term in key.terms])}"
    return ", else ".join(
        f"each client {_client(term)}"
        if isinstance(term, ClientTerm)
        else "all others together"
        if term.name == "server" and len(key.terms) > 1
        else _each(term)
        for term in key.terms
    )


def _each(term: Term) -> str:
    found = table_and_attribute(term.name)
    return _EACH[term.name] if found is None else f"all of whose {found[1]} ${found[0]} says the same, together,"


def _without(key: Key) -> str:
    """To which mail a rule with ``key`` does not apply, since it has no such key; empty: to all there is."""
    parts = [written_term(term) for term in key.terms if term.name != "server" and not isinstance(term, ClientTerm)]
    if not parts or (not key.is_combination and len(parts) < len(key.terms)):
        return ""  # there always is a client
    if len(parts) == 1:
        return f"without {'an' if parts[0][0] in 'aeiou' else 'a'} {parts[0]}"
    return f"that lacks {listed(parts, 'or')}" if key.is_combination else f"that has neither {listed(parts, 'nor')}"


def _client(term: ClientTerm) -> str:
    return _bits(term.lengths[4], term.lengths[6])


def _bits(ipv4: int, ipv6: int) -> str:
    if ipv4 == 32:
        return "address" if ipv6 == 128 else f"address (of IPv6 the /{ipv6})"
    return f"network (/{ipv4}, of IPv6 /{ipv6})"


def _may(key: Key, unit: str, limits: Limits) -> str:
    of_recipients = [term.name.startswith("recipient") for term in key.terms]
    counted = attribute_of(unit)
    if counted:
        verb = "may be sent mail" if any(of_recipients) else "may send"
        return _with_verb(verb, _PREPOSITIONS.get(counted, "with "), unit, limits)
    if not any(of_recipients):
        return _sending(unit, limits)
    if not all(of_recipients):
        return _with_verb("may have", "", unit, limits)
    if unit == RECIPIENTS and any(term.name == "recipient_domain" for term in key.terms):
        return f"{_with_verb('may be sent', '', MESSAGES, limits)}; a mail counts once for each of them"
    return _with_verb("may be sent", "", MESSAGES, limits)


def _sending(unit: str, limits: Limits) -> str:
    return _with_verb("may send", "to " if unit == RECIPIENTS else "", unit, limits)


def _with_verb(verb: str, preposition: str, unit: str, limits: Limits) -> str:
    """``may send to 100 recipients in any hour and 300 in any day, and to 50 in one mail``."""
    if not limits:
        counted = preposition if attribute_of(unit) else ""
        return f"{verb} {counted}any number of {written_amount(2, unit).partition(' ')[2]}: there is no limit"
    if any(limit.maximum == 0 for limit in limits):
        return f"{verb} nothing"
    windows = [limit for limit in limits if not limit.is_per_mail]
    mail = [limit for limit in limits if limit.is_per_mail]
    if not windows:
        return f"{verb} {preposition}{written_amount(mail[0].maximum, unit)} in one mail"
    first, *others = windows
    words = [f"{written_amount(first.maximum, unit)} {_period(first)}"]
    words += [_number(limit, unit) for limit in others]
    last = f", and {preposition}{_number(mail[0], unit)}" if mail else ""
    return f"{verb} {preposition}{listed(words)}{last}"


def _numbers(limits: Limits, unit: str) -> str:
    if any(limit.maximum == 0 for limit in limits):
        return "nothing"
    return listed([_number(limit, unit) for limit in limits]) if limits else "no limit"


def _number(limit: Limit, unit: str) -> str:
    amount = written_amount(limit.maximum, unit) if unit == BYTES else str(limit.maximum)
    return f"{amount} {_period(limit)}"


def _period(limit: Limit) -> str:
    if limit.is_per_mail:
        return "in one mail"
    spelt = spell_period(limit.seconds)
    number, unit = int(spelt[:-1]), _PERIODS[spelt[-1]]
    return f"in any {unit}" if number == 1 else f"in any {number} {unit}s"


def _shown_pattern(pattern: Pattern) -> str:
    return pattern.text or "what is empty"


def _in_a_row(words: Sequence[str]) -> str:
    more = f"; and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return "; ".join(words[:MOST_NAMED]) + more


# To which mail, and when


def _conditions(rule: Rule) -> list[str]:
    found = []
    if rule.match is not None:
        found.append(f"It applies only to mail of which {_alternatives(rule.match)}.")
    if rule.unless is not None:
        found.append(f"It exempts mail of which {_alternatives(rule.unless)}.")
    return found


def _alternatives(conditions: Conditions) -> str:
    return "; or of which ".join(map(written_conditions, conditions.alternatives))


def _stages(rule: Rule) -> str:
    alone = tuple(rule.stages)
    if rule.unit == BYTES:
        return f"Decided at {written_stages(rule)}, where the size is known."
    if alone == (RCPT,) and isinstance(rule.subjects, KeyedSubjects):
        return f"Decided at {RCPT} alone, where the recipient is known."
    return f"Decided at {written_stages(rule)}."


# What comes of the excess


def _warning(rule: Rule) -> list[str]:
    return [f"The log warns as soon as {rule.warn} % of a limit are used."] if rule.warn else []


def _excess(rule: Rule, fail_action: str) -> str:
    action = fail_action if rule.action is None else rule.action.action
    answer = f'"{action}"{" (fail_action)" if rule.action is None else ""}'
    if rule.shadow:
        return (
            "Beyond that nothing is refused, since it is in shadow: the log says verdict=would-refuse where the answer"
            f" would be {answer}."
        )
    return f"Beyond that the answer is {answer}, which {_does(action, refuses=rule.refuses)}."


def _block(rule: Rule) -> list[str]:
    if not rule.block:
        return []
    whom = f"Whoever exceeds it {'would be' if rule.shadow else 'is'} blocked for {spell_period(rule.block)}"
    subjects = rule.subjects
    if isinstance(subjects, KeyedSubjects) and subjects.key.is_combination:
        return [f"{whom}, in this rule."]
    return [f"{whom}, in all rules with that key."]


def _notified(rule: Rule, settings: Settings) -> list[str]:
    found = next((one.notify for one in settings.rules if one.name == rule.name), ())
    whom = ["the SASL user" if one == USER else one for one in found if one != USER or not rule.shadow]
    return [f"A mail tells {_named(whom, 'and')}."] if whom else []


def _does(action: str, *, refuses: bool) -> str:
    """What Postfix does with a mail when it gets ``action``."""
    word = action.split(maxsplit=1)[0].lower() if action.strip() else ""
    if word == "discard":
        return "takes the mail and throws it away"
    if refuses:
        later = word.startswith(("4", "defer"))
        return "refuses the mail for now" if later else "refuses the mail for good"
    if holds(action):
        return "holds the mail: it waits in the hold queue"
    return f"{_PASSING.get(word, 'lets the mail go on its way')}, and refuses nothing"
