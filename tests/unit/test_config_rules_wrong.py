"""The setting ``rules``: what is told of mistakes in it."""

from __future__ import annotations

import pytest

from support.configuration import Load
from support.written_rules import BASE, rule, told

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


@pytest.mark.parametrize("key", ["server", "sasl_username|server"])
def test_nobody_blocks_the_whole_server(load: Load, key: str) -> None:
    said = "1: rules.x.block: expected no block where the key has server: it would block everybody, found '1h'"
    assert told(load, f"rules: {{x: {{key: {key}, limits: 1/1h, block: 1h}}}}\n") == [said]
