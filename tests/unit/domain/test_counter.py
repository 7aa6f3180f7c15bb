"""What the name of a counter says, whatever a client has put into its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.counter import DEFAULT, counter_name, kind_of, rule_and_key


@pytest.mark.parametrize(
    ("counter", "rule", "key"),
    [
        ("user:alice", DEFAULT, "user:alice"),
        ("user:a|b:c", DEFAULT, "user:a|b:c"),
        ("client:2001:db8::/64", DEFAULT, "client:2001:db8::/64"),
        ("messages|user:a|b", "messages", "user:a|b"),
    ],
)
def test_a_counter_says_of_which_rule_it_is(counter: str, rule: str, key: str) -> None:
    assert rule_and_key(counter) == (rule, key)
    assert counter_name(rule, key) == counter
    assert kind_of(counter) == key.partition(":")[0]


@given(st.sampled_from([DEFAULT, "messages", "first-week"]), st.sampled_from(["user", "sender", "client"]), st.text())
def test_no_name_of_a_client_imitates_another_counter(rule: str, kind: str, name: str) -> None:
    key = f"{kind}:{name}"
    counter = counter_name(rule, key)
    assert rule_and_key(counter) == (rule, key)
    assert kind_of(counter) == kind


def test_nobody_has_no_kind() -> None:
    assert kind_of("") == ""
