"""Keys: who shares a counter."""

from __future__ import annotations

import gc
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyd_rate_limit.domain.counter import DEFAULT, counter_prefix, kind_of, rule_and_key
from policyd_rate_limit.domain.counting import RECIPIENTS, UNITS
from policyd_rate_limit.domain.ids import MOST_NAME, fold
from policyd_rate_limit.domain.rules.attributes import ADDRESS, COUNTRY, DOMAIN, NAME, folded_name
from policyd_rate_limit.domain.rules.attributes import fold as spelling
from policyd_rate_limit.domain.rules.facts import Facts
from policyd_rate_limit.domain.rules.keys import TERMS, ClientTerm, Key, WrongKey, combined, parse_key
from support.asked import as_sent, asked

characters = (
    st.characters(min_codepoint=33, max_codepoint=126)
    | st.sampled_from("++||::\\\\@@..éÉßàñ😀漢…")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
)
HOSTILE = ["a|b", "user:x", "client:192.0.2.1", "../../etc", "x" * 4000, "é" * 400 + "@bücher.example", "\udcff\udc80"]
names = st.text(characters, max_size=40).map(as_sent) | st.sampled_from(HOSTILE) | st.text("+\\a", max_size=6)
addresses = st.ip_addresses().map(str) | st.sampled_from(
    ["", "unknown", "::ffff:192.0.2.1", "fe80::1%eth0", "1" * 5000]
)
WRITTEN = [
    *TERMS,
    "client_address/24/56",
    "sasl_username|sender|client_address",
    "sender_domain | recipient_domain",
    "sasl_username|server",
    "sender+recipient",
    "sasl_username+client_address/24/56",
    "sender_domain+client_address+sasl_username+recipient",
]
written_keys = st.sampled_from(WRITTEN)


def key(text: str) -> Key:
    return parse_key(text, 64)


def key_of(text: str, **values: str) -> str:
    return key(text).of(asked(**values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sasl_username", "user:alice@uni.example"),
        ("sasl_domain", "sasl_domain:uni.example"),
        ("sender", "sender:a@xn--bcher-kva.example"),
        ("sender_domain", "sender_domain:xn--bcher-kva.example"),
        ("recipient", "recipient:b@example.net"),
        ("recipient_domain", "recipient_domain:example.net"),
        ("client_address", "client:2001:db8:1:2::/64"),
        ("client_address/24/56", "client:2001:db8:1::/56"),
        ("server", "server:"),
        ("sender|sasl_username", "sender:a@xn--bcher-kva.example"),
        ("sasl_username + recipient", "user+recipient:alice@uni.example+b@example.net"),
    ],
)
def test_whose_counter_a_mail_is_charged_on(text: str, expected: str) -> None:
    assert key(text).text == text
    assert (
        key_of(
            text,
            sasl_username="Alice@Uni.example",
            sender="A@Bücher.example.",
            recipient="B@example.net",
            client_address="2001:DB8:1:2::3",
        )
        == expected
    )


@pytest.mark.parametrize("text", [one for one in WRITTEN if "server" not in one])
def test_without_a_value_the_rule_does_not_apply(text: str) -> None:
    assert key_of(text) == ""


@pytest.mark.parametrize("address", ["", "unknown", "1" * 5000, "::g", "\udcff"])
def test_no_address_is_no_client(address: str) -> None:
    assert key_of("client_address", client_address=address) == ""


@pytest.mark.parametrize(
    ("address", "prefixes", "expected"),
    [
        ("192.0.2.129", "", "192.0.2.129"),
        ("::ffff:192.0.2.129", "", "192.0.2.129"),
        ("::ffff:192.0.2.129", "/24/56", "192.0.2.0/24"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("2001:db8::1", "/32/128", "2001:db8::1"),
        ("192.0.2.129", "/1/1", "128.0.0.0/1"),
    ],
)
def test_clients_are_networks(address: str, prefixes: str, expected: str) -> None:
    assert key_of(f"client_address{prefixes}", client_address=address) == f"client:{expected}"


def test_the_first_that_is_not_empty() -> None:
    text = "sasl_username|sender|server"
    assert key_of(text, sasl_username="a", sender="b") == "user:a"
    assert key_of(text, sender="b") == "sender:b"
    assert key_of(text) == "server:"


def test_a_part_of_a_combination_that_is_empty_leaves_none() -> None:
    assert key_of("sasl_username+client_address", sasl_username="a") == ""
    assert key_of("sasl_username+client_address", client_address="192.0.2.1") == ""
    assert key_of("sender_domain+sasl_username", sasl_username="a", sender="a@") == ""


@given(written_keys, names, names, names, addresses)
@example("sasl_username+client_address/24/56", "a\\", "", "", "192.0.2.1")
@example("sender+recipient", "", "a\\+", "+\\", "")
def test_an_administrator_finds_the_key_of_a_request(
    text: str, user: str, sender: str, recipient: str, address: str
) -> None:
    asks = key(text)
    found = asks.of(asked(sasl_username=user, sender=sender, recipient=recipient, client_address=address))
    if not found:
        return
    kind, _, name = found.partition(":")
    assert kind in asks.kinds
    assert found in asks.written(found)
    if name.partition(":")[0] not in asks.kinds:
        assert found in asks.written(name)


@given(names)
def test_an_administrator_writes_a_name_as_it_came(name: str) -> None:
    found = key_of("sasl_username", sasl_username=name)
    if found:
        assert found in key("sasl_username|sender").written(f"user:{name}")
        assert key("sender").written(f"sender:{name.swapcase().swapcase()}")


@given(st.lists(names, min_size=2, max_size=2), st.lists(names, min_size=2, max_size=2))
@example(["a+b", "c"], ["a", "b+c"])
@example(["a\\", "b"], ["a", "\\b"])
@example(["a\\+b", "c"], ["a\\", "b+c"])
def test_parts_of_a_combination_are_not_taken_for_each_other(one: list[str], other: list[str]) -> None:
    def of(parts: list[str]) -> str:
        return key_of("sender+recipient", sender=parts[0], recipient=parts[1])

    def folded(parts: list[str]) -> list[str]:
        return [fold(folded_name(part)) for part in parts]

    if of(one) and of(other):
        assert (of(one) == of(other)) == (folded(one) == folded(other))


@given(st.lists(names, min_size=3, max_size=3), st.lists(names, min_size=3, max_size=3))
def test_combinations_of_as_many_ids_are_different(one: list[str], other: list[str]) -> None:
    assert (combined(one) == combined(other)) == (one == other)


def test_a_combination_is_written_with_the_sign_between() -> None:
    asks = key("sasl_username+client_address/24/56")
    expected = ("user+client:domain\\\\alice+192.0.2.0/24",)
    for name in ("DOMAIN\\Alice+192.0.2.1", "domain\\\\alice+192.0.2.0/24", "user+client:domain\\alice+192.0.2.128/25"):
        assert asks.written(name) == expected
    assert asks.written("a\\+b+192.0.2.1") == ("user+client:a\\+b+192.0.2.0/24",)
    for wrong in ("", "alice", "a+b+192.0.2.1", "+192.0.2.1", "alice+", "alice+192.0.0.0/16", "alice+bob"):
        assert asks.written(wrong) == ()


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("sasl_username|sender", "Alice", ("user:alice", "sender:alice")),
        ("sasl_username|sender", "sender:Alice", ("sender:alice",)),
        ("sasl_username|sender", "recipient:x", ("user:recipient:x", "sender:recipient:x")),
        ("sasl_username|sender", "user:", ()),
        ("sasl_username", "user:user:x", ("user:user:x",)),
        ("sasl_username|server", "server", ("user:server", "server:")),
        ("sasl_username|server", "user:server", ("user:server",)),
        ("sasl_username|server", "user:", ()),
        ("sasl_username|server", "server:", ("server:",)),
        ("server", "", ("server:",)),
        ("server", "server:other", ()),
        ("server", "other", ()),
        ("sender_domain", "Bücher.example.", ("sender_domain:xn--bcher-kva.example",)),
        ("client_address", "::ffff:192.0.2.1", ("client:192.0.2.1",)),
        ("client_address", "2001:db8::1", ("client:2001:db8::/64",)),
        ("client_address", "client:2001:db8::/64", ("client:2001:db8::/64",)),
        ("client_address", "2001:db8::/32", ()),
        ("client_address", "alice", ()),
        ("sasl_username|client_address", "192.0.2.1", ("user:192.0.2.1", "client:192.0.2.1")),
    ],
)
def test_what_an_administrator_may_mean(text: str, name: str, expected: tuple[str, ...]) -> None:
    assert key(text).written(name) == expected


@given(written_keys, names, names, names, addresses)
def test_ids_are_bounded(text: str, user: str, sender: str, recipient: str, address: str) -> None:
    found = key_of(text, sasl_username=user, sender=sender, recipient=recipient, client_address=address)
    assert len(found.partition(":")[2]) <= MOST_NAME


@given(st.sampled_from([text for text in WRITTEN if "+" not in text]), names, names, names, addresses)
@example("sender", "", "\u212a@\u1e9e\uff0e\u0130.", "", "")
@example("sender_domain", "", "a@\u1e9e*\uff0e\u0130.", "", "")
def test_an_id_is_its_own_spelling_in_patterns(text: str, user: str, sender: str, recipient: str, address: str) -> None:
    """Or its overrides would not be those of the id that an administrator is shown."""
    asks = key(text)
    _, name = asks.kind_and_id(asked(sasl_username=user, sender=sender, recipient=recipient, client_address=address))
    assert spelling(name, asks.compared_as()) == name


def test_long_ids_that_begin_alike_are_different() -> None:
    for text in ("sender", "sender_domain", "sender+recipient"):
        one, other = (key_of(text, sender=f"a@{'x' * 4000}{end}", recipient="b@example.net") for end in "yz")
        assert one != other
        assert key(text).written(one) == (one,)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), written_keys, names, names, names, addresses)
def test_counters_lead_back_to_rule_and_key(
    rule: str, text: str, user: str, sender: str, recipient: str, address: str
) -> None:
    found = key_of(text, sasl_username=user, sender=sender, recipient=recipient, client_address=address)
    if found:
        for name, unit in itertools.product((rule, DEFAULT), UNITS):
            counter = counter_prefix(name, unit) + found
            assert rule_and_key(counter) == (name, found)
            assert kind_of(counter) in key(text).kinds


def test_counters_of_two_rules_are_never_one() -> None:
    counters = {
        counter_prefix(rule, unit) + f"{kind}:{name}"
        for (rule, unit), kind, name in itertools.product(
            [(DEFAULT, RECIPIENTS), *itertools.product(["a", "user", "bytes"], UNITS)],
            ["user", "sender", "client"],
            ["", "x", "a|user:x", "user|user:x", "a/bytes|user:x", "|", "/", ":"],
        )
    }
    assert len(counters) == (1 + 3 * len(UNITS)) * 3 * 8


def test_kinds_hold_no_sign_of_a_counter() -> None:
    for text in WRITTEN:
        assert not any(sign in kind for kind in key(text).kinds for sign in "|/:")
    assert key("sasl_username+client_address").kinds == ("user+client",)
    assert key("sasl_username|client_address").kinds == ("user", "client")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("sasl_username", NAME),
        ("client_address/24/56", ADDRESS),
        ("sender_domain|recipient_domain", DOMAIN),
        ("sasl_username|client_address", NAME),
        ("client_address+sasl_username", NAME),
        ("sender_domain+recipient_domain", NAME),
        ("server", NAME),
    ],
)
def test_how_ids_compare_with_patterns(text: str, kind: str) -> None:
    assert key(text).compared_as() == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "sasl_username+",
        "sasl_username|",
        "sasl_username+sender|recipient",
        "sender|sender",
        "sender+sender",
        "sasl_username|sender|recipient|client_address|server",
        "server|sender",
        "server+sender",
        "client_address/24",
        "client_address/0/64",
        "client_address/33/64",
        "client_address/24/0",
        "client_address/24/129",
        "client_address/24/56/8",
        "client_address/٢٤/56",
        "helo_name",
    ],
)
def test_what_is_no_key_is_told(text: str) -> None:
    with pytest.raises(WrongKey) as caught:
        key(text)
    assert caught.value.expected
    assert str(caught.value).startswith(f"expected {caught.value.expected}, found ")


def test_the_network_of_an_address_that_is_known_is_not_worked_out_again() -> None:
    term = ClientTerm("client_address/24/56", 24, 56)
    request = asked(client_address="192.0.2.1")
    assert term.id_of(request) is term.id_of(request)


def test_old_keys_go_by_reference_counts() -> None:
    """No cycle keeps them, as the garbage collector hardly ever looks at what lives long."""

    def how_many() -> int:
        return sum(isinstance(thing, Key) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        old = key("sasl_username|sender_domain|client_address/24/56|server")
        assert old.of(asked(client_address="192.0.2.1")) == "client:192.0.2.0/24"
        before = how_many()
        terms = sum(isinstance(thing, ClientTerm) for thing in gc.get_objects())
        del old
        assert how_many() == before - 1
        assert sum(isinstance(thing, ClientTerm) for thing in gc.get_objects()) == terms - 1
    finally:
        gc.enable()


class Germany:
    """Has the addresses of one network."""

    def country_of(self, address: str) -> str:
        return "DE" if address.startswith("192.0.2.") else ""


@pytest.mark.parametrize(
    ("text", "address", "expected"),
    [
        ("country", "192.0.2.1", "country:de"),
        ("country", "10.0.0.1", ""),
        ("sasl_username+country", "192.0.2.1", "user+country:alice+de"),
        ("sasl_username+country", "10.0.0.1", ""),
        ("country|client_address", "10.0.0.1", "client:10.0.0.1"),
        ("country|server", "10.0.0.1", "server:"),
    ],
)
def test_clients_of_a_country_share_a_counter(text: str, address: str, expected: str) -> None:
    request = asked(client_address=address, sasl_username="alice")
    request.facts = Facts(0.0, Germany())
    assert key(text).of(request) == expected
    assert ("country" in key(text).empty_in(request)) == (address == "10.0.0.1")


def test_a_country_is_written_as_two_letters() -> None:
    assert [key("country").written(name) for name in ("DE", "de", "country:De")] == [("country:de",)] * 3
    assert [key("country").written(name) for name in ("", "alice", "d1", "ÄÖ", "192.0.2.1")] == [()] * 5
    assert key("country").compared_as() == COUNTRY
    assert key("sasl_username+country").written("alice+DE") == ("user+country:alice+de",)
    assert key("sasl_username+country").written("alice+germany") == ()
