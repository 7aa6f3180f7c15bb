"""What rules do with mails: each written as an administrator writes it, and decided in memory."""

from __future__ import annotations

import pytest

from policyd_rate_limit.domain.request import DATA, END_OF_MESSAGE, RCPT
from support.ruled import NOON, Ruled, policy_of, request

OVER = "defer_if_permit Rate limit reach, retry later"


def test_a_domain_shares_a_cap_beside_one_for_each_member() -> None:
    ruled = Ruled(
        """
        rules:
          domain: {key: sasl_domain, limits: 5/1d, overrides: {big.example: 100/1d}}
          member: {key: sasl_username, limits: 3/1d, overrides: {"*@big.example": 7/1d}}
        """
    )
    assert ruled.admitted(5, sasl_username="alice@example.org") == 3
    assert ruled.admitted(5, sasl_username="bob@example.org") == 2
    assert ruled.admitted(9, sasl_username="carol@BIG.example") == 7
    assert ruled.counted("domain|sasl_domain:example.org") == 5
    assert ruled.counted("member|user:bob@example.org") == 2


def test_who_has_no_domain_is_in_no_domain() -> None:
    """An empty term of a key has once given all web sites one counter."""
    ruled = Ruled("rules: {domain: {key: sasl_domain, limits: 1/1d}}")
    assert ruled.admitted(3, sasl_username="alice") == 3
    assert ruled.admitted(3, sasl_username="") == 3


def test_what_one_rule_refuses_no_rule_counts() -> None:
    ruled = Ruled(
        """
        rules:
          machine: {key: server, limits: 100/1h}
          person: {key: sasl_username, limits: 2/1h}
        """
    )
    assert ruled.admitted(10) == 2
    assert ruled.counted("machine|server:") == 2


def test_shadow_refuses_nothing_and_counts_what_it_would_admit() -> None:
    ruled = Ruled("rules: {person: {key: sasl_username, limits: 2/1h, shadow: true}}")
    assert ruled.admitted(10) == 10
    assert ruled.counted("person|user:alice@example.org") == 2


def test_a_mail_is_held_where_no_rule_refuses_it() -> None:
    text = """
        rules:
          marked: {key: sasl_username, limits: 1/1h, action: prepend X-Many}
          held: {key: sasl_username, limits: 1/1h, action: hold too many}
          refused: {key: sasl_username, limits: 3/1h, action: 550 5.7.1 no more}
        """
    ruled = Ruled(text)
    assert ruled.mail() == ["dunno"] * 3
    assert [ruled.mail()[0] for _ in range(3)] == ["hold too many"] * 2 + ["550 5.7.1 no more"]
    assert ruled.counted("held|user:alice@example.org") == 1


def test_of_several_that_refuse_the_first_in_the_file_does() -> None:
    ruled = Ruled(
        """
        rules:
          shadowed: {key: server, limits: 0/1h, shadow: true, action: 550 shadow}
          one: {key: server, limits: 0/1h, action: 451 4.7.1 one}
          two: {key: server, limits: 0/1h, action: 550 5.7.1 two}
        """
    )
    assert ruled.mail() == ["451 4.7.1 one"]


def test_a_rule_applies_to_what_it_matches_and_spares_what_is_exempt_from_it_alone() -> None:
    ruled = Ruled(
        """
        rules:
          elsewhere:
            key: sasl_username
            match: {sasl_username: ["*@example.org", root]}
            unless: [{client_address: 192.0.2.0/24}, {sender: "", policy_context: /^bounce/}]
            limits: 1/1h
          machine: {key: server, limits: 8/1h}
        """
    )
    assert ruled.admitted(3, client_address="192.0.2.7") == 3
    assert ruled.admitted(2, client_address="198.51.100.7", sender="", policy_context="Bounces") == 2
    assert ruled.admitted(2, client_address="198.51.100.7", sender="", policy_context="mx") == 1
    assert ruled.admitted(1, client_address="198.51.100.7") == 0
    assert ruled.admitted(9, sasl_username="alice@example.com") == 2  # by the machine's limit


def test_a_newsletter_has_a_counter_of_its_own_at_night() -> None:
    ruled = Ruled(
        """
        rules:
          person: {key: sasl_username, limits: 2/1h, unless: {sasl_username: news@example.org, time: 22:00-06:00}}
          night: {key: sasl_username, match: {sasl_username: news@example.org, time: 22:00-06:00}, limits: 20/8h}
        """,
        now=NOON,
    )
    assert ruled.admitted(4, sasl_username="news@example.org") == 2
    ruled.now += 11 * 3600
    assert ruled.admitted(25, sasl_username="news@example.org") == 20
    assert ruled.admitted(4) == 2
    ruled.now += 9 * 3600
    assert ruled.admitted(4, sasl_username="news@example.org") == 2


def test_messages_are_counted_once_and_recipients_each() -> None:
    ruled = Ruled(
        """
        rules:
          messages: {key: sasl_username, count: messages, limits: 3/1h}
          recipients: {key: sasl_username, limits: 20/1h}
        """
    )
    assert ruled.mail(6) == ["dunno"] * 8
    assert ruled.counted("messages/messages|user:alice@example.org") == 1
    assert ruled.counted("recipients|user:alice@example.org") == 6
    assert ruled.admitted(9) == 2


def test_bytes_are_counted_at_the_end_where_their_number_is_known() -> None:
    ruled = Ruled("rules: {volume: {key: client_address, count: bytes, limits: 10k/1d}}")
    assert ruled.mail(size=6_000) == ["dunno"] * 3
    assert ruled.mail(size=6_000)[2] != "dunno"
    assert ruled.mail(size=4_000) == ["dunno"] * 3
    assert ruled.counted("volume/bytes|client:192.0.2.1") == 10_000


def test_a_rule_that_counts_something_else_begins_anew() -> None:
    """5,000 bytes are no 5,000 recipients; what was counted before is there when it is counted again."""
    of = "rules: {{volume: {{key: sasl_username, count: {}, limits: 5000/1d, overrides: {{root: 9/1h}}}}}}"
    ruled = Ruled(of.format("bytes"))
    assert ruled.mail(size=5_000) == ["dunno"] * 3
    before = ruled.service.policy
    ruled.reload(of.format("recipients"))
    assert not ruled.service.policy.may_look_back_further(before)  # there is nothing to be read again
    assert ruled.service.policy.window_of_counter("volume/bytes|user:alice@example.org") == 0
    assert ruled.service.policy.window_of_counter("volume|user:alice@example.org") == 86_400
    assert ruled.mail(3) == ["dunno"] * 5
    assert ruled.counted("volume|user:alice@example.org") == 3
    ruled.reload(of.format("bytes"))
    assert ruled.mail(size=1)[2] != "dunno"
    longer = "rules: {volume: {key: sasl_username, count: bytes, limits: 5000/1w}}"
    assert policy_of(longer).may_look_back_further(before)


def test_one_mail_is_bounded_by_itself() -> None:
    """The recipients that came first stand; a mail that is over it as a whole is refused as a whole."""
    ruled = Ruled(
        """
        rules:
          person: {key: sasl_username, limits: [3/mail, 100/1h]}
          volume: {key: sasl_username, count: bytes, limits: 5k/mail}
        """
    )
    answers = ruled.mail(5)
    assert [answer == "dunno" for answer in answers] == [True] * 3 + [False]
    assert ruled.ask(request(DATA, "1.0", recipient_count=3)) == "dunno"
    assert ruled.ask(request(DATA, "77.0", recipient_count=4)) != "dunno"
    assert ruled.mail(3, size=5_000) == ["dunno"] * 5
    assert ruled.mail(3, size=5_001)[4] != "dunno"


def test_the_recipient_is_limited_at_rcpt_alone() -> None:
    ruled = Ruled("rules: {mailbox: {key: recipient, limits: 2/1h}}")
    assert [ruled.mail(recipient="x@example.net")[0] == "dunno" for _ in range(3)] == [True, True, False]
    assert ruled.ask(request(DATA, recipient="x@example.net", recipient_count=1)) == "dunno"
    assert ruled.ask(request(RCPT, recipient="X@Example.net")) != "dunno"


def test_networks_of_clients_share_a_counter() -> None:
    ruled = Ruled("rules: {network: {key: client_address/24/56, limits: 2/1h}}")
    for one, two, other in (
        ("192.0.2.1", "192.0.2.200", "192.0.3.1"),
        ("2001:db8:0:1::1", "2001:db8:0:ff::2", "2001:db8:0:100::1"),
    ):
        assert [ruled.admitted(1, client_address=address) for address in (one, two, one)] == [1, 1, 0]
        assert ruled.admitted(1, client_address=other) == 1


def test_a_combination_and_the_first_that_is_there() -> None:
    ruled = Ruled(
        """
        rules:
          pair: {key: sasl_username+client_address, limits: 1/1h}
          either: {key: sasl_username | sender, limits: 3/1h}
        """
    )
    assert ruled.admitted(2, client_address="192.0.2.1") == 1
    assert ruled.admitted(2, client_address="192.0.2.2") == 1
    assert ruled.admitted(1, sasl_username="a+192.0.2.9", client_address="192.0.2.2") == 1
    assert ruled.counted("pair|user+client:a\\+192.0.2.9+192.0.2.2") == 1
    assert ruled.admitted(4, sasl_username="", sender="web@example.org") == 3
    assert ruled.counted("either|sender:web@example.org") == 3


def test_a_text_says_what_the_user_must_know() -> None:
    ruled = Ruled(
        """
        rules:
          site:
            key: client_address
            limits: [2/1h, 500/1d]
            action: "450 4.7.1 {key} ({sender}): {used} of {maximum} in {period}, next in {free_in}; {rule} {limit}"
        """
    )
    ruled.now = NOON
    assert ruled.admitted(2) == 2
    ruled.now += 600
    assert ruled.mail(sender="evil\x07\udcff@example.org") == [
        "450 4.7.1 192.0.2.1 (evil??@example.org): 2 of 2 in 1h, next in 50m; site 2/1h"
    ]


@pytest.mark.parametrize("stage", [RCPT, DATA, END_OF_MESSAGE])
@pytest.mark.parametrize(
    "name", ["a|b", "user:x", "../", "x" * 4000, "a\udcffb", "a\\+b", "default|user:z", "é@ü.example"]
)
def test_no_name_is_taken_for_another_rule_or_kind(name: str, stage: str) -> None:
    ruled = Ruled("rules: {person: {key: sasl_username, limits: 1/1h}, other: {key: sender, limits: 9/1h}}")
    first = request(stage, "1.0", sasl_username=name)
    assert ruled.ask(first) == "dunno"
    assert ruled.ask(request(stage, "2.0", sasl_username=name)) != "dunno"
    assert ruled.ask(request(stage, "3.0", sasl_username="x")) == "dunno"
    assert ruled.counted("other|sender:alice@example.org") == 2


def test_the_rule_of_the_settings_is_there_where_they_are_written() -> None:
    rules = "rules: {machine: {key: server, limits: 100/1h}}\n"
    assert Ruled(rules).admitted(20) == 20
    assert Ruled(rules + "limits: [[5, 3600]]\n").admitted(20) == 5
    assert Ruled(rules + "limits_by_id: {alice@example.org: [[6, 3600]]}\nlimits: []\n").admitted(20) == 6


def test_different_recipients_are_counted_and_the_excess_is_held() -> None:
    """Whatever the same one is called, and however often it comes."""
    text = """
        rules:
          outside:
            key: sasl_username
            count: distinct recipient
            unless: {recipient_domain: ["uni.example", "*.uni.example"]}
            limits: 2/1d
            action: hold
        """
    ruled = Ruled(text)

    def to(recipient: str) -> str:
        return ruled.ask(request(RCPT, f"{recipient}.0", recipient=recipient))

    assert [to(one) for one in ("a@x.org", "A@X.ORG", "b@b\u00fccher.example")] == ["dunno"] * 3
    assert [to(one) for one in ("B@xn--bcher-kva.example", "c@x.org", "a@x.org")] == ["dunno", "hold", "dunno"]
    assert [to(one) for one in ("x@uni.example", "y@cs.uni.example")] == ["dunno"] * 2
    assert ruled.counted("outside/distinct-recipient|user:alice@example.org") == 2
    later = request(DATA, "9.0", recipient="z@x.org", recipient_count=1)
    assert ruled.ask(later) == "dunno"  # at RCPT alone, where the recipient is known
    ruled.now += 86_399
    assert to("a@x.org") == "dunno"
    ruled.now += 2
    assert [to(one) for one in ("c@x.org", "d@x.org")] == ["dunno", "hold"]


def test_different_clients_are_counted_as_keys_know_them() -> None:
    ruled = Ruled(
        """
        rules:
          places: {key: sasl_username, count: distinct client_address, limits: 2/1h, warn: 99}
          person: {key: sasl_username, limits: 100/1h}
        """
    )
    clients = ("192.0.2.1", "2001:db8:0:1::1", "2001:DB8:0:1:ffff::2", "192.0.2.1", "192.0.2.2")
    assert [ruled.admitted(1, client_address=client) for client in clients] == [1, 1, 1, 1, 0]
    assert ruled.counted("places/distinct-client_address|user:alice@example.org") == 2
    # What is refused counts in no rule; who has no address is in no window.
    assert ruled.counted("person|user:alice@example.org") == 4
    assert ruled.admitted(1, client_address="unknown") == 1
    assert ruled.counted("places/distinct-client_address|user:alice@example.org") == 2


def test_to_a_mail_without_a_value_its_rule_does_not_apply() -> None:
    ruled = Ruled("rules: {senders: {key: client_address, count: distinct sender, limits: 1/1h}}")
    assert ruled.admitted(1, sender="a@x.org") == 1
    assert ruled.admitted(2, sender="") == 2
    assert ruled.admitted(1, sender="b@x.org") == 0


def test_a_text_tells_of_different_values() -> None:
    ruled = Ruled(
        """
        rules:
          places:
            key: sasl_username
            count: distinct client_address
            limits: 2/1h
            action: "450 4.7.1 {used} of {maximum} places, next in {free_in}"
        """
    )
    ruled.now = NOON
    for client in ("192.0.2.1", "192.0.2.2"):
        assert ruled.admitted(1, client_address=client) == 1
        ruled.now += 600
    assert ruled.mail(client_address="192.0.2.3") == ["450 4.7.1 2 of 2 places, next in 40m"]
