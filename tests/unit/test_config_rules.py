"""The setting ``rules``: what is read of it, and what is told of mistakes in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import changes
from policyd_rate_limit.config.converting import convert
from policyd_rate_limit.config.kinds import Wrong
from policyd_rate_limit.config.rule_kind import RULES
from policyd_rate_limit.config.rules import RuleSettings, as_written, names_in
from policyd_rate_limit.config.wire import from_text, to_text
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from support.configuration import USUAL, Load, problems

HOUR, DAY = 3600, 86400

MAILBOX = RuleSettings(
    name="mailbox",
    key="sasl_username",
    unit="recipients",
    limits=(Limit(100, HOUR),),
    overrides=(),
    match=(),
    unless=(),
    action=None,
    shadow=False,
)
"""What ``BASE`` says."""

BASE = "rules:\n  mailbox:\n    key: sasl_username\n    limits: 100/1h\n"

WEB_SERVERS = """\
rules:
  site:
    key: client_address
    match: {client_address: 10.0.3.0/24, sasl_username: ""}
    limits: [50/1h, 500/1d]
    overrides: {10.0.3.80: 5000/1d}
    action: "450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}"
  volume: {key: client_address, count: bytes, match: {client_address: 10.0.3.0/24}, limits: [10M/mail, 500M/1d]}
"""
NEWSLETTER = """\
rules:
  person: {key: sasl_username, limits: [30/1h, 150/1d], unless: {sasl_username: news@example.org, time: 22:00-06:00}}
  night:  {key: sasl_username, match: {sasl_username: news@example.org, time: 22:00-06:00}, limits: 20000/8h}
"""
SHARED = """\
rules:
  domain: {key: sasl_domain, limits: 1000/1d, overrides: {big.example: 20000/1d}}
  member: {key: sasl_username, limits: 100/1d, overrides: {"*@big.example": 500/1d}}
"""
INBOUND = """\
rules:
  network:
    key: client_address/24/56
    match: {policy_context: mx}
    unless: {client_address: [192.0.2.0/24, "2001:db8::/32"]}
    limits: [60/1m, 600/1h]
  mailbox: {key: recipient, match: {policy_context: mx}, limits: 300/1h, shadow: true}
  bounces: {key: recipient, match: {policy_context: mx, sender: ""}, limits: 20/1h}
"""
SERVER = "rules:\n  machine: {key: server, limits: 50000/1h}\n"
SITUATIONS = [WEB_SERVERS, NEWSLETTER, SHARED, INBOUND, SERVER]


def rule(words: str) -> str:
    """A file with one rule, which says ``words`` beside those of ``BASE``, from line 5 on."""
    return BASE + "".join(f"    {line}\n" for line in words.split("\n"))


def told(load: Load, text: str) -> list[str]:
    """What is wrong, each on one line that begins with the number of the line in the file."""
    return [f"{problem.line}: {problem.statement}" for problem in problems(load, text)]


@pytest.mark.parametrize("text", SITUATIONS)
def test_situations_of_administrators(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert warnings == ()
    assert len(settings.rules) == text.count("key:")
    assert settings.limits == ()


def test_all_of_a_rule(load: Load) -> None:
    site, volume = load(WEB_SERVERS).settings.rules
    assert site == RuleSettings(
        name="site",
        key="client_address",
        unit="recipients",
        limits=(Limit(50, HOUR), Limit(500, DAY)),
        overrides=(("10.0.3.80", (Limit(5000, DAY),)),),
        match=((("client_address", ("10.0.3.0/24",)), ("sasl_username", ("",))),),
        unless=(),
        action="450 4.7.1 {key}: {used} of {maximum} in {period}, next in {free_in}",
        shadow=False,
    )
    assert volume.limits == (Limit(10_000_000, PER_MAIL), Limit(500_000_000, DAY))
    assert load(INBOUND).settings.rules[0].unless == ((("client_address", ("192.0.2.0/24", "2001:db8::/32")),),)
    assert load(INBOUND).settings.rules[1].shadow is True


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("count: messages", {"unit": "messages"}),
    ("count: bytes", {"unit": "bytes"}),
    ("shadow: yes", {"shadow": True}),
    ("shadow:", {}),
    ("overrides:", {}),
    ("overrides: {}", {}),
    ("overrides: {alice: []}", {"overrides": (("alice", ()),)}),
    (
        "overrides: {'*@a.example': 5/1h, /^x/: [[1, 60], 2/1d], 10: 7/mail}",
        {
            "overrides": (
                ("*@a.example", (Limit(5, HOUR),)),
                ("/^x/", (Limit(1, 60), Limit(2, DAY))),
                ("10", (Limit(7, PER_MAIL),)),
            )
        },
    ),
    (
        "overrides: [{a: 1/1h}, {b: 2/1h, a: []}]",
        {"overrides": (("a", (Limit(1, HOUR),)), ("b", (Limit(2, HOUR),)), ("a", ()))},
    ),
    ("match: {sender: a@b}", {"match": ((("sender", ("a@b",)),),)}),
    ("match: {sender: [a@b, '', 3]}", {"match": ((("sender", ("a@b", "", "3")),),)}),
    ("match: {client_port: 587, size: 0}", {"match": ((("client_port", ("587",)), ("size", ("0",))),)}),
    (
        "unless: [{sender: a@b, time: 22:00-06:00}, {helo_name: x}]",
        {"unless": ((("sender", ("a@b",)), ("time", ("22:00-06:00",))), (("helo_name", ("x",)),))},
    ),
    ("action: 450", {"action": "450"}),
    ("action: hold", {"action": "hold"}),
    ("warn: 80", {"warn": 80}),
    ("warn: 80%", {"warn": 80}),
    ("warn: ' 1 %'", {"warn": 1}),
    ("warn:", {}),
    ("block: 1h", {"block": 3600}),
    ("block: 90", {"block": 90}),
    ("block: 3660d", {"block": 316_224_000}),
    ("block:", {}),
    ("notify: user", {"notify": ("user",)}),
    (
        "notify: [abuse@example.org, user, Abuse <a@b.example>, user]",
        {"notify": ("abuse@example.org", "user", "Abuse <a@b.example>")},
    ),
    ("notify:", {}),
    ("action: ' REJECT {sasl_username} {rule}  '", {"action": "REJECT {sasl_username} {rule}"}),
]


@pytest.mark.parametrize(("words", "changed"), FORMS)
def test_forms_in_yaml(load: Load, words: str, changed: dict[str, Any]) -> None:
    assert load(rule(words)).settings.rules == (MAILBOX._replace(**changed),)


@pytest.mark.parametrize(
    ("limits", "read"),
    [
        ("100/1h", [(100, HOUR)]),
        ("[100/1h]", [(100, HOUR)]),
        ("[100/1h, 50/mail]", [(50, PER_MAIL), (100, HOUR)]),
        ("[100, 60]", [(100, 60)]),
        ("[[100, 60], [150, 1d], [3, mail]]", [(3, PER_MAIL), (100, 60), (150, DAY)]),
        ("50/mail", [(50, PER_MAIL)]),
        ("[50, mail]", [(50, PER_MAIL)]),
        ("[]", []),
    ],
)
def test_limits(load: Load, limits: str, read: list[tuple[int, int]]) -> None:
    (found,) = load(f"rules:\n  x: {{key: sender, limits: {limits}}}\n").settings.rules
    assert list(found.limits) == read


@pytest.mark.parametrize(
    ("limits", "read"),
    [
        ("1k/1h", (1000, HOUR)),
        ("2M/1h", (2_000_000, HOUR)),
        ("3G/1d", (3_000_000_000, DAY)),
        ("1Ki/1h", (1024, HOUR)),
        ("1Mi/mail", (1 << 20, PER_MAIL)),
        ("[2Gi, 1d]", (2 << 30, DAY)),
        ("500/1h", (500, HOUR)),
    ],
)
def test_limits_of_bytes(load: Load, limits: str, read: tuple[int, int]) -> None:
    (found,) = load(f"rules:\n  x: {{key: sender, count: bytes, limits: {limits}}}\n").settings.rules
    assert found.limits == (read,)


@pytest.mark.parametrize(
    "key",
    [
        "sasl_username",
        "sasl_username + client_address/24/56",
        "sasl_username|sender|client_address",
        "sasl_domain",
        "recipient_domain",
        "sender|server",
    ],
)
def test_keys(load: Load, key: str) -> None:
    (found,) = load(f"rules:\n  x: {{key: {key}, limits: 1/1h}}\n").settings.rules
    assert found.key == key


def test_numbers_among_patterns_are_as_they_are_written(load: Load) -> None:
    """To YAML 1.1 these are 83, 3.1, 26 and a date."""
    (found,) = load(
        rule("match: {sasl_username: [0123, 3.10, 0x1a, 2026-01-02, 1_0]}\nunless: {size: 007}")
    ).settings.rules
    assert found.match == ((("sasl_username", ("0123", "3.10", "0x1a", "2026-01-02", "1_0")),),)
    assert found.unless == ((("size", ("007",)),),)


def test_merge_keys_and_keys_given_twice(load: Load, tmp_path: Path) -> None:
    text = """\
rules:
  a: &a
    key: sender
    limits: 1/1h
    overrides: &few {x@example.org: 2/1h}
  b:
    <<: *a
    limits: 3/1h
    overrides:
      <<: *few
      y@example.org: 4/1h
      y@example.org: 5/1h
  a:
    <<: *a
    shadow: true
"""
    settings, warnings = load(text)
    assert [(one.name, one.limits, one.shadow) for one in settings.rules] == [
        ("a", (Limit(1, HOUR),), True),
        ("b", (Limit(3, HOUR),), False),
    ]
    assert [name for name, _ in settings.rules[1].overrides] == ["x@example.org", "y@example.org"]
    assert settings.rules[1].overrides[1][1] == (Limit(5, HOUR),)
    assert warnings == (
        f"{tmp_path}/x.yaml:12: a key that is given before; this one counts",
        f"{tmp_path}/x.yaml:13: a key that is given before; this one counts",
    )


CONF = """\
HOUR = 3600
few = {"news@example.org": [], 10: "7/mail"}
rules = {
    "site": {
        "key": "client_address",  # of a web server
        "match": {"client_address": ("10.0.3.0/24", "192.0.2.7"), "client_port": 587},
        "limits": [(50, HOUR), "500/1d"],
        "action": 450,
    },
    # users
    "mailbox": {
        "key": "sasl_username",
        "limits": "100/1h",
        "overrides": few,
        "unless": [{"time": "22:00-06:00"}, {"sender": ""}],
        "shadow": True,
    },
}
"""
OF_CONF = (
    RuleSettings(
        name="site",
        key="client_address",
        unit="recipients",
        limits=(Limit(50, HOUR), Limit(500, DAY)),
        overrides=(),
        match=((("client_address", ("10.0.3.0/24", "192.0.2.7")), ("client_port", ("587",))),),
        unless=(),
        action="450",
        shadow=False,
    ),
    MAILBOX._replace(
        overrides=(("news@example.org", ()), ("10", (Limit(7, PER_MAIL),))),
        unless=((("time", ("22:00-06:00",)),), (("sender", ("",)),)),
        shadow=True,
    ),
)


def test_a_conf(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(CONF)
    settings, warnings = config.load(path)
    assert warnings == ()
    assert settings.rules == OF_CONF


def test_lines_of_a_conf(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "rules = {\n 'a': {\n  'key': 'sendr',\n  'limits': [\n   '1/1h',\n   'x'],\n"
        "  'match': {'size': 1.5, b'x': 1}\n },\n"
        " 3: {'key': 'sender', 'limits': '1/1h',\n  'overrides': {\n   None: '1/1h',\n   True: []}},\n}\n"
    )
    assert [(problem.line, problem.setting) for problem in problems(config.load, path)] == [
        (3, "rules.a.key"),
        (6, "rules.a.limits[1]"),
        (7, "rules.a.match.size"),
        (7, "rules.a.match.b'x'"),
        (9, "rules[3]"),
        (11, "rules[3].overrides.None"),
        (12, "rules[3].overrides[True]"),
    ]


def test_a_conf_becomes_yaml() -> None:
    conversion = convert(CONF, "x.conf")
    assert [note.partition(": ")[2] for note in conversion.notes] == [
        "HOUR is no setting; its value stands where it was used",
        "few is no setting; its value stands where it was used",
    ]
    assert (
        conversion.text
        == """\
rules:
  # of a web server
  site:
    key: client_address
    match:
      client_address: [10.0.3.0/24, 192.0.2.7]
      client_port: 587
    limits: [[50, 3600], 500/1d]
    action: 450
  # users
  mailbox:
    key: sasl_username
    limits: 100/1h
    overrides:
      news@example.org: []
      '10': 7/mail
    unless: [{time: '22:00-06:00'}, {sender: ''}]
    shadow: true
"""
    )


@pytest.mark.parametrize("text", ["", "rules:\n", "rules: {}\n"])
def test_no_rules(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert (settings.rules, settings.limits, warnings) == ((), USUAL, ())
    assert Settings().rules == ()


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", ()),
        ("limits: [[10, 60], [150, 86400]]\n", USUAL),
        ("limits: [[1, 60]]\n", (Limit(1, 60),)),
        ("limits_by_id: {alice: [[1, 60]]}\n", USUAL),
        ("limits_by_id:\n", ()),
        ("sql_limits_by_id: SELECT l FROM t WHERE i = ?\n", USUAL),
        ("limit_by_sender: true\n", ()),
    ],
)
def test_the_rule_default_beside_others(load: Load, text: str, limits: object) -> None:
    assert load(BASE + text).settings.limits == limits


OTHER = "something else: "
LATER = "is not supported by this version"
WORDS = "one of key, count, limits, overrides, match, unless, action, warn, block, notify, shadow"
RULE = "a mapping such as {key: sasl_username, limits: 100/1h}"
NAME = "a name of a-z, 0-9 and -, of at most 64 characters, that begins with a letter"
KEY = "a key such as sasl_username, sasl_domain or client_address/24/56"
TERMS = "terms joined by either + or |, such as sasl_username, sasl_domain or client_address/24/56"
LIMITS = "limits such as 100/1h, [50/mail, 100/1h] or []"
PAIR = "[mails, seconds], such as [10, 60], [10, '1m'] or '10/1m', or '50/mail'"
OVERRIDES = "a mapping of patterns to limits, such as {'*@example.org': 500/1d}, or $table"
CONDITIONS = "a mapping of attributes to patterns, such as {client_address: 192.0.2.0/24}, or a list of such"
ATTRIBUTE = "an attribute of Postfix's policy protocol, time, country, sasl_domain, sender_domain or recipient_domain"
PATTERN = "a pattern, or a list of them; numbers with a point, true, false, null and NO need quotes"
SUFFIX = "a number without k, M, G, Ki, Mi or Gi, which are for count: bytes"
ONE_MAIL = "no limit per mail with count: messages, of which each mail is one"
COUNTS = "one of recipients, messages, bytes, or distinct and an attribute, such as distinct recipient"
DISTINCT = "distinct and one attribute, such as recipient, client_address or sender_domain"
MOST = "at most 10000 different values, each of which is remembered"
NO_MAIL = "no limit per mail with count: distinct sender, which looks at all mail of a period"
CODE = "two letters of ISO 3166, such as DE, a glob or an expression between slashes"
TABLE = "a table that tables has"
LIMITS_OF_TABLE = "a table that has the limits, such as $tiers, or {$plan=business: 500/1d}"
A_TABLE = "a table such as $staff or $plan=business; a value that begins with $ is /^\\$.../"
ASKED = "a table and an attribute, such as $created(sasl_username)"
AGE = "an age of a date that a table says alone, as in {$created(sasl_username): '<7d'}"
RECIPIENT = "no recipient where bytes are counted, at END-OF-MESSAGE: a mail may have several there"
VARIABLE = "one of the variables rule, limit, key, maximum, period, used, free_in, free_at, or an attribute"
BRACES = "braces around names of variables alone, such as {key}"
FOR_SO_LONG = "a period such as 1h, of at most 3660d"
TOLD = "a mail address, such as abuse@example.org, or user, who is the SASL user"
PER_CENT = "per cent of a limit from 1 to 99, such as 80 or 80%"
HOURS = "hours such as 22:00-06:00"
MANY = "at most 1000 globs and expressions in one list"
LONG = "a" * 70
CUT = f"'{'a' * 59}…"

BESIDE_BASE = [
    # words
    ("limts: 3", f".limts: expected {WORDS} (did you mean limits?), found 'limts'"),
    ("zzz: 3", f".zzz: expected {WORDS}, found 'zzz'"),
    ("warn: 0", f".warn: expected {PER_CENT}, found 0"),
    ("warn: 100%", f".warn: expected {PER_CENT}, found '100%'"),
    ("warn: 80.5", f".warn: expected {PER_CENT}, found 80.5"),
    ("warn: yes", f".warn: expected {PER_CENT}, found True"),
    ("warn: [80, 90]", f".warn: expected {PER_CENT}, found [80, 90]"),
    ("warn: -5", f".warn: expected {PER_CENT}, found -5"),
    ("wran: 80", f".wran: expected {WORDS} (did you mean warn?), found 'wran'"),
    ("block: 0", f".block: expected {FOR_SO_LONG}, found 0"),
    ("block: soon", f".block: expected {FOR_SO_LONG}, found 'soon'"),
    ("block: 3661d", f".block: expected {FOR_SO_LONG}, found '3661d'"),
    ("block: [1h]", f".block: expected {FOR_SO_LONG}, found ['1h']"),
    ("blok: 1h", f".blok: expected {WORDS} (did you mean block?), found 'blok'"),
    ("notify: 7", f".notify: expected {TOLD}, found 7"),
    ("notify: 'a b'", f".notify: expected {TOLD}, found 'a b'"),
    ("notify: 'a@b.example, user'", f".notify: expected {TOLD}, found 'a@b.example, user'"),
    ("notify: [user, '@b']", f".notify[1]: expected {TOLD}, found '@b'"),
    ("notify: []", ".notify: expected from 1 to 20 mail addresses, or user, found []"),
    (f"notify: [{', '.join(['a@b'] * 21)}]", ".notify: expected from 1 to 20 mail addresses, or user, found 21"),
    ("count: mesages", f".count: expected {COUNTS} (did you mean messages?), found 'mesages'"),
    ("count: 3", f".count: expected {COUNTS}, found 3"),
    ("count:", f".count: expected {COUNTS}, found None"),
    ("count: distinkt recipient", f".count: expected {COUNTS} (did you mean distinct?), found 'distinkt recipient'"),
    ("count: distinct", f".count: expected {DISTINCT}, found 'distinct'"),
    ("count: distinct a b", f".count: expected {DISTINCT}, found 'distinct a b'"),
    ("count: distinct recipients", f".count: expected {DISTINCT} (did you mean recipient?), found 'recipients'"),
    ("count: distinct server", f".count: expected {DISTINCT} (did you mean server_port?), found 'server'"),
    (
        "count: distinct time",
        f".count: expected {DISTINCT}, and not the time: it is a different one every minute, found 'time'",
    ),
    ("shadow: maybe", ".shadow: expected true or false, found 'maybe'"),
    # overrides
    ("overrides: {a@b: x}", f".overrides.a@b: expected {PAIR}, found 'x'"),
    ("overrides: {a@b: }", f".overrides.a@b: expected {LIMITS}, found None"),
    ("overrides: {a: 1M/1h}", f".overrides.a: expected {SUFFIX}, found '1M/1h'"),
    (
        "overrides: {a: [1/1h, 2/60m]}",
        ".overrides.a[1]: expected each period once, not 3600 seconds again, found '2/60m'",
    ),
    ("overrides: $staff", f".overrides: expected {TABLE}, found '$staff'"),
    ("overrides: {$plan=trial: 1/1h}", f".overrides.$plan=trial: expected {TABLE}, found '$plan'"),
    ("overrides: [$staff]", f".overrides: expected {TABLE}, found '$staff'"),
    ("overrides: text", f".overrides: expected {OVERRIDES}, found 'text'"),
    ("overrides: [{a: []}, 3]", f".overrides[1]: expected {OVERRIDES}, found 3"),
    ("overrides: [{a: x}]", f".overrides[0].a: expected {PAIR}, found 'x'"),
    (
        "overrides: {192.0.2.0/24: 1/1h}",
        ".overrides.192.0.2.0/24: expected a name: a network is compared with addresses alone, found '192.0.2.0/24'",
    ),
    (
        "overrides: {/a(/: 1/1h}",
        ".overrides./a(/: expected a regular expression between slashes (missing ), unterminated subpattern at position"
        " 1), found '/a(/'",
    ),
    (f"overrides: {{{', '.join(f'a{n}?: []' for n in range(1001))}}}", f".overrides: expected {MANY}, found 1001"),
    # match and unless
    ("match: {}", f".match: expected {CONDITIONS}, found {{}}"),
    ("match: []", f".match: expected {CONDITIONS}, found []"),
    ("match:", f".match: expected {CONDITIONS}, found None"),
    ("unless: a", f".unless: expected {CONDITIONS}, found 'a'"),
    ("unless: $a", f".unless: expected {CONDITIONS}, found '$a'"),
    ("overrides: $plan=a", f".overrides: expected {LIMITS_OF_TABLE}, found '$plan=a'"),
    ("overrides: $Plan", f".overrides: expected {A_TABLE}, found '$Plan'"),
    ("match: {$t: x}", f".match.$t: expected {ASKED}, found '$t'"),
    ("match: {$t(nothing): x}", f".match.$t(nothing): expected {ASKED}, found '$t(nothing)'"),
    ("match: {$t(sender): '<7x'}", f".match.$t(sender): expected {TABLE}, found '$t'"),
    ("match: [{sender: a}, b]", f".match[1]: expected {CONDITIONS}, found 'b'"),
    ("match: [{sender: a}, {zzz: b}]", f".match[1].zzz: expected {ATTRIBUTE}, found 'zzz'"),
    (f"match: [{', '.join(['{sender: a}'] * 33)}]", ".match: expected at most 32 attributes in all, found 33"),
    ("match: {sendr: a}", f".match.sendr: expected {ATTRIBUTE} (did you mean sender?), found 'sendr'"),
    ("match: {country: France}", f".match.country: expected {CODE}, found 'France'"),
    ("match: {country: [de, FRA]}", f".match.country[1]: expected {CODE}, found 'FRA'"),
    ("match: {country: NO}", f".match.country: expected {PATTERN}, found False"),  # that is Norway, and YAML's false
    (
        "match: {country: 192.0.2.0/24}",
        ".match.country: expected a country: a network is compared with addresses alone, found '192.0.2.0/24'",
    ),
    ("match: {$t(sender): x}", f".match.$t(sender): expected {TABLE}, found '$t'"),
    ("match: {sender: []}", ".match.sender: expected at least one pattern, found []"),
    ("match: {sender: }", f".match.sender: expected {PATTERN}, found None"),
    ("match: {sender: [a, yes]}", f".match.sender[1]: expected {PATTERN}, found True"),
    ("match: {sender: {a: b}}", f".match.sender: expected {PATTERN}, found {{'a': 'b'}}"),
    ("match: {sender: $list}", f".match.sender: expected {TABLE}, found '$list'"),
    ("match: {sender: <7d}", f".match.sender: expected {AGE}, found '<7d'"),
    ("match: {sender: '>30d'}", f".match.sender: expected {AGE}, found '>30d'"),
    ("match: {time: 22-6}", f".match.time: expected {HOURS}, found '22-6'"),
    ("match: {time: ''}", f".match.time: expected {HOURS}, found ''"),
    ("match: {time: 22:00}", f".match.time: expected {HOURS}, found '22:00'"),
    (
        "match: {time: 22:00-22:00}",
        ".match.time: expected two different times of day, such as 22:00-06:00, found '22:00-22:00'",
    ),
    (
        "unless: {helo_name: 192.0.2.0/24}",
        ".unless.helo_name: expected a domain: a network is compared with addresses alone, found '192.0.2.0/24'",
    ),
    (
        "match: {client_address: alice}",
        ".match.client_address: expected an address, a network in CIDR notation or an expression between slashes,"
        " found 'alice'",
    ),
    (
        "match: {client_address: 192.0.2.1/24}",
        ".match.client_address: expected no bits behind the length of a network, as in 192.0.2.0/24,"
        " found '192.0.2.1/24'",
    ),
    ("match: {size: big}", ".match.size: expected a number, a glob or an expression between slashes, found 'big'"),
    ("match: {size: '>9'}", ".match.size: expected a number, a glob or an expression between slashes, found '>9'"),
    (f"match: {{sender: {'a' * 1001}}}", f".match.sender: expected a pattern of at most 1000 characters, found {CUT}"),
    (f"match: {{sender: [{', '.join(['a*'] * 1001)}]}}", f".match.sender: expected {MANY}, found 1001"),
    # action
    ("action:", ".action: expected an action of access(5), on one line, found None"),
    ("action: ''", ".action: expected an action of access(5), on one line, found ''"),
    ("action: [a]", ".action: expected an action of access(5), on one line, found ['a']"),
    ('action: "a\\nb"', ".action: expected an action of access(5), on one line, found 'a\\nb'"),
    (f"action: {'a' * 2001}", f".action: expected an action of at most 2000 bytes, found {CUT}"),
    (
        "action: FILTER smtp:{sender}",
        ".action: expected no variable in the target of FILTER, found 'FILTER smtp:{sender}'",
    ),
    ("action: redirect {sender}", ".action: expected no variable in the target of redirect, found 'redirect {sender}'"),
    ("action: BCC {key}", ".action: expected no variable in the target of BCC, found 'BCC {key}'"),
    ("action: 450 {usd}", f".action: expected {VARIABLE} (did you mean used?), found '{{usd}}'"),
    ("action: 450 {time}", f".action: expected {VARIABLE}, found '{{time}}'"),
    ("action: 450 {}", f".action: expected {VARIABLE}, found '{{}}'"),
    ("action: 450 {key", f".action: expected {BRACES}, found '450 {{key'"),
    ("action: 450 key}", f".action: expected {BRACES}, found '450 key}}'"),
    ("action: 450 {{key}}", f".action: expected {BRACES}, found '450 {{{{key}}}}'"),
    ("action: '{key} x'", ".action: expected an action of access(5) before the first variable, found '{key} x'"),
]


@pytest.mark.parametrize(("words", "said"), BESIDE_BASE)
def test_what_is_wrong_with_a_word(load: Load, words: str, said: str) -> None:
    assert told(load, rule(words)) == [f"5: rules.mailbox{said}"]


IN_LINE_2 = [
    (
        "a: {key: sasl_username, count: distinct sender, limits: 10001/1h}",
        f".a.limits: expected {MOST}, found 10001",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: [[10001, 1h]]}",
        f".a.limits[0]: expected {MOST}, found 10001",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: [5/1h, 10001/1d]}",
        f".a.limits[1]: expected {MOST}, found 10001",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: 1k/1h}",
        f".a.limits: expected {SUFFIX}, found '1k/1h'",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: 5/mail}",
        f".a.limits: expected {NO_MAIL}, found '5/mail'",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: 1/1h, overrides: {a: [1/1h, 5/mail]}}",
        f".a.overrides.a[1]: expected {NO_MAIL}, found '5/mail'",
    ),
    (
        "a: {key: sasl_username, count: distinct sender, limits: 1/1h, overrides: {a: 10001/1h}}",
        f".a.overrides.a: expected {MOST}, found 10001",
    ),
    ("Mailbox: {key: server, limits: 1/1h}", f".Mailbox: expected {NAME}, found 'Mailbox'"),
    ("a_b: {key: server, limits: 1/1h}", f".a_b: expected {NAME}, found 'a_b'"),
    ("1a: {key: server, limits: 1/1h}", f".1a: expected {NAME}, found '1a'"),
    (f"{LONG}: {{key: server, limits: 1/1h}}", f".{LONG}: expected {NAME}, found {CUT}"),
    (
        "default: {key: server, limits: 1/1h}",
        ".default: expected another name: default is the rule of limits, limits_by_id and sql_limits_by_id,"
        " found 'default'",
    ),
    ("a: b", f".a: expected {RULE}, found 'b'"),
    ("a:", f".a: expected {RULE}, found None"),
    ("a: [key, sender]", f".a: expected {RULE}, found ['key', 'sender']"),
    ("a: {limits: 1/1h}", f".a.key: expected {KEY}, found None"),
    ("a: {key: , limits: 1/1h}", f".a.key: expected {KEY}, found None"),
    ("a: {key: [sender], limits: 1/1h}", f".a.key: expected {KEY}, found ['sender']"),
    ("a: {key: sender}", f".a.limits: expected {LIMITS}, found None"),
    ("a: {key: sender, limits: {}}", f".a.limits: expected {LIMITS}, found {{}}"),
    ("a: {key: sasl_user, limits: []}", f".a.key: expected {TERMS} (did you mean sasl_username?), found 'sasl_user'"),
    (
        "a: {key: sender + recipint, limits: []}",
        f".a.key: expected {TERMS} (did you mean recipient?), found 'recipint'",
    ),
    ("a: {key: sender+x|y, limits: []}", f".a.key: expected {TERMS}, found 'sender+x|y'"),
    ("a: {key: $customer(sasl_domain), limits: []}", f".a.key: expected {TABLE}, found '$customer'"),
    (
        "a: {key: country, limits: 9/1h, overrides: {de: [], Austria: []}}",
        f".a.overrides.Austria: expected {CODE}, found 'Austria'",
    ),
    ("a: {key: sender+contry, limits: []}", f".a.key: expected {TERMS} (did you mean country?), found 'contry'"),
    (
        "a: {key: client_address/33/56, limits: []}",
        ".a.key: expected lengths from 1 to 32 and from 1 to 128 bits, as in client_address/24/56,"
        " found 'client_address/33/56'",
    ),
    (
        "a: {key: server+sender, limits: []}",
        ".a.key: expected server by itself, or as the last alternative: it is never empty, found 'server+sender'",
    ),
    ("a: {key: sender|sender, limits: []}", ".a.key: expected at most 4 terms, each once, found 'sender|sender'"),
    # limits
    (
        "a: {key: sender, limits: [1/1h, 2/60m]}",
        ".a.limits[1]: expected each period once, not 3600 seconds again, found '2/60m'",
    ),
    (
        "a: {key: sender, limits: [5/mail, 6/mail]}",
        ".a.limits[1]: expected each period once, not a limit per mail again, found '6/mail'",
    ),
    (
        "a: {key: sender, count: messages, limits: [1/1h, 2/60m]}",
        ".a.limits[1]: expected each period once, not 3600 seconds again, found '2/60m'",
    ),
    ("a: {key: sender, count: messages, limits: [1/1h, 5/mail]}", f".a.limits[1]: expected {ONE_MAIL}, found '5/mail'"),
    ("a: {key: sender, count: messages, limits: 5/mail}", f".a.limits: expected {ONE_MAIL}, found '5/mail'"),
    ("a: {key: sender, limits: [1/1h, 1M/1d]}", f".a.limits[1]: expected {SUFFIX}, found '1M/1d'"),
    ("a: {key: sender, count: messages, limits: 1k/mail}", f".a.limits: expected {SUFFIX}, found '1k/mail'"),
    (
        "a: {key: sender, count: bytes, limits: 1X/1d}",
        ".a.limits: expected a whole number from 0 to 9007199254740991, such as 500, '10M' or '64Ki',"
        f" in {PAIR}, found '1X/1d'",
    ),
    # bytes
    ("a: {key: recipient, count: bytes, limits: 1M/1h}", f".a.key: expected {RECIPIENT}, found 'recipient'"),
    (
        "a: {key: sender|recipient_domain, count: bytes, limits: 1M/1h}",
        f".a.key: expected {RECIPIENT}, found 'recipient_domain'",
    ),
    (
        "a: {key: sender, count: bytes, limits: 1M/1h, match: {recipient: a@b}}",
        f".a.match.recipient: expected {RECIPIENT}, found 'recipient'",
    ),
    (
        "a: {key: sender, count: bytes, limits: 1M/1h, unless: [{recipient_domain: b}]}",
        f".a.unless[0].recipient_domain: expected {RECIPIENT}, found 'recipient_domain'",
    ),
    (
        "a: {key: sender, count: bytes, limits: 1M/1h, action: 'Prepend X-Much: yes'}",
        ".a.action: expected another action than PREPEND where bytes are counted, at END-OF-MESSAGE: Postfix adds no"
        " header there, found 'Prepend X-Much: yes'",
    ),
    # a wrong word hides nothing of the others
    ("a: {key: x, count: y, limits: [], overrides: {/(/: 1k/mail}}", None),
]


@pytest.mark.parametrize(("text", "said"), IN_LINE_2)
def test_what_is_wrong_with_a_rule(load: Load, text: str, said: str | None) -> None:
    found = told(load, f"rules:\n  {text}\n")
    if said is None:
        assert [one.partition(":")[2].partition(":")[0] for one in found] == [" rules.a.count", " rules.a.key"]
    else:
        assert found == [f"2: rules{said}"]


@pytest.mark.parametrize("value", ["[a]", "3", "text", "[]", "''"])
def test_rules_that_are_no_mapping(load: Load, value: str) -> None:
    [said] = told(load, f"rules: {value}\n")
    expected = "a mapping of names to rules, such as {mailbox: {key: sasl_username, limits: 100/1h}}"
    assert said.startswith(f"1: rules: expected {expected}, found ")


def test_too_many_rules(load: Load) -> None:
    text = "rules:\n" + "".join(f"  a{n}: {{key: server, limits: 1/1h}}\n" for n in range(101))
    assert told(load, text) == ["1: rules: expected at most 100 rules, found 101"]


def test_every_problem_at_once(load: Load) -> None:
    text = """\
rules:
  a:
    key: sendr
    kay: sender
    limits:
      - 1/1h
      - x
    overrides:
      a@b: 1/1h
      c@d:
        - 1/1h
        - y
    match:
      sender:
        - a
        - null
  B: {}
"""
    assert [one.partition(": expected")[0] for one in told(load, text)] == [
        "3: rules.a.key",
        "4: rules.a.kay",
        "7: rules.a.limits[1]",
        "12: rules.a.overrides.c@d[1]",
        "16: rules.a.match.sender[1]",
        "17: rules.B",
        "17: rules.B.key",
        "17: rules.B.limits",
    ]


QUOTES = "text that begins with *, @, % or ` needs quotes"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("overrides: {*@example.org: 1/1h}", f"an alias without a name; {QUOTES}"),
        ("overrides:\n  *@example.org: 1/1h", f"an alias without a name; {QUOTES}"),
        ("match: {sender: [a, *.example.org]}", f"an alias without a name; {QUOTES}"),
        ("match: {sender: *}", f"an alias without a name; {QUOTES}"),
        ("match: {sender: *news}", f"an alias that is not defined before; {QUOTES}"),
        ("match: {sender: *news@example.org}", f"a character that begins nothing; {QUOTES}"),
        ("match: {sender: @example.org}", f"a character that begins nothing; {QUOTES}"),
        (
            "action: 450 {key}: later",
            "mapping values are not allowed in this context; text with a colon and a space in it needs quotes",
        ),
    ],
)
def test_yaml_that_needs_quotes(load: Load, words: str, found: str) -> None:
    [said] = told(load, rule(words))
    assert said == f"{5 + words.count(chr(10))}: expected YAML, found {found}"


def test_many_mistakes_take_no_time(load: Load) -> None:
    text = BASE + "".join(f"    limits{number}: 1\n" for number in range(5000))
    assert len(told(load, text)) == 5000


@pytest.mark.parametrize("text", [*SITUATIONS, BASE, *(rule(words) for words, _ in FORMS)])
def test_what_arrives_from_another_process(load: Load, tmp_path: Path, text: str) -> None:
    settings, warnings = load(text)
    arrived = from_text(to_text(settings.rules))
    assert arrived == settings.rules
    assert [type(one) for one in arrived] == [RuleSettings] * len(arrived)
    assert config.load_apart(tmp_path / "x.yaml") == (settings, warnings)


def test_many_overrides_from_another_process(tmp_path: Path) -> None:
    overrides = "".join(f"      user{n}@example.org: {n}/1h\n" for n in range(3000))
    (tmp_path / "x.yaml").write_text(
        f"{BASE}    overrides:\n{overrides}  b: {{key: sender, limits: []}}\n"
        f"  c:\n    key: sender\n    limits: []\n    overrides:\n{overrides}"
    )
    settings, _ = config.load_apart(tmp_path / "x.yaml")
    assert settings.rules == config.load(tmp_path / "x.yaml").settings.rules
    assert [len(one.overrides) for one in settings.rules] == [3000, 0, 3000]


def test_many_overrides_are_read_in_time(load: Load) -> None:
    limits = [f"{n}/1h" for n in range(1, 100)]
    text = "".join(f"      user{n}@example.org: {limits[n % 99]}\n" for n in range(20_000))
    before = time.process_time()
    (found,) = load(f"{BASE}    overrides:\n      '*@example.net': 1/1h\n{text}").settings.rules
    assert len(found.overrides) == 20_001
    assert time.process_time() - before < 10
    assert len({id(its_limits) for _, its_limits in found.overrides}) <= 99


@pytest.mark.parametrize("text", ['{"rule": [1]}', '{"rule": 3}', '{"rule": null}'])
def test_what_is_no_rule_on_the_wire(text: str) -> None:
    with pytest.raises(ValueError):
        from_text(text)


def test_what_a_reload_changes() -> None:
    rules = (MAILBOX._replace(overrides=(("a", (Limit(1, 60),)),)), MAILBOX._replace(name="b"))
    running = Settings(rules=rules)
    assert changes(running, Settings(rules=as_written(rules))).changed == frozenset()
    for other in (
        rules[:1],
        (rules[1], rules[0]),
        (rules[0]._replace(shadow=True), rules[1]),
        (rules[0]._replace(overrides=(("a", (Limit(2, 60),)),)), rules[1]),
        (rules[0]._replace(overrides=(*rules[0].overrides, ("b", ()))), rules[1]),
    ):
        result = changes(running, Settings(rules=other))
        assert result.changed == {"rules"}
        assert result.settings.rules == other
        assert result.warnings == ()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rules.site.key", "client_address"),
        ("rules.site.count", "recipients"),
        ("rules.site.limits", "[[50, 3600], [500, 86400]]"),
        ("rules.volume.limits", "[[10000000, 'mail'], [500000000, 86400]]"),
        ("rules.site.overrides", "{'10.0.3.80': [[5000, 86400]]}"),
        ("rules.site.overrides.10.0.3.80", "[[5000, 86400]]"),
        ("rules.site.match", "{'client_address': '10.0.3.0/24', 'sasl_username': ''}"),
        ("rules.site.match.client_address", "10.0.3.0/24"),
        ("rules.site.shadow", "False"),
        (
            "rules.volume",
            "{'key': 'client_address', 'count': 'bytes', 'limits': [[10000000, 'mail'], [500000000, 86400]],"
            " 'overrides': {}, 'match': {'client_address': '10.0.3.0/24'}, 'shadow': False}",
        ),
    ],
)
def test_rules_are_shown(load: Load, name: str, shown: str) -> None:
    assert config.show(load(WEB_SERVERS).settings, name) == shown


def test_what_is_not_said_is_not_shown(load: Load) -> None:
    assert config.show(Settings(), "rules") == "{}"
    for name in ("rules.nobody", "rules.volume.action", "rules.volume.unless", "rules.volume.key.x"):
        with pytest.raises(KeyError):
            config.show(load(WEB_SERVERS).settings, name)


@pytest.mark.parametrize("text", [*SITUATIONS, *(rule(words) for words, _ in FORMS)])
def test_what_is_shown_is_read_as_the_same(load: Load, text: str) -> None:
    rules = load(text).settings.rules
    read = Settings(rules=as_written(rules)).rules
    assert [one._replace(overrides=()) for one in read] == [one._replace(overrides=()) for one in rules]
    for one, other in zip(read, rules, strict=True):
        # Of equal patterns the first one counts.
        assert dict(one.overrides) == dict(reversed(other.overrides))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["sender", "size", "time", "1/1h", "1M/mail", "$x", "/(/", "recipients", "bytes", "key", "a*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
WRITTEN = st.dictionaries(
    st.sampled_from(["key", "count", "limits", "overrides", "match", "unless", "action", "shadow", "warn", "x"]), PLAIN
)


@given(st.dictionaries(st.sampled_from(["a", "b", "default", "C"]) | st.integers(), WRITTEN | PLAIN) | PLAIN)
def test_anything_is_read_or_refused(value: object) -> None:
    try:
        read = RULES.read(value)
    except Wrong:
        return
    assert RULES.read(as_written(read)) == read


GEOIP = "geoip: /var/lib/GeoIP/dbip-country-lite.mmdb\n"


@pytest.mark.parametrize(
    "words",
    [
        "key: country",
        "key: sasl_username+country",
        "key: country|server",
        "key: sasl_username, match: {country: [de, AT, 'NO', '']}",
        "key: sasl_username, match: [{sender: a}, {country: '?E'}]",
        "key: sasl_username, unless: {country: /^(DE|AT)$/}",
        "key: sasl_username, action: '450 4.7.1 {key} sends from {country}'",
    ],
)
def test_who_names_a_country_needs_a_file_of_them(load: Load, words: str) -> None:
    rules = f"rules:\n  near: {{key: sender, limits: 1/1h}}\n  far: {{limits: 1/1h, {words}}}\n"
    assert load(GEOIP + rules).settings.geoip == "/var/lib/GeoIP/dbip-country-lite.mmdb"
    (problem,) = problems(load, rules)
    wanted = "geoip, the path of a file that says which country an address is in, since this rule names country"
    assert (problem.line, problem.statement) == (3, f"rules.far: expected {wanted}, found none")


def test_a_file_of_countries_that_nobody_asks_is_not_missed(load: Load) -> None:
    assert load(BASE).settings.geoip is None
    assert load("rules:\n  x: {key: sasl_username, limits: 1/1h, action: 450 no country}\n").settings.geoip is None


@pytest.mark.parametrize("key", ["server", "sasl_username|server"])
def test_nobody_blocks_the_whole_server(load: Load, key: str) -> None:
    said = "1: rules.x.block: expected no block where the key has server: it would block everybody, found '1h'"
    assert told(load, f"rules: {{x: {{key: {key}, limits: 1/1h, block: 1h}}}}\n") == [said]


def test_words_that_are_attributes_and_tables_that_are_none() -> None:
    rule = MAILBOX._replace(key="$country(sasl_domain)+sender", action="450 {recipient} {key}")
    assert names_in(rule) >= {"sasl_domain", "sender", "recipient"}
    assert "country" not in names_in(rule)
    rule = MAILBOX._replace(match=((("$at-home(country)", ("x",)),), (("size", ("7",)),)))
    assert names_in(rule) >= {"country", "size", "sasl_username"}
