"""What rules and tables have to agree on: a rule may name only tables that there are, with entries of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

from policyd_rate_limit.config.databases import DATABASES, REDIS
from policyd_rate_limit.config.kind import Fault, Place
from policyd_rate_limit.config.placeholders import wrong_placeholder
from policyd_rate_limit.config.tables import FILE, IN_PLACE, REDIS_HASH, SQL, TableSettings
from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.listed import parse_entry
from policyd_rate_limit.domain.rules.patterns import PatternError, parse_pattern
from policyd_rate_limit.domain.rules.tables import LIMITS, kind_of_attribute, limits_in, table_and_attribute

if TYPE_CHECKING:
    from policyd_rate_limit.config.rules import RuleSettings
    from policyd_rate_limit.config.schema import Settings

MOST_HINTS: Final = 20
"""How often the nearest name is looked for, which takes a millisecond."""

MOST_FAULTS: Final = 20
"""How many wrong entries of one table are told."""


class Reference(NamedTuple):
    """A rule asks ``table`` about values of ``kind`` at ``place``; ``unit``: for limits that are counted in it."""

    table: str
    kind: str
    place: Place
    unit: str = ""


def references(rule: RuleSettings, ipv6_prefix: int) -> Iterator[Reference]:
    """All tables that ``rule`` names."""
    place: Place = ("rules", rule.name)
    key = parse_key(rule.key, ipv6_prefix)
    for term in key.terms:
        if (found := table_and_attribute(term.name)) is not None:
            yield Reference(found[0], KINDS[found[1]], (*place, "key"))
    for text, limits in rule.overrides:
        if text.startswith("$"):
            pattern = parse_pattern(text, key.compared_as())
            its_place = (*place, "overrides", text) if limits is not None else (*place, "overrides")
            yield Reference(pattern.table, key.compared_as(), its_place, rule.unit if limits is None else "")
    for word, alternatives in (("match", rule.match), ("unless", rule.unless)):
        for alternative in alternatives:
            for attribute, texts in alternative:
                its_place = (*place, word, attribute)
                if (found := table_and_attribute(attribute)) is not None:
                    yield Reference(found[0], KINDS[found[1]], its_place)
                for text in texts:
                    if text.startswith("$"):
                        kind = kind_of_attribute(attribute)
                        yield Reference(parse_pattern(text, kind).table, kind, its_place)


def kinds_asked(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Of each table the kinds of values that rules ask it about; none where no rule asks it."""
    kinds: dict[str, dict[str, None]] = {table.name: {} for table in settings.tables}
    for rule in settings.rules:
        for reference in references(rule, settings.ipv6_prefix):
            kinds[reference.table][reference.kind] = None
    return {name: tuple(found) for name, found in kinds.items()}


def units_asked(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Of each table in what the limits are counted that rules take of it; none where they take none."""
    units: dict[str, dict[str, None]] = {table.name: {} for table in settings.tables}
    for rule in settings.rules:
        for reference in references(rule, settings.ipv6_prefix):
            if reference.unit:
                units[reference.table][reference.unit] = None
    return {name: tuple(found) for name, found in units.items()}


def wrong_references(settings: Settings) -> dict[str, tuple[Fault, ...]]:
    """What is wrong in ``rules`` and ``tables`` that are each right by themselves, by the name of the setting."""
    tables = {table.name: table for table in settings.tables}
    of_rules: list[Fault] = []
    of_tables = [fault for table in settings.tables for fault in _of_backend(table, settings.backend)]
    uses: dict[tuple[str, str, str], None] = {}
    for rule in settings.rules:
        for reference in references(rule, settings.ipv6_prefix):
            if reference.table in tables:
                uses[reference.table, reference.kind, reference.unit] = None
            else:
                hint = _hint(reference.table, tables) if len(of_rules) < MOST_HINTS else ""
                expected = f"one of the tables {', '.join(tables)}{hint}" if tables else "a table that tables has"
                of_rules.append(Fault(f"${reference.table}", expected, reference.place[1:]))
    for name, kind, unit in uses:
        of_tables += list(_of_entries(tables[name], kind, unit))[:MOST_FAULTS]
    found = {"rules": tuple(of_rules), "tables": tuple(dict.fromkeys(of_tables))}
    return {name: faults for name, faults in found.items() if faults}


def _hint(name: str, known: dict[str, TableSettings]) -> str:
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _of_backend(table: TableSettings, backend: int | str) -> Iterator[Fault]:
    """What the database in use cannot do."""
    place: Place = (table.name,)
    placeholder = DATABASES[backend].placeholder
    if table.kept == SQL:
        if placeholder is None:
            yield Fault(f"{SQL}:", f"{REDIS_HASH}:HASH with backend {REDIS}, which has no SQL", place)
        elif wrong := wrong_placeholder(query_for(table, backend), placeholder):
            yield Fault(f"{SQL}:{table.place}", wrong.removeprefix("expected "), place)
    elif table.kept == REDIS_HASH and backend != REDIS:
        yield Fault(f"{REDIS_HASH}:{table.place}", f"{SQL}:QUERY, {FILE}:PATH, a list or a mapping", place)


def query_for(table: TableSettings, backend: int | str) -> str:
    """The query of a table as the driver of ``backend`` takes it: SQLite's placeholder may be written %s as well."""
    query = table.place
    if DATABASES[backend].placeholder == "?" and wrong_placeholder(query, "?") and not wrong_placeholder(query, "%s"):
        return query.replace("%s", "?").replace("%%", "%")
    return query


def _of_entries(table: TableSettings, kind: str, unit: str) -> Iterator[Fault]:
    """Entries in place that can be no values of ``kind``, or that say no limits of ``unit`` where they have to."""
    if table.kept != IN_PLACE:
        return
    is_list = all(said is None for _, said in table.entries)
    if is_list and unit and table.entries:
        yield Fault(table.entries[0][0], "a mapping to limits: a rule takes its limits of it", (table.name,))
        return
    for index, (text, said) in enumerate(table.entries):
        place: Place = (table.name, index) if is_list else (table.name, text)
        try:
            parse_entry(text, kind)
        except PatternError as error:
            yield Fault(text, error.expected, place)
        if unit and said is not None and limits_in(said, unit) is None:
            yield Fault(said, LIMITS, place)
