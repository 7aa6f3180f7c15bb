"""The limits in force for an id: an override, the table of ``sql_limits_by_id``, or the configuration."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.domain.counter import DEFAULT, kind_of, prefix_and_key, rule_and_key
from policyd_rate_limit.domain.ids import canonical_id, id_of_key, looks_like_a_pattern
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.domain.rules.asked import Asked
from policyd_rate_limit.domain.rules.attributes import domain_of
from policyd_rate_limit.domain.rules.facts import NO_FACTS, Facts
from policyd_rate_limit.domain.rules.keys import DOMAIN_KINDS
from policyd_rate_limit.errors import StoreError
from policyd_rate_limit.storage.administration import longest_window
from policyd_rate_limit.tables.source import BlockingSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from policyd_rate_limit.domain.entry import Entry
    from policyd_rate_limit.domain.identity import Subjects
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.domain.rules.tables import Table
    from policyd_rate_limit.policy import Rule
    from policyd_rate_limit.storage.administration import Administration, Override


class InForce(NamedTuple):
    """The ``limits`` of a counter and where they come from: ``override``, or the name of a setting.

    ``shadow``: they are of a rule that refuses nothing, and only tells what it would refuse.
    """

    limits: Limits
    source: str
    override: Override | None = None
    shadow: bool = False


class NotAnId(ValueError):
    """A name stands for no key: what is wrong with it is in the message."""


class Desk:
    """What an administrator has before them: ``store``, and the ``rules`` by which the daemons charge.

    ``rules`` are known by their names. ``subjects`` are those of the settings of version 1, whether there is a rule of
    theirs or not. ``longest`` is the longest window of the configuration (seconds). ``table`` gives the limits that
    ``sql_limits_by_id`` has for the first of some ids that it knows, None when it knows none of them; it is None where
    that is not set. ``max_ids`` bounds the memory. Whatever asks the store raises StoreError when it does not answer.
    """

    def __init__(
        self,
        store: Administration,
        subjects: Subjects,
        rules: Sequence[Rule],
        *,
        longest: int,
        table: Callable[[Sequence[str]], Limits | None] | None,
        max_ids: int,
        tables: Mapping[str, Table] | None = None,
    ) -> None:
        self.store = store
        self.subjects = subjects
        self.rules = {rule.name: rule for rule in rules}
        self._by_prefix = {rule.prefix: rule for rule in rules}
        self.table = table
        self.tables = tables or {}
        self.max_ids = max_ids
        self._longest = longest
        self._is_seen: Callable[[str], bool] | None = None

    def limited_to(self, is_seen: Callable[[str], bool]) -> Desk:
        """This desk, at which a name stands for those of its counters alone of which ``is_seen`` says so.

        A name that stands for no such counter still stands for all of them, so that whoever asks is told whose it is.
        """
        limited = copy.copy(self)
        limited._is_seen = is_seen
        return limited

    def keys(self, name: str, rule: str | None = None) -> tuple[str, ...]:
        """The counters that ``name`` stands for, as an administrator writes it; ``rule``: in that rule alone.

        Of rules those that are keyed by it alone: a user's, not those of their domain or of the server. Raises NotAnId.
        """
        found: list[str] = []
        why = ""
        for one in self._chosen(rule):
            try:
                found += map(one.counter, one.subjects.keys_of_id(name))
            except ValueError as error:
                why = why or str(error)
        given = name.partition(":")[0]
        if given.startswith("$") and any(kind_of(counter) == given for counter in found):
            found = [counter for counter in found if kind_of(counter) == given]
        elif looks_like_a_pattern(name):
            domains = [counter for counter in found if kind_of(counter) in DOMAIN_KINDS]
            found = domains or found
        elif "@" in name:
            found = [counter for counter in found if not _is_shared_by_some(kind_of(counter))]
        if not found:
            raise NotAnId(why or f"{name} is the key of no rule{self._keyed(rule)}")
        if self._is_seen is not None:
            found = list(filter(self._is_seen, found)) or found
        return tuple(dict.fromkeys(found))

    def shared(self, name: str) -> tuple[str, ...]:
        """The counters that ``name`` shares with others in rules: of its domain, of what tables say, of the server."""
        domain = domain_of(name.partition(":")[2] if name.startswith(("user:", "sender:")) else name)
        found = [
            one.counter(key)
            for one in self.rules.values()
            for kind in one.subjects.kinds
            if kind == "server" or (kind in DOMAIN_KINDS and domain)
            for key in one.subjects.keys_of_id("server" if kind == "server" else f"{kind}:{domain}")
        ]
        return tuple(dict.fromkeys([*found, *self._shared_by_table(name)]))

    def _shared_by_table(self, name: str) -> Iterator[str]:
        """The counters that ``name`` shares with those of whom a table says the same; it is asked at once."""
        user = name.partition(":")[2] if name.startswith(("user:", "sender:")) else name
        request = Request("", "", "", user, user, "", user, 0)
        request.facts = Facts(self.store.now())
        for rule in self.rules.values():
            if any(kind.startswith("$") for kind in rule.subjects.kinds):
                charged = rule.subjects.charged(request)
                if charged is not None and kind_of(charged.key).startswith("$"):
                    yield rule.counter(charged.key)

    def _keyed(self, rule: str | None) -> str:
        """Which rules there are, by which keys: not for whom this desk is limited."""
        if self._is_seen is not None:
            return ""
        keyed = (f"{one.name} by {one.subjects.key_text}" for one in self._chosen(rule) if one.subjects.key_text)
        return f"; keyed are {', '.join(keyed) or 'none'}"

    def _chosen(self, rule: str | None) -> Sequence[Rule]:
        if rule is None:
            return tuple(self.rules.values())
        if rule not in self.rules:
            rules = f"; rules are {', '.join(self.rules)}" if self._is_seen is None else ""
            raise NotAnId(f"there is no rule {rule}{rules}")
        return (self.rules[rule],)

    def silence_tables(self) -> tuple[str, ...]:
        """Ask no table in the database from now on: they say nothing, as if they were empty. Which these are."""
        silenced = []
        for name, table in self.tables.items():
            if isinstance(table, Asked) and isinstance(table.source, BlockingSource):
                table.source.is_silent = True
                silenced.append(name)
        return tuple(silenced)

    def overrides(self) -> dict[str, Override]:
        """Those in force, by key."""
        return {override.key: override for override in self.store.overrides()}

    def longest(self, overrides: Mapping[str, Override]) -> int:
        """The longest window in use, in seconds."""
        return max(self._longest, longest_window(overrides.values()))

    def in_force(
        self, counter: str, override: Override | None, from_table: Limits | None, facts: Facts | None = None
    ) -> InForce:
        """The limits of ``counter``, given what an override and the table of ``sql_limits_by_id`` say.

        ``facts``: what is known of a request; None: there is none, and it is now by the clock of the store.
        """
        prefix, key = prefix_and_key(counter)
        rule = self._by_prefix.get(prefix)
        shadow = rule is not None and rule.shadow
        if override is not None:
            return InForce(override.limits, "override", override, shadow)
        if rule is None:
            return InForce((), "no rule")
        if rule.name != DEFAULT:
            if facts is None:
                facts = Facts(self.store.now()) if rule.asks_facts else NO_FACTS
            return InForce(rule.subjects.limits_of_key(key, facts), f"rules.{rule.name}", None, shadow)
        if from_table is not None:
            return InForce(from_table, "sql_limits_by_id")
        return InForce(*self.subjects.limits_and_setting(key))

    def from_table(self, counter: str, name: str | None = None) -> Limits | None:
        """The limits that ``sql_limits_by_id`` has for ``counter``, which an administrator calls ``name``."""
        rule, key = rule_and_key(counter)
        return self.table(_spellings(key, name)) if self.table and rule == DEFAULT else None

    def limits(self, keys: Iterable[str]) -> dict[str, Limits]:
        """The limits of each of ``keys``, without those that the table of ``sql_limits_by_id`` gives no answer for."""
        overrides = self.overrides()
        found = {}
        for key in keys:
            with contextlib.suppress(StoreError):
                found[key] = self.in_force(key, overrides.get(key), self.from_table(key)).limits
        return found

    def ledger(self, now: int) -> Ledger:
        """An empty one, as of ``now`` (Unix second)."""
        ledger = Ledger(self.max_ids)
        ledger.advance(now)
        return ledger


def _is_shared_by_some(kind: str) -> bool:
    """Whether ids of ``kind`` stand for several users: domains, and what tables say of them."""
    return kind in DOMAIN_KINDS or kind.startswith("$")


def credible(entries: Iterable[Entry], now: int) -> Iterator[Entry]:
    """``entries``, dated no later than one that is counted ``now``, and no earlier than any clock."""
    for entry in entries:
        yield entry if 0 <= entry.date <= now + 1 else replace(entry, date=min(max(entry.date, 0), now + 1))


def _spellings(key: str, name: str | None = None) -> tuple[str, ...]:
    """The ids by which a table may know ``key``, which an administrator calls ``name``; the first known one counts."""
    of_key = id_of_key(key)
    if name is None:
        return (of_key,)
    given = name.removeprefix(key.partition(":")[0] + ":")
    return tuple(dict.fromkeys((canonical_id(given), of_key, given)))
