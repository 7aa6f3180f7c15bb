"""Rules and mails that Hypothesis makes up: of few users and addresses, so that they meet; and Postfix, which asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import strategies as st

from support.model_of_rules import (
    ADDRESSES,
    DATA,
    DOMAINS,
    END,
    NAMES,
    PER_MAIL,
    RCPT,
    Asked,
    Bound,
    Said,
    kind_of_values,
)

WINDOWS: Final = (2, 5, 20, 60)
LONGEST: Final = max(WINDOWS)

KEYS: Final = (
    "sasl_username",
    "sasl_username",
    "sasl_domain",
    "sender",
    "client_address",
    "client_address/24/56",
    "server",
    "recipient",
    "recipient_domain",
    "sasl_username+client_address",
    "sasl_domain + sender_domain",
    "sasl_username|sender",
    "sasl_username | client_address | server",
    "$people(sasl_username)",
    "$people(sasl_username)|sender",
)
USERS: Final = ("alice@example.org", "Bob@Example.ORG", "bob@example.org", "carol@bücher.example", "root", "")
SENDERS: Final = ("alice@example.org", "news@xn--bcher-kva.example", "")
CLIENTS: Final = (
    "192.0.2.1",
    "192.0.2.200",
    "198.51.100.7",
    "2001:db8:0:1::1",
    "2001:DB8:0:1::2",
    "2001:db8:0:ff::3",
    "2001:db8:0:100::4",
    "unknown",
)
RECIPIENTS: Final = ("x@example.net", "X@EXAMPLE.net", "y@example.net", "z@example.com")
SIZES: Final = (0, 100, 400, 1000)
CONTEXTS: Final = ("", "mx")

PATTERNS: Final = {
    NAMES: (
        "alice@example.org",
        "ALICE@*",
        "*@example.org",
        "*@bücher.example",
        "/^bob/",
        "?oot",
        "",
        "*",
        "$people",
        "$people=business",
        "$people=TRIAL",
    ),
    DOMAINS: ("example.org", "*.example", "BÜCHER.example", "/^ex/", "", "$home"),
    ADDRESSES: ("192.0.2.0/24", "192.0.2.1", "2001:db8::/48", "2001:db8:0:1::/64", "/^2001/", "", "$near"),
}
OF_COMBINATIONS: Final = (*PATTERNS[NAMES], "*@example.org+*", "/\\+192/", "192.0.2.*")
OF_ATTRIBUTES: Final = {
    "recipient": ("x@example.net", "*@example.NET", "/^z/"),
    "recipient_domain": ("example.net", "*.com"),
    "policy_context": ("MX", "m*", ""),
}
OF_TABLES: Final = ("business", "Tri*", "/^t/", "")
HOURS: Final = ("12:00-12:01", "12:01-11:59")  # both begin or end while mails come

TEXT: Final = "450 4.7.1 {rule} {key} {sender}: {limit}, {used} of {maximum} in {period}, next in {free_in}"
REFUSING: Final = (None, TEXT, "550 5.7.1 {key}", "reject no", "DEFER later", "discard")
LETTING_PASS: Final = ("hold", "HOLD {key}: {used}", "prepend X-Rate: {rule}", "warn {limit}", "defer_if_reject no")

_MAXIMA: Final = {
    "recipients": (0, 1, 2, 2, 3, 4, 6),
    "messages": (0, 1, 1, 2, 3),
    "bytes": (0, 400, 999, 1500, 2500),
    "distinct": (0, 1, 1, 2, 2, 3),
}
_DISTINCT: Final = ("recipient", "recipient_domain", "client_address", "sender", "sasl_username", "policy_context")


def limits_for(count: str, longest: int = 0) -> st.SearchStrategy[tuple[Bound, ...]]:
    """One to four, one of them per mail; with ``longest`` one of so many seconds: nothing is forgotten before."""
    maxima = st.sampled_from(_MAXIMA[count.partition(" ")[0]])
    windows = st.sampled_from([one for one in WINDOWS if one != longest])
    some = st.lists(
        st.builds(Bound, maxima, windows),
        min_size=0 if longest else 1,
        max_size=2 if longest else 3,
        unique_by=lambda one: one.seconds,
    )
    if longest:
        some = st.builds(lambda limits, last: [*limits, last], some, st.builds(Bound, maxima, st.just(longest)))
    of_mail = st.lists(
        st.builds(Bound, maxima, st.just(PER_MAIL)), max_size=1 if count in ("recipients", "bytes") else 0
    )
    seldom: st.SearchStrategy[list[Bound]] = st.one_of(
        st.just([]), of_mail
    )  # of few mails it lets pass enough for other limits to be reached
    return st.builds(lambda limits, at, more: (*limits[:at], *more, *limits[at:]), some, st.integers(0, 4), seldom)


def conditions_for(count: str) -> st.SearchStrategy[tuple[dict[str, list[str]], ...]]:
    """None in most cases."""

    def of(attribute: str) -> st.SearchStrategy[tuple[str, list[str]]]:
        if attribute == "time":
            patterns: Sequence[str] = HOURS
        elif attribute.startswith("$"):
            patterns = OF_TABLES
        else:
            patterns = OF_ATTRIBUTES.get(attribute, PATTERNS[kind_of_values(attribute)])
        several = st.lists(st.sampled_from(patterns), min_size=1, max_size=2, unique=True)
        return st.tuples(st.just(attribute), several)

    names = [
        "sasl_username",
        "sasl_domain",
        "sender",
        "client_address",
        "policy_context",
        "time",
        "$people(sasl_username)",
    ]
    if count != "bytes":
        names += ["recipient", "recipient_domain"]
    one = st.lists(
        st.sampled_from(names).flatmap(of), min_size=1, max_size=2, unique_by=lambda condition: condition[0]
    ).map(dict)
    return st.one_of(st.just([]), st.just([]), st.lists(one, min_size=1, max_size=2)).map(tuple)


@st.composite
def rules(draw: st.DrawFn, name: str = "one", *, longest: int = 0, letting_pass: bool | None = None) -> Said:
    """One; ``letting_pass``: whether its action, and not ``shadow``, lets pass what exceeds it."""
    count = draw(st.sampled_from(["recipients", "recipients", "messages", "bytes", "distinct"]))
    if count == "distinct":
        count = f"distinct {draw(st.sampled_from(_DISTINCT))}"
    key = draw(st.sampled_from([key for key in KEYS if count != "bytes" or not key.startswith("recipient")]))
    said = Said(name, key, count, draw(limits_for(count, longest)))
    patterns = OF_COMBINATIONS if "+" in key or "|" in key else OF_ATTRIBUTES.get(key, PATTERNS[said.compares])
    if key.startswith("$"):
        patterns = (*OF_TABLES, *patterns)
    unlimited: st.SearchStrategy[tuple[Bound, ...]] = st.just(())
    overrides: list[tuple[str, tuple[Bound, ...] | None]] = draw(
        st.lists(
            st.tuples(st.sampled_from(patterns), st.one_of(limits_for(count, longest), unlimited)),
            max_size=2,
            unique_by=lambda override: override[0],
        )
    )
    if said.compares == NAMES and count != "bytes" and draw(st.sampled_from([False, False, True])):
        overrides.insert(draw(st.integers(0, len(overrides))), ("$tiers", None))
    if letting_pass is None:
        letting_pass = draw(st.sampled_from([False, False, True]))
    actions = [
        one for one in (LETTING_PASS if letting_pass else REFUSING) if count != "bytes" or "prepend" not in str(one)
    ]
    return replace(
        said,
        overrides=tuple(overrides),
        match=draw(conditions_for(count)),
        unless=draw(conditions_for(count)),
        action=draw(st.sampled_from(actions)),
        shadow=not letting_pass and draw(st.sampled_from([False, False, True])),
        warn=draw(st.sampled_from([0, 0, 1, 50, 67, 80, 99])),
    )


NAMES_OF_RULES: Final = ("one", "two", "three", "four")


@st.composite
def files(draw: st.DrawFn, *, longest: int = 0, letting_pass: bool | None = None, most: int = 4) -> tuple[Said, ...]:
    """The rules of one file."""
    names = NAMES_OF_RULES[: draw(st.integers(1, most))]
    return tuple(draw(rules(name, longest=longest, letting_pass=letting_pass)) for name in names)


@st.composite
def all_exceeded(draw: st.DrawFn) -> tuple[Said, ...]:
    """Two rules or more that all mails soon exceed, with any actions in any order."""
    all_actions = draw(st.sampled_from([LETTING_PASS, (*LETTING_PASS, *REFUSING)]))
    actions = draw(st.lists(st.sampled_from(all_actions), min_size=2, max_size=4))
    periods = st.sampled_from([(LONGEST,), (LONGEST, PER_MAIL), (PER_MAIL, LONGEST), (PER_MAIL,)])
    maxima = st.integers(0, 2)
    return tuple(
        Said(
            name,
            key=draw(st.sampled_from(("server", "client_address|server"))),
            count="recipients",
            limits=tuple(Bound(draw(maxima), period) for period in draw(periods)),
            action=action,
            shadow=draw(st.sampled_from([False, False, True])),
        )
        for name, action in zip(NAMES_OF_RULES, actions, strict=False)
    )


@st.composite
def overridden(draw: st.DrawFn) -> Said:
    """A rule with several overrides for alice@example.org, whose limits differ."""
    patterns = draw(st.permutations(["alice@example.org", "ALICE@*", "*@example.org", "/^al/", "*"]))
    limits = [(), *((Bound(maximum, LONGEST),) for maximum in range(4))]
    return Said(
        "one",
        key=draw(st.sampled_from(("sasl_username", "sasl_username|sender"))),
        count="recipients",
        limits=(Bound(5, LONGEST),),
        overrides=tuple(zip(patterns, draw(st.permutations(limits)), strict=True))[: draw(st.integers(1, 5))],
        action=TEXT,
    )


@st.composite
def changed(draw: st.DrawFn, before: Sequence[Said], generation: int, *, longest: int) -> tuple[Said, ...]:
    """``before`` after somebody has worked on it: rules are new, gone, in another order, and say other things.

    A rule that is new has a name that none had before.
    """
    found: list[Said] = []
    for rule in before:
        what = draw(st.sampled_from(["same", "same", "limits", "all", "gone"]))
        if what == "limits":
            found.append(replace(rule, limits=draw(limits_for(rule.count, longest))))
        elif what == "all":
            found.append(draw(rules(rule.name, longest=longest)))
        elif what == "same":
            found.append(rule)
    if len(found) < 4 and (not found or draw(st.booleans())):
        found.append(draw(rules(f"new-{generation}", longest=longest)))
    return tuple(draw(st.permutations(found)))


@dataclass(frozen=True)
class Mail:
    """What a client wants to send. ``turned_down``: so many recipients Postfix does not take, which nobody is told."""

    sasl_username: str
    sender: str
    client_address: str
    policy_context: str
    recipients: tuple[str, ...]
    size: int
    turned_down: int = 0


MAILS: Final = st.builds(
    Mail,
    sasl_username=st.sampled_from(USERS),
    sender=st.sampled_from(SENDERS),
    client_address=st.sampled_from(CLIENTS),
    policy_context=st.sampled_from(CONTEXTS),
    recipients=st.lists(st.sampled_from(RECIPIENTS), min_size=1, max_size=4).map(tuple),
    size=st.sampled_from(SIZES),
    turned_down=st.sampled_from([0, 0, 0, 1, 2]),
)

NEXT, AGAIN, DROP, WAIT, BACK, RELOAD = "next", "again", "drop", "wait", "back", "reload"

Step = tuple[str, int]
"""What happens, and to which mail, or how much."""

SLOTS: Final = 3
WAITS: Final = (0.0, 0.5, 1.0, 2.0, 5.25, 19.0)


def steps(*others: str) -> st.SearchStrategy[list[Step]]:
    """Mostly the next requests of mails; now and then time passes, and ``others`` of what may happen do.

    By itself Hypothesis makes lists too short for a limit to be reached; they shrink to waits that take no time.
    """
    kinds = (WAIT, *(NEXT,) * 12, AGAIN, DROP, WAIT, WAIT, *others)
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5)), min_size=25, max_size=50)


class Conversation:
    """One mail as Postfix asks about it: each recipient, then DATA with all that were taken, then the end of it."""

    def __init__(self, mail: Mail, instance: str) -> None:
        self.instance = instance
        self._mail = mail
        self._taken: list[str] = []
        self._asked = 0
        self._last: Asked | None = None

    def next(self) -> Asked | None:
        """The next request; None: there is no further one."""
        mail, at = self._mail, self._asked - len(self._mail.recipients)
        if at < 0:
            self._last = self._of(RCPT, recipient=mail.recipients[self._asked])
        else:
            taken = self._taken[: max(1, len(self._taken) - mail.turned_down)]
            if at > 1 or not taken:
                return None
            only = taken[0] if len(taken) == 1 else ""
            size = mail.size if at else 0
            self._last = self._of((DATA, END)[at], recipient=only, recipient_count=len(taken), size=size)
        self._asked += 1
        return self._last

    def again(self) -> Asked | None:
        """The last request, whose answer was lost."""
        if self._last is not None and self._last["protocol_state"] == RCPT and self._took_last:
            self._taken.pop()
        return self._last

    def answered(self, *, refused: bool) -> None:
        """The last request is refused, or is not."""
        assert self._last is not None
        is_recipient = self._last["protocol_state"] == RCPT
        self._took_last = is_recipient and not refused
        if self._took_last:
            self._taken.append(str(self._last["recipient"]))
        elif refused and not is_recipient:
            self._asked = len(self._mail.recipients) + 2

    def _of(self, stage: str, **attributes: str | int) -> Asked:
        mail = self._mail
        return {
            "protocol_state": stage,
            "instance": self.instance,
            "sasl_username": mail.sasl_username,
            "sender": mail.sender,
            "client_address": mail.client_address,
            "policy_context": mail.policy_context,
            "recipient": "",
            "recipient_count": 0,
            "size": 0,
            **attributes,
        }


class Postfix:
    """Mails that come at the same time, through :data:`SLOTS` connections, one after the other through each."""

    def __init__(self, mails: Sequence[Mail]) -> None:
        self._mails = mails
        self._started = 0
        self._open: list[Conversation | None] = [None] * SLOTS

    def requests(self, step: Step) -> Iterator[tuple[Conversation, Asked]]:
        """What is asked by ``step``: one request at the most."""
        kind, number = step
        slot = number % SLOTS
        conversation = self._open[slot]
        if kind == DROP:
            self._open[slot] = None
        elif kind == AGAIN and conversation is not None:
            asked = conversation.again()
            if asked is not None:
                yield conversation, asked
        elif kind == NEXT:
            asked = conversation.next() if conversation is not None else None
            if conversation is None or asked is None:
                conversation = self._open[slot] = Conversation(
                    self._mails[self._started % len(self._mails)], f"{self._started:x}.0"
                )
                self._started += 1
                asked = conversation.next()
                assert asked is not None
            yield conversation, asked

    def drop_all(self) -> None:
        """All connections break."""
        self._open = [None] * SLOTS


def plain_requests(mails: Sequence[Mail], happening: Sequence[Step]) -> list[Asked | float]:
    """What Postfix asks where nothing is refused, and for how long it waits meanwhile."""
    postfix, found = Postfix(mails), list[Asked | float]()
    for step in happening:
        if step[0] == WAIT:
            found.append(WAITS[step[1]])
        for conversation, asked in postfix.requests(step):
            conversation.answered(refused=False)
            found.append(asked)
    return found
