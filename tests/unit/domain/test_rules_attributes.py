"""Attributes of requests by name, and which spellings of a value are one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyd_rate_limit.domain.ids import MOST_NAME, fold
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.domain.rules import attributes
from policyd_rate_limit.domain.rules.attributes import (
    KINDS,
    MOST_DOMAIN,
    ascii_domain,
    domain_of,
    folded_name,
    is_shortened,
    reader,
)
from policyd_rate_limit.domain.rules.facts import Facts
from support.asked import IN_ORDER, as_sent, asked, asked_in_lines

# No newline, which ends a value, and no NUL; lone surrogates are bytes that are not UTF-8.
values = st.text(
    st.characters(min_codepoint=33, max_codepoint=126)
    | st.sampled_from("éÉßΣσςàÀñ😀漢。\uff0e\u00ad\u200d…İ")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    max_size=60,
).map(as_sent)
SENT = [name for name, _ in IN_ORDER]


@pytest.mark.parametrize("name", SENT)
def test_each_attribute_of_postfix_is_read(name: str) -> None:
    value = "7" if name == "recipient_count" else "a value"
    assert reader(name)(asked(**{name: value})) == value
    assert name in KINDS


@given(st.permutations(IN_ORDER), values)
def test_attributes_are_read_in_any_order(lines: list[tuple[str, str]], value: str) -> None:
    lines = [(name, value if name in ("helo_name", "sender") else usual) for name, usual in lines]
    request = asked_in_lines(lines)
    for name, expected in lines:
        assert reader(name)(request) == expected


@pytest.mark.parametrize("name", SENT)
def test_an_attribute_that_is_missing_is_empty(name: str) -> None:
    expected = "0" if name == "recipient_count" else ""
    assert reader(name)(asked_in_lines([])) == expected
    assert reader(name)(Request("", "", "", "", "", "", "", 0)) == expected


@given(values, st.sampled_from(SENT))
def test_no_value_imitates_another_attribute(value: str, name: str) -> None:
    request = asked(ccert_subject=f"{name}={value}", helo_name=f"x {name}={value}")
    if name not in ("ccert_subject", "helo_name"):
        assert reader(name)(request) == dict(IN_ORDER)[name]


def test_the_first_of_two_attributes_of_one_name_counts() -> None:
    twice = [*IN_ORDER, ("helo_name", "other"), ("sender", "other@example.org")]
    assert reader("helo_name")(asked_in_lines(twice)) == ""
    assert reader("sender")(asked_in_lines(twice)) == ""
    assert reader("helo_name")(asked_in_lines(list(reversed(twice)))) == "other"
    assert reader("sender")(asked_in_lines(list(reversed(twice)))) == "other@example.org"


@pytest.mark.parametrize("name", ["", "request", "nonsense", "nonsense_domain", "sender\n"])
def test_there_is_no_other_attribute(name: str) -> None:
    with pytest.raises(KeyError):
        reader(name)


def test_all_kinds_can_be_read() -> None:
    for name in KINDS:
        reader(name)(asked())


def test_domains_are_read_of_addresses() -> None:
    request = asked(sasl_username="Alice@Uni.Example", sender="a@b@Bücher.example.", recipient="postmaster")
    assert reader("sasl_domain")(request) == "uni.example"
    assert reader("sender_domain")(request) == "xn--bcher-kva.example"
    assert reader("recipient_domain")(request) == ""
    assert domain_of("alice@") == domain_of("") == domain_of("@.") == ""


@pytest.mark.parametrize(
    "spelled",
    [
        "bücher.example",
        "BÜCHER.Example",
        "Bücher.example.",
        "bücher.example..",
        "bu\u0308cher.example",
        "xn--bcher-kva.example",
        "XN--BCHER-KVA.EXAMPLE.",
        "bücher。example",
        "bücher\uff0eexample\uff61",
        "b\u00adücher.ex\u00adample",
    ],
)
def test_spellings_of_one_domain_are_one(spelled: str) -> None:
    assert ascii_domain(spelled) == "xn--bcher-kva.example"
    assert folded_name(f"Éva@{spelled}") == "éva@xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2008: not strasse
        ("a_b.bücher.example", "a_b.xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("*Bücher.example", "*bücher.example"),
        ("Ü_.bücher.example", "ü_.xn--bcher-kva.example"),
        ("\udcff.bücher.example", "\udcff.xn--bcher-kva.example"),
        ("ü" * 80 + ".example", "ü" * 80 + ".example"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("", ""),
        (".", ""),
        ("。", ""),
    ],
)
def test_labels_are_converted_one_by_one(spelled: str, expected: str) -> None:
    assert ascii_domain(spelled) == expected


def test_what_is_too_long_for_a_domain_is_folded_as_a_name() -> None:
    long = "Ü." + "x" * MOST_DOMAIN + "."
    assert ascii_domain(long) == "ü." + "x" * MOST_DOMAIN


def test_long_domains_are_not_remembered() -> None:
    """4,096 domains of a hostile client, with 16 KiB each, would take hundreds of megabytes."""
    before = attributes._ascii_form.cache_info().currsize  # type: ignore[attr-defined,unused-ignore] # compiled: none
    ascii_domain("ü" * (MOST_DOMAIN + 1))
    assert attributes._ascii_form.cache_info().currsize == before  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Alice", "alice"),
        ("Alice@Example.ORG.", "alice@example.org"),
        ("alice.", "alice."),
        ("É.", "é."),
        ("DOMAIN\\Alice", "domain\\alice"),
        ("Straße", "strasse"),
        ("é\udcff@B\udcff.example", "é\udcff@b\udcff.example"),
    ],
)
def test_names_are_folded(name: str, expected: str) -> None:
    assert folded_name(name) == expected


@given(values, values)
def test_folding_again_changes_nothing(one: str, other: str) -> None:
    for name in (one, f"{one}@{other}", f"{one}@{other}.example.", f"{one}.{other}"):
        assert folded_name(folded_name(name)) == folded_name(name)
        assert ascii_domain(ascii_domain(name)) == ascii_domain(name)
        known = fold(folded_name(name))
        assert fold(folded_name(known)) == known


@given(values, st.integers(0, 400), st.sampled_from(["bücher.", "x.", "漢。"]))
def test_what_stands_for_a_long_name_stays_as_it_is(name: str, length: int, label: str) -> None:
    known = fold(folded_name(f"é{name}{'x' * length}@{label * 100}example"))
    assert len(known) <= MOST_NAME
    assert fold(folded_name(known)) == known


def test_what_stands_for_a_long_name_is_known_as_such() -> None:
    assert is_shortened(fold("x" * 321))
    assert not is_shortened("x" * 320)
    assert not is_shortened(fold("x" * 321)[1:])


@given(values, values)
def test_the_domain_of_a_folded_name_is_the_domain(local: str, domain: str) -> None:
    assume("@" not in domain)
    assert folded_name(f"{local}@{domain}") == f"{folded_name(local + '@')[:-1]}@{ascii_domain(domain)}"


class Somewhere:
    """Has all addresses in one country."""

    def __init__(self, country: str) -> None:
        self.country = country
        self.asked: list[str] = []

    def country_of(self, address: str) -> str:
        self.asked.append(address)
        return self.country


def test_the_country_is_that_of_the_client() -> None:
    request = asked(client_address="192.0.2.1")
    assert reader("country")(request) == ""  # nobody knows any
    norway = Somewhere("NO")
    request.facts = Facts(0.0, norway)
    assert (reader("country")(request), norway.asked) == ("NO", ["192.0.2.1"])
