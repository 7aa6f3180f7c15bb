"""What the name of a counter says, whatever a client has put into its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.counter import (
    DEFAULT,
    counter_prefix,
    is_distinct,
    kind_of,
    prefix_and_key,
    rule_and_key,
    unit_of,
)
from policyd_rate_limit.domain.counting import BYTES, MESSAGES, RECIPIENTS, UNITS, attribute_of


@pytest.mark.parametrize(
    ("counter", "rule", "unit", "key"),
    [
        ("user:alice", DEFAULT, RECIPIENTS, "user:alice"),
        ("user:alice", DEFAULT, MESSAGES, "user:alice"),
        ("user:a|b:c", DEFAULT, RECIPIENTS, "user:a|b:c"),
        ("user:a/bytes|b:c", DEFAULT, RECIPIENTS, "user:a/bytes|b:c"),
        ("client:2001:db8::/64", DEFAULT, RECIPIENTS, "client:2001:db8::/64"),
        ("person|user:a|b", "person", RECIPIENTS, "user:a|b"),
        ("volume/bytes|client:2001:db8::/64", "volume", BYTES, "client:2001:db8::/64"),
        ("messages/messages|user:a/bytes|b", "messages", MESSAGES, "user:a/bytes|b"),
        ("places/distinct-client_address|user:a", "places", "distinct client_address", "user:a"),
        ("user:a/distinct-recipient|user:b", DEFAULT, RECIPIENTS, "user:a/distinct-recipient|user:b"),
        ("distinct-x|user:a", "distinct-x", RECIPIENTS, "user:a"),
    ],
)
def test_a_counter_says_of_which_rule_it_is(counter: str, rule: str, unit: str, key: str) -> None:
    prefix = counter_prefix(rule, unit)
    assert prefix + key == counter
    assert prefix_and_key(counter) == (prefix, key)
    assert rule_and_key(counter) == (rule, key)
    assert kind_of(counter) == key.partition(":")[0]
    assert unit_of(counter) == (unit if rule != DEFAULT else RECIPIENTS)
    assert is_distinct(counter) is bool(attribute_of(unit))


def test_a_unit_says_whose_different_values_it_counts() -> None:
    assert attribute_of("distinct recipient_domain") == "recipient_domain"
    assert [attribute_of(unit) for unit in UNITS] == [""] * len(UNITS)
    assert not is_distinct("")
    assert not is_distinct("/distinct-recipient:a")


@given(
    st.sampled_from([DEFAULT, "messages", "first-week"]),
    st.sampled_from([*UNITS, "distinct recipient"]),
    st.sampled_from(["user", "sender", "client"]),
    st.text(),
)
def test_no_name_of_a_client_imitates_another_counter(rule: str, unit: str, kind: str, name: str) -> None:
    key = f"{kind}:{name}"
    counter = counter_prefix(rule, unit) + key
    assert prefix_and_key(counter) == (counter_prefix(rule, unit), key)
    assert rule_and_key(counter) == (rule, key)
    assert kind_of(counter) == kind
    assert is_distinct(counter) is (rule != DEFAULT and unit.startswith("distinct"))


def test_nobody_has_no_kind() -> None:
    assert kind_of("") == ""
