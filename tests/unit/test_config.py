"""What each setting accepts, and its default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.domain.limits import Limit
from support.configuration import USUAL, Load, problems

RIGHT: list[tuple[str, Any, Any]] = [
    *(("debug", value, True) for value in (True, 1, "yes", "On", "true", "1")),
    *(("debug", value, False) for value in (False, 0, "no", "OFF", "False", "0", None)),
    ("report_only_if_needed", None, False),
    ("user", "www-data", "www-data"),
    ("pidfile", "./x.pid", "./x.pid"),
    *(("backend", value, 0) for value in (0, "0", "sqlite", "SQLite", "sqlite3")),
    *(("backend", value, 1) for value in (1, "1", "mysql", "MariaDB")),
    *(("backend", value, 2) for value in (2, "2", "postgresql", "postgres", "pgsql")),
    ("backend", "Redis", "redis"),
    ("sqlite_config", {"database": ":memory:", "timeout": 5}, {"database": ":memory:", "timeout": 5}),
    ("mysql_config", {}, {}),
    ("mysql_config", {"passwd": "x", "ssl": {"ca": "/x"}}, {"passwd": "x", "ssl": {"ca": "/x"}}),
    ("mysql_config", None, SETTINGS["mysql_config"].default),
    ("pgsql_config", {"dsn": "x", "port": 5432}, {"dsn": "x", "port": 5432}),
    ("redis_config", {"url": "rediss://u:p@h:1/0", "cluster": True}, {"url": "rediss://u:p@h:1/0", "cluster": True}),
    ("redis_config", {"host": "h"}, {"host": "h"}),
    *(("SOCKET", value, value) for value in ("/run/x", "./x", "/run/x y", "/" + "x" * 106)),
    ("SOCKET", ["127.0.0.1", 8552], ("127.0.0.1", 8552)),
    ("SOCKET", ["::1", "8552"], ("::1", 8552)),
    ("SOCKET", ["::", 0], ("::", 0)),
    ("SOCKET", ["0.0.0.0", 65535], ("0.0.0.0", 65535)),
    ("SOCKET", ["127.1", 8552], ("127.0.0.1", 8552)),
    *(("socket_permission", value, 0o666) for value in (0o666, "0666", "666", "0o666", None)),
    ("socket_permission", 0, 0),
    ("socket_permission", 0o440, 0o440),
    ("delay_to_close", 0.5, 0.5),
    ("delay_to_close", "300", 300),
    ("limits", [[10, 60], [150, 86400]], USUAL),
    ("limits", ["10/1m", [150, "1d"]], USUAL),
    ("limits", [], ()),
    ("limits", [[0, 60]], (Limit(0, 60),)),
    ("limits_by_id", {"a": [], "B": [[1, 2]], "::1": "5/1h"}, {"a": (), "B": ((1, 2),), "::1": ((5, 3600),)}),
    ("limits_by_id", None, {}),
    (
        "limits_by_id",
        {"192.0.2.0/24": [], "a/24": [], "x" * 5000: []},
        {"192.0.2.0/24": (), "a/24": (), "x" * 5000: ()},
    ),
    (
        "sql_limits_by_id",
        "SELECT limits FROM rate_limits\nWHERE id = ?",
        "SELECT limits FROM rate_limits\nWHERE id = ?",
    ),
    ("sql_limits_by_id", None, ""),
    (
        "limited_networks",
        ["192.0.2.0/24", "192.0.2.1", "2001:DB8::/32"],
        ("192.0.2.0/24", "192.0.2.1", "2001:db8::/32"),
    ),
    ("limited_networks", None, ()),
    ("ipv6_prefix", 128, 128),
    ("count_mode", None, None),
    *(("count_mode", value, int(value)) for value in (0, 1, 2, "0", "2")),
    *(
        ("success_action", value, value)
        for value in ("DUNNO", "REJECT 5.7.1 été\u00a0à 10:00", "my_class", "PREPEND X:\ty")
    ),
    ("fail_action", 450, "450"),
    ("fail_action", "450 later\n", "450 later"),
    ("db_error_action", None, None),
    ("db_error_action", "dunno", "dunno"),
    ("db_timeout", 60, 60),
    ("sql_limits_ttl", 0.1, 0.1),
    ("journal_directory", "/x", "/x"),
    ("journal_size", 1 << 20, 1 << 20),
    ("max_ids", 1, 1),
    ("report_from", "a@example.org", "a@example.org"),
    ("report_to", "a@example.org", "a@example.org"),
    ("report_to", ["a@example.org", "b@example.org"], ("a@example.org", "b@example.org")),
    *(
        ("report_from", value, value)
        for value in ("root", "Ünï Cöde <a@b>", '"Last, First" <a@b>', "<a@b>", "häns@exämple.org", "a@[192.0.2.1]")
    ),
    ("report_to", "a@b, Name <c@d>,root", "a@b, Name <c@d>,root"),
    ("notify_command", ["/bin/x", "-a", "$b c"], ("/bin/x", "-a", "$b c")),
    *(
        ("notify_url", value, value)
        for value in ("https://x", "http://[::1]:8080/a?b=c&d", "https://xn--bcher-kva.example/%20")
    ),
    ("notify_secret", "whsec_c2VjcmV0", "whsec_c2VjcmV0"),
    ("notify_secret", "pä ss", "pä ss"),
    ("notify_max_per_hour", 1, 1),
    ("report_limits", [86400, "1h"], (86400, 3600)),
    ("report_limits", 86400, (86400,)),
    ("report_limits", [], ()),
    ("report_limits", None, (86400,)),
    ("smtp_server", ["mail.example.org", "587"], ("mail.example.org", 587)),
    ("smtp_server", None, ("localhost", 25)),
    ("smtp_credentials", ["user", ""], ("user", "")),
    ("smtp_credentials", None, None),
]


def any_of(*values: Any) -> tuple[Any, ...]:
    """Values of any types."""
    return values


WRONG: list[tuple[str, Any]] = [
    *(("user", value) for value in any_of(None, 0, "", " ", ["x"], True, "a\nb")),
    *(("pidfile", value) for value in any_of(None, "", "a\0b", 3)),
    *(("backend", value) for value in any_of(None, 3, -1, "oracle", [], 0.5)),
    *(("sqlite_config", value) for value in any_of({}, {"database": None}, {"database": ""}, {"path": "/x"}, "/x", [])),
    *(("mysql_config", value) for value in any_of("x", [], 0)),
    *(
        ("redis_config", value)
        for value in any_of({"url": "http://x"}, {"url": 3}, {"cluster": "perhaps"}, "redis://x")
    ),
    *(
        ("SOCKET", value)
        for value in any_of(None, "", 8552, "policy", "127.0.0.1:8552", "inet:127.0.0.1:8552", "unix:/x")
    ),
    *(
        ("SOCKET", value)
        for value in any_of("/x/", "/" + "x" * 107, "/" + "é" * 54, "/a\nb", [], ["127.0.0.1"], {"a": 1})
    ),
    *(("SOCKET", [host, 8552]) for host in ("localhost", "", "*", None, "[::1]", "1.2.3.999", "127.0.0.1 x", 7)),
    *(("SOCKET", ["127.0.0.1", port]) for port in (-1, 65536, None, "http", 1.5, True, "")),
    ("SOCKET", ["127.0.0.1", 1, 2]),
    *(("socket_permission", value) for value in any_of(-1, 0o10000, "rw", "888", True, 6.0, [])),
    *(("delay_to_close", value) for value in any_of("", "soon", float("nan"))),
    *(
        ("limits", value)
        for value in any_of(None, 10, "lots", [[10]], [[1, 2, 3]], [[float("nan"), 60]], {10: 60}, [["1.5", 60]])
    ),
    *(("limits_by_id", value) for value in any_of("x", [1], {"a": None}, {"a": 3}, {"a": [[1]]})),
    *(("sql_limits_by_id", value) for value in any_of("a\0b")),
    *(
        ("limited_networks", value)
        for value in any_of("192.0.2.0/24", ["x"], ["192.0.2.1/24"], [3], [""], ["2001:db8::1/32"])
    ),
    *(("ipv6_prefix", value) for value in any_of(None, 0, 129, "x", 64.0, True)),
    *(("success_action", value) for value in any_of(True, [1], "a\0b", "\x7f", 1.5)),
    ("fail_action", "x" * 3000),
    *(("db_timeout", value) for value in any_of(0, -1, 61, None)),
    *(("journal_size", value) for value in any_of((1 << 20) - 1, None, "big", 1e9)),
    *(("max_ids", value) for value in any_of(0, None)),
    *(("report_to", value) for value in any_of("", [], [""], [3], 3)),
    *(
        ("report_from", value)
        for value in any_of("", 3, "a\nBcc: b", "a b", "a@b, c@d", "a@", "@b", "a@b <c@d", "a@b>")
    ),
    *(("report_to", value) for value in any_of("a b", ["a@b", "c d"], "a@b,", ",", "a@b@c", "x:;", "a <b> c")),
    *(("notify_to", value) for value in any_of("", [], ["a b"], "a@b\tc")),
    *(("notify_command", value) for value in any_of("", "/bin/x -a", [], [""], ["a\0b"], [3], {})),
    *(
        ("notify_url", value)
        for value in any_of(
            "",
            3,
            "x",
            "//x",
            "ftp://x/",
            "https://",
            "https://u:p@x/",
            "https://x:0/",
            "https://x:y/",
            "https://x:70000/",
        )
    ),
    *(
        ("notify_url", value)
        for value in any_of("https://x/a b", "https://bücher.example/", "https://x/\n", "https://[x")
    ),
    *(("notify_secret", value) for value in any_of("", 3, "whsec_!", "whsec_abc", "a\nb")),
    *(("notify_max_per_hour", value) for value in any_of(0, None, 100_001, "many")),
    *(("report_limits", value) for value in any_of([0], ["x"], "x", [None], [1.5], {}, "")),
    *(("smtp_server", value) for value in any_of("", [], ["", 25], ["x", -1], [3, 25], ["a\nb", 25])),
    *(("smtp_credentials", value) for value in any_of("user", ["user"], ["user", None], ["user", 3])),
]


# What versions up to 1.2.0 served with, of 205 odd values that were tried with it.
TOLERATED: list[tuple[str, object, object]] = [
    *((name, value, True) for name in ("debug", "report_only_if_needed") for value in any_of(2, -1, 0.5, "maybe", [1])),
    *((name, value, False) for name in ("limit_by_ip", "smtp_starttls", "report") for value in any_of("", [], {}, 0.0)),
    ("limit_by_sasl", "x", True),
    ("backend", False, 0),
    ("backend", 0.0, 0),
    ("socket_permission", 666, 0o666),
    ("socket_permission", 660, 0o660),
    ("socket_permission", 777, 0o777),
    ("socket_permission", 1777, 0o1777),
    ("socket_permission", False, 0o666),
    ("socket_permission", "", 0o666),
    *(("delay_to_close", value, 300) for value in any_of(0, -1, 0.0, False)),
    ("delay_to_close", True, 1),
    ("delay_to_close", 10**9, 31_536_000),
    ("delay_to_close", float("inf"), 31_536_000),
    *(("count_mode", value, None) for value in any_of(3, -1, "", "RCPT", [])),
    ("count_mode", 1.0, 1),
    ("count_mode", False, 0),
    *(("success_action", value, "dunno") for value in any_of("", " \n", False, [], {}, 0)),
    ("success_action", "ok\nrequest=x", "ok"),
    ("success_action", "ok\rx", "ok"),
    *(("fail_action", value, "defer_if_permit Rate limit reach, retry later") for value in any_of("", [], False)),
    *(("db_error_action", value, None) for value in any_of("", " ", [], False)),
    ("limits", "", ()),
    ("limits", {}, ()),
    ("limits", [[10, 60.5], [1.5, 3600]], (Limit(10, 61), Limit(1, 3600))),
    ("limits", [[10, 0], [5, -1], [20, 60]], (Limit(20, 60),)),
    ("limits", [[-1, 60]], (Limit(0, 60),)),
    ("limits", [[20, 60], [10, 60], [30, 60]], (Limit(10, 60),)),
    ("limits", [[True, 60]], (Limit(1, 60),)),
    ("limits", [[10**20, 60]], (Limit(2**53 - 1, 60),)),
    ("limits", [[float("inf"), 60]], (Limit(2**53 - 1, 60),)),
    *(("limits_by_id", value, {}) for value in any_of("", [], False)),
    ("limits_by_id", {"192.0.2.1/24": [], "a": []}, {"a": ()}),
    ("limits_by_id", {"a": "", "b": {}}, {"a": (), "b": ()}),
    ("limits_by_id", {"a": [[2.5, 60]]}, {"a": (Limit(2, 60),)}),
    ("limited_networks", "", ()),
    ("limited_networks", {}, ()),
    *(("sql_limits_by_id", value, "") for value in any_of(5, 0, [], False)),
]


@pytest.mark.parametrize(("name", "value", "expected"), RIGHT)
def test_a_right_value_is_read_from_both_formats(tmp_path: Path, name: str, value: object, expected: object) -> None:
    for file, text in (("x.yaml", yaml.safe_dump({name: value})), ("x.conf", f"{name} = {value!r}\n")):
        (tmp_path / file).write_text(text)
        settings, warnings = config.load(tmp_path / file)
        found = getattr(settings, name)
        assert found == expected
        assert type(found) is type(expected)
        # That nobody is limited, say, is a remark of another kind.
        assert not any(": expected " in warning or ": found " in warning for warning in warnings)


def is_beside(name: str) -> bool:
    """Whether a mistake in the setting leaves all limited."""
    return SETTINGS[name].reporting or name in ("mysql_config", "pgsql_config", "redis_config")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value in WRONG if is_beside(name)])
def test_a_mistake_that_limits_nobody_less_is_a_warning(tmp_path: Path, name: str, value: object) -> None:
    for file, text in (("x.yaml", yaml.safe_dump({name: value})), ("x.conf", f"{name} = {value!r}\n")):
        (tmp_path / file).write_text("#\n" + text)
        settings, warnings = config.load(tmp_path / file)
        assert getattr(settings, name) == getattr(Settings(), name)
        assert all(re.match(rf"{tmp_path / file}:[0-9]+: {name}", warning) for warning in warnings)
        assert all(": expected " in warning for warning in warnings)
        assert warnings
        assert set(settings.broken) == ({name} if SETTINGS[name].reporting else set())


@pytest.mark.parametrize(("name", "value", "expected"), TOLERATED)
def test_what_the_old_versions_ran_with_is_read_and_warned_of(
    tmp_path: Path, name: str, value: object, expected: object
) -> None:
    for file, text in (("x.yaml", yaml.safe_dump({name: value})), ("x.conf", f"{name} = {value!r}\n")):
        if file == "x.conf" and "inf" in text:
            continue  # which is a name there
        (tmp_path / file).write_text("#\n" + text)
        settings, warnings = config.load(tmp_path / file)
        assert getattr(settings, name) == expected
        assert type(getattr(settings, name)) is type(expected)
        assert re.match(rf"{tmp_path / file}:[0-9]+: {name}", warnings[0])
        assert ": found " in warnings[0]
        assert settings.broken == {}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value in WRONG if not is_beside(name)])
def test_a_wrong_value_is_told_from_both_formats(tmp_path: Path, name: str, value: object) -> None:
    lines = repr(value).replace("inf", "1e999").replace("nan", "1e999")
    for file, text in (("x.yaml", yaml.safe_dump({name: value})), ("x.conf", f"{name} = {lines}\n")):
        (tmp_path / file).write_text("#\n" + text)
        try:
            found = problems(config.load, tmp_path / file)
        except pytest.fail.Exception:
            raise AssertionError(f"{text} is accepted") from None
        assert len(found) == 1
        assert found[0].setting.startswith(name) or "1e999" in lines
        assert found[0].line >= 2
        assert str(found[0]).startswith(f"{tmp_path / file}:{found[0].line}: ")
        assert "\n" not in str(found[0])


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert settings.debug is True
    assert settings.user == settings.group == "policyd-rate-limit"
    assert settings.pidfile == "/var/run/policyd-rate-limit/policyd-rate-limit.pid"
    assert settings.backend == 0
    assert settings.sqlite_config == {"database": "/var/lib/policyd-rate-limit/db.sqlite3"}
    assert settings.mysql_config == {
        "user": "username",
        "passwd": "*****",
        "db": "database",
        "host": "localhost",
        "charset": "utf8",
    }
    assert settings.pgsql_config == {
        "database": "database",
        "user": "username",
        "password": "*****",
        "host": "localhost",
    }
    assert settings.redis_config == {"url": "redis://localhost:6379/0"}
    assert settings.SOCKET == "/var/spool/postfix/ratelimit/policy"
    assert settings.socket_permission == 0o666
    assert settings.limits == USUAL
    assert settings.limits_by_id == {}
    assert settings.sql_limits_by_id == ""
    assert (settings.limit_by_sasl, settings.limit_by_sender, settings.limit_by_ip) == (True, False, False)
    assert settings.limited_networks == ()
    assert settings.success_action == "dunno"
    assert settings.fail_action == "defer_if_permit Rate limit reach, retry later"
    assert settings.db_error_action is None
    assert settings.count_mode is None
    assert settings.delay_to_close == 300
    assert (settings.report, settings.report_from, settings.report_to) == (False, None, None)
    assert settings.report_subject == "policyd-rate-limit report"
    assert (settings.report_limits, settings.report_only_if_needed) == ((86400,), True)
    assert settings.smtp_server == ("localhost", 25)
    assert (settings.smtp_starttls, settings.smtp_credentials) == (False, None)
    assert (settings.ipv6_prefix, settings.db_timeout, settings.sql_limits_ttl) == (64, 2.0, 60)
    assert (settings.journal_directory, settings.journal_size, settings.max_ids) == (None, 33554432, 2_000_000)


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().debug = False  # type: ignore[misc]  # that is what must fail
    with pytest.raises(TypeError, match="no settings: dbug"):
        Settings(dbug=False)


@pytest.mark.parametrize("text", ["", "# nothing\n", "debug:\n", "limits_by_id:\n#  alice: []\nlimited_networks:\n"])
def test_what_a_file_lacks_has_its_default(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert warnings == ()
    assert settings.limits == USUAL
    assert settings.limits_by_id == {}
    assert settings.sql_limits_by_id == ""
