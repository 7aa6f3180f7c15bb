"""Why a rule applies to a request, or does not: the parts of rules that say so, and what they are found by."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.patterns import parse_pattern
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from support.asked import at
from support.ruled import request

NOON = "12:00"


def conditions(*alternatives: dict[str, str]) -> Conditions:
    return Conditions(
        [
            [Condition(name, [parse_pattern(text, KINDS[name])]) for name, text in alternative.items()]
            for alternative in alternatives
        ]
    )


@pytest.mark.parametrize(
    ("alternatives", "failing", "holding"),
    [
        ([{"sender": "alice@example.org"}], [], ["sender"]),
        ([{"sender": "bob@example.org", "recipient": ""}], ["sender"], []),
        ([{"sender": "*@example.org", "recipient": ""}], ["recipient"], []),
        ([{"sender": ""}, {"time": "22:00-06:00"}], ["sender", "time"], []),
        ([{"sender": ""}, {"time": "11:00-13:00", "sasl_domain": "example.org"}], [], ["time", "sasl_domain"]),
    ],
)
def test_why_conditions_hold_or_do_not(
    alternatives: list[dict[str, str]], failing: list[str], holding: list[str]
) -> None:
    found = conditions(*alternatives)
    asked = at(NOON, request())
    assert [one.attribute for one in found.first_failing(asked)] == failing
    assert [one.attribute for one in found.first_holding(asked)] == holding
    assert found.hold(asked) is bool(holding)


def test_a_condition_tells_what_it_looks_at() -> None:
    ((one, other),) = conditions({"sender": "*@example.org", "time": "11:00-13:00"}).alternatives
    asked = at(NOON, request())
    assert (one.value(asked), other.value(asked)) == ("alice@example.org", NOON)
    assert [pattern.text for pattern in one.patterns] == ["*@example.org"]


@pytest.mark.parametrize(
    ("key", "empty"),
    [
        ("sasl_username", ("sasl_username",)),
        ("sasl_username|sender|server", ("sasl_username",)),
        ("sender+sasl_domain+client_address", ("sasl_domain",)),
        ("server", ()),
        ("sender", ()),
    ],
)
def test_which_terms_are_empty(key: str, empty: tuple[str, ...]) -> None:
    assert parse_key(key, 64).empty_in(request(sasl_username="")) == empty


@pytest.mark.parametrize(
    ("key", "overrides", "of", "pattern"),
    [
        ("sasl_username", ["alice", "*@example.org"], "user:alice@example.org", "*@example.org"),
        ("sasl_username", ["alice"], "user:bob", None),
        ("sasl_username", [], "user:bob", None),
        ("client_address", ["192.0.2.0/24"], "client:192.0.2.7", "192.0.2.0/24"),
        ("client_address", ["192.0.2.0/24"], "client:198.51.100.7", None),
    ],
)
def test_which_override_gives_the_limits(key: str, overrides: list[str], of: str, pattern: str | None) -> None:
    parsed = parse_key(key, 64)
    others = [(parse_pattern(text, parsed.compared_as()), (Limit(1, 60),)) for text in overrides]
    subjects = KeyedSubjects(parsed, (Limit(2, 60),), others)
    found = subjects.pattern_of_key(of)
    assert (found.text if found else None) == pattern
    assert subjects.limits_of_key(of) == (Limit(1 if pattern else 2, 60),)
