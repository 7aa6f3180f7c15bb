"""``check-config``: every error and every warning, for people and for programs."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from policyd_rate_limit import config
from policyd_rate_limit.cli import main
from support.mmdb import write_mmdb
from support.programs import require_root


def check(*arguments: object) -> int:
    """The exit status of ``check-config``."""
    with pytest.raises(SystemExit) as ended:
        main(["check-config", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A file with two errors, a warning and a secret."""
    path = tmp_path / "wrong.yaml"
    path.write_text("limits: [[10]]\nlimit_by_sasll: true\nSOCKET: 7\nbackend: 1\nmysql_config: [hunter2]\n")
    return path


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "good.conf"
    path.write_text("limits = [[10, 60]]\n")
    assert check(path) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong\n"
    assert check(path, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(path), "errors": [], "warnings": []}


def test_a_warning_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("limit_by_sasll: true\n")
    assert check(path) == 0
    assert capsys.readouterr().out == (
        f"warning: {path}:1: unknown setting limit_by_sasll; did you mean limit_by_sasl?\n"
    )


def test_every_error_is_told_and_no_secret(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(wrong) == 1
    out = capsys.readouterr().out
    assert [line.split(": expected")[0] for line in out.splitlines()] == [
        f"error: {wrong}:1: limits[0]",
        f"error: {wrong}:3: SOCKET",
        f"error: {wrong}:5: mysql_config",
        f"warning: {wrong}:2: unknown setting limit_by_sasll; did you mean limit_by_sasl?",
    ]
    assert "hunter2" not in out


def test_for_programs(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(wrong, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(wrong)
    assert told["errors"][1] == {
        "file": str(wrong),
        "line": 3,
        "setting": "SOCKET",
        "expected": "a path such as /run/x/policy, or [ip, port]",
        "found": "7",
    }
    assert len(told["warnings"]) == 1
    assert "hunter2" not in json.dumps(told)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "none.yaml", "--json") == 1
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert (error["line"], error["setting"]) == (None, None)
    assert error["found"] == "No such file or directory"


def test_what_the_daemon_would_not_start_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "redis.yaml"
    path.write_text("backend: redis\nsql_limits_by_id: SELECT 1\n")
    assert check(path) == 1
    assert "sql_limits_by_id" in capsys.readouterr().out


def test_the_file_of_the_daemon_is_checked_unless_another_is_named(
    wrong: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-f", str(wrong), "check-config"])
    assert ended.value.code == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config").mkdir()
    wrong.rename(tmp_path / ".config" / "policyd-rate-limit.yaml")
    assert check() == 1
    capsys.readouterr()


@pytest.mark.parametrize("flag", [["--clean"], ["--get-config", "limits"]])
def test_old_flags_go_with_no_command(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*flag, "check-config"])
    assert ended.value.code == 64
    assert "go with no command" in capsys.readouterr().err


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts what looks like the daemon, with the arguments given; its process id."""
    command = tmp_path / "policyd-rate-limit"
    command.write_text("#!/bin/sh\necho started\nread -r end\n")
    command.chmod(0o755)
    with ExitStack() as started:

        def start(*arguments: str, command: Path = command) -> int:
            process = subprocess.Popen(
                [command, *arguments], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.enter_context(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"  # it has become the program
            return process.pid

        yield start


@pytest.mark.parametrize("arguments", [("-f", "wrong.yaml"), ("--file=wrong.yaml",), ("-fwrong.yaml",)])
def test_the_file_of_a_running_daemon(
    daemon: Callable[..., int], wrong: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("--pid", daemon(*arguments)) == 1
    assert f"error: {wrong}:1: limits[0]" in capsys.readouterr().out


def test_the_file_of_a_running_daemon_that_was_started_without_one(
    daemon: Callable[..., int], wrong: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "find", lambda: wrong)
    assert check("--pid", daemon()) == 1
    assert f"error: {wrong}:1: limits[0]" in capsys.readouterr().out


def test_a_process_that_is_not_the_daemon(
    daemon: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    (tmp_path / "policyd-rate-limit").rename(other)
    pid = daemon(command=other)
    assert check("--pid", pid) == 6
    assert capsys.readouterr().err == f"policyd-rate-limit: process {pid} is not policyd-rate-limit\n"
    assert check("--pid", 2**22 + 1) == 6  # beyond the highest that Linux gives
    assert "No such file or directory" in capsys.readouterr().err
    assert check("--pid", pid, "x.yaml") == 64


@pytest.mark.needs_root
def test_root_reads_the_file_of_a_running_daemon_as_its_user_and_no_other(tmp_path: Path) -> None:
    """What the daemon says that it was started with is its own word: it may name what only root can read."""
    require_root()
    nobody = pwd.getpwnam("nobody")
    secret = tmp_path / "secret.yaml"
    secret.write_text("limits: [[1, 60]]\n")
    secret.chmod(0o600)
    words = ["sh", "-c", "echo started; read -r end", "policyd-rate-limit", "-f", str(secret)]
    with subprocess.Popen(
        words,
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        check_it = [sys.executable, "-m", "policyd_rate_limit", "check-config", "--pid", str(process.pid)]
        done = subprocess.run(check_it, capture_output=True, text=True)
        process.communicate("")
    assert done.returncode == 1
    assert done.stdout == f"error: {secret}: expected a file that can be read, found Permission denied\n"


COUNTRIES = "limits: []\nrules: {x: {key: sasl_username, limits: 9/1h, match: {country: de}}}\ngeoip: "


def test_a_file_of_countries_that_rules_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    countries, path = tmp_path / "countries.mmdb", tmp_path / "x.yaml"
    path.write_text(f"{COUNTRIES}{countries}\n")
    expected = f"error: {path}: geoip: expected a file of countries (MaxMind DB, .mmdb), since rules ask for country"
    assert check(path) == 1
    missing = f"one that cannot be read (No such file or directory): {countries}"
    assert capsys.readouterr().out == f"{expected}, found {missing}\n"
    countries.write_bytes(b"no such thing")
    assert check(path) == 1
    assert capsys.readouterr().out == f"{expected}, found another file, or a part of one: {countries}\n"
    write_mmdb(countries, {"192.0.2.0/24": "DE"}, built=int(time.time()) - 10 * 86_400)
    assert check(path) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong\n"
    write_mmdb(countries, {"192.0.2.0/24": "DE"}, built=int(time.time()) - 100 * 86_400)
    assert check(path) == 0
    assert re.fullmatch(
        rf"warning: geoip: {countries} was built on 2\d{{3}}-\d\d-\d\d, 100 days ago: addresses have moved since\n",
        capsys.readouterr().out,
    )
    path.write_text(f"limits: 10/1h\ngeoip: {tmp_path / 'none'}\n")  # which nobody looks at
    assert check(path) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong\n"


def test_the_library_that_reads_countries_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{COUNTRIES}{write_mmdb(tmp_path / 'countries.mmdb', {'192.0.2.0/24': 'DE'})}\n")
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    assert check(path) == 1
    assert "which this installs: pip install 'policyd-rate-limit[geoip]', found none" in capsys.readouterr().out


def test_tables_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, staff, campus = tmp_path / "x.yaml", tmp_path / "staff", tmp_path / "campus"
    path.write_text(
        f"tables: {{staff: 'file:{staff}', campus: 'file:{campus}'}}\n"
        "rules: {x: {key: sasl_username, limits: 1/1h, overrides: {$staff: 2/1h}, unless: {client_address: $campus}}}\n"
    )
    staff.write_text("# names\nalice\nbob\n")
    campus.write_text("192.0.2.0/24\n2001:db8::/32 of us\n")
    assert check(path) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong\n"
    campus.write_text("192.0.2.0/24\n" + "somewhere else\n" * 7)
    assert check(path) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition(": expected ")[0] for line in lines] == [
        f"warning: tables.campus: {campus}:{number}" for number in range(2, 7)
    ]
    assert all(line.endswith("found 'somewhere'; the line is left out") for line in lines)
    assert last == f"warning: tables.campus: {campus}: 2 more wrong lines"
    campus.write_text("192.0.2.0/24 1/1h\n198.51.100.0/24 trial\n")
    path.write_text(
        f"tables: {{tiers: 'file:{campus}'}}\nrules: {{x: {{key: client_address, limits: 1/1h, overrides: $tiers}}}}\n"
    )
    assert check(path) == 0
    assert capsys.readouterr().out == (
        f"warning: tables.tiers: {campus}:2: expected limits such as 100/1h, which a rule takes of this table, "
        "found 'trial'; it gives none\n"
    )


def test_tables_in_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, staff, campus = tmp_path / "x.yaml", tmp_path / "staff", tmp_path / "campus"
    path.write_text(f"tables: {{staff: 'file:{staff}', campus: 'file:{campus}'}}\n")
    campus.write_bytes(b"192.0.2.1\n\xff\n")
    assert check(path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == []
    assert told["warnings"] == [
        f"tables.{name}: {why}; until it can be read, nothing is known of it"
        for name, why in [
            ("staff", f"{staff}: No such file or directory"),
            ("campus", f"{campus}:2: expected text in UTF-8, found the byte 0xff"),
        ]
    ]
