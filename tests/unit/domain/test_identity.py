"""Who is charged."""

from __future__ import annotations

import gc
import ipaddress
import itertools
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.domain.charging import Charged
from policyd_rate_limit.domain.identity import IDS_AT_ONCE, REMEMBERED_ADDRESSES, Subjects
from policyd_rate_limit.domain.ids import MOST_NAME, canonical_id, id_of_key, looks_like_a_pattern
from policyd_rate_limit.domain.limits import Limit, Limits
from policyd_rate_limit.domain.networks import parse_address, parse_network
from policyd_rate_limit.domain.request import Request

USUAL = (Limit(10, 60),)
OWN = (Limit(5, 60),)
OTHER = (Limit(7, 60),)
EVERYWHERE = ("0.0.0.0/0", "::/0")

# Letters whose spellings in upper and lower case lead back to each other, lone surrogates as bytes that are not UTF-8
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126)
    | st.sampled_from("éÉßΣσςàÀñ😀漢")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    min_size=1,
    max_size=60,
)
addresses = st.ip_addresses()


def subjects(
    *,
    limits: Limits = USUAL,
    by_id: Mapping[str, Limits] | None = None,
    sasl: bool = True,
    sender: bool = True,
    ip: bool = True,
    networks: Sequence[str] = EVERYWHERE,
    ipv6_prefix: int = 64,
) -> Subjects:
    return Subjects(
        limits=limits,
        limits_by_id=by_id or {},
        limit_by_sasl=sasl,
        limit_by_sender=sender,
        limit_by_ip=ip,
        limited_networks=networks,
        ipv6_prefix=ipv6_prefix,
    )


def request(user: str = "", sender: str = "", address: str = "") -> Request:
    return Request("RCPT", "1.2.3", "", user, sender, "r@example.net", address, 1)


def client(subjects: Subjects, address: str) -> Charged | None:
    return subjects.charged(request(address=address))


def key(charged: Charged | None) -> str:
    assert charged is not None
    return charged.key


@pytest.mark.parametrize("enabled", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("present", list(itertools.product([True, False], repeat=3)))
def test_user_else_sender_else_address(enabled: tuple[bool, bool, bool], present: tuple[bool, bool, bool]) -> None:
    keys = ["user:alice", "sender:a@example.org", "client:192.0.2.1"]
    values = ["alice", "a@example.org", "192.0.2.1"]
    asked = request(*(value if there else "" for value, there in zip(values, present, strict=True)))
    expected = next((k for k, on, there in zip(keys, enabled, present, strict=True) if on and there), None)
    sasl, sender, ip = enabled
    charged = subjects(sasl=sasl, sender=sender, ip=ip).charged(asked)
    assert charged == (None if expected is None else Charged(expected, USUAL))


def test_only_addresses_of_limited_networks() -> None:
    some = subjects(networks=["192.0.2.0/25", "198.51.100.7", "2001:db8::/32"])
    assert key(client(some, "192.0.2.127")) == "client:192.0.2.127"
    assert key(client(some, "198.51.100.7")) == "client:198.51.100.7"
    assert key(client(some, "2001:db8:ffff::1")) == "client:2001:db8:ffff::/64"
    for outside in ("192.0.2.128", "198.51.100.8", "2001:db9::1"):
        assert client(some, outside) is None
    assert client(subjects(networks=[]), "192.0.2.1") is None
    assert client(subjects(networks=["::/0"]), "192.0.2.1") is None
    assert client(subjects(networks=["0.0.0.0/0"]), "::1") is None


def test_a_network_narrower_than_a_prefix_limits_its_own_addresses_only() -> None:
    some = subjects(networks=["2001:db8::/96"])
    assert key(client(some, "2001:db8::1")) == "client:2001:db8::/64"
    assert client(some, "2001:db8::1:0:0:1") is None


@pytest.mark.parametrize("network", ["nonsense", "192.0.2.1/24", "", "10", "fe80::1%eth0/64"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        subjects(networks=[network])


@pytest.mark.parametrize(
    "absent", ["", "unknown", "localhost", "192.0.2", "192.0.2.256", "1.2.3.4.5", "::g", "1", "[::1]", "\udcff"]
)
def test_what_is_no_address_is_absent(absent: str) -> None:
    assert client(subjects(), absent) is None


@settings(deadline=None)
@given(names, st.data())
def test_case_makes_no_other_id(name: str, data: st.DataObject) -> None:
    spelled = "".join(data.draw(st.sampled_from([c, c.upper(), c.lower()])) for c in name)
    some = subjects(by_id={spelled.swapcase(): OWN})
    assert some.charged(request(user=name)) == some.charged(request(user=spelled))
    assert some.charged(request(sender=name)) == some.charged(request(sender=spelled))
    if parse_address(name) is None:
        assert some.charged(request(user=name)) == Charged(f"user:{name.casefold()}", OWN)
    assert some.keys_of_old_id(name) == some.keys_of_old_id(spelled)


@settings(deadline=None)
@given(names, names)
def test_other_names_have_other_keys(one: str, other: str) -> None:
    same = one.casefold() == other.casefold()
    assert (key(subjects().charged(request(user=one))) == key(subjects().charged(request(user=other)))) == same
    assert key(subjects().charged(request(user=one))) != key(subjects().charged(request(sender=other)))


def spellings(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    if isinstance(address, ipaddress.IPv4Address):
        number = int(address)
        return [str(address), f"::ffff:{address}", f"::FFFF:{number >> 16:X}:{number & 0xFFFF:04x}"]
    full = address.exploded
    return [str(address), full, full.upper(), str(address).upper(), f"{address}%eth0", f"{full}%12"]


@settings(deadline=None)
@given(addresses)
def test_spelling_makes_no_other_client(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    for some in (subjects(), subjects(ipv6_prefix=128), subjects(by_id={str(address): OWN})):
        assert len({client(some, text) for text in spellings(address)}) == 1
    named = subjects(by_id={spellings(address)[-1]: OWN})
    charged = client(named, str(address))
    assert charged is not None
    assert charged.limits == OWN


def test_ipv4_in_ipv6_is_ipv4() -> None:
    for text in ("192.0.2.1", "::ffff:192.0.2.1", "::FFFF:C000:0201", "0:0:0:0:0:ffff:c000:201"):
        assert client(subjects(networks=["192.0.2.0/24"]), text) == Charged("client:192.0.2.1", USUAL)
        assert client(subjects(networks=["::ffff:192.0.2.0/120"]), text) == Charged("client:192.0.2.1", USUAL)
    assert key(client(subjects(), "::192.0.2.1")) == "client:::/64"


@settings(deadline=None)
@given(addresses, st.sampled_from(["192.0.2.1", "::1", "2001:db8::/64"]) | names)
def test_a_user_named_like_an_address_is_no_client(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, name: str
) -> None:
    some = subjects(by_id={str(address): OWN})
    the_client = client(some, str(address))
    assert the_client is not None
    for charged in (
        some.charged(request(user=str(address))),
        some.charged(request(sender=str(address))),
        some.charged(request(user=name)),
        some.charged(request(user=the_client.key)),
        some.charged(request(user=the_client.key.removeprefix("client:"))),
    ):
        assert charged is not None
        assert charged.key != the_client.key
        assert charged.limits == USUAL


@pytest.mark.parametrize("prefix", [1, 32, 48, 56, 64, 127])
def test_an_ipv6_client_is_its_prefix(prefix: int) -> None:
    some = subjects(ipv6_prefix=prefix)
    first = ipaddress.ip_network(f"2001:db8:1:2:3:4:5:6/{prefix}", strict=False)
    assert key(client(some, "2001:db8:1:2:3:4:5:6")) == f"client:{first}"
    assert key(client(some, str(first[0]))) == key(client(some, str(first[-1]))) == f"client:{first}"
    assert key(client(some, str(first[-1] + 1))) != f"client:{first}"


def test_ipv6_as_the_old_versions_have_it() -> None:
    assert key(client(subjects(ipv6_prefix=128), "2001:DB8:0::1")) == "client:2001:db8::1"


def test_limits_of_one_address() -> None:
    some = subjects(by_id={"192.0.2.1": OWN, "2001:DB8:0::1": OTHER, "198.51.100.1": ()})
    assert client(some, "192.0.2.1") == Charged("client:192.0.2.1", OWN)
    assert client(some, "192.0.2.2") == Charged("client:192.0.2.2", USUAL)
    assert client(some, "198.51.100.1") == Charged("client:198.51.100.1", ())
    assert client(some, "2001:db8::1") == Charged("client:2001:db8::1", OTHER)
    assert client(some, "2001:db8::2") == Charged("client:2001:db8::/64", USUAL)


def test_limits_of_a_network_are_those_of_each_of_its_members() -> None:
    some = subjects(by_id={"192.0.2.0/24": OWN, "2001:db8::/32": OTHER})
    assert client(some, "192.0.2.1") == Charged("client:192.0.2.1", OWN)
    assert client(some, "192.0.2.2") == Charged("client:192.0.2.2", OWN)
    assert client(some, "2001:db8::1") == Charged("client:2001:db8::/64", OTHER)
    assert client(some, "2001:db8:0:1::1") == Charged("client:2001:db8:0:1::/64", OTHER)


def test_a_network_inside_a_prefix_is_charged_by_itself() -> None:
    some = subjects(by_id={"2001:db8::/96": OWN, "2001:db8::/64": OTHER})
    assert client(some, "2001:db8::1") == Charged("client:2001:db8::/96", OWN)
    assert client(some, "2001:db8::2") == Charged("client:2001:db8::/96", OWN)
    assert client(some, "2001:db8::1:0:0:1") == Charged("client:2001:db8::/64", OTHER)


def test_the_longest_network_counts() -> None:
    some = subjects(
        by_id={"0.0.0.0/0": USUAL, "192.0.2.0/25": OTHER, "192.0.2.0/24": (), "192.0.2.1/32": OWN, "::/0": OTHER}
    )
    assert client(some, "192.0.2.1") == Charged("client:192.0.2.1", OWN)
    assert client(some, "192.0.2.2") == Charged("client:192.0.2.2", OTHER)
    assert client(some, "192.0.2.200") == Charged("client:192.0.2.200", ())
    assert client(some, "198.51.100.1") == Charged("client:198.51.100.1", USUAL)
    assert client(some, "2001:db8::1") == Charged("client:2001:db8::/64", OTHER)


@settings(deadline=None)
@given(st.lists(st.tuples(addresses, st.integers(0, 32)), max_size=8), addresses)
def test_networks_as_the_standard_library_finds_them(
    named: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    networks = [ipaddress.ip_network((a, length), strict=False) for a, length in named]
    by_id = {str(network): (Limit(number, 60),) for number, network in enumerate(networks)}
    holding = [n for n in networks if (mapped or address) in n]
    expected = by_id[str(max(holding, key=lambda n: n.prefixlen))] if holding else USUAL
    charged = client(subjects(by_id=by_id), str(address))
    assert charged is not None
    assert charged.limits == expected


@pytest.mark.parametrize("length", [MOST_NAME - 1, MOST_NAME, MOST_NAME + 1, 100_000])
def test_ids_of_any_length(length: int) -> None:
    """Each is one by itself, whatever it is called by, in bounded memory."""
    name = "x" * (length - 2) + "😀\udcff"
    other = "x" * (length - 2) + "😀\udcfe"
    some = subjects(by_id={name.upper(): OWN})
    asked = request(user=name.capitalize())
    charged = some.charged(asked)
    assert charged is not None
    assert charged.limits == OWN
    key, kind = charged.key, "user:"
    assert (key == kind + name) == (length <= MOST_NAME)
    assert len(key) <= len(kind) + MOST_NAME
    assert some.charged(request(user=other)) not in (None, charged)
    assert some.charged(request(sender=name)) == Charged("sender:" + id_of_key(key), OWN)
    # As an administrator writes it, and as commands have shown it.
    assert some.keys_of_id(kind + name) == some.keys_of_id(key) == (key,)
    assert key in some.keys_of_old_id(name)
    assert some.limits_and_setting(key) == (OWN, "limits_by_id")
    assert id_of_key(key) in some.ids_for_query(asked, charged)
    assert all(len(one) <= MOST_NAME for one in some.ids_for_query(asked, charged))


def test_what_is_too_long_for_an_address_is_none() -> None:
    link_local = "fe80::1%" + "z" * 15
    assert client(subjects(), link_local) is not None
    assert client(subjects(), link_local + "z" * 100) is None


def test_what_looks_like_a_network_and_is_none_is_a_name() -> None:
    for name in ("sales/24", "10/8", "192.0.2.1/33", "a:b", "1user"):
        assert subjects(by_id={name: OWN}).charged(request(user=name)) == Charged(f"user:{name}", OWN)


@pytest.mark.parametrize(
    ("old_id", "keys"),
    [
        ("Alice", ("user:alice", "sender:alice")),
        ("A@example.org", ("user:a@example.org", "sender:a@example.org")),
        ("192.0.2.1", ("client:192.0.2.1",)),
        ("::ffff:192.0.2.1", ("client:192.0.2.1",)),
        ("2001:DB8::5", ("client:2001:db8::/64",)),
        ("2001:db8::1", ("client:2001:db8::1",)),
        ("unknown", ("user:unknown", "sender:unknown")),
    ],
)
def test_what_was_counted_for_an_id_of_the_old_databases(old_id: str, keys: tuple[str, ...]) -> None:
    # Whether or not clients are limited now: the database is read once, and settings change.
    some = subjects(by_id={"2001:db8::1": OWN}, ip=False, networks=[])
    assert some.keys_of_old_id(old_id) == keys


@settings(deadline=None)
@given(addresses)
def test_old_and_new_keys_of_a_client_are_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    some = subjects(by_id={"::/1": OWN, "8000::/100": OTHER})
    assert some.keys_of_old_id(str(address)) == (key(client(some, str(address))),)


def test_remembered_addresses_are_bounded() -> None:
    some = subjects()
    # More addresses than are remembered go through, and the first one is still itself.
    first = client(some, "10.0.0.0")
    for number in range(REMEMBERED_ADDRESSES + 1):
        client(some, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert client(some, "10.0.0.0") == first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alice", "aLICE"),
        ("2001:DB8::1", "2001:db8:0::1/128"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.0/24", "::ffff:192.0.2.0/120"),
        ("192.0.2.0/24", "192.0.2.0/255.255.255.0"),
        ("0.0.0.0/0", "::ffff:0:0/96"),
    ],
)
def test_ids_that_are_one(one: str, other: str) -> None:
    assert canonical_id(one) == canonical_id(other)


def test_a_network_of_more_than_all_of_ipv4_is_one_of_ipv6() -> None:
    assert parse_network("::fffe:0:0/95") == (6, 0xFFFE << 32, 95)
    assert parse_network("::fffe:0:0/96") == (6, 0xFFFE << 32, 96)
    assert parse_network("::ffff:0:0/96") == (4, 0, 0)


def test_networks_are_written_as_they_are_read() -> None:
    for text in ("192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0", "::/0"):
        assert str(parse_network(text)) == text
    assert parse_network("192.0.2.1").is_address
    assert not parse_network("192.0.2.0/31").is_address


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        (request(user="alice"), ("alice",)),
        (request(user="Alice", sender="x@y"), ("alice", "Alice")),
        (request(user="Straße"), ("strasse", "Straße")),
        (request(user="user:b"), ("user:b",)),
        (request(user="192.0.2.1"), ("192.0.2.1",)),
        (request(sender="Bob@Example.org", address="192.0.2.1"), ("bob@example.org", "Bob@Example.org")),
        (request(address="192.0.2.1"), ("192.0.2.1",)),
        (request(address="::ffff:192.0.2.1"), ("192.0.2.1",)),
        (request(address="2001:DB8:0::1"), ("2001:db8::1", "2001:db8::/64")),
        (request(address="2001:db8:1::9"), ("2001:db8:1::9", "2001:db8:1::/80")),
        (request(address="2001:db8:2::9"), ("2001:db8:2::9",)),
    ],
)
def test_ids_for_a_query(asked: Request, ids: tuple[str, ...]) -> None:
    some = subjects(by_id={"2001:db8:1::/80": OWN, "2001:db8:2::9": OWN})
    charged = some.charged(asked)
    assert charged is not None
    assert some.ids_for_query(asked, charged) == ids
    # What cleaning asks about is among them.
    assert id_of_key(charged.key) in ids


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("Alice", ("user:alice", "sender:alice")),
        ("a:b", ("user:a:b", "sender:a:b")),
        ("user:", ("user:user:", "sender:user:")),
        ("user:Alice", ("user:alice",)),
        ("user:192.0.2.1", ("user:192.0.2.1",)),
        ("user:user:b", ("user:user:b",)),
        ("sender:A@Example.org", ("sender:a@example.org",)),
        ("192.0.2.1", ("client:192.0.2.1",)),
        ("192.0.2.1/32", ("client:192.0.2.1",)),
        ("client:::ffff:192.0.2.1", ("client:192.0.2.1",)),
        ("2001:DB8:0::1", ("client:2001:db8::/64",)),
        ("client:2001:db8::/64", ("client:2001:db8::/64",)),
        ("2001:db8:1::9", ("client:2001:db8:1::/80",)),
        ("2001:db8:1::/80", ("client:2001:db8:1::/80",)),
    ],
)
def test_keys_that_an_administrator_names(name: str, keys: tuple[str, ...]) -> None:
    assert subjects(by_id={"2001:db8:1::/80": OWN}).keys_of_id(name) == keys


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "empty"),
        ("client:alice", "neither an address nor a network"),
        ("192.0.2.0/24", "the network 192.0.2.0/24 is not charged as one client"),
        ("2001:db8::/32", "not charged as one client"),
        ("2001:db8:2::/80", "not charged as one client"),
        ("10.0.0.0/8", "not charged as one client"),
    ],
)
def test_what_names_no_key(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subjects(by_id={"2001:db8:1::/80": OWN, "2001:db8::/32": OWN, "192.0.2.0/24": OWN}).keys_of_id(name)
    with pytest.raises(ValueError, match="not charged as one client"):
        subjects(ipv6_prefix=8).keys_of_id("10.0.0.0/8")


def test_a_name_stands_for_what_is_charged() -> None:
    assert subjects(sender=False).keys_of_id("alice") == ("user:alice",)
    assert subjects(sasl=False).keys_of_id("alice") == ("sender:alice",)
    nothing = subjects(sasl=False, sender=False, ip=False)
    with pytest.raises(ValueError, match="limit_by_sasl"):
        nothing.keys_of_id("alice")
    with pytest.raises(ValueError, match="limit_by_ip"):
        nothing.keys_of_id("192.0.2.1")
    some = subjects(networks=["192.0.2.0/24", "2001:db8::/32"])
    assert some.keys_of_id("192.0.2.1") == ("client:192.0.2.1",)
    assert some.keys_of_id("2001:db8:1::/64") == ("client:2001:db8:1::/64",)
    for name in ("198.51.100.1", "2001:db9::1", "2001:db9::/64"):
        with pytest.raises(ValueError, match="none of limited_networks"):
            some.keys_of_id(name)
    for name in ("user:alice", "sender:alice", "client:192.0.2.1"):
        assert nothing.keys_of_id(name) == (name,)


@settings(deadline=None)
@given((names | addresses.map(str)).filter(lambda name: not name.startswith("client:")))  # user:client:… is that user
@example("client")
@example("user")
@example("user:")
def test_an_id_names_the_key_that_it_is_charged_as(name: str) -> None:
    some = subjects(by_id={"::/1": OWN, "8000::/100": OTHER, "alice": ()})
    for asked in (request(user=name), request(sender=name), request(address=name)):
        charged = some.charged(asked)
        if charged is not None:
            assert charged.key in (*some.keys_of_id(name), *some.keys_of_id(charged.key))
            assert some.keys_of_id(charged.key) == (charged.key,)
            assert some.limits_and_setting(charged.key)[0] == charged.limits


def test_where_the_limits_of_a_key_come_from() -> None:
    some = subjects(by_id={"Alice": OWN, "192.0.2.0/24": OTHER, "2001:db8::": OWN, "2001:db8::/32": ()})
    assert some.limits_and_setting("user:alice") == (OWN, "limits_by_id")
    assert some.limits_and_setting("sender:alice") == (OWN, "limits_by_id")
    assert some.limits_and_setting("user:bob") == (USUAL, "limits")
    assert some.limits_and_setting("client:192.0.2.1") == (OTHER, "limits_by_id")
    assert some.limits_and_setting("client:198.51.100.1") == (USUAL, "limits")
    # The first address of a network has limits of its own, and the network those of the one around it.
    assert some.limits_and_setting("client:2001:db8::") == (OWN, "limits_by_id")
    assert some.limits_and_setting("client:2001:db8::/64") == ((), "limits_by_id")
    # What no version of ours would have written.
    assert some.limits_and_setting("client:alice") == (USUAL, "limits")
    assert some.limits_and_setting("nobody") == (USUAL, "limits")


SHORT, LONG = (Limit(1000, 60),), (Limit(1, 60), Limit(9, 86400))


@pytest.mark.parametrize(
    ("before", "after", "further"),
    [
        ((SHORT, {}), (SHORT, {}), False),
        ((SHORT, {}), (LONG, {}), True),
        ((LONG, {}), (SHORT, {}), False),
        (((), {}), (SHORT, {}), True),
        ((LONG, {}), ((Limit(5, 86400),), {}), False),
        # users and senders
        ((LONG, {"a": SHORT}), (LONG, {}), True),
        ((LONG, {"A": SHORT}), (LONG, {"a": SHORT}), False),
        ((LONG, {"a": SHORT}), (LONG, {"b": SHORT}), True),
        ((LONG, {}), (LONG, {"a": SHORT}), False),
        ((SHORT, {}), (SHORT, {"a": LONG}), True),
        ((SHORT, {"a": LONG}), (SHORT, {}), False),
        # clients: which network holds an address may change
        ((LONG, {"192.0.2.0/24": SHORT}), (LONG, {"192.0.2.0/24": SHORT}), False),
        ((LONG, {"192.0.2.0/24": SHORT}), (LONG, {}), True),
        ((SHORT, {"192.0.2.0/24": LONG, "192.0.2.1": SHORT}), (SHORT, {"192.0.2.0/24": LONG}), True),
        ((SHORT, {}), (SHORT, {"192.0.2.0/24": SHORT}), False),
        ((LONG, {}), (LONG, {"192.0.2.0/24": SHORT}), False),
        ((SHORT, {"192.0.2.0/24": SHORT}), (SHORT, {"192.0.2.0/24": LONG}), True),
        ((SHORT, {"192.0.2.0/24": SHORT}), (SHORT, {"198.51.100.0/24": SHORT}), False),
    ],
)
def test_whether_anybodys_window_becomes_longer(
    before: tuple[Limits, dict[str, Limits]], after: tuple[Limits, dict[str, Limits]], further: bool
) -> None:
    old, new = (subjects(limits=limits, by_id=by_id) for limits, by_id in (before, after))
    assert new.may_look_back_further(old) is further


def test_who_makes_many_rules_lets_others_run() -> None:
    """A compiled loop does not by itself."""
    pauses: list[None] = []

    def made(by_id: Mapping[str, Limits], networks: Sequence[str]) -> Subjects:
        return Subjects(
            limits=SHORT,
            limits_by_id=by_id,
            limit_by_sasl=True,
            limit_by_sender=False,
            limit_by_ip=True,
            limited_networks=networks,
            ipv6_prefix=64,
            pause=lambda: pauses.append(None),
        )

    count = 10 * IDS_AT_ONCE
    addresses = [str(IPv4Address(number)) for number in range(count)]
    old = made(dict.fromkeys(addresses, SHORT) | {f"user{number}": SHORT for number in range(count)}, addresses)
    assert len(pauses) == 30
    pauses.clear()
    new = made(dict.fromkeys(addresses, SHORT), ())
    pauses.clear()
    assert not new.may_look_back_further(old)
    assert len(pauses) == 20
    pauses.clear()
    assert not made(dict.fromkeys(addresses[1:], SHORT), ()).may_look_back_further(old)
    assert len(pauses) == 40


def how_many_rules() -> int:
    """All that there are. (A compiled object takes no weak reference.)"""
    return sum(isinstance(thing, Subjects) for thing in gc.get_objects())


def test_old_rules_go_by_reference_counts() -> None:
    """No cycle keeps them, as the garbage collector hardly ever looks at what lives long."""
    gc.disable()
    try:
        old = subjects()
        assert old.charged(request(address="192.0.2.1")) is not None
        before = how_many_rules()
        del old
        assert how_many_rules() == before - 1
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "name",
    ["example.org", "a.b.EXAMPLE.", "@example.org", "a@", "*@b", "*", "a*", ".b.org", "%@b.org", "/x/", "a.xn--p1ai"],
)
def test_what_looks_like_many_ids(name: str) -> None:
    assert looks_like_a_pattern(name)


@pytest.mark.parametrize(
    "name", ["", "alice", "john.doe", "a@example.org", "//", "192.0.2.1", "a-.org", "x" * 400 + ".org", "a%b", "ü.org"]
)
def test_what_is_one_id(name: str) -> None:
    assert not looks_like_a_pattern(name)


def test_the_keys_that_limits_by_id_names() -> None:
    named = {"Alice": SHORT, "192.0.2.0/24": SHORT}
    assert set(subjects(by_id=named).named_keys()) == {"user:alice", "sender:alice", "client:192.0.2.0/24"}
    assert set(subjects(by_id=named, sender=False, ip=False).named_keys()) == {"user:alice"}
    assert set(subjects().named_keys()) == set()


def test_the_settings_of_version_1_have_no_key_of_their_own() -> None:
    some = subjects()
    assert (some.key_text, some.kinds) == ("", ())
    assert some.limits_of_key("user:alice") == some.limits_and_setting("user:alice")[0]
    assert not some.asks_facts
    assert some.keep_seconds == 0
