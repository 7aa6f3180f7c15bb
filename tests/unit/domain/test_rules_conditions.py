"""Conditions: to which mails a rule applies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.domain.rules.conditions import Condition, Conditions
from policyd_rate_limit.domain.rules.patterns import parse_pattern
from support.asked import asked, asked_in_lines, at


def condition(attribute: str, *texts: str) -> Condition:
    return Condition(attribute, [parse_pattern(text, KINDS[attribute]) for text in texts])


def conditions(*alternatives: dict[str, str]) -> Conditions:
    return Conditions([[condition(name, text) for name, text in one.items()] for one in alternatives])


def test_a_condition_is_that_one_of_its_patterns_matches() -> None:
    one = condition("sasl_username", "alice", "*@example.org")
    assert one.attribute == "sasl_username"
    assert one.holds(asked(sasl_username="ALICE"))
    assert one.holds(asked(sasl_username="bob@example.org"))
    assert not one.holds(asked(sasl_username="bob"))
    assert not one.holds(asked())


@pytest.mark.parametrize(
    ("user", "address", "expected"),
    [("alice", "192.0.2.1", True), ("alice", "198.51.100.1", False), ("bob", "192.0.2.1", False), ("", "", False)],
)
def test_all_conditions_must_hold(user: str, address: str, expected: bool) -> None:
    both = conditions({"sasl_username": "alice", "client_address": "192.0.2.0/24"})
    assert both.hold(asked(sasl_username=user, client_address=address)) == expected


@given(st.lists(st.lists(st.tuples(st.sampled_from(["sender", "recipient", "helo_name"]), st.booleans())), max_size=4))
def test_any_of_the_alternatives_is_enough(alternatives: list[list[tuple[str, bool]]]) -> None:
    made = Conditions([[condition(name, "x" if holds else "y") for name, holds in one] for one in alternatives])
    expected = any(all(holds for _, holds in one) for one in alternatives)
    assert made.hold(asked(sender="x", recipient="x", helo_name="x")) == expected


def test_without_alternatives_it_never_holds() -> None:
    assert not conditions().hold(asked())


def test_what_it_looks_at_is_known() -> None:
    made = conditions({"sasl_username": "a", "time": "22:00-06:00"}, {"sasl_username": "b", "helo_name": "c"})
    assert made.attributes == {"sasl_username", "time", "helo_name"}
    assert made.asks_facts
    assert not conditions({"helo_name": "c"}).asks_facts


@pytest.mark.parametrize(("time", "expected"), [("21:59", False), ("22:00", True), ("05:59", True), ("06:00", False)])
def test_the_time_is_that_of_the_request(time: str, expected: bool) -> None:
    assert conditions({"time": "22:00-06:00", "sender": "a@b"}).hold(at(time, asked(sender="a@b"))) == expected


@pytest.mark.parametrize(
    "attribute", ["sasl_username", "policy_context", "helo_name", "client_address", "sender_domain"]
)
def test_what_is_missing_is_empty(attribute: str) -> None:
    assert condition(attribute, "").holds(asked_in_lines([]))
    assert not condition("sender_domain", "").holds(asked(sender="a@b"))


def test_an_attribute_in_the_value_of_another_is_none() -> None:
    one = conditions({"policy_context": "mx"})
    assert one.hold(asked(policy_context="mx"))
    assert not one.hold(asked(helo_name="policy_context=mx", sender="x policy_context=mx"))
