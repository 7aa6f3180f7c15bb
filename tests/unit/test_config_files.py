"""Which configuration file is read, and what is no readable one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.config import Settings, finding, source
from support.configuration import problems


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where files are looked for, all below a temporary directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home" / ".config"
    home.mkdir(parents=True)
    assert finding.search_path() == (
        home / "policyd-rate-limit.conf",
        home / "policyd-rate-limit.yaml",
        Path("/etc/policyd-rate-limit.conf"),
        Path("/etc/policyd-rate-limit.yaml"),
    )
    inside = tuple(tmp_path / str(path).lstrip("/") for path in finding.search_path()[2:])
    inside[0].parent.mkdir()
    searched = (*finding.search_path()[:2], *inside)
    monkeypatch.setattr(finding, "search_path", lambda: searched)
    return list(searched)


def test_the_first_file_that_exists_is_read(places: list[Path]) -> None:
    for number, path in reversed(list(enumerate(places))):
        text = f"delay_to_close = {number + 1}" if path.suffix == ".conf" else f"delay_to_close: {number + 1}"
        path.write_text(text)
        found = config.load(None)
        assert config.find() == path
        assert found.settings.config_file == str(path)
        assert found.settings.delay_to_close == number + 1
        assert found.warnings == tuple(f"{other} is ignored, since {path} is in use" for other in places[number + 1 :])
        assert config.load(path).warnings == ()


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
    assert [str(path.parent) for path in finding.search_path()] == ["/etc", "/etc"]


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


@pytest.mark.parametrize(
    ("data", "subject"),
    [
        (b"# \xe9t\xe9\nreport_subject = 'x'  # \xfc\n", "x"),
        (b"# coding: utf-8\nreport_subject = '\xc3\xa9'  # \xe9\n", "é"),
        (b"# -*- coding: latin-1 -*-\nreport_subject = '\xe9t\xe9'\n", "été"),
        (b"#!/usr/bin/python3\n# vim: set fileencoding=cp1252 :\nreport_subject = '\x80'\n", "€"),
        (b"# coding: no-such-thing\nreport_subject = 'x'\n", "x"),
        (b"# coding: rot13\nreport_subject = 'x'\n", "x"),
        (b"# coding: utf-16\nreport_subject = 'x'\n", "x"),
        (b"report_subject = '\xc3\xa9'\n# coding: latin-1\n", "é"),
        (b"# coding: latin-1\r\nreport_subject = '\xe9'\r\n# \xe9\r\n", "é"),
    ],
)
def test_a_conf_in_another_encoding(tmp_path: Path, data: bytes, subject: str) -> None:
    (tmp_path / "x.conf").write_bytes(data)
    settings, warnings = config.load(tmp_path / "x.conf")
    assert (settings.report_subject, warnings) == (subject, ())


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"# \xe9\nreport_subject = '\xe9'\n", 1),
        (b'x = """\n# \xe9\n"""\n', 2),
        (b"x = '# \xe9'\n", 1),
        (b"x = 1\ny\xe9 = 1\n", 2),
        (b"# coding: ascii\nx = 1\ny = '\xe9'\n", 3),
        (b'x = """\n\xe9\n', 2),
    ],
)
def test_what_encoding_text_is_in_is_not_guessed(tmp_path: Path, data: bytes, line: int) -> None:
    (tmp_path / "x.conf").write_bytes(data)
    (problem,) = problems(config.load, tmp_path / "x.conf")
    assert problem.found == "the byte 0xe9"
    assert problem.line == line


PASSWORDS = [
    ("mysql_config", {"passwd": "x"}),
    ("mysql_config", {"password": "x"}),
    ("pgsql_config", {"password": "x"}),
    ("pgsql_config", {"dsn": "host=h password=x"}),
    ("redis_config", {"url": "redis://:x@h/0"}),
    ("redis_config", {"url": "redis://h/0", "password": "x"}),
    ("smtp_credentials", ["a", "x"]),
    ("notify_secret", "x"),
]


@pytest.mark.parametrize(("name", "value"), PASSWORDS)
def test_a_password_that_everybody_may_read_is_warned_of(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"{name} = {value!r}\ngroup = 'mail'\n")
    path.chmod(0o644)
    (warning,) = config.load(path).warnings
    assert warning == (
        f"{path} holds a password ({name}), and everybody may read it: chown root:mail {path} && chmod 0640 {path}"
    )
    path.chmod(0o640)
    assert config.load(path).warnings == ()


@pytest.mark.parametrize(
    "text",
    ["", "mysql_config = {'passwd': '*****'}", "pgsql_config = {'host': 'h'}", "redis_config = {'url': 'redis://h'}"],
)
def test_no_password_is_no_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.conf").write_text(text)
    (tmp_path / "x.conf").chmod(0o644)
    assert config.load(tmp_path / "x.conf").warnings == ()


def test_a_file_whose_name_is_odd(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \n.yaml"))
    path.write_text("debug: false")
    assert config.load(path).settings.config_file == str(path)
