"""The kind of the setting ``rules``: reads each rule, word by word, and tells all that is wrong at once."""

from __future__ import annotations

import re
from typing import Final

from policyd_rate_limit.config.faults import Faults, Hints
from policyd_rate_limit.config.kind import Fault, Kind, Wrong
from policyd_rate_limit.config.kinds import ACTION
from policyd_rate_limit.config.rule_values import (
    check_values,
    parsed_pattern,
    read_flag,
    read_notify,
    read_pattern,
    read_per_cent,
    text_of_pattern,
)
from policyd_rate_limit.config.rules import Conditions, RuleSettings
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import BYTES, DISTINCT, MESSAGES, RECIPIENTS, UNITS, attribute_of
from policyd_rate_limit.domain.limits import (
    LONGEST_OVERRIDE,
    Limits,
    LimitsError,
    parse_limits,
    parse_period,
    spell_period,
)
from policyd_rate_limit.domain.rules.attributes import KINDS, NAME, TIME
from policyd_rate_limit.domain.rules.conditions import MOST_CONDITIONS
from policyd_rate_limit.domain.rules.keys import EXPECTED, TERMS, Key, WrongKey, parse_key
from policyd_rate_limit.domain.rules.patterns import (
    EXPRESSION,
    GLOB,
    HOURS,
    MOST_EXPRESSIONS,
)
from policyd_rate_limit.domain.rules.tables import attribute_in, kind_of_attribute, table_and_attribute
from policyd_rate_limit.domain.rules.texts import OF_LIMIT, OF_USE, WrongText, check_text

MOST_RULES: Final = 100
"""The most rules: each of them looks at every mail."""

LONGEST_NAME: Final = 64
"""The most characters of the name of a rule."""

_WORDS: Final = (
    "key",
    "count",
    "limits",
    "overrides",
    "match",
    "unless",
    "action",
    "warn",
    "block",
    "notify",
    "shadow",
)

_NAME: Final = re.compile("[a-z][a-z0-9-]*")
_BRACED: Final = re.compile(r"\{[^{}]*\}")
_IPV6_PREFIX: Final = 64  # a text is a key, or is none, whatever this is

_VARIABLES: Final = (*OF_LIMIT, *OF_USE, *(name for name, kind in KINDS.items() if kind != TIME))

_COUNTS: Final = f"one of {', '.join(UNITS)}, or {DISTINCT} and an attribute, such as {DISTINCT} recipient"
_DISTINCT: Final = f"{DISTINCT} and one attribute, such as recipient, client_address or sender_domain"
_RULE: Final = "a mapping such as {key: sasl_username, limits: 100/1h}"
_KEY: Final = "a key such as sasl_username, sasl_domain or client_address/24/56"
_NAMES: Final = f"a name of a-z, 0-9 and -, of at most {LONGEST_NAME} characters, that begins with a letter"
_LIMITS: Final = "limits such as 100/1h, [50/mail, 100/1h] or []"
_OVERRIDES: Final = "a mapping of patterns to limits, such as {'*@example.org': 500/1d}, or $table"
_CONDITIONS: Final = "a mapping of attributes to patterns, such as {client_address: 192.0.2.0/24}, or a list of such"
_ATTRIBUTE: Final = (
    "an attribute of Postfix's policy protocol, time, country, sasl_domain, sender_domain or recipient_domain"
)
_AT_END: Final = "where bytes are counted, at END-OF-MESSAGE"
_MOST_TRIED: Final = f"at most {MOST_EXPRESSIONS} globs and expressions in one list"
_TRIED: Final = (GLOB, EXPRESSION, HOURS)

Alternative = tuple[tuple[str, tuple[str, ...]], ...]
"""Conditions that hold all at once: (attribute, patterns)."""


def _read(value: object) -> tuple[RuleSettings, ...]:
    if isinstance(value, tuple) and all(isinstance(rule, RuleSettings) for rule in value):
        return value
    if not isinstance(value, dict):
        raise Wrong(Fault(value))
    if len(value) > MOST_RULES:
        raise Wrong(Fault(len(value), f"at most {MOST_RULES} rules"))
    faults = Faults()
    hints = Hints()
    same: dict[Limits, Limits] = {}
    found = [faults.keep((name,), _rule, name, written, hints, same) for name, written in value.items()]
    faults.end()
    return tuple(rule for rule in found if rule is not None)


RULES = Kind("a mapping of names to rules, such as {mailbox: {key: sasl_username, limits: 100/1h}}", _read)


def _rule(name: object, value: object, hints: Hints, same: dict[Limits, Limits]) -> RuleSettings:
    if not isinstance(value, dict):
        raise Wrong(Fault(value, _RULE))
    faults = Faults()
    faults.keep((), _check_name, name)
    for word in value:
        if word not in _WORDS:
            faults.keep((word,), _refuse_word, word, hints)
    reader = _Reader(hints, same)
    reader.count = faults.keep(("count",), reader.read_count, value.get("count", RECIPIENTS))
    reader.key = faults.keep(("key",), reader.read_key, value.get("key"))
    limits = faults.keep(("limits",), reader.limits, value.get("limits"))
    overrides = faults.keep(("overrides",), reader.overrides, value.get("overrides"))
    match = faults.keep(("match",), reader.conditions, value["match"]) if "match" in value else ()
    unless = faults.keep(("unless",), reader.conditions, value["unless"]) if "unless" in value else ()
    action = faults.keep(("action",), reader.action, value["action"]) if "action" in value else None
    warn = faults.keep(("warn",), read_per_cent, value["warn"]) if value.get("warn") is not None else 0
    block = faults.keep(("block",), reader.block, value["block"]) if value.get("block") is not None else 0
    notify = faults.keep(("notify",), read_notify, value["notify"]) if value.get("notify") is not None else ()
    shadow = faults.keep(("shadow",), read_flag, value.get("shadow"))
    faults.end()
    # Of these none is None where nothing is wrong, but for the action.
    return RuleSettings(
        name=str(name),
        key=reader.key.text if reader.key is not None else "",
        unit=reader.count or RECIPIENTS,
        limits=limits or (),
        overrides=overrides or (),
        match=match or (),
        unless=unless or (),
        action=action,
        shadow=bool(shadow),
        warn=warn or 0,
        block=block or 0,
        notify=notify or (),
    )


class _Reader:
    """Reads what one rule says; ``key`` and ``count`` are None where they are wrong, which is told by itself."""

    def __init__(self, hints: Hints, same: dict[Limits, Limits]) -> None:
        self.key: Key | None = None
        self.count: str | None = None
        self._hints = hints
        self._tried = 0
        self._same = same  # of equal limits, of which there are few, however many overrides

    def read_count(self, value: object) -> str:
        """What is counted. Raises Wrong, as all that follows."""
        if isinstance(value, str):
            if value in UNITS:
                return value
            word, _, attributes = value.strip().partition(" ")
            if word == DISTINCT:
                return self._read_distinct(value, attributes.split())
        first = value.partition(" ")[0] if isinstance(value, str) else None
        raise Wrong(Fault(value, self._hints.nearest(_COUNTS, first, (*UNITS, DISTINCT))))

    def _read_distinct(self, value: str, attributes: list[str]) -> str:
        """What is counted, of which different values are: ``distinct recipient``."""
        if len(attributes) != 1:
            raise Wrong(Fault(value, _DISTINCT))
        (name,) = attributes
        if name not in KINDS:
            raise Wrong(Fault(name, self._hints.nearest(_DISTINCT, name, KINDS)))
        if KINDS[name] == TIME:
            raise Wrong(Fault(name, f"{_DISTINCT}, and not the time: it is a different one every minute"))
        return f"{DISTINCT} {name}"

    def read_key(self, value: object) -> Key:
        """Whose counter it is."""
        if not isinstance(value, str):
            raise Wrong(Fault(value, _KEY))
        names = [name.strip() for name in re.split("[+|]", value)]
        try:
            key = parse_key(value, _IPV6_PREFIX)
        except WrongKey as error:
            term = error.value if error.expected == EXPECTED and error.value in names else None
            raise Wrong(Fault(error.value, self._hints.nearest(error.expected, term, TERMS))) from None
        for name in key.attributes:
            self._check_is_known(name)
        return key

    def limits(self, value: object) -> Limits:
        """Limits of this rule, or of an override."""
        try:
            limits = parse_limits(
                value, per_mail=self.count in (RECIPIENTS, BYTES, None), unit_suffixes=self.count in (BYTES, None)
            )
        except LimitsError as error:
            raise Wrong(Fault(error.value, self._expected_limits(value, error), error.place)) from None
        if self.count is not None and attribute_of(self.count):
            check_values(value, limits)
        return self._same.setdefault(limits, limits)

    def _expected_limits(self, value: object, error: LimitsError) -> str:
        """What was expected where ``error`` was found: perhaps a count of something else."""
        if not isinstance(value, str | list | tuple):
            return _LIMITS
        try:
            parse_limits(error.value, per_mail=True, unit_suffixes=True)
        except LimitsError:
            return error.expected
        try:
            parse_limits(error.value, per_mail=True)
        except LimitsError:
            return f"a number without k, M, G, Ki, Mi or Gi, which are for count: {BYTES}"
        if self.count == MESSAGES and not error.expected.startswith("each period"):
            return f"no limit per mail with count: {MESSAGES}, of which each mail is one"
        if self.count is not None and attribute_of(self.count) and not error.expected.startswith("each period"):
            return f"no limit per mail with count: {self.count}, which looks at all mail of a period"
        return error.expected

    def overrides(self, value: object) -> tuple[tuple[str, Limits | None], ...]:
        """Limits of some ids, by patterns or of a table: one mapping or ``$table``, or several of both in a list."""
        if value is None:  # all of them are comments
            return ()
        found: list[tuple[str, Limits | None]] = []
        if isinstance(value, list | tuple):
            faults = Faults()
            for index, one in enumerate(value):
                faults.keep((index,), self._add_overrides, one, found)
            faults.end()
        else:
            self._add_overrides(value, found)
        if self._tried > MOST_EXPRESSIONS:
            raise Wrong(Fault(self._tried, _MOST_TRIED))
        return tuple(found)

    def _add_overrides(self, value: object, found: list[tuple[str, Limits | None]]) -> None:
        if isinstance(value, str) and value.startswith("$"):
            pattern = parsed_pattern(value, NAME)
            if pattern.says:
                raise Wrong(Fault(value, "a table that has the limits, such as $tiers, or {$plan=business: 500/1d}"))
            found.append((value, None))
            return
        if not isinstance(value, dict):
            raise Wrong(Fault(value, _OVERRIDES))
        faults: list[Fault] = []
        kind = self.key.compared_as() if self.key is not None else None
        for written, limits in value.items():
            try:
                text = text_of_pattern(written)
                if kind is not None:
                    self._tried += parsed_pattern(text, kind).how in _TRIED
                found.append((text, self.limits(limits)))
            except Wrong as wrong:
                faults += wrong.inside(written).faults
        if faults:
            raise Wrong(*faults)

    def conditions(self, value: object) -> Conditions:
        """To which mails the rule applies, or does not."""
        found: list[Alternative | None]
        if isinstance(value, list | tuple) and value:
            faults = Faults()
            found = [faults.keep((index,), self._alternative, one) for index, one in enumerate(value)]
            faults.end()
        else:
            found = [self._alternative(value)]
        alternatives = tuple(one for one in found if one is not None)
        number = sum(map(len, alternatives))
        if number > MOST_CONDITIONS:
            raise Wrong(Fault(number, f"at most {MOST_CONDITIONS} attributes in all"))
        return alternatives

    def _alternative(self, value: object) -> Alternative:
        if not isinstance(value, dict) or not value:
            raise Wrong(Fault(value, _CONDITIONS))
        faults = Faults()
        found = [faults.keep((name,), self._condition, name, patterns) for name, patterns in value.items()]
        faults.end()
        return tuple(one for one in found if one is not None)

    def _condition(self, name: object, value: object) -> tuple[str, tuple[str, ...]]:
        if isinstance(name, str) and name.startswith("$"):
            found_table = table_and_attribute(name)
            if found_table is None or found_table[1] not in KINDS:
                raise Wrong(Fault(name, "a table and an attribute, such as $created(sasl_username)"))
        elif not isinstance(name, str) or name not in KINDS:
            raise Wrong(Fault(name, self._hints.nearest(_ATTRIBUTE, name, KINDS)))
        self._check_is_known(attribute_in(name))
        kind = kind_of_attribute(name)
        if not isinstance(value, list | tuple):
            return name, (read_pattern(value, kind).text,)
        if not value:
            raise Wrong(Fault(value, "at least one pattern"))
        faults = Faults()
        found = [faults.keep((index,), read_pattern, one, kind) for index, one in enumerate(value)]
        faults.end()
        patterns = [one for one in found if one is not None]
        tried = sum(one.how in _TRIED for one in patterns)
        if tried > MOST_EXPRESSIONS:
            raise Wrong(Fault(tried, _MOST_TRIED))
        return name, tuple(one.text for one in patterns)

    def _check_is_known(self, name: str) -> None:
        """Raise Wrong where the attribute or term ``name`` is not known at the stage of this rule."""
        if self.count == BYTES and name in ("recipient", "recipient_domain"):
            raise Wrong(Fault(name, f"no recipient {_AT_END}: a mail may have several there"))

    def action(self, value: object) -> str:
        """What Postfix is told beyond a limit."""
        try:
            action = str(ACTION.read(value))
        except Wrong as wrong:
            raise Wrong(*(one._replace(expected=one.expected or ACTION.expected) for one in wrong.faults)) from None
        if re.search("[{}]", _BRACED.sub("", action)):
            raise Wrong(Fault(value, "braces around names of variables alone, such as {key}"))
        try:
            check_text(action)
        except WrongText as error:
            name = error.value.strip("{}") if error.value != action else None
            raise Wrong(Fault(error.value, self._hints.nearest(error.expected, name, _VARIABLES))) from None
        if self.count == BYTES and action.split()[0].lower() == "prepend":
            raise Wrong(Fault(value, f"another action than PREPEND {_AT_END}: Postfix adds no header there"))
        return action

    def block(self, value: object) -> int:
        """For how many seconds who exceeds the rule is blocked."""
        if self.key is not None and "server" in self.key.kinds:
            raise Wrong(Fault(value, "no block where the key has server: it would block everybody"))
        try:
            seconds = parse_period(value)
        except LimitsError:
            seconds = 0
        if not 1 <= seconds <= LONGEST_OVERRIDE:
            raise Wrong(Fault(value, f"a period such as 1h, of at most {spell_period(LONGEST_OVERRIDE)}"))
        return seconds


def _refuse_word(word: object, hints: Hints) -> None:
    raise Wrong(Fault(word, hints.nearest(f"one of {', '.join(_WORDS)}", word, _WORDS)))


def _check_name(name: object) -> None:
    if name == DEFAULT:
        raise Wrong(Fault(name, f"another name: {DEFAULT} is the rule of limits, limits_by_id and sql_limits_by_id"))
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise Wrong(Fault(name, _NAMES))
