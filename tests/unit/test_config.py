"""The settings: which file is read, what each setting accepts, what is told of a wrong one, how it is shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings, loading, source
from policyd_rate_limit.config.schema import SETTINGS
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import ConfigError, Problem

USUAL = (Limit(10, 60), Limit(150, 86400))

Load = Callable[[str], config.Configuration]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the text of a YAML file."""

    def load(text: str) -> config.Configuration:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path)

    return load


def problems(load: Callable[..., object], *arguments: object) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    assert caught.value.problems
    return caught.value.problems


# --- which file ---


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where files are looked for, all below a temporary directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home" / ".config"
    home.mkdir(parents=True)
    assert loading.search_path() == (
        home / "policyd-rate-limit.conf",
        home / "policyd-rate-limit.yaml",
        Path("/etc/policyd-rate-limit.conf"),
        Path("/etc/policyd-rate-limit.yaml"),
    )
    inside = tuple(tmp_path / str(path).lstrip("/") for path in loading.search_path()[2:])
    inside[0].parent.mkdir()
    searched = (*loading.search_path()[:2], *inside)
    monkeypatch.setattr(loading, "search_path", lambda: searched)
    return list(searched)


def test_the_first_file_that_exists_is_read(places: list[Path]) -> None:
    for number, path in reversed(list(enumerate(places))):
        text = f"delay_to_close = {number + 1}" if path.suffix == ".conf" else f"delay_to_close: {number + 1}"
        path.write_text(text)
        found = config.load(None)
        assert config.find() == path
        assert found.settings.config_file == str(path)
        assert found.settings.delay_to_close == number + 1
        assert found.warnings == ()


def test_without_a_file_the_defaults_and_one_warning(places: list[Path]) -> None:
    assert config.find() is None
    settings, warnings = config.load(None)
    assert settings == Settings()
    assert settings.config_file is None
    assert len(warnings) == 1
    assert all(str(path) in warnings[0] for path in places)


def test_a_file_that_exists_and_cannot_be_read_is_an_error(places: list[Path]) -> None:
    places[0].mkdir()
    places[1].write_text("debug: false")
    (problem,) = problems(config.load, None)
    assert problem.file == str(places[0])


def test_an_account_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    assert [str(path.parent) for path in loading.search_path()] == ["/etc", "/etc"]


def test_a_place_where_nobody_may_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    assert config.find() is None


def make_nothing(_: Path) -> None: ...


@pytest.mark.parametrize(
    ("make", "line", "found"),
    [
        (make_nothing, 0, "No such file or directory"),
        (Path.mkdir, 0, "Is a directory"),
        (os.mkfifo, 0, "something else"),
        (lambda path: path.symlink_to("/dev/zero"), 0, "something else"),
        (lambda path: path.symlink_to(path), 0, "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"a: 1\nb: \xff\n"), 2, "the byte 0xff"),
        (lambda path: path.write_bytes(b"a = 1\n\0"), 2, "a NUL character"),
        (lambda path: path.write_bytes(b"#" * (source.MOST_BYTES + 1)), 0, "more"),
        (lambda path: path.write_bytes(b"d\0e\0b\0u\0g\0"), 1, "a NUL character"),
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".conf"])
@pytest.mark.timeout(20)
def test_what_is_no_readable_file_is_told(
    tmp_path: Path, suffix: str, make: Callable[[Path], object], line: int, found: str
) -> None:
    path = tmp_path / f"x{suffix}"
    make(path)
    (problem,) = problems(config.load, path)
    assert problem.file == str(path)
    assert problem.found == found
    assert problem.line == line


def test_a_name_that_no_file_can_have() -> None:
    (problem,) = problems(config.load, Path("/tmp/\0.yaml"))
    assert problem.expected == "a file that can be read"


@pytest.mark.parametrize("name", ["x", "x.cfg", "x.yaml.bak", ".yaml"])
def test_a_name_that_says_no_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("debug: true")
    (problem,) = problems(config.load, tmp_path / name)
    assert problem.expected == "a name that ends in .yaml or .conf"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, text in (("x.yaml", "debug: false"), ("x.conf", "debug = False")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert config.load(tmp_path / name).settings.debug is False


def test_a_file_whose_name_is_odd(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \n.yaml"))
    path.write_text("debug: false")
    assert config.load(path).settings.config_file == str(path)


# --- what each setting accepts ---

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
    ("socket_permission", 666, 666),  # octal 1232, which is hardly meant and was accepted
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
    *(("debug", value) for value in any_of(2, "maybe", "", [], {}, 0.5)),
    *(("user", value) for value in any_of(None, 0, "", " ", ["x"], True, "a\nb")),
    *(("pidfile", value) for value in any_of(None, "", "a\0b", 3)),
    *(("backend", value) for value in any_of(None, 3, -1, "oracle", True, [], 0.0)),
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
    *(("delay_to_close", value) for value in any_of(None, 0, -1, "", "soon", float("inf"), float("nan"), 10**9, True)),
    *(
        ("limits", value)
        for value in any_of(None, 10, "lots", [[10]], [[10, 0]], [[-1, 60]], [[True, 60]], {10: 60}, [[1.5, 60]])
    ),
    *(("limits_by_id", value) for value in any_of([], "x", {"a": None}, {"a": 3}, {"a": [[1]]}, {"192.0.2.1/24": []})),
    *(("sql_limits_by_id", value) for value in any_of(3, [], "a\0b")),
    *(
        ("limited_networks", value)
        for value in any_of("192.0.2.0/24", ["x"], ["192.0.2.1/24"], [3], {}, [""], ["2001:db8::1/32"])
    ),
    *(("ipv6_prefix", value) for value in any_of(None, 0, 129, "x", 64.0, True)),
    *(("count_mode", value) for value in any_of(3, -1, "RCPT", True, [])),
    *(("success_action", value) for value in any_of("", " \n", False, [1], "a\nb", "a\rb", "a\0b", "\x7f", 1.5)),
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
    *(("report_limits", value) for value in any_of([0], ["x"], "x", [None], [1.5], {})),
    *(
        ("smtp_server", value)
        for value in any_of("localhost", ["localhost"], ["", 25], ["x", -1], [3, 25], ["a\nb", 25])
    ),
    *(("smtp_credentials", value) for value in any_of("user", ["user"], ["user", None], ["user", 3], [])),
]


@pytest.mark.parametrize(("name", "value", "expected"), RIGHT)
def test_a_right_value_is_read_from_both_formats(tmp_path: Path, name: str, value: object, expected: object) -> None:
    for file, text in (("x.yaml", yaml.safe_dump({name: value})), ("x.conf", f"{name} = {value!r}\n")):
        (tmp_path / file).write_text(text)
        settings, warnings = config.load(tmp_path / file)
        found = getattr(settings, name)
        assert found == expected
        assert type(found) is type(expected)
        assert warnings == ()


@pytest.mark.parametrize(("name", "value"), WRONG)
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
    with pytest.raises(pydantic.ValidationError):
        Settings().debug = False  # type: ignore[misc]  # that is what must fail
    with pytest.raises(pydantic.ValidationError):
        Settings(dbug=False)  # type: ignore[call-arg]  # that is what must fail


def test_where_the_journal_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Settings().journal_home) == "/var/lib/policyd-rate-limit"
    assert Settings(sqlite_config={"database": "/x/y/db"}).journal_home == Path("/x/y")
    assert Settings(sqlite_config={"database": "db"}).journal_home == tmp_path
    assert Settings(sqlite_config={"database": "/x/db"}, journal_directory="/j").journal_home == Path("/j")
    assert str(Settings(sqlite_config={"database": "/x/db"}, backend=1).journal_home) == "/var/lib/policyd-rate-limit"


@pytest.mark.parametrize("text", ["", "# nothing\n", "debug:\n", "limits_by_id:\n#  alice: []\nlimited_networks:\n"])
def test_what_a_file_lacks_has_its_default(load: Load, text: str) -> None:
    settings, warnings = load(text)
    assert warnings == ()
    assert settings.limits == USUAL
    assert settings.limits_by_id == {}
    assert settings.sql_limits_by_id == ""


# --- what is told ---


def test_every_problem_at_once_in_the_order_of_the_file(load: Load, tmp_path: Path) -> None:
    text = """\
report: yes
delay_to_close: soon
limits:
    - [10, 60]
    - [ten, 60]
limits_by_id:
    alice: [[1, 60]]
    bob: [[1, 60], [2]]
    carol: 3
    192.0.2.1/24: []
limited_networks:
    - 192.0.2.0/24
    - nonsense
    - 3
SOCKET: [localhost, 25]
count_mode: 7
smtp_server: [localhost, mail]
"""
    file = str(tmp_path / "x.yaml")
    found = problems(load, text)
    assert [(problem.file, problem.line, problem.setting) for problem in found] == [
        (file, 1, "report_from"),
        (file, 1, "report_to"),
        (file, 2, "delay_to_close"),
        (file, 5, "limits[1]"),
        (file, 8, "limits_by_id.bob[1]"),
        (file, 9, "limits_by_id.carol"),
        (file, 10, "limits_by_id.192.0.2.1/24"),
        (file, 13, "limited_networks[1]"),
        (file, 14, "limited_networks[2]"),
        (file, 15, "SOCKET[0]"),
        (file, 16, "count_mode"),
        (file, 17, "smtp_server[1]"),
    ]
    assert str(found[2]) == (
        f"{file}:2: delay_to_close: expected a number of seconds above 0 and up to 31536000, found 'soon'"
    )
    assert str(found[3]) == (
        f"{file}:5: limits[1]: expected a whole number of mails from 0 to 9007199254740991 in [mails, seconds],"
        " such as [10, 60], [10, '1m'] or '10/1m', found ['ten', 60]"
    )
    assert [problem.found for problem in found][-2:] == ["7", "'mail'"]


def test_lines_of_a_conf(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "minute = 60\nlimits = [\n  (10, minute),\n  (1, 'x'),\n]\nlimits_by_id = {\n 'a': [],\n 1: 2,\n False: []}\n"
    )
    assert [(problem.line, problem.setting) for problem in problems(config.load, path)] == [
        (4, "limits[1]"),
        (8, "limits_by_id[1]"),
        (9, "limits_by_id[False]"),
    ]


def test_notices_by_mail_need_a_sender(load: Load) -> None:
    text = "notify_to: [x@y, Name <z@y>]\n"
    assert [problem.setting for problem in problems(load, text)] == ["notify_to"]
    assert load(f"{text}report_from: a@b\n").settings.notify_to == ("x@y", "Name <z@y>")
    # One mistake is told once.
    assert [problem.setting for problem in problems(load, f"{text}report_from: a b\n")] == ["report_from"]


def test_a_report_needs_its_addresses(load: Load) -> None:
    assert [problem.setting for problem in problems(load, "report: true\nreport_to: x@y\n")] == ["report_from"]
    assert [problem.line for problem in problems(load, "report_from: x@y\nreport_to:\nreport: true\n")] == [2]
    assert load("report: true\nreport_from: a@b\nreport_to: [c@d]\n").settings.report is True
    with pytest.raises(pydantic.ValidationError):
        Settings(report=True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("limts", "; did you mean limits?"),
        ("socket", "; did you mean SOCKET?"),
        ("limited_network", "; did you mean limited_networks?"),
        ("Sqlite_Config", "; did you mean sqlite_config?"),
        ("zzzzzz", ""),
        ("x" * 1000, ""),
    ],
)
def test_an_unknown_setting_is_a_warning(load: Load, tmp_path: Path, name: str, hint: str) -> None:
    settings, (warning,) = load(f"debug: true\n{name}: hunter2\n")
    assert settings.limits == USUAL
    assert warning.startswith(f"{tmp_path}/x.yaml:2: unknown setting ")
    assert warning.endswith(hint or "zzz" * (name[0] == "z") or "…")
    assert "hunter2" not in warning
    assert len(warning) < 300


def test_many_unknown_settings_take_no_time(load: Load) -> None:
    assert len(load("".join(f"limits{number}: 1\n" for number in range(20_000))).warnings) == source.MOST_WARNINGS + 1


def test_a_name_that_others_are_made_from_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text(
        "from policyd_rate_limit.const import *\n".replace("*", "SQLITE_DB") + "hour = 3600\nday = 24 * hour\n"
    )
    (warning,) = config.load(path).warnings
    assert warning.startswith(f"{path}:3: unknown setting day")


def test_the_old_name_works_and_warns(load: Load, tmp_path: Path) -> None:
    settings, (warning,) = load("limited_netword: [192.0.2.0/24]\n")
    assert settings.limited_networks == ("192.0.2.0/24",)
    assert warning == f"{tmp_path}/x.yaml:1: limited_netword is the old name of limited_networks"
    settings, (warning,) = load("limited_netword: [x]\nlimited_networks: [192.0.2.0/25]\n")
    assert settings.limited_networks == ("192.0.2.0/25",)
    assert warning.startswith(f"{tmp_path}/x.yaml:1: limited_netword is the old name of limited_networks, which")
    (problem,) = problems(load, "limited_netword: [x]\n")
    assert problem.setting == "limited_netword[0]"


def test_config_file_is_the_file(load: Load, tmp_path: Path) -> None:
    settings, (warning,) = load("debug: true\nconfig_file: /x\n")
    assert settings.config_file == f"{tmp_path}/x.yaml"
    assert warning.startswith(f"{tmp_path}/x.yaml:2: config_file ")


def test_ids_that_are_one_are_warned_of(load: Load, tmp_path: Path) -> None:
    text = "limits_by_id:\n  Alice: []\n  alice: [[1, 2]]\n  bob: []\n  2001:DB8::1: []\n  2001:db8:0::1: []\n"
    assert load(text).warnings == (
        f"{tmp_path}/x.yaml:3: 'alice' and 'Alice' in limits_by_id are one id; the last one counts",
        f"{tmp_path}/x.yaml:6: '2001:db8:0::1' and '2001:DB8::1' in limits_by_id are one id; the last one counts",
    )


def test_a_message_is_one_line_whatever_an_id_holds(load: Load) -> None:
    text = 'limits_by_id: {"a\\nb": 3, "' + "x" * 1000 + '": 3}\n'
    for problem in problems(load, text):
        assert "\n" not in str(problem)
        assert len(str(problem)) < 500


# --- secrets ---

SECRET = "hunter2"
SECRETS = {
    "sqlite_config": {"database": "/x", "key": SECRET},
    "mysql_config": {"passwd": SECRET, "host": SECRET},
    "pgsql_config": {"password": SECRET},
    "redis_config": {"url": f"redis://:{SECRET}@localhost/0"},
    "smtp_credentials": ["user", SECRET],
    "notify_url": f"https://x/{SECRET}",
    "notify_secret": f"whsec_{SECRET}",
}

anything = st.recursive(
    st.sampled_from([SECRET, f"redis://{SECRET}", 1, None, True, 1.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "database", SECRET]), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(SECRETS)), value=anything, conf=st.booleans())
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_is_in_no_message(tmp_path: Path, name: str, value: object, conf: bool) -> None:
    path = tmp_path / ("x.conf" if conf else "x.yaml")
    path.write_text(f"{name} = {value!r}\n" if conf else yaml.safe_dump({name: value}))
    try:
        settings, warnings = config.load(path)
    except ConfigError as error:
        told = [str(error), repr(error), *map(str, error.problems)]
        assert error.__cause__ is None  # noqa: PT017 - a value may be right or wrong
        assert error.__suppress_context__  # noqa: PT017 - as above
    else:
        told = [repr(settings), str(settings), *warnings]
    assert SECRET not in "".join(told)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("notify_secret whsec_hunter2", "notify_secret…; did you mean notify_secret?"),
        ("notify_secret:whsec_hunter2", "notify_secret…; did you mean notify_secret?"),
        ("zzz hunter2", "without a value"),
        ("report_to, whsec_hunter2", "without a value"),
    ],
)
def test_a_value_that_is_taken_for_a_name_is_not_shown(load: Load, text: str, shown: str) -> None:
    warnings = load(f"{{limits: [], {text}}}\n").warnings
    assert [warning.partition("unknown setting ")[2] for warning in warnings] == [shown]


@given(data=st.data(), conf=st.booleans())
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_no_slip_of_the_pen_shows_a_secret(tmp_path: Path, data: st.DataObject, conf: bool) -> None:
    if conf:
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in SECRETS.items())
    else:
        text = yaml.safe_dump(SECRETS, default_flow_style=data.draw(st.booleans()))
    at = data.draw(st.integers(0, len(text)))
    text = (
        text[:at]
        + data.draw(st.sampled_from([*"\n \t'\"[]{}():,=*&!|>%@#-\\", ""]))
        + text[at + data.draw(st.integers(0, 1)) :]
    )
    path = tmp_path / ("x.conf" if conf else "x.yaml")
    path.write_text(text)
    try:
        settings, warnings = config.load(path)
        told = [repr(settings), *warnings]
    except ConfigError as error:
        told = [str(error)]
    assert SECRET not in "".join(told)


def test_a_validation_error_shows_no_secret() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings(mysql_config=SECRET, smtp_credentials=SECRET, pgsql_config=[SECRET])
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


# --- --get-config ---


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
        "model_fields",
        "journal_home",
        "__class__",
    ],
)
def test_what_is_no_setting_is_not_shown(name: str) -> None:
    with pytest.raises(KeyError):
        config.show(Settings(), name)
