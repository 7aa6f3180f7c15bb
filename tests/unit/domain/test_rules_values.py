"""Values of which different ones are counted: each has one spelling."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.counting import digest, stages_of_unit
from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from policyd_rate_limit.domain.rules.attributes import KINDS
from policyd_rate_limit.domain.rules.values import value_reader
from support.ruled import request


@pytest.mark.parametrize(
    ("attribute", "spellings", "value"),
    [
        ("recipient", ["Bob@Example.NET", "bob@example.net"], "bob@example.net"),
        ("recipient", ["x@bücher.example", "X@XN--bcher-kva.example"], "x@xn--bcher-kva.example"),
        ("recipient", [""], ""),
        ("sender_domain", ["a@BÜCHER.example", "b@xn--bcher-kva.example."], "xn--bcher-kva.example"),
        ("sender_domain", ["postmaster"], ""),
        ("client_address", ["192.0.2.1", "::ffff:192.0.2.1"], "192.0.2.1"),
        ("client_address", ["2001:db8::1", "2001:DB8:0:0:ffff::"], "2001:db8::/64"),
        ("client_address", ["unknown", "x" * 5_000], ""),
        ("server_address", ["2001:db8::1", "2001:DB8:0:0::1"], "2001:db8::1"),
        ("server_address", ["unknown", "1" * 5_000], ""),
        ("helo_name", ["MX.Example.org.", "mx.example.org"], "mx.example.org"),
        ("client_port", ["00025", "25"], "25"),
        ("client_port", ["0", "000"], "0"),
        ("client_port", [""], ""),
        ("policy_context", ["MX", "mx"], "mx"),
    ],
)
def test_all_spellings_of_a_value_are_one(attribute: str, spellings: list[str], value: str) -> None:
    read = value_reader(attribute, 64)
    of = {"sender_domain": "sender"}.get(attribute, attribute)
    assert {read(request(RCPT, **{of: spelling})) for spelling in spellings} == {value}


def test_clients_are_known_by_as_many_bits_as_keys_know_them() -> None:
    assert value_reader("client_address", 48)(request(RCPT, client_address="2001:db8:1:2::3")) == "2001:db8:1::/48"
    assert value_reader("client_address", 128)(request(RCPT, client_address="2001:DB8::3")) == "2001:db8::3"


def test_every_attribute_has_values() -> None:
    for attribute in KINDS:
        assert isinstance(value_reader(attribute, 64)(request(RCPT)), str)
    with pytest.raises(KeyError):
        value_reader("server", 64)


def test_a_value_costs_what_the_store_finds() -> None:
    read = value_reader("recipient", 64)
    for by_recipient, stages in ((True, {RCPT}), (False, {RCPT, DATA, END_OF_MESSAGE})):
        costs = stages_of_unit("distinct recipient", by_recipient=by_recipient, value_of=read)
        assert costs.keys() == stages
        cost = costs[RCPT](request(RCPT, recipient="Bob@example.net"))
        assert (cost.amount, cost.part, cost.settles, cost.most) == (0, digest("bob@example.net"), False, 1)
    assert stages_of_unit("bytes", by_recipient=False)[END_OF_MESSAGE](request(END_OF_MESSAGE, size=0)).most == 0
