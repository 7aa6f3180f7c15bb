"""Settings as ``--get-config`` shows them."""

from __future__ import annotations

import ast

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from support.configuration import Load


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("limits", "[[10, 60], [150, 86400]]"),
        ("limits_by_id", "{'foo': [], 'a@b.c': [[1, 2]]}"),
        ("limits_by_id.foo", "[]"),
        ("limits_by_id.a@b.c", "[[1, 2]]"),
        ("SOCKET", "('127.0.0.1', 18552)"),
        ("socket_permission", "438"),
        ("backend", "0"),
        ("debug", "False"),
        ("count_mode", "0"),
        ("sql_limits_by_id", ""),
        ("smtp_credentials", "None"),
        ("smtp_server", "['localhost', 25]"),
        ("report_to", "['a@b', 'c@d']"),
        ("report_limits", "[86400]"),
        ("delay_to_close", "300"),
        ("db_error_action", "dunno"),
        ("sqlite_config", "{'database': '/x/db.sqlite3'}"),
        ("sqlite_config.database", "/x/db.sqlite3"),
        ("mysql_config.user", "username"),
        ("mysql_config.ssl.ca", "/ca"),
        ("mysql_config.a.b", "dotted"),
        ("limited_networks", "[]"),
        ("limited_netword", "[]"),
    ],
)
def test_settings_are_shown_as_the_old_version_does(load: Load, name: str, shown: str) -> None:
    text = """\
debug: False
backend: 0
sqlite_config:
    database: /x/db.sqlite3
mysql_config: {user: username, ssl: {ca: /ca}, a.b: dotted}
SOCKET: ["127.0.0.1", 18552]
socket_permission: 0666
limits_by_id: {foo: [], a@b.c: [[1, 2]]}
count_mode: 0
db_error_action: dunno
delay_to_close: 300
report_to: [a@b, c@d]
"""
    assert config.show(load(text).settings, name) == shown


TABLES = """
tables:
  plan: "sql:SELECT plan FROM mailbox WHERE address = ?"
  campus: [192.0.2.0/24, "2001:db8:17::/48"]
  size: {big.example: large, "*.example": small, tiny.example: [5/1h, 9/1d]}
  staff: file:/etc/policyd-rate-limit/staff
rules:
  mailbox: {key: sasl_username, limits: 9/1h, overrides: $plan, unless: {client_address: $campus, sender: $staff}}
  domain: {key: sasl_domain, limits: 9/1h, match: {sasl_domain: $size}}
"""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tables.plan", "sql:SELECT plan FROM mailbox WHERE address = ?"),
        ("tables.campus", "['192.0.2.0/24', '2001:db8:17::/48']"),
        ("tables.size", "{'big.example': 'large', '*.example': 'small', 'tiny.example': '[5/1h, 9/1d]'}"),
        ("tables.size.*.example", "small"),
        ("tables.staff", "file:/etc/policyd-rate-limit/staff"),
        ("rules.mailbox.overrides", "$plan"),
    ],
)
def test_tables_are_shown_as_they_are_written(load: Load, name: str, shown: str) -> None:
    settings = load(TABLES).settings
    assert config.show(settings, name) == shown
    # All of them are what a file may have again.
    assert Settings(tables=ast.literal_eval(config.show(settings, "tables"))).tables == settings.tables
    with pytest.raises(KeyError):
        config.show(settings, "tables.plans")


def test_unset_and_unix_sockets_are_shown() -> None:
    assert config.show(Settings(), "SOCKET") == "/var/spool/postfix/ratelimit/policy"
    assert config.show(Settings(), "config_file") == "None"
    assert config.show(Settings(config_file="/x.yaml"), "config_file") == "/x.yaml"


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "",
        ".",
        ".limits",
        "limits.",
        "limits.0",
        "SOCKET.0",
        "LIMITS",
        "user.x",
        "sqlite_config.x",
        "sqlite_config.",
        "sqlite_config.database.x",
        "with_values",
        "least_severe",
        "__class__",
    ],
)
def test_what_is_no_setting_is_not_shown(name: str) -> None:
    with pytest.raises(KeyError):
        config.show(Settings(), name)
