"""What a reload makes of each setting: it is changed, or it is told that it cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import LONGEST_SHOWN, changes
from policyd_rate_limit.config.schema import SETTINGS

FIXED: dict[str, Any] = {
    "user": "postfix",
    "group": "postfix",
    "pidfile": "/run/other.pid",
    "backend": "redis",
    "sqlite_config": {"database": "/srv/secret-place.sqlite3"},
    "mysql_config": {"passwd": "secret"},
    "pgsql_config": {"password": "secret"},
    "redis_config": {"url": "redis://:secret@localhost"},
    "db_timeout": 3.0,
    "journal_directory": "/srv/journal",
    "journal_size": 1 << 21,
    "max_ids": 7,
    "SOCKET": ("127.0.0.1", 10031),
    "socket_permission": 0o600,
    "metrics_address": ("127.0.0.1", 9645),
}
"""Settings that no reload changes, each with a value that is not its default."""

# What a reload changes in the running daemon is shown by its effect, in integration/test_reload.py.
IN_THE_DAEMON = {
    "debug",
    "log_to",
    "log_format",
    "log_level",
    "db_error_action",
    "delay_to_close",
    "limits",
    "limits_by_id",
    "sql_limits_by_id",
    "sql_limits_ttl",
    "limit_by_sasl",
    "limit_by_sender",
    "limit_by_ip",
    "limited_networks",
    "ipv6_prefix",
    "count_mode",
    "geoip",
    "rules",
    "tables",
    "tables_ttl",
    "success_action",
    "fail_action",
    "block_action",
    "config_file",
}
# Shown in integration/test_alerts.py.
OF_NOTICES = {
    "notify_to",
    "notify_command",
    "notify_url",
    "notify_secret",
    "notify_ca_file",
    "notify_max_per_hour",
}
# The hits of these are counted by the daemon, too; --clean reads the file each time that it is called.
OF_CLEAN = {
    "report",
    "report_from",
    "report_to",
    "report_subject",
    "report_limits",
    "report_only_if_needed",
    "smtp_server",
    "smtp_starttls",
    "smtp_credentials",
    "smtp_ca_file",
}
# Of another process than the daemon's, policyd-rate-limit web, which is started again for them.
OF_THE_WEB_PAGE = {"web_address", "web_group", "web_url", "web_accounts", "web_user_header"}


def test_each_setting_is_one_of_these() -> None:
    """Whoever adds a setting says here what a reload does with it, and tests that."""
    assert {name for name, setting in SETTINGS.items() if not setting.reload} == set(FIXED)
    reloaded = {name for name, setting in SETTINGS.items() if setting.reload}
    assert reloaded == IN_THE_DAEMON | OF_NOTICES | OF_CLEAN | OF_THE_WEB_PAGE


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_change_stays_and_is_told(name: str) -> None:
    running = Settings(limits=[[1, 60]])
    result = changes(running, Settings(limits=[[2, 60]], **{name: FIXED[name]}))
    assert result.settings == Settings(limits=[[2, 60]])
    assert result.changed == {"limits"}
    [warning] = result.warnings
    assert warning.startswith(name)
    assert "cannot change while the daemon runs" in warning
    assert "secret" not in warning
    if not SETTINGS[name].secret:
        assert f"it stays {'unset' if SETTINGS[name].default is None else ''}" in warning


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("SOCKET", "/run/a", ["::1", 10031], "it stays '/run/a'; restart it to have ('::1', 10031)"),
        ("socket_permission", 0o666, 0o600, "it stays 0666; restart it to have 0600"),
        ("journal_directory", "/srv", None, "it stays '/srv'; restart it to have unset"),
        (
            "mysql_config",
            {"user": "a", "passwd": "b", "host": "c"},
            {"user": "a", "passwd": "x", "db": "d"},
            "mysql_config (db, host, passwd) cannot change",
        ),
    ],
)
def test_the_words_of_the_warning(name: str, old: Any, new: Any, told: str) -> None:
    [warning] = changes(Settings(**{name: old}), Settings(**{name: new})).warnings
    assert told in warning


def test_a_long_value_is_cut() -> None:
    [warning] = changes(Settings(), Settings(pidfile="/" + "x" * 5000)).warnings
    assert len(warning) < 2 * LONGEST_SHOWN + 200


def test_nothing_changes() -> None:
    assert changes(Settings(), Settings()) == (Settings(), frozenset(), ())


def test_a_file_that_is_there_at_last() -> None:
    result = changes(Settings(), Settings(config_file="/etc/policyd-rate-limit.yaml"))
    assert result.settings.config_file == "/etc/policyd-rate-limit.yaml"
    assert not result.warnings


def test_the_next_reload_tells_it_again() -> None:
    other = Settings(max_ids=7)
    first = changes(Settings(), other)
    assert changes(first.settings, other).warnings == first.warnings != ()
