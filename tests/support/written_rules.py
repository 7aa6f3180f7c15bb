"""Rules as files have them, and what they say."""

from __future__ import annotations

from typing import Any

from policyd_rate_limit.config.rules import RuleSettings
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from support.configuration import Load, problems

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
