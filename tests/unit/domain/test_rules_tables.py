"""Tables as rules ask them: in patterns, as attributes, as keys, and for limits."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charging import Charged
from policyd_rate_limit.domain.counting import BYTES, MESSAGES, RECIPIENTS
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.rules.asked import Asked
from policyd_rate_limit.domain.rules.attributes import ADDRESS, DOMAIN, NAME, TIME, VALUE, fold
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.facts import NO_FACTS, Answer, Facts, Question, Source
from policyd_rate_limit.domain.rules.keys import WrongKey, parse_key
from policyd_rate_limit.domain.rules.listed import Listed, parse_entry
from policyd_rate_limit.domain.rules.matching import Patterns
from policyd_rate_limit.domain.rules.patterns import (
    LIMITS_OF_TABLE,
    Pattern,
    PatternError,
    may_take_long,
    parse_pattern,
)
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from policyd_rate_limit.domain.rules.tables import (
    LONGEST_LIMITS,
    REMEMBERED_LIMITS,
    LimitsOfTexts,
    Silent,
    Table,
    attribute_in,
    kind_of_attribute,
    limits_in,
    moment_of,
    reader_of,
    table_and_attribute,
)
from support.asked import asked

HOUR, DAY, WEEK = (Limit(5, 3600),), (Limit(9, 86_400),), (Limit(7, 604_800),)
NOW = 1_790_000_000.0


class Far(Source):
    """A source that has to be asked, and says what is in ``rows`` then; or at once, of what is ``remembered``."""

    def __init__(self, rows: Mapping[str, str], *, remembered: bool = False) -> None:
        super().__init__("far")
        self.rows = rows
        self.remembered = remembered
        self.asked: list[str] = []

    def known(self, value: str) -> Answer | None:
        return Answer(self.rows.get(value)) if self.remembered else None

    def ask(self, value: str, done: Callable[[str | None], None], began: float) -> None:
        self.asked.append(value)
        done(self.rows.get(value))


def found_out(facts: Facts, look: Callable[[], object]) -> int:
    """Look, ask what has to be asked, and look again, until all is known: how often it was asked."""
    rounds = 0
    look()
    while facts.questions:
        rounds += 1
        questions, facts.questions = facts.questions, []
        for question in questions:
            question.source.ask(question.value, partial(facts.learn, question), 0.0)
        look()
    return rounds


def listed(*entries: str, **texts: str) -> Listed:
    return Listed("t", [*((entry, None) for entry in entries), *texts.items()])


def said_of(table: Table, value: str, kind: str, facts: Facts = NO_FACTS) -> str | None:
    return table.of_kind(kind).find(fold(value, kind), facts)


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("$customer(sasl_domain)", ("customer", "sasl_domain")),
        ("$a-b_1(x)", ("a-b_1", "x")),
        ("$customer", None),
        ("customer(x)", None),
        ("$Customer(x)", None),
        ("$customer(x", None),
        ("sender", None),
    ],
)
def test_a_table_that_is_asked_about_an_attribute(name: str, expected: tuple[str, str] | None) -> None:
    assert table_and_attribute(name) == expected
    assert attribute_in(name) == (name if expected is None else expected[1])


def test_what_a_table_says_is_a_value() -> None:
    assert kind_of_attribute("$t(client_address)") == VALUE
    assert kind_of_attribute("client_address") == ADDRESS
    with pytest.raises(KeyError):
        kind_of_attribute("nothing")


# What is listed


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (NAME, "Alice@Example.org", "alice@example.org"),
        (NAME, "bob@example.net", "*@example.net"),
        (NAME, "carol9@x", "/[0-9]@/"),
        (NAME, "dora@x", None),
        (NAME, "192.0.2.1", None),
        (DOMAIN, "x.example.org", "*.example.org"),
        (DOMAIN, "x.example.org.", "*.example.org"),
        (DOMAIN, "example.org", None),
        (ADDRESS, "192.0.2.77", "192.0.2.0/24"),
        (ADDRESS, "::ffff:192.0.2.77", "192.0.2.0/24"),
        (ADDRESS, "192.0.2.0/25", "192.0.2.0/24"),
        (ADDRESS, "192.0.0.0/8", None),
        (ADDRESS, "2001:db8::1", "2001:DB8::/32"),
        (ADDRESS, "no address", None),
        (ADDRESS, "no/address", None),
    ],
)
def test_an_entry_is_a_pattern_of_the_kind_that_is_asked_about(kind: str, value: str, said: str | None) -> None:
    table = listed("alice@example.org", "*@example.net", "/[0-9]@/", "*.example.org", "192.0.2.0/24", "2001:DB8::/32")
    table.of_kind(kind)
    assert said_of(table, value, kind) == said
    assert table.kinds == (kind,)


def test_of_two_entries_the_first_counts_and_says_its_text() -> None:
    table = listed(**{"alice@x": "business", "*@x": "trial"})
    assert [said_of(table, name, NAME) for name in ("alice@x", "bob@x", "bob@y")] == ["business", "trial", None]


def test_other_entries_take_their_place_at_once_for_all_kinds() -> None:
    pauses: list[None] = []
    table = Listed("t", [("192.0.2.1", "before")], lambda: pauses.append(None))
    table.of_kind(ADDRESS)
    table.of_kind(NAME)
    table.replace([("192.0.2.2", "after")] * 300)
    for kind in (ADDRESS, NAME):
        assert said_of(table, "192.0.2.1", kind) is None
        assert said_of(table, "192.0.2.2", kind) == "after"
    assert len(table.entries) == 300
    assert len(pauses) >= 4


def test_whatever_was_made_before_asks_the_entries_that_are_there_now() -> None:
    table = Listed("t", [("alice", "9/1d"), ("b*", "trial"), ("carol", None)])
    tables = {"t": table}
    made = patterns(NAME, tables, "$t=trial", "$t")
    of_limits = keyed(tables, of_table("t"))
    charged = keyed(tables, (parse_pattern("$t", NAME), WEEK))
    says = Condition("$t(sender)", [parse_pattern("trial", VALUE)], tables)
    key = parse_key("$t(sender)", 64, tables)

    def found(name: str) -> tuple[object, ...]:
        request = asked(sender=name, sasl_username=name)
        one, other = of_limits.charged(request), charged.charged(request)
        assert one is not None
        assert other is not None
        assert one.limits == of_limits.limits_of_key(f"user:{name}")
        return made.first(name), one.limits, other.limits, says.holds(request), key.of(request)

    assert found("alice") == (1, DAY, WEEK, False, "$t:9/1d")
    assert found("bob") == (0, HOUR, WEEK, True, "$t:trial")
    assert found("carol") == (1, HOUR, WEEK, False, "$t:carol")
    table.replace([("a*", "trial"), ("alice", "9/1d"), ("bob", "7/1w"), ("bob", "trial")])
    assert found("alice") == (0, HOUR, WEEK, True, "$t:trial")
    assert found("bob") == (1, WEEK, WEEK, False, "$t:7/1w")
    assert found("carol") == (-1, HOUR, HOUR, False, "")


def test_old_entries_go_by_reference_counts() -> None:
    """Neither the table nor whoever asks it keeps them, nor each other, in a cycle."""

    def how_many() -> int:
        return sum(isinstance(thing, Patterns | Listed) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = how_many()
        table = listed("alice", "*@example.org")
        of_kind = table.of_kind(NAME)
        assert how_many() == before + 2
        table.replace([("bob", None)])
        assert how_many() == before + 2
        assert of_kind.find("bob", NO_FACTS) == "bob"
        del table, of_kind
        assert how_many() == before
    finally:
        gc.enable()


def test_a_kind_that_is_asked_about_while_other_entries_take_their_place_is_not_lost() -> None:
    """A reload makes rules of a file that is just reread, each in a thread of its own."""
    waiting, going_on = threading.Event(), threading.Event()

    def pause() -> None:
        if threading.current_thread() is not threading.main_thread():
            waiting.set()
            going_on.wait(20)

    table = Listed("t", [("192.0.2.1", "before")], pause)
    table.of_kind(NAME)
    changing = threading.Thread(target=table.replace, args=([("192.0.2.1", "after")],))
    changing.start()
    assert waiting.wait(20)
    preparing = threading.Thread(target=table.of_kind, args=(ADDRESS,))
    preparing.start()
    going_on.set()
    for thread in (changing, preparing):
        thread.join(20)
    assert [said_of(table, "192.0.2.1", kind) for kind in (NAME, ADDRESS)] == ["after"] * 2


@pytest.mark.parametrize("text", ["", "$other", "$other=x"])
def test_what_is_no_entry(text: str) -> None:
    with pytest.raises(PatternError):
        parse_entry(text, NAME)


def test_an_entry_of_many_is_found_as_fast_as_one_of_few() -> None:
    """Exact ones are hashed, networks searched by their lengths: nothing is tried one by one."""
    table = listed(*(f"user{number}@example.org" for number in range(20_000)))
    assert said_of(table, "USER19999@example.org", NAME) == "user19999@example.org"
    others = table._by_kind[NAME].compared._others
    assert not others._tried.are_any
    assert not others._exact


# What has to be asked


@pytest.mark.parametrize(
    ("kind", "value", "spelled"),
    [
        (NAME, "Alice@BÜCHER.example", "alice@xn--bcher-kva.example"),
        (DOMAIN, "BÜCHER.example.", "xn--bcher-kva.example"),
        (ADDRESS, "2001:DB8:0::1", "2001:db8::1"),
        (ADDRESS, "::ffff:192.0.2.1", "192.0.2.1"),
        (ADDRESS, "192.0.2.0/24", "192.0.2.0/24"),
        (ADDRESS, "x" * 65, "x" * 65),
    ],
)
def test_a_source_is_asked_about_a_value_in_its_one_spelling(kind: str, value: str, spelled: str) -> None:
    table, facts = Asked("t", Far({spelled: "yes"})), Facts(NOW)
    assert said_of(table, value, kind, facts) is None
    assert facts.questions == [Question(table.source, spelled)]
    facts.learn(facts.questions[0], "yes")
    assert said_of(table, value, kind, facts) == "yes"


@pytest.mark.parametrize("value", ["", ".", "x" * 321])
def test_a_source_is_not_asked_about_nothing_and_not_about_what_is_too_long(value: str) -> None:
    facts = Facts(NOW)
    assert said_of(Asked("t", Far({})), value, DOMAIN, facts) is None
    assert facts.questions == []


def test_what_is_known_of_a_value_stays_the_same_for_a_request() -> None:
    rows = {"a": "first"}
    source, facts = Far(rows, remembered=True), Facts(NOW)
    assert facts.said(source, "a") == "first"
    rows["a"] = "second"
    assert facts.said(source, "a") == "first"
    assert facts.said(source, "b") is None
    rows["b"] = "now"
    assert facts.said(source, "b") is None
    assert Facts(NOW).said(source, "a") == "second"


def test_what_two_rules_want_to_know_is_asked_once() -> None:
    source, facts = Far({"a": "x"}), Facts(NOW)
    assert [facts.said(source, value) for value in ("a", "b", "a")] == [None] * 3
    assert facts.questions == [Question(source, "a"), Question(source, "b")]


def test_whoever_may_not_ask_keeps_no_questions() -> None:
    assert NO_FACTS.said(Far({"a": "x"}), "a") is None
    assert NO_FACTS.questions == []
    rows = {"a": "x"}
    source = Far(rows, remembered=True)
    assert NO_FACTS.said(source, "a") == "x"
    rows["a"] = "y"  # and no answers, which would be old ones soon
    assert NO_FACTS.said(source, "a") == "y"


# Patterns


def patterns(kind: str, tables: Mapping[str, Table], *texts: str) -> Patterns:
    return Patterns([parse_pattern(text, kind) for text in texts], kind, tables)


def test_patterns_of_tables_count_in_their_order_among_the_others() -> None:
    tables = {"staff": listed("alice", "bob"), "plan": listed(carol="Business", dora="trial", alice="trial")}
    made = patterns(NAME, tables, "$staff", "alice", "$plan=business", "d*", "$plan=TRIAL", "$nowhere", "$plan")
    found = [made.first(name) for name in ("alice", "bob", "Carol", "dora", "zoe", "")]
    assert found == [0, 0, 2, 3, -1, -1]
    made = patterns(NAME, tables, "alice", "$plan=trial", "$plan")
    assert [made.first(name) for name in ("alice", "dora", "carol")] == [0, 1, 2]


def test_networks_are_looked_for_in_tables() -> None:
    tables = {"campus": listed("192.0.2.0/24")}
    made = patterns(ADDRESS, tables, "198.51.100.0/24", "$campus")
    assert [made.first(text) for text in ("198.51.100.1", "192.0.2.1", "203.0.113.1")] == [0, 1, -1]
    assert [made.first(text) for text in ("192.0.2.0/28", "192.0.0.0/16", "198.51.100.0/25")] == [1, -1, 0]


@pytest.mark.parametrize(
    ("text", "table", "says", "exact"),
    [("$a", "a", False, ""), ("$a=", "a", True, ""), ("$a-b=X=$y", "a-b", True, "x=$y")],
)
def test_how_a_table_is_written(text: str, table: str, says: bool, exact: str) -> None:
    found = parse_pattern(text, NAME)
    assert (found.table, found.says, found.exact) == (table, says, exact)
    assert not may_take_long(found)


@pytest.mark.parametrize("text", ["$", "$A", "$1", "$a b", "$a(x)"])
def test_what_begins_like_a_table_and_is_none(text: str) -> None:
    with pytest.raises(PatternError, match="a table such as"):
        parse_pattern(text, NAME)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1790000000", 1_790_000_000.0),
        ("1790000000.5", 1_790_000_000.5),
        ("2026-11-28T12:00:00+00:00", 1_795_867_200.0),
        ("2026-11-28 12:00:00Z", 1_795_867_200.0),
        ("2026-11-28", time.mktime((2026, 11, 28, 0, 0, 0, 0, 0, -1))),
        (" 2026-11-28 07:30 ", time.mktime((2026, 11, 28, 7, 30, 0, 0, 0, -1))),
        ("0001-01-01", None),
        ("yesterday", None),
        ("", None),
        ("12", None),
    ],
)
def test_dates(text: str, moment: float | None) -> None:
    found = moment_of(text)
    if text != "0001-01-01":  # which some hosts know, and some do not
        assert found == moment


@pytest.mark.parametrize(
    ("pattern", "seconds", "expected"),
    [
        ("<7d", 7 * 86_400 - 1, True),
        ("<7d", 7 * 86_400, False),
        ("< 7d", -3600, True),
        (">30d", 30 * 86_400, False),
        ("> 30 d", 30 * 86_400 + 1, True),
        ("<1w", 604_799, True),
        (">90s", 91, True),
    ],
)
def test_the_age_of_a_date(pattern: str, seconds: float, expected: bool) -> None:
    made = patterns(VALUE, {}, "never", pattern)
    assert (made.first(str(NOW - seconds), Facts(NOW)) == 1) is expected
    assert made.first("unknown", Facts(NOW)) == -1
    assert made.first("", Facts(NOW)) == -1


@pytest.mark.parametrize("text", ["<0d", "<7", "<d", "<1234567d", ">7y"])
def test_what_is_no_age_is_a_name(text: str) -> None:
    assert parse_pattern(text, VALUE).how == "exact"
    assert parse_pattern("<7d", NAME).how == "exact"


# Conditions and keys


def test_a_condition_may_look_at_what_a_table_says() -> None:
    tables = {"plan": listed(alice="Business")}
    made = Condition("$plan(sasl_username)", [parse_pattern("business", VALUE)], tables)
    assert made.holds(asked(sasl_username="ALICE"))
    assert not made.holds(asked(sasl_username="bob"))
    assert made.value(asked(sasl_username="alice")) == "Business"
    nothing = Condition("$plan(sasl_username)", [parse_pattern("", VALUE)], tables)
    assert nothing.holds(asked(sasl_username="bob"))
    assert nothing.holds(asked())
    assert Conditions([[made]]).attributes == {"sasl_username"}


def test_a_table_of_which_nothing_is_known() -> None:
    assert said_of(Silent("x"), "a", NAME) is None
    assert reader_of("$x(sender)", {})(asked(sender="a@b")) == ""
    assert reader_of("sender", {})(asked(sender="a@b")) == "a@b"


def test_whoever_has_to_ask_looks_at_all_that_it_will_need() -> None:
    """So that all that one mail needs is asked at once."""
    source = Far({"alice": "yes", "alice@example.org": "yes"})
    tables = {"t": Asked("t", source)}
    made = Conditions(
        [
            [Condition("$t(sasl_username)", [parse_pattern("yes", VALUE)], tables)],
            [Condition(name, [parse_pattern("$t", NAME)], tables) for name in ("sender", "recipient")],
        ]
    )
    request = asked(sasl_username="bob", sender="alice@example.org", recipient="carol@example.org")
    request.facts = Facts(NOW)
    assert found_out(request.facts, lambda: made.hold(request)) == 1
    assert source.asked == ["bob", "alice@example.org", "carol@example.org"]
    assert not made.hold(request)


def test_a_key_may_be_what_a_table_says() -> None:
    tables = {"customer": listed(**{"example.org": "Acme", "example.net": "ACME", "example.com": "Other+Sons"})}
    key = parse_key("$customer(sasl_domain)", 64, tables)
    assert key.kinds == ("$customer",)
    assert key.attributes == {"sasl_domain"}
    users = ("alice@example.org", "bob@example.net", "carol@example.com", "dora@example.edu", "")
    found = [key.of(asked(sasl_username=user)) for user in users]
    assert found == ["$customer:acme", "$customer:acme", "$customer:other+sons", "", ""]
    assert key.written("ACME") == key.written("$customer:Acme") == ("$customer:acme",)
    both = parse_key("sender|$customer(sender_domain)", 64, tables)
    assert both.of(asked(sender="x@example.org")) == "sender:x@example.org"
    assert both.attributes == {"sender", "sender_domain"}


def test_a_key_asks_about_attributes_alone() -> None:
    with pytest.raises(WrongKey, match="an attribute between the parentheses"):
        parse_key("$customer(nothing)", 64)


def test_what_is_in_memory_asks_for_nothing() -> None:
    here, far = {"t": listed("alice")}, {"t": Asked("t", Far({}))}
    for tables, asks in ((here, False), (far, True), ({}, False)):
        assert Condition("sender", [parse_pattern("$t", NAME)], tables).asks_facts == asks
        assert Condition("$t(sender)", [parse_pattern("x", VALUE)], tables).asks_facts == asks
        assert parse_key("sender|$t(sender_domain)", 64, tables).asks_facts == asks
        assert keyed(tables, (parse_pattern("$t=x", NAME), DAY)).asks_facts == asks
        assert keyed(tables, of_table("t")).asks_facts == asks
        # The moment, or a country, is no attribute of the request.
        assert Condition("$t(sender)", [parse_pattern("<7d", VALUE)], tables).asks_facts
        assert Condition("$t(country)", [parse_pattern("x", VALUE)], tables).asks_facts
        assert Condition("time", [parse_pattern("22:00-06:00", TIME)], tables).asks_facts
    assert not parse_key("sender+client_address", 64).asks_facts


# Limits of tables


@pytest.mark.parametrize(
    ("text", "unit", "limits"),
    [
        ("100/1h", RECIPIENTS, (Limit(100, 3600),)),
        ("500/1h, 3000/1d", RECIPIENTS, (Limit(500, 3600), Limit(3000, 86_400))),
        ("[500/1h, 3000/1d]", MESSAGES, (Limit(500, 3600), Limit(3000, 86_400))),
        ("[[5, 60], [9, 3600]]", RECIPIENTS, (Limit(5, 60), Limit(9, 3600))),
        ("50/mail", RECIPIENTS, (Limit(50, 0),)),
        ("10M/mail, 1Gi/1d", BYTES, (Limit(10_000_000, 0), Limit(1 << 30, 86_400))),
        ("10M/1d", RECIPIENTS, None),
        ("50/mail", MESSAGES, None),
        ("[]", RECIPIENTS, ()),
        ("business", RECIPIENTS, None),
        ("", RECIPIENTS, None),
        ("1/1h" + " " * LONGEST_LIMITS, RECIPIENTS, None),
        ("5/3600" + " " * (LONGEST_LIMITS - 6), RECIPIENTS, HOUR),
    ],
)
def test_limits_in_a_table(text: str, unit: str, limits: Limits | None) -> None:
    assert limits_in(text, unit) == limits


def of_table(name: str) -> tuple[Pattern, Limits]:
    return parse_pattern(f"${name}", NAME)._replace(how=LIMITS_OF_TABLE), ()


def keyed(tables: Mapping[str, Table], *overrides: tuple[Pattern, Limits], **others: object) -> KeyedSubjects:
    return KeyedSubjects(parse_key("sasl_username", 64), HOUR, overrides, tables=tables, **others)  # type: ignore[arg-type]


def test_a_table_may_give_the_limits() -> None:
    told: list[int] = []
    tables = {"tiers": listed(alice="9/1d", bob="nonsense", free="[]", carol="7/1w"), "staff": listed("bob", "alice")}
    staff = (parse_pattern("$staff", NAME), DAY)
    none: list[tuple[str, str, str]] = []
    subjects = keyed(tables, of_table("tiers"), staff, heed=told.append, no_limits=lambda *which: none.append(which))
    assert subjects.limits_may_change
    assert [subjects.limits_of_key(f"user:{name}") for name in ("dora", "free", "bob")] == [HOUR, (), DAY]
    assert told == []
    assert none == [("tiers", "bob", "nonsense")]
    assert subjects.keep_seconds == subjects.longest == 86_400
    assert subjects.limits_of_key("user:carol") == WEEK
    assert subjects.limits_of_key("user:alice") == DAY
    assert told == [604_800]
    assert subjects.keep_seconds == 604_800
    pattern = subjects.pattern_of_key("user:carol")
    assert pattern is not None
    assert pattern.text == "$tiers"
    of_tiers = keyed(tables, of_table("tiers"))
    assert [of_tiers.limits_of_key(f"user:{name}") for name in ("carol", "bob")] == [WEEK, HOUR]


def test_texts_of_limits_are_remembered_within_a_bound() -> None:
    told: list[int] = []
    limits = LimitsOfTexts(RECIPIENTS, told.append)
    assert limits.read("1/60s") is limits.read("1/60s")
    assert limits.read("nonsense") is None
    for number in range(REMEMBERED_LIMITS + 10):
        assert limits.read(f"{number}/1m") == (Limit(number, 60),)
        assert len(limits._known) <= REMEMBERED_LIMITS
    assert limits.read("7/1w") == WEEK
    assert limits.read("1/60s") == (Limit(1, 60),)
    assert (told, limits.longest) == ([60, 604_800], 604_800)


def test_what_is_counted_is_kept_where_a_table_may_say_something_else_tomorrow() -> None:
    tables = {"staff": listed("bob")}
    assert keyed({}).keep_seconds == 0
    assert not keyed({}).limits_may_change
    subjects = keyed(tables, (parse_pattern("$staff", NAME), WEEK))
    assert subjects.keep_seconds == 604_800
    assert subjects.charged(asked(sasl_username="alice")) == Charged("user:alice", HOUR)
    # Whose table holds others may look back further, though nothing else has changed.
    assert subjects.may_look_back_further(keyed(tables, (parse_pattern("$staff", NAME), WEEK)))


def test_who_is_charged_is_known_once_sources_have_answered() -> None:
    source = Far({"alice": "9/1d"})
    subjects = keyed({"tiers": Asked("tiers", source)}, of_table("tiers"))
    request = asked(sasl_username="Alice")
    request.facts = Facts(NOW)
    found: list[Charged | None] = []
    assert found_out(request.facts, lambda: found.append(subjects.charged(request))) == 1
    assert found == [Charged("user:alice", HOUR), Charged("user:alice", DAY)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a*", "b", "/c/", "*", "d?", "a1", "A1", "e"]),
            st.sampled_from(["x", "y", "e", "a1", None]),
        ),
        max_size=6,
    ),
    st.sampled_from(["a1", "b", "c", "d1", "e"]),
)
def test_a_table_is_its_entries_tried_one_by_one(entries: list[tuple[str, str | None]], value: str) -> None:
    import fnmatch
    import re

    def matches(text: str) -> bool:
        if text.startswith("/"):
            return re.search(text[1:-1], value) is not None
        return fnmatch.fnmatchcase(value, text.lower())

    expected = next((text if said is None else said for text, said in entries if matches(text)), None)
    assert said_of(Listed("t", entries), value, NAME) == expected
