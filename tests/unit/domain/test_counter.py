"""What the name of a counter says, whatever a client has put into its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.counter import DEFAULT, counter_prefix, kind_of, prefix_and_key, rule_and_key
from policyd_rate_limit.domain.counting import BYTES, MESSAGES, RECIPIENTS, UNITS


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
    ],
)
def test_a_counter_says_of_which_rule_it_is(counter: str, rule: str, unit: str, key: str) -> None:
    prefix = counter_prefix(rule, unit)
    assert prefix + key == counter
    assert prefix_and_key(counter) == (prefix, key)
    assert rule_and_key(counter) == (rule, key)
    assert kind_of(counter) == key.partition(":")[0]


@given(
    st.sampled_from([DEFAULT, "messages", "first-week"]),
    st.sampled_from(UNITS),
    st.sampled_from(["user", "sender", "client"]),
    st.text(),
)
def test_no_name_of_a_client_imitates_another_counter(rule: str, unit: str, kind: str, name: str) -> None:
    key = f"{kind}:{name}"
    counter = counter_prefix(rule, unit) + key
    assert prefix_and_key(counter) == (counter_prefix(rule, unit), key)
    assert rule_and_key(counter) == (rule, key)
    assert kind_of(counter) == kind


def test_nobody_has_no_kind() -> None:
    assert kind_of("") == ""
