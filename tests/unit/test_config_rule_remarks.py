"""What is odd in rules that are each right: overrides that never apply, and what refuses nothing."""

from __future__ import annotations

import time

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.rule_remarks import MOST_TRIED, remarks_of_rules
from support.configuration import Load

ALL_OFF = "limit_by_sasl, limit_by_sender and limit_by_ip are all off"
MAILBOX = "rules:\n  x:\n    key: sasl_username\n    limits: 100/1h\n"


def remarks(load: Load, text: str) -> list[str]:
    """The warnings about the file, without its name."""
    return [warning.partition("x.yaml:")[2].strip() for warning in load(text).warnings]


def overrides(key: str, *patterns: str) -> str:
    """A file whose rule overrides its limits for ``patterns``, from line 6 on."""
    lines = "".join(f"      {pattern!r}: 1/1h\n" for pattern in patterns)
    return f"rules:\n  x:\n    key: {key}\n    limits: 100/1h\n    overrides:\n{lines}"


def of_overrides(load: Load, key: str, *patterns: str) -> list[str]:
    """What is said of them, with the number of the line."""
    return [said.replace(": rules.x.overrides: ", ": ") for said in remarks(load, overrides(key, *patterns))]


@pytest.mark.parametrize(
    ("key", "patterns", "said"),
    [
        ("sasl_username", ["alice", "Alice"], "7: 'Alice' never applies: 'alice' stands before, and counts"),
        ("sasl_username", ["*@a.org", "x@a.org"], "7: 'x@a.org' never applies: '*@a.org' stands before, and counts"),
        ("sasl_username", ["/^ali/", "alice"], "7: 'alice' never applies: '/^ali/' stands before, and counts"),
        ("sasl_username", ["*@a.org", "*@A.org"], "7: '*@A.org' never applies: '*@a.org' stands before, and counts"),
        ("sasl_username", ["*", "*@x.org"], "7: '*@x.org' never applies: '*' stands before, and counts"),
        ("sasl_username", ["*", "/^a/", "b"], "7: '/^a/', 'b' never apply: '*' stands before, and counts"),
        ("sasl_domain", ["bücher.de", "XN--bcher-kva.de"], "7: 'XN--bcher-kva.de' never applies: 'bücher.de'"),
        ("client_address", ["10.0.0.0/8", "10.1.0.0/16"], "7: '10.1.0.0/16' never applies: '10.0.0.0/8' stands"),
        ("client_address", ["10.0.0.0/8", "10.1.2.3"], "7: '10.1.2.3' never applies: '10.0.0.0/8' stands before"),
        ("client_address", ["10.1.2.3", "::ffff:10.1.2.3"], "7: '::ffff:10.1.2.3' never applies: '10.1.2.3' stands"),
        (
            "sender",
            ["*@a.org", *(f"{name}@a.org" for name in "abcde")],
            "7: 'a@a.org', 'b@a.org', 'c@a.org' and 2 more never apply: '*@a.org' stands before, and counts",
        ),
    ],
)
def test_what_is_hidden(load: Load, key: str, patterns: list[str], said: str) -> None:
    found = of_overrides(load, key, *patterns)
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("key", "patterns"),
    [
        ("sasl_username", ["alice", "*"]),
        ("sasl_username", ["x@a.org", "*@a.org", "y@b.org", "*@b.org", "*"]),
        ("sasl_username", ["*@a.org", "x@b.org", "/@a.org$/"]),
        ("sender|server", ["a@b.org", ""]),
        ("client_address", ["10.1.0.0/16", "10.0.0.0/8", "2001:db8::/32"]),
        ("client_address/24/56", ["10.1.2.0/24", "10.1.0.0/16", "2001:db8::/56"]),
        ("client_address", ["10.1.2.3", "2001:db8::/64"]),
        ("sasl_username|client_address", ["10.1.2.3", "alice"]),
        ("sasl_username+client_address", ["alice+10.1.2.3", "alice+*"]),
        ("sasl_domain", ["example.org", "*.example.org"]),
        ("sender+sasl_domain", ["a@b.org+example.org"]),
        ("recipient", ["postmaster", "a@b.org"]),
    ],
)
def test_what_applies(load: Load, key: str, patterns: list[str]) -> None:
    assert of_overrides(load, key, *patterns) == []


@pytest.mark.parametrize(
    ("key", "pattern", "why"),
    [
        ("sasl_username", "192.0.2.1", "the key sasl_username is no address"),
        ("sasl_domain", "2001:db8::1", "the key sasl_domain is no address"),
        ("sasl_username", "", "a mail without the key is not charged"),
        ("client_address", "", "a mail without the key is not charged"),
        ("sasl_domain", "alice@example.org", "the key sasl_domain is a domain, without @"),
        ("sasl_domain", "*@example.org", "the key sasl_domain is a domain, without @"),
        ("sender+client_address", "a@b.org", "the key is sender + client_address, whose parts are joined by +"),
        ("client_address/24/56", "192.0.2.1", "clients are charged by their /24 here, as in 192.0.2.0/24"),
        ("client_address/24/56", "192.0.2.0/25", "clients are charged by their /24 here, as in 192.0.2.0/24"),
        ("client_address/24/56", "2001:db8::/64", "clients are charged by their /56 here, as in 2001:db8::/56"),
        ("client_address", "2001:db8::1", "clients are charged by their /64 here, as in 2001:db8::/64"),
    ],
)
def test_what_applies_to_nobody(load: Load, key: str, pattern: str, why: str) -> None:
    assert of_overrides(load, key, pattern) == [f"6: {pattern!r} applies to nobody: {why}"]


def test_the_length_of_ipv6_clients_is_a_setting(load: Load) -> None:
    text = overrides("client_address", "2001:db8::1")
    assert remarks(load, f"{text}ipv6_prefix: 128\n") == []


def test_several_that_apply_to_nobody(load: Load) -> None:
    assert of_overrides(load, "sender", "a", "192.0.2.1", "192.0.2.2") == [
        "7: '192.0.2.1', '192.0.2.2' apply to nobody: the key sender is no address"
    ]


@pytest.mark.parametrize("key", ["sasl_username", "sender", "recipient", "sasl_username|sender"])
@pytest.mark.parametrize(
    ("name", "glob"),
    [
        ("example.org", "*@example.org"),
        ("@example.org", "*@example.org"),
        ("%@example.org", "*@example.org"),
        (".example.org", "*@*.example.org"),
    ],
)
def test_a_domain_among_addresses(load: Load, key: str, name: str, glob: str) -> None:
    assert of_overrides(load, key, name) == [
        f"6: {name!r} is that very name, and no address in a domain: that is {glob!r}"
    ]


def test_several_domains_among_addresses(load: Load) -> None:
    assert of_overrides(load, "sender", "a.org", "b.org") == [
        "6: 'a.org', 'b.org' are those very names, and no address in a domain: that is '*@a.org'"
    ]


def test_one_counter_needs_no_overrides(load: Load) -> None:
    assert of_overrides(load, "server", "x") == ["5: they apply to nobody: with the key server there is one counter"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("overrides:\n      /(a+)+$/: []", "6: rules.x.overrides: '/(a+)+$/' "),
        ("match: {sender: [a, /(a+)+$/]}", "5: rules.x.match: '/(a+)+$/' "),
        ("unless: [{helo_name: /(a+)*x/}]", "5: rules.x.unless: '/(a+)*x/' "),
    ],
)
def test_an_expression_that_may_take_long(load: Load, words: str, said: str) -> None:
    assert remarks(load, f"{MAILBOX}    {words}\n") == [
        f"{said}repeats what is repeated in it: on some values it takes very long"
    ]


def test_what_may_take_long_is_not_tried(load: Load) -> None:
    name = "a" * 60 + "!"
    assert len(of_overrides(load, "sasl_username", "/^(a+)+$/", name)) == 1


def test_many_patterns_take_no_time(load: Load) -> None:
    before = time.process_time()
    assert of_overrides(load, "sasl_username", *(f"*{n}@a.org" for n in range(300)), *map(str, range(2000))) == []
    assert time.process_time() - before < 20
    names = [f"{n}@a.org" for n in range(MOST_TRIED // 1000)]
    found = of_overrides(load, "sasl_username", *(f"*{n}@b.org" for n in range(1000)), *names, "0@A.org")
    assert found == [f"{6 + 1000 + len(names)}: '0@A.org' never applies: '0@a.org' stands before, and counts"]


@pytest.mark.parametrize("action", ["dunno", "OK", "permit now"])
def test_an_action_that_lets_pass(load: Load, action: str) -> None:
    said = f"5: rules.x.action: {action!r} lets all mail pass: the rule limits nobody"
    assert remarks(load, f"{MAILBOX}    action: {action}\n") == [said]
    beside = "  y: {key: sender, limits: 1/1h}\n"
    assert remarks(load, f"{MAILBOX}    action: {action}\n    shadow: true\n{beside}") == []


@pytest.mark.parametrize("action", ["hold", "PREPEND X-A{sender}", "warn {key}", "reject", "450 x", "redirect a@b"])
def test_an_action_that_does_something(load: Load, action: str) -> None:
    assert remarks(load, f"{MAILBOX}    action: '{action}'\n") == []


def test_a_warning_of_nothing(load: Load) -> None:
    rule = "rules:\n  x:\n    key: sender\n    limits: 50/mail\n    warn: 80\n"
    said = "5: rules.x.warn: it warns of nothing: all limits are per mail, whose use nobody is warned of"
    assert remarks(load, rule) == [said]
    assert remarks(load, f"{rule}    overrides: {{a@b: [60/mail, 100/1h]}}\n") == []
    assert remarks(load, f"{MAILBOX}    warn: 80\n") == []


def test_a_block_that_does_not_refuse(load: Load) -> None:
    said = "5: rules.x.block: nobody is blocked in shadow: the log says whom it would block"
    beside = "  y: {key: sender, limits: 1/1h}\n"
    assert remarks(load, f"{MAILBOX}    block: 1h\n    shadow: true\n{beside}") == [said]
    said = (
        "5: rules.x.block: its action refuses nothing, and does not refuse who is blocked either: that is done in"
        " other rules with the same key"
    )
    assert remarks(load, f"{MAILBOX}    block: 1h\n    action: HOLD {{key}}\n") == [said]
    assert remarks(load, f"{MAILBOX}    block: 1h\n") == []


def test_mails_to_users(load: Load) -> None:
    notify = f"{MAILBOX}    notify: [a@b.example, user]\n"
    beside = "  y: {key: sender, limits: 1/1h}\n"
    assert remarks(load, notify) == []
    assert remarks(load, f"{notify}    shadow: true\n{beside}") == [
        "5: rules.x.notify: users are told nothing in shadow"
    ]


def test_mails_that_cannot_be_sent() -> None:
    """For what is wrong elsewhere, with which the daemon starts all the same."""
    settings = Settings(limits=[], rules={"x": {"key": "sender", "limits": "1/1h", "notify": "a@b.example"}})
    (said,) = remarks_of_rules(settings.with_broken({"smtp_server": "smtp_server: expected a host", "limits": "no"}))
    assert said.text == "rules.x.notify: no mail can be sent: smtp_server: expected a host"
    assert list(remarks_of_rules(settings)) == []


def test_a_rule_without_limits(load: Load) -> None:
    said = "3: rules.a: it has no limit, and limits nobody"
    beside = "  b: {key: sender, limits: 1/1h}\n"
    assert remarks(load, f"rules:\n  a:\n    {{key: sender, limits: []}}\n{beside}")[0].endswith(said[2:])
    assert remarks(load, f"rules:\n  a: {{key: sender, limits: [], overrides: {{x: []}}}}\n{beside}") == [
        "2" + said[1:]
    ]
    assert remarks(load, f"rules:\n  a: {{key: sender, limits: [], overrides: {{x: 1/1h}}}}\n{beside}") == []


def test_no_header_where_bytes_are_counted(load: Load) -> None:
    text = "fail_action: 'prepend X: y'\nrules:\n  a: {key: sender, count: bytes, limits: 1M/1h}\n"
    said = "3: rules.a: fail_action is PREPEND, and Postfix adds no header where bytes are counted"
    assert said in remarks(load, text)
    assert remarks(load, text.replace("1M/1h}", "1M/1h, action: reject}")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rules:\n  x: {key: sender, limits: []}\n",
            "1: no rule has a limit, and nothing else limits anybody: nothing is limited",
        ),
        (
            "rules:\n  x: {key: sender, limits: 1/1h, shadow: true}\n",
            "1: rules: shadow is on in all that limit anybody: nothing is refused",
        ),
        (
            "rules:\n  x: {key: sender, limits: 1/1h, shadow: true}\n  y: {key: server, limits: []}\n",
            "1: rules: shadow is on in all that limit anybody: nothing is refused",
        ),
        (
            "rules:\n  x: {key: sender, limits: 1/1h}\nfail_action: dunno\n",
            "3: fail_action: 'dunno' refuses nothing: beyond the limits all passes",
        ),
        (
            "limits: [[1, 60]]\nrules:\n  x: {key: sender, limits: 1/1h}\nlimit_by_sasl: false\n",
            f"4: {ALL_OFF}: the rule default, of limits and limits_by_id, charges nobody",
        ),
        (
            "limits: [[1, 60]]\nrules:\n  x: {key: sender, limits: 1/1h}\nlimit_by_ip: true\n",
            "4: limit_by_ip is on, and limited_networks is empty: no client is charged",
        ),
        (
            "limits: [[1, 60]]\nlimit_by_sasl: false\nrules:\n  x: {key: sender, limits: 1/1h, shadow: true}\n",
            "3: rules: shadow is on in all that limit anybody: nothing is refused",
        ),
    ],
)
def test_what_limits_nobody(load: Load, text: str, said: str) -> None:
    assert said in remarks(load, text)


@pytest.mark.parametrize(
    "text",
    [
        MAILBOX,
        f"{MAILBOX}limit_by_sasl: false\n",
        f"{MAILBOX}limit_by_ip: true\n",
        f"{MAILBOX}limits: []\n",
        f"{MAILBOX}    shadow: true\nlimits: [[1, 60]]\n",
        f"{MAILBOX}    action: hold\nfail_action: dunno\n",
        f"{MAILBOX}report: true\nreport_to: a@b\nreport_limits: [3600]\n",
        f"{MAILBOX}    overrides: {{a: 1/1w}}\nreport: true\nreport_to: a@b\nreport_limits: [604800]\n",
    ],
)
def test_what_limits_somebody(load: Load, text: str) -> None:
    assert remarks(load, text) == []
