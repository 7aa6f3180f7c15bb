"""What rules promise, in the simplest way: all that was ever counted is in one list, and added up for each question.

Nothing of the program is used: what a key, a pattern, a condition or an action is, is written here once more.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

Asked = Mapping[str, str | int]
"""The attributes of one request, as Postfix sends them."""

OVER = "defer_if_permit Rate limit reach, retry later"
"""``fail_action``, which is the action of a rule without one."""

RCPT, DATA, END = "RCPT", "DATA", "END-OF-MESSAGE"

PER_MAIL = 0

ADDRESSES, DOMAINS, NAMES = "addresses", "domains", "names"

KIND_OF_TERM = {
    "sasl_username": "user",
    "sasl_domain": "sasl_domain",
    "sender": "sender",
    "sender_domain": "sender_domain",
    "recipient": "recipient",
    "recipient_domain": "recipient_domain",
    "client_address": "client",
    "server": "server",
}
TABLES: Mapping[str, Mapping[str, str] | Sequence[str]] = {
    "people": {"alice@example.org": "Business", "*@bücher.example": "trial", "/^bob/": "trial"},
    "home": ["example.org", "*.example"],
    "near": ["192.0.2.0/24", "2001:db8::/48"],
    "tiers": {"ALICE@*": "2/20s, 3/60s", "root": "[]", "carol@*": "[[1, 5], [4, 60]]"},
}
"""Those of every file: what is a name, a domain, an address, and limits of names."""

_MADE_OF = {"sasl_domain": "sasl_username", "sender_domain": "sender", "recipient_domain": "recipient"}


class Bound(NamedTuple):
    """At most ``maximum`` in any ``seconds``, or, where those are :data:`PER_MAIL`, of one mail."""

    maximum: int
    seconds: int

    @property
    def is_per_mail(self) -> bool:
        return self.seconds == PER_MAIL

    @property
    def period(self) -> str:
        """As texts have it."""
        if self.is_per_mail:
            return "mail"
        return f"{self.seconds // 60}m" if self.seconds % 60 == 0 else f"{self.seconds}s"


@dataclass(frozen=True)
class Said:
    """One rule as an administrator says it. ``overrides``: patterns and limits; conditions: attributes and patterns.

    Without limits the pattern of an override is a table that has them.
    """

    name: str
    key: str
    count: str
    limits: tuple[Bound, ...]
    overrides: tuple[tuple[str, tuple[Bound, ...] | None], ...] = ()
    match: tuple[Mapping[str, Sequence[str]], ...] = ()
    unless: tuple[Mapping[str, Sequence[str]], ...] = ()
    action: str | None = None
    shadow: bool = False
    warn: int = 0

    def written(self) -> dict[str, object]:
        """As a file has it."""
        words: dict[str, object] = {"key": self.key, "count": self.count, "limits": _limits(self.limits)}
        if self.overrides:
            parts: list[object] = [
                pattern if limits is None else {pattern: _limits(limits)} for pattern, limits in self.overrides
            ]
            words["overrides"] = parts[0] if len(parts) == 1 else parts
        for word, alternatives in (("match", self.match), ("unless", self.unless)):
            if alternatives:
                written = [
                    {name: patterns[0] if len(patterns) == 1 else list(patterns) for name, patterns in one.items()}
                    for one in alternatives
                ]
                words[word] = written[0] if len(written) == 1 else written
        if self.action is not None:
            words["action"] = self.action
        if self.warn:
            words["warn"] = f"{self.warn}%" if self.warn % 2 else self.warn
        return {**words, "shadow": True} if self.shadow else words

    @property
    def terms(self) -> list[str]:
        return [term.strip() for term in re.split("[+|]", self.key)]

    @property
    def counters(self) -> str:
        """What the names of its counters begin with: what counts in another unit is another counter."""
        return f"{self.name}|" if self.count == "recipients" else f"{self.name}/{self.count.replace(' ', '-')}|"

    @property
    def counted(self) -> str:
        """The attribute of which different values are counted; none: something else is."""
        return self.count.removeprefix("distinct ") if self.count.startswith("distinct ") else ""

    @property
    def compares(self) -> str:
        """What the patterns of overrides are compared with."""
        kinds = {kind_of_values(term.partition("/")[0]) for term in self.terms}
        return kinds.pop() if len(kinds) == 1 and "+" not in self.key else NAMES

    @property
    def refuses(self) -> bool:
        return refuses(OVER if self.action is None else self.action)

    def counts_at(self, stage: str) -> bool:
        """Whether anything is known at ``stage`` of what it counts."""
        if self.count == "bytes":
            return stage == END
        named = {self.counted} | {term.partition("/")[0] for term in self.terms}.union(*self.match, *self.unless)
        return stage == RCPT or not named & {"recipient", "recipient_domain"}

    def applies(self, asked: Asked, time: str) -> bool:
        if self.counted and not _id(self.counted, asked):
            return False
        return (not self.match or holds(self.match, asked, time)) and not holds(self.unless, asked, time)

    def key_of(self, asked: Asked) -> tuple[str, str]:
        """The kind and the id of whose counter it is; no kind: nobody's."""
        found = [(_kind_of_term(term), _id(term, asked)) for term in self.terms]
        if "+" in self.key:
            if all(name for _, name in found):
                return "+".join(kind for kind, _ in found), "+".join(name for _, name in found)
            return "", ""
        return next(((kind, name) for kind, name in found if name or kind == "server"), ("", ""))

    def limits_of(self, name: str) -> tuple[Bound, ...]:
        """Those of the id ``name``, of which that of each mail comes first."""
        found = next(self._overrides_of(name), self.limits)
        return tuple(sorted(found, key=lambda bound: not bound.is_per_mail))

    def _overrides_of(self, name: str) -> Iterator[tuple[Bound, ...]]:
        """The limits of those that ``name`` matches, in their order."""
        for pattern, limits in self.overrides:
            if limits is None:
                text = said_in(pattern.removeprefix("$"), name, self.compares)
                if text is not None:
                    yield _bounds_in(text)
            elif matches(pattern, name, self.compares):
                yield limits

    def cost(self, asked: Asked) -> int:
        """What is known of the cost of the mail."""
        if self.count == "bytes":
            return int(asked["size"])
        if self.counted or self.count == "messages" or asked["protocol_state"] == RCPT:
            return 1
        return max(1, int(asked["recipient_count"]))


def as_text(rules: Iterable[Said]) -> str:
    """``rules`` as a file has them: what is JSON is YAML."""
    return json.dumps({"tables": TABLES, "rules": {rule.name: rule.written() for rule in rules}})


def _limits(limits: Sequence[Bound]) -> object:
    """Each of the ways in which limits may be written."""
    written: list[object] = []
    for one in limits:
        if one.is_per_mail:
            written.append(f"{one.maximum}/mail" if one.maximum % 2 else [one.maximum, "mail"])
        else:
            written.append(f"{one.maximum}/{one.seconds}s" if one.maximum % 2 else [one.maximum, one.seconds])
    return written[0] if len(written) == 1 else written


def said_in(table: str, value: str, kind: str) -> str | None:
    """What ``table`` says of ``value``: the text of the first entry that it matches; an entry without one is it."""
    entries = TABLES[table]
    if not value:
        return None
    pairs = entries.items() if isinstance(entries, Mapping) else [(entry, entry) for entry in entries]
    return next((text for pattern, text in pairs if matches(pattern, value, kind)), None)


def _bounds_in(text: str) -> tuple[Bound, ...]:
    """Limits as tables have them here."""
    if text.startswith("["):
        return tuple(Bound(maximum, seconds) for maximum, seconds in json.loads(text))
    parts = (part.strip().removesuffix("s").split("/") for part in text.split(","))
    return tuple(Bound(int(maximum), int(seconds)) for maximum, seconds in parts)


def _asked_of_table(name: str) -> tuple[str, str]:
    """The table and the attribute of ``$table(attribute)``."""
    table, _, attribute = name.removeprefix("$").removesuffix(")").partition("(")
    return table, attribute


def _kind_of_term(term: str) -> str:
    return term.partition("(")[0] if term.startswith("$") else KIND_OF_TERM[term.partition("/")[0]]


def kind_of_values(attribute: str) -> str:
    """How the values of an attribute, or of a term, are compared."""
    if attribute.startswith("$"):
        return NAMES
    if attribute.endswith("_domain"):
        return DOMAINS
    return ADDRESSES if attribute == "client_address" else NAMES


def spelt(text: str) -> str:
    """All spellings of a name are this one; of domains with other characters there is one."""
    return text.lower().replace("bücher", "xn--bcher-kva")


def refuses(action: str) -> bool:
    word = action.split()[0].lower()
    return word in {"reject", "defer", "defer_if_permit", "discard"} or re.fullmatch("[45][0-9][0-9]", word) is not None


def value_of(name: str, asked: Asked) -> str:
    """That of an attribute, also of one that is made of another, or what a table says of one."""
    if name.startswith("$"):
        table, attribute = _asked_of_table(name)
        return said_in(table, value_of(attribute, asked), kind_of_values(attribute)) or ""
    if name in _MADE_OF:
        _, at, domain = str(asked[_MADE_OF[name]]).rpartition("@")
        return domain if at else ""
    return str(asked[name])


def _id(term: str, asked: Asked) -> str:
    if term.startswith("$"):
        return spelt(value_of(term, asked))
    name, *lengths = term.split("/")
    if name == "server":
        return ""
    if name != "client_address":
        return spelt(value_of(name, asked))
    try:
        address = ipaddress.ip_address(asked[name])
    except ValueError:
        return ""
    ipv4, ipv6 = map(int, lengths or ("32", "64"))
    network = ipaddress.ip_network((address, ipv4 if address.version == 4 else ipv6), strict=False)
    return str(network) if network.prefixlen < network.max_prefixlen else str(network.network_address)


def matches(pattern: str, value: str, kind: str) -> bool:
    if pattern == "":
        return value == ""
    if pattern.startswith("$"):
        table, says, wanted = pattern.removeprefix("$").partition("=")
        text = said_in(table, value, kind)
        return text is not None and (not says or spelt(text) == spelt(wanted))
    if kind == ADDRESSES:
        try:
            network = ipaddress.ip_network(value)
        except ValueError:
            return pattern[0] == "/" and re.search(pattern[1:-1], value, re.IGNORECASE) is not None
        if pattern[0] != "/":
            other = ipaddress.ip_network(pattern)
            return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
        value = value.lower()
    if pattern[0] == pattern[-1] == "/":
        return re.search(pattern[1:-1], spelt(value), re.IGNORECASE) is not None
    return _is_like(spelt(pattern), spelt(value))


def _is_like(glob: str, value: str) -> bool:
    if not glob:
        return not value
    if glob[0] == "*":
        return any(_is_like(glob[1:], value[at:]) for at in range(len(value) + 1))
    return bool(value) and glob[0] in ("?", value[0]) and _is_like(glob[1:], value[1:])


def holds(alternatives: Iterable[Mapping[str, Sequence[str]]], asked: Asked, time: str) -> bool:
    """Whether of one of the alternatives each attribute has a value that one of its patterns matches."""

    def has(name: str, pattern: str) -> bool:
        if name == "time":
            begin, _, end = pattern.partition("-")
            return begin <= time < end if begin < end else time >= begin or time < end
        return matches(pattern, value_of(name, asked), kind_of_values(name))

    return any(
        all(any(has(name, pattern) for pattern in patterns) for name, patterns in one.items()) for one in alternatives
    )


@dataclass
class Charge:
    """``amount`` of it is left; it was made at the moment ``true``, and is dated ``date`` by the clock.

    ``value``: where different ones are counted.
    """

    counter: str
    mail: str
    amount: int
    date: int
    true: float
    value: str = ""


class Answer(NamedTuple):
    """The action; and what each rule that was exceeded, or that was not, has come to: admitted, refused and so on.

    ``warned``: rule, maximum and seconds of each limit that has come to what is warned of, and what is used of it.
    """

    action: str
    told: tuple[tuple[str, str], ...]
    warned: tuple[tuple[str, int, int, int], ...] = ()

    @property
    def refused(self) -> bool:
        return "refused" in dict(self.told).values()


@dataclass
class _Asking:
    rule: Said
    counter: str
    mail: str
    name: str
    limits: tuple[Bound, ...]
    missing: int
    part: str = ""
    value: str = ""
    exceeded: Bound | None = None


@dataclass
class Model:
    """What was counted, and what is known of each mail. Time is whole seconds, and errs to the strict side."""

    charges: list[Charge] = field(default_factory=list)
    parts: set[tuple[str, str, str]] = field(default_factory=set)
    limits: dict[str, tuple[Bound, ...]] = field(default_factory=dict)
    clock: float = -math.inf

    def used(self, counter: str, seconds: int, now: int | None = None) -> int:
        """What lies in the window at ``now``, which is the last moment that it was asked at unless given."""
        moment = math.floor(self.clock) if now is None else now
        return _count(one for one in self.charges if one.counter == counter and one.date + seconds > moment)

    def used_with(self, asking: _Asking, seconds: int, now: int | None = None) -> int:
        """What lies in the window once that is counted which is asked for."""
        moment = math.floor(self.clock) if now is None else now
        if not asking.value:
            return self.used(asking.counter, seconds, moment) + asking.missing
        one_more = Charge(asking.counter, "", 1, moment + 1, 0.0, asking.value)
        return _count(
            one for one in (*self.charges, one_more) if one.counter == asking.counter and one.date + seconds > moment
        )

    def admitted_within(self, counter: str, seconds: int, true: float) -> int:
        """What was admitted in the last ``seconds`` before ``true``, and was not given back since."""
        return _count(one for one in self.charges if one.counter == counter and one.true > true - seconds)

    def would_return(self, clock: float) -> bool:
        """Whether with ``clock`` something would lie in a window again that has left all windows of its counter.

        Whether the program still has that, nobody promises: it drops such things when it sees fit.
        """
        longest = {counter: max(one.seconds for one in limits) for counter, limits in self.limits.items()}
        return any(math.floor(clock) < one.date + longest[one.counter] <= self.clock for one in self.charges)

    def ask(self, rules: Iterable[Said], asked: Asked, clock: float, true: float = 0.0) -> Answer:
        """``clock`` (Unix seconds) may step back, ``true`` does not."""
        charged = self._charged(rules, asked, clock)
        if charged:
            self._notice(clock)
        for one in charged:
            if one.missing > 0:
                one.exceeded = next(
                    (bound for bound in one.limits if self._would_be_used(one, bound) > bound.maximum), None
                )
        exceeded = [one for one in charged if one.exceeded is not None]
        refusing = [one for one in exceeded if one.rule.refuses and not one.rule.shadow]
        warned: list[tuple[str, int, int, int]] = []
        if not refusing:
            for one in charged:
                if one.exceeded is None:
                    before = [self._used_of(one, bound) for bound in one.limits]
                    self._count(one, true)
                    warned += self._warned(one, before)
        answer = self._action(exceeded, refusing, asked)
        return Answer(answer, tuple(_told(charged, is_refused=bool(refusing))), tuple(warned))

    def charged(self, rules: Iterable[Said], asked: Asked, clock: float) -> list[str]:
        """The names of the rules that charge somebody for it, whatever is decided then."""
        return [one.rule.name for one in self._charged(rules, asked, clock)]

    def _warned(self, one: _Asking, before: Sequence[int]) -> Iterable[tuple[str, int, int, int]]:
        """The limits of which less than so many hundredths were used ``before``, and are not any more."""
        for bound, then in zip(one.limits, before, strict=True):
            now = self._used_of(one, bound)
            if bound.is_per_mail:
                continue
            if one.rule.warn and now > then and 100 * then < one.rule.warn * bound.maximum <= 100 * now:
                yield one.rule.name, bound.maximum, bound.seconds, now

    def _charged(self, rules: Iterable[Said], asked: Asked, clock: float) -> list[_Asking]:
        """What each rule asks for."""
        stage, mail = str(asked["protocol_state"]), str(asked["instance"])
        time = datetime.fromtimestamp(clock).strftime("%H:%M")
        found = []
        for rule in rules:
            kind, name = rule.key_of(asked)
            limits = rule.limits_of(name)
            if not (rule.counts_at(stage) and rule.applies(asked, time) and kind and limits):
                continue
            one = _Asking(rule, f"{rule.counters}{kind}:{name}", mail, name, limits, rule.cost(asked))
            self.limits[one.counter] = limits
            if rule.counted:
                one.value = _id(rule.counted, asked)
            elif rule.count == "recipients" and stage == RCPT:
                one.part = str(asked["recipient"])
                one.missing = 0 if (mail, one.counter, one.part) in self.parts else 1
            else:
                one.missing -= self.used_of_mail(mail, one.counter)
            found.append(one)
        return found

    def used_of_mail(self, mail: str, counter: str) -> int:
        """What ``mail`` was charged on ``counter``, and has not got back."""
        return sum(one.amount for one in self._of_mail(mail, counter))

    def _used_of(self, one: _Asking, bound: Bound) -> int:
        """What is used of ``bound``."""
        if bound.is_per_mail:
            return self.used_of_mail(one.mail, one.counter)
        return self.used(one.counter, bound.seconds)

    def _would_be_used(self, one: _Asking, bound: Bound) -> int:
        """What is used of ``bound`` once that is counted which is asked for."""
        if bound.is_per_mail:
            return self._used_of(one, bound) + one.missing
        return self.used_with(one, bound.seconds)

    def _of_mail(self, mail: str, counter: str) -> list[Charge]:
        return [one for one in self.charges if one.mail == mail and one.counter == counter]

    def _notice(self, clock: float) -> None:
        """Nothing has happened later than now."""
        if math.floor(clock) < self.clock:
            for one in self.charges:
                one.date = min(one.date, math.ceil(clock))
        self.clock = clock

    def _count(self, one: _Asking, true: float) -> None:
        mail = one.mail
        if one.missing > 0:
            date = math.ceil(self.clock)
            self.charges.append(Charge(one.counter, mail, one.missing, date, true, one.value))
        for of in reversed(self._of_mail(mail, one.counter)):
            taken = min(max(0, -one.missing), of.amount)
            of.amount -= taken
            one.missing += taken
        if one.part:
            self.parts.add((mail, one.counter, one.part))

    def _action(self, exceeded: Sequence[_Asking], refusing: Sequence[_Asking], asked: Asked) -> str:
        """One that refuses decides, else one that holds, else the first."""
        shown = refusing or [one for one in exceeded if not one.rule.shadow]
        if not shown:
            return "dunno"
        holding = [one for one in shown if (one.rule.action or OVER).split()[0].lower() == "hold"]
        deciding = (shown if refusing else holding or shown)[0]
        return self._filled(deciding, asked)

    def _filled(self, one: _Asking, asked: Asked) -> str:
        bound = one.exceeded
        assert bound is not None
        values = {
            "rule": one.rule.name,
            "key": one.name or "server",
            "limit": f"{bound.maximum}/{bound.period}",
            "maximum": bound.maximum,
            "period": bound.period,
            "used": self._used_of(one, bound),
            "free_in": self._free_in(one, bound),
        }
        return re.sub(r"\{(\w+)\}", lambda found: str({**asked, **values}[found[1]]), one.rule.action or OVER)

    def _free_in(self, one: _Asking, bound: Bound) -> str:
        if bound.is_per_mail:
            return "never"
        now = math.floor(self.clock)
        for later in range(bound.seconds + 2):
            if self.used_with(one, bound.seconds, now + later) <= bound.maximum:
                return f"{later}s"
        return "never"


def _count(charges: Iterable[Charge]) -> int:
    """What they add up to: of different values each counts once."""
    values, amount = set(), 0
    for one in charges:
        if one.value:
            values.add(one.value)
        else:
            amount += one.amount
    return amount + len(values)


def _told(charged: Iterable[_Asking], *, is_refused: bool) -> Iterable[tuple[str, str]]:
    for one in charged:
        if one.exceeded is None:
            if not is_refused:
                yield one.rule.name, "admitted"
        elif one.rule.shadow:
            yield one.rule.name, "would-refuse"
        elif one.rule.refuses:
            yield one.rule.name, "refused"
        elif not is_refused:
            yield one.rule.name, "marked"
