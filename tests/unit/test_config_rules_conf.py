"""The setting ``rules`` in a .conf."""

from __future__ import annotations

from pathlib import Path

from policyd_rate_limit import config
from policyd_rate_limit.config.converting import convert
from policyd_rate_limit.config.rules import RuleSettings
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from support.configuration import problems
from support.written_rules import DAY, HOUR, MAILBOX

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
