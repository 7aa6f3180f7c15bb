"""Whom a rule with a key of its own charges."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.charging import Charged
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.request import RCPT, Request
from policyd_rate_limit.domain.rules.keys import parse_key
from policyd_rate_limit.domain.rules.patterns import parse_pattern
from policyd_rate_limit.domain.rules.subjects import KeyedSubjects
from support.asked import asked

MINUTE, HOUR, DAY = (Limit(1, 60),), (Limit(5, 3600),), (Limit(9, 86_400),)
ALICE = Request(RCPT, "1.0", "", "Alice@Example.org", "", "bob@example.net", "192.0.2.7", 0)


def keyed(key: str, limits: Limits = HOUR, **overrides: Limits) -> KeyedSubjects:
    parsed = parse_key(key, 64)
    patterns = [(parse_pattern(text, parsed.compared_as()), its) for text, its in overrides.items()]
    return KeyedSubjects(parsed, limits, patterns)


def test_the_key_is_charged_within_the_limits_of_the_first_override_that_it_matches() -> None:
    rule = keyed("sasl_username", HOUR, **{"bob": MINUTE, "*@example.org": DAY, "alice@example.org": MINUTE})
    charged = rule.charged(ALICE)
    assert charged == Charged("user:alice@example.org", DAY)
    assert rule.limits_of_key("user:bob") == MINUTE
    assert rule.limits_of_key("user:carol") == HOUR
    assert rule.ids_for_query(ALICE, charged) == ("alice@example.org",)


def test_whoever_has_no_key_is_not_charged() -> None:
    assert keyed("sender").charged(ALICE) is None


@pytest.mark.parametrize(
    ("key", "override", "limits"),
    [
        ("client_address", "192.0.2.0/24", DAY),
        ("client_address", "192.0.2.7", DAY),
        ("client_address", "192.0.3.0/24", HOUR),
        ("client_address/24/64", "192.0.2.0/24", DAY),
        ("client_address/24/64", "192.0.0.0/16", DAY),
        ("client_address/24/64", "192.0.2.7", HOUR),  # the counter is shared with others of the network
    ],
)
def test_an_override_is_of_a_network_when_it_holds_all_of_it(key: str, override: str, limits: Limits) -> None:
    charged = keyed(key, HOUR, **{override: DAY}).charged(ALICE)
    assert charged is not None
    assert charged.limits == limits


def test_a_combination_is_compared_as_it_is_written() -> None:
    rule = keyed("sender+recipient", HOUR, **{"a@x.example+b.": DAY, "a+B@bücher.example": MINUTE})
    for sender, recipient, limits in (
        ("A@x.example", "b.", DAY),
        ("a@x.example", "b", DAY),  # dots at the end of what has an "@" are none of a name
        ("a", "b@BÜCHER.example", MINUTE),
        ("a", "c@bücher.example", HOUR),
    ):
        charged = rule.charged(asked(sender=sender, recipient=recipient))
        assert charged is not None
        assert charged.limits == rule.limits_of_key(charged.key) == limits


def test_a_network_that_is_known_is_not_read_again() -> None:
    rule = keyed("client_address/24/64", HOUR, **{"192.0.2.0/24": DAY})
    for _ in range(3):
        assert rule.charged(ALICE) == Charged("client:192.0.2.0/24", DAY)
    assert rule._patterns._of_address.cache_info()[:2] == (2, 1)


def test_administrators_name_ids_of_the_key() -> None:
    rule = keyed("sasl_domain")
    assert rule.keys_of_id("Example.ORG") == ("sasl_domain:example.org",)
    assert (rule.key_text, rule.kinds) == ("sasl_domain", ("sasl_domain",))


@pytest.mark.parametrize(
    ("before", "after", "further"),
    [
        ((HOUR, {}), (HOUR, {}), False),
        ((HOUR, {}), (DAY, {}), True),
        ((DAY, {}), (HOUR, {}), False),
        ((HOUR, {"bob": MINUTE}), (HOUR, {}), True),  # bob may look back further
        ((HOUR, {"bob": DAY}), (HOUR, {"*": DAY}), True),
        ((HOUR, {}), ((), {}), False),
    ],
)
def test_a_rule_looks_back_further_where_a_window_grows(
    before: tuple[Limits, dict[str, Limits]], after: tuple[Limits, dict[str, Limits]], further: bool
) -> None:
    old, new = (keyed("sasl_username", limits, **overrides) for limits, overrides in (before, after))
    assert new.may_look_back_further(old) is further


def test_the_longest_window_is_that_of_all_its_limits() -> None:
    assert keyed("sasl_username", HOUR, bob=DAY, carol=()).longest == 86_400
    assert keyed("sasl_username", ()).longest == 0


def test_others_run_while_many_overrides_are_looked_at() -> None:
    pauses: list[None] = []
    key = parse_key("sasl_username", 64)
    many = [(parse_pattern(f"user{number}", key.compared_as()), HOUR) for number in range(1000)]
    old, new = (KeyedSubjects(key, HOUR, many, lambda: pauses.append(None)) for _ in range(2))
    assert len(pauses) == 8
    assert not new.may_look_back_further(old)
    assert len(pauses) == 12


def test_equally_many_overrides_may_be_others() -> None:
    assert keyed("sasl_username", HOUR, bob=DAY).may_look_back_further(keyed("sasl_username", HOUR, carol=DAY))


def test_a_rule_without_overrides_has_one_list_of_limits() -> None:
    assert keyed("sasl_username", HOUR).charged(ALICE) == Charged("user:alice@example.org", HOUR)


def test_a_database_may_hold_what_is_no_key() -> None:
    assert keyed("client_address", HOUR, **{"192.0.2.0/24": DAY}).limits_of_key("client:no address") == HOUR
    assert keyed("sasl_username", HOUR, bob=DAY).limits_of_key("no key") == HOUR
