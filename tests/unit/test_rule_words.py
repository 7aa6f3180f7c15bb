"""``check-config --explain``: what each rule does, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyd_rate_limit.admin.rule_words import paragraph
from policyd_rate_limit.cli import main
from policyd_rate_limit.config import Settings
from policyd_rate_limit.language.catalogue import texts_of
from policyd_rate_limit.language.wording import Wording, english
from policyd_rate_limit.ruling import make_rules
from policyd_rate_limit.subjects import make_subjects

OF_RULES = ("whom", "term", "lacking", "of", "may", "may_any", "may_not", "pattern", "condition", "rule", "does")
"""The sections of the texts by which rules are told."""


def explained(**settings: Any) -> dict[str, str]:
    """What is told of each rule of ``settings``."""
    made = Settings(**{"fail_action": "defer later", **settings})
    return {rule.name: paragraph(rule, made, english()) for rule in make_rules(made, make_subjects(made), None)}


def about(key: str, limits: object = "100/1h", **words: object) -> str:
    """What is told of one rule, without its name."""
    (text,) = explained(limits=[], rules={"x": {"key": key, "limits": limits, **words}}).values()
    return text


@pytest.mark.parametrize(
    ("key", "count", "said"),
    [
        ("sasl_username", "recipients", "each SASL user may send to 100 recipients in any hour."),
        ("sasl_domain", "messages", "all SASL users of one domain together may send 100 mails in any hour."),
        ("sender", "bytes", "each envelope sender may send 100 bytes in any hour."),
        ("sender_domain", "messages", "all envelope senders of one domain together may send 100 mails in any hour."),
        ("recipient", "recipients", "each recipient may be sent 100 mails in any hour."),
        ("recipient", "messages", "each recipient may be sent 100 mails in any hour."),
        (
            "recipient_domain",
            "recipients",
            "all recipients of one domain together may be sent 100 mails in any hour; a mail counts once for each of"
            " them.",
        ),
        (
            "recipient_domain",
            "messages",
            "all recipients of one domain together may be sent 100 mails in any hour.",
        ),
        ("client_address", "messages", "each client address (of IPv6 the /64) may send 100 mails in any hour."),
        ("client_address/32/128", "messages", "each client address may send 100 mails in any hour."),
        ("client_address/24/56", "messages", "each client network (/24, of IPv6 /56) may send 100 mails in any hour."),
        (
            "country",
            "messages",
            "all clients of one country together may send 100 mails in any hour. It does not apply to mail without a"
            " country of the client.",
        ),
        ("server", "recipients", "the whole server may send to 100 recipients in any hour."),
        (
            "sasl_username+client_address",
            "recipients",
            "each combination of SASL user and client address (of IPv6 the /64) may send to 100 recipients in any"
            " hour.",
        ),
        (
            "sasl_username+recipient",
            "messages",
            "each combination of SASL user and recipient may have 100 mails in any hour.",
        ),
        (
            "sasl_username|sender|client_address",
            "recipients",
            "each SASL user, else each envelope sender, else each client address (of IPv6 the /64) may send to"
            " 100 recipients in any hour.",
        ),
        ("sender|server", "messages", "each envelope sender, else all others together may send 100 mails in any hour."),
    ],
)
def test_whom_a_rule_charges(key: str, count: str, said: str) -> None:
    assert about(key, count=count).startswith(said)


@pytest.mark.parametrize(
    ("limits", "count", "said"),
    [
        ("1/1h", "recipients", "may send to 1 recipient in any hour."),
        (
            ["50/mail", "100/1h", "300/1d"],
            "recipients",
            "may send to 100 recipients in any hour and 300 in any day, and to 50 in one mail.",
        ),
        (
            ["1/1m", "2/90m", "3/1w"],
            "messages",
            "may send 1 mail in any minute, 2 in any 90 minutes and 3 in any week.",
        ),
        ("50/mail", "recipients", "may send to 50 recipients in one mail."),
        (["10M/mail", "500Mi/2d"], "bytes", "may send 500 MiB in any 2 days, and 10 MB in one mail."),
        ("0/1h", "recipients", "may send nothing."),
        ([], "messages", "may send any number of mails: there is no limit."),
        (
            ["300/1d", "1/1m"],
            "distinct recipient",
            "may send to 300 different recipients in any day and 1 in any minute.",
        ),
        ("20/1h", "distinct client_address", "may send from 20 different client addresses in any hour."),
        ("1/1h", "distinct country", "may send from 1 different country in any hour."),
        ("2/1h", "distinct helo_name", "may send with 2 different values of helo_name in any hour."),
        ([], "distinct recipient_domain", "may send to any number of different recipient domains: there is no limit."),
        ("0/1h", "distinct recipient", "may send nothing."),
    ],
)
def test_how_much(limits: object, count: str, said: str) -> None:
    assert about("sender", limits, count=count).startswith(f"each envelope sender {said}")


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 bytes"), (1, "1 byte"), (1500, "1,500 bytes"), (2000, "2 kB"), (2048, "2 KiB"), (5 * 1000**3, "5 GB")],
)
def test_bytes(amount: int, said: str) -> None:
    assert english().amount(amount, "bytes") == said


def test_who_has_other_limits() -> None:
    one = about("sasl_username", overrides={"*@big.example": ["10/mail", "500/1h"]})
    assert "Other limits: *@big.example 10 in one mail and 500 in any hour. " in one
    several = about("sender", overrides={"root": [], "": "0/1d", "/^news/": "5/1m"})
    first = "Other limits, of which the first that matches counts: "
    assert f"{first}root no limit; what is empty nothing; /^news/ 5 in any minute. " in several
    many = about("sender", overrides={f"u{number}": [] for number in range(13)})
    assert "u9 no limit; and 3 more. " in many
    assert "u10" not in many


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sasl_username", "It does not apply to mail without a SASL user. "),
        ("sender", "It does not apply to mail without an envelope sender. "),
        ("sender|recipient", "It does not apply to mail that has neither envelope sender nor recipient. "),
        ("sender+recipient", "It does not apply to mail that lacks envelope sender or recipient. "),
        ("sender+client_address", "It does not apply to mail without an envelope sender. "),
        ("sender|client_address", None),
        ("client_address", None),
        ("server", None),
    ],
)
def test_mail_without_a_key(key: str, said: str | None) -> None:
    assert said in about(key) if said else "does not apply" not in about(key)


def test_conditions() -> None:
    match = {
        "client_address": ["192.0.2.0/24", "198.51.100.7"],
        "sasl_username": ["", "*@x.example", "/^a/", "bob"],
        "time": "22:00-06:00",
    }
    assert (
        "It applies only to mail of which client_address lies in 192.0.2.0/24 or is 198.51.100.7, and sasl_username is"
        " empty, is like *@x.example, matches /^a/ or is bob, and time is between 22:00 and 06:00. "
    ) in about("sender", match=match)
    exempt = about("sender", unless=[{"helo_name": "x.example"}, {"sender": "bob"}])
    assert "It exempts mail of which helo_name is x.example; or of which sender is bob. " in exempt
    many = about("sender", match={"sender": [f"u{number}" for number in range(12)]})
    assert " is u0, u1, u2, u3, u4, u5, u6, u7, u8, u9 or 2 more. " in many


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "Decided at RCPT, DATA and END-OF-MESSAGE."),
        ({"match": {"recipient": "bob"}}, "Decided at RCPT alone, where the recipient is known."),
        ({"count": "bytes"}, "Decided at END-OF-MESSAGE, where the size is known."),
    ],
)
def test_when_it_is_decided(words: dict[str, object], said: str) -> None:
    assert said in about("sender", **words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, 'the answer is "defer later" (fail_action), which refuses the mail for now.'),
        ({"action": "450 4.7.1 {key}"}, 'the answer is "450 4.7.1 {key}", which refuses the mail for now.'),
        ({"action": "reject"}, 'the answer is "reject", which refuses the mail for good.'),
        ({"action": "554 no"}, 'the answer is "554 no", which refuses the mail for good.'),
        ({"action": "discard"}, 'the answer is "discard", which takes the mail and throws it away.'),
        ({"action": "HOLD"}, 'the answer is "HOLD", which holds the mail: it waits in the hold queue.'),
        ({"action": "prepend X: y"}, "which only adds a header to the mail, and refuses nothing."),
        ({"action": "frobnicate"}, "which lets the mail go on its way, and refuses nothing."),
        (
            {"action": "450 no", "shadow": True},
            "nothing is refused, since it is in shadow: the log says verdict=would-refuse where the answer would be"
            ' "450 no".',
        ),
    ],
)
def test_what_comes_of_the_excess(words: dict[str, object], said: str) -> None:
    assert about("sender", **words).endswith(said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "each SASL user may send to 10 recipients in any minute. Decided at RCPT, DATA and END-OF-MESSAGE."),
        ({"count_mode": 0}, "each SASL user may send to 10 recipients in any minute. Decided at RCPT. "),
        ({"count_mode": 2}, "each SASL user may send 10 mails in any minute. Decided at DATA. "),
        (
            {"limit_by_sender": True, "limit_by_ip": True, "limited_networks": ["192.0.2.0/24", "::/0"]},
            "each SASL user, else each envelope sender, else each client address (of IPv6 the /64) in 192.0.2.0/24 and"
            " ::/0 may send",
        ),
        (
            {"limit_by_sasl": False, "limit_by_ip": True},
            "each client address (of IPv6 the /64) in limited_networks, which is empty may send",
        ),
        ({"limit_by_sasl": False}, "it charges nobody: limit_by_sasl, limit_by_sender and limit_by_ip are all off."),
        ({"limits_by_id": {"root": []}}, " in any minute. 1 id has other limits (limits_by_id). "),
        ({"limits_by_id": {"root": [], "a": []}}, " in any minute. 2 ids have other limits (limits_by_id). "),
        (
            {"sql_limits_by_id": "SELECT limits FROM l WHERE id = ?"},
            " in any minute. Whoever sql_limits_by_id knows has the limits that it says. ",
        ),
    ],
)
def test_the_rule_of_version_1(settings: dict[str, Any], said: str) -> None:
    assert said in explained(limits="10/1m", **settings)["default"]


def test_when_a_rule_warns() -> None:
    assert "The log warns as soon as 80 % of a limit are used. Beyond that" in about("sender", warn="80%")
    assert "warns" not in about("sender")


def test_whom_a_rule_blocks() -> None:
    assert about("sender", block="90m").endswith(
        " Whoever exceeds it is blocked for 90 minutes, in all rules with that key."
    )
    assert about("sender", block="1h", shadow=True).endswith(
        " Whoever exceeds it would be blocked for 1 hour, in all rules with that key."
    )
    assert about("sender+recipient", block="1d").endswith(" Whoever exceeds it is blocked for 1 day, in this rule.")


def test_whom_a_rule_tells() -> None:
    both = about("sender", notify=["abuse@a.example", "user"])
    assert both.endswith(" A mail tells abuse@a.example and the SASL user.")
    assert about("sender", notify=["abuse@a.example", "user"], shadow=True).endswith(" A mail tells abuse@a.example.")
    assert "A mail tells" not in about("sender", notify="user", shadow=True)


def test_lists_in_words() -> None:
    assert [english().listed(words, "or") for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a or b",
        "a, b or c",
    ]


def test_the_command_tells_of_each_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("limits: 10/1m\nrules: {x: {key: server, limits: 5/1h}}\n")

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["check-config", str(path), *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    head, default, x = told("--explain").split("\n\n")
    assert head == f"{path}: nothing wrong"
    assert default.startswith("default: each SASL user may send")
    assert " ".join(x.split()).startswith("x: the whole server may send to 5 recipients in any hour. Decided at")
    assert max(map(len, default.splitlines())) <= 100
    rules = json.loads(told("--explain", "--json"))["rules"]
    assert list(rules) == ["default", "x"]
    assert rules["x"] == " ".join(x.split())
    assert "rules" not in json.loads(told("--json"))


def test_what_is_wrong_is_not_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("limits: nonsense\n")
    with pytest.raises(SystemExit) as ended:
        main(["check-config", "--explain", str(path)])
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith("error: ")


def test_different_values() -> None:
    one = about("recipient", count="distinct client_address")
    assert one.startswith("each recipient may be sent mail from 100 different client addresses in any hour.")
    assert "Decided at RCPT alone" in one
    assert "is empty" not in one
    other = about("sasl_username", count="distinct sender", overrides={"*@big.example": ["500/1d"]})
    assert "It does not apply to mail of which sender is empty. " in other
    assert "Decided at RCPT, DATA and END-OF-MESSAGE." in other
    assert "Other limits: *@big.example 500 in any day. " in other
    assert english().amount(1, "distinct recipient") == "1 different recipient"
    assert english().amount(2, "distinct sasl_domain") == "2 different domains of SASL users"


class Recording(Wording):
    """German, and which texts were asked for."""

    def __init__(self) -> None:
        super().__init__("de", texts_of("de"))
        self.asked: set[str] = set()

    def say(self, text_name: str, /, **values: object) -> str:
        self.asked.add(text_name)
        return super().say(text_name, **values)


def in_german(words: Wording, **settings: Any) -> dict[str, str]:
    """What is told of each rule of ``settings`` in German."""
    made = Settings(**{"fail_action": "defer later", **settings})
    return {rule.name: paragraph(rule, made, words) for rule in make_rules(made, make_subjects(made), None)}


def test_each_text_of_rules_is_used_and_makes_a_sentence_in_german() -> None:
    words = Recording()
    told: dict[str, str] = {}
    for actions, shadow in (("reject", False), ("hold", True)):
        told |= in_german(words, limits="1/1h", rules=_of_every_kind(actions, shadow=shadow))
    for more in (
        {"limit_by_sasl": False},
        {"limit_by_ip": True},
        {"limit_by_sender": True, "limit_by_ip": True, "limited_networks": ["::/0"], "ipv6_prefix": 128},
        {"limits_by_id": {"root": []}, "sql_limits_by_id": "SELECT limits FROM l WHERE id = ?"},
    ):
        told |= in_german(words, limits="1/1h", **more)
    of_rules = {name for name in texts_of("de") if name.partition(".")[0] in OF_RULES}
    assert of_rules - words.asked == set(), "nobody asks for them"
    for sentence in told.values():
        assert sentence.endswith((".", "Regel.", "Benutzer."))
        assert "  " not in sentence
        assert "{" not in sentence
    assert told["all"] == (
        "für jeden SASL-Benutzer gilt: höchstens 100 Empfänger in jeder Stunde und 300 an jedem Tag, und 50 in einer"
        " Mail."
        " Andere Limits, von denen das erste passende zählt: root: kein Limit; ohne Wert: nichts; was $tiers sagt."
        " Sie gilt nicht für Mails ohne SASL-Benutzer."
        " Sie gilt nur für Mails, bei denen client_address in 192.0.2.0/24 oder 198.51.100.0/24 liegt, und"
        " sasl_username leer ist oder bob ist; oder bei denen time zwischen 22:00 und 06:00 Uhr liegt."
        " Ausgenommen sind Mails, bei denen sasl_username dem Muster *@a.example entspricht oder zum"
        " Ausdruck /^b/ passt."
        " Entschieden wird bei RCPT, DATA und END-OF-MESSAGE."
        " Das Log warnt, sobald 80 % eines Limits verbraucht sind."
        " Darüber hinaus wird nichts abgelehnt, denn sie wird nur beobachtet: wo die Antwort „hold“ wäre, steht im Log"
        " verdict=would-refuse."
        " Wer das Limit überschreitet, würde für 90 Minuten gesperrt, in allen Regeln mit diesem Schlüssel."
        " Eine Mail darüber geht an abuse@a.example."
    )
    assert told["found"].startswith(
        "für alle zusammen, zu deren sasl_domain die Tabelle $customer dasselbe sagt, gilt: höchstens 5 Mails in"
        " jeder Woche."
        " Sie gilt nicht für Mails ohne Eintrag von $customer zu sasl_domain."
    )


def _of_every_kind(action: str, *, shadow: bool) -> dict[str, object]:
    """Rules that need all texts between them."""
    terms = ("sasl_username", "sasl_domain", "sender", "sender_domain", "recipient", "recipient_domain", "country")
    clients = ("client_address", "client_address/32/128", "client_address/24/56")
    rules: dict[str, dict[str, object]] = {
        "all": {
            "key": "sasl_username",
            "limits": ["50/mail", "100/1h", "300/1d"],
            "overrides": [{"root": [], "": "0/1d"}, "$tiers"],
            "match": [
                {"client_address": ["192.0.2.0/24", "198.51.100.0/24"], "sasl_username": ["", "bob"]},
                {"time": "22:00-06:00"},
            ],
            "unless": {"sasl_username": ["*@a.example", "/^b/"]},
            "warn": 80,
            "action": action,
            "block": "90m",
            "notify": ["abuse@a.example", "user"],
            "shadow": shadow,
        },
        "found": {"key": "$customer(sasl_domain)", "limits": "5/1w", "count": "messages"},
        "usual": {"key": "sender+client_address", "limits": "5/1w", "block": "1h", "shadow": shadow},
        "first": {"key": "sender|server", "limits": "0/1w", "overrides": {"root": "1/1d"}, "match": {"recipient": "a"}},
        "either": {"key": "sender|recipient", "limits": []},
        "tables": {
            "key": "sasl_username",
            "limits": [],
            "count": "distinct helo_name",
            "match": {"sasl_username": ["$staff", "$plan=x"], "$created(sasl_username)": ["<7d", ">30d"]},
        },
    }
    for term in (*terms, "server"):
        rules[f"one-{term}"] = {"key": term, "limits": "1/1h"}
        rules[f"none-{term}"] = {"key": term, "limits": "0/1h"}
        rules[f"any-{term}"] = {"key": term, "limits": []}
    for term in (*terms, "$customer(sasl_domain)", *clients):
        if term != "sender":
            rules[f"both-{len(rules)}"] = {"key": f"sender+{term}", "limits": "1/1h", "count": "messages"}
    for client in clients:
        rules[f"client-{len(rules)}"] = {"key": client, "limits": "1k/1h", "count": "bytes"}
    for attribute, limits in (("sender", "1/1h"), ("helo_name", []), ("recipient_domain", "0/1h"), ("country", "1/1h")):
        rules[f"distinct-{attribute}"] = {"key": "recipient", "count": f"distinct {attribute}", "limits": limits}
    for limits in ([], "0/1h"):
        rules[f"have-{len(rules)}"] = {"key": "sender+recipient", "limits": limits}
    passing = ("discard", "ok", "prepend", "warn", "filter", "redirect", "bcc", "defer_if_reject", "x")
    for word in (*passing, "450", "550", "hold"):
        rules[f"does-{word}"] = {"key": "sender", "limits": "1/1h", "action": f"{word} x"}
    return {name.replace("_", "-"): rule for name, rule in rules.items()}
