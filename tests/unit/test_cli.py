"""The command line: what is called, what is said, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import policyd_rate_limit
from policyd_rate_limit.admin import maintenance
from policyd_rate_limit.cli import main
from policyd_rate_limit.cli.exits import Exit, status_of, tell
from policyd_rate_limit.config import Settings
from policyd_rate_limit.daemon import start
from policyd_rate_limit.errors import (
    AlreadyRunning,
    ConfigError,
    PolicydError,
    Problem,
    StoreUnavailable,
    SystemRefusal,
    UnknownAccount,
)
from policyd_rate_limit.system import accounts
from support.daemon import COMMAND
from support.programs import require_root
from support.public import public_directory

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file and returns its path."""

    def write(**settings: object) -> Path:
        path = tmp_path / "policyd-rate-limit.yaml"
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        return path

    return write


def status(*arguments: object) -> int:
    """The exit status of the command, run in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return int(code)


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The installed command, run as a process of its own."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return] # options vary
        [str(COMMAND), *map(str, arguments)],
        **{"capture_output": True, "check": False, "timeout": 60, **options},
    )


def problem(setting: str) -> Problem:
    return Problem("file.yaml", 3, setting, "this", "that")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnknownAccount("x"), 2),
        (AlreadyRunning("x"), 3),
        (ConfigError([problem("SOCKET")]), 4),
        (ConfigError([problem("SOCKET.1")]), 4),
        (ConfigError([problem("SOCKET[0]"), problem("SOCKET")]), 4),
        (ConfigError([problem("SOCKET"), problem("limits")]), 5),
        (ConfigError([problem("socket_permission")]), 5),
        (ConfigError([problem("")]), 5),
        (ConfigError([]), 5),
        (SystemRefusal("x"), 6),
        (StoreUnavailable("x"), 6),
        (PolicydError("x"), 6),
        (OSError(98, "x"), 6),
    ],
)
def test_each_error_has_its_status(error: Exception, expected: int) -> None:
    assert status_of(error) == expected


def test_no_two_meanings_share_a_status() -> None:
    assert len({int(one) for one in Exit.__members__.values()}) == len(Exit.__members__)
    assert all(one.meaning for one in Exit)


def test_each_problem_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(ConfigError([problem("limits"), Problem("file.yaml", 0, "", "this", "a\nforged: line")]))
    assert capsys.readouterr().err.splitlines() == [
        "policyd-rate-limit: file.yaml:3: limits: expected this, found that",
        "policyd-rate-limit: file.yaml: expected this, found a\\nforged: line",
    ]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_tells_options_and_statuses(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(option) == 0
    said = capsys.readouterr().out
    for text in ("-h, --help", "--version", "-f, --file FILE", "--clean", "--get-config NAME"):
        assert text in said
    for one in Exit:
        assert f"\n  {one:4d}  " in said
        assert f" {one:d} {one.meaning} " in f"{' '.join(said.split())} "


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out == f"policyd-rate-limit {policyd_rate_limit.__version__}\n"


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["-f"], ["--get-config"], ["argument"]])
def test_wrong_usage_has_a_status_of_its_own(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*arguments) == 64
    said = capsys.readouterr()
    assert "Error: " in said.err
    assert said.out == ""


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "policyd_rate_limit", "--version"], capture_output=True, check=True)
    assert done.stdout == command("--version").stdout


# --get-config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("success_action", "dunno"),
        ("sqlite_config.database", "/var/lib/é/db.sqlite3"),
        ("limits", "[[10, 60], [150, 86400]]"),
        ("debug", "False"),
        ("backend", "0"),
    ],
)
def test_get_config_writes_the_value_and_nothing_else(write: Write, name: str, value: str) -> None:
    path = write(debug=False, sqlite_config={"database": "/var/lib/é/db.sqlite3"})
    for locale in ("C.UTF-8", "C", "POSIX"):
        environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        done = command("-f", path, "--get-config", name, env=environment)
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, value, b"")


def test_get_config_tells_the_file(write: Write, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    path = write(debug=False)
    assert status("--file", path, "--get-config", "config_file") == 0
    assert capsysbinary.readouterr().out == os.fsencode(path)


@pytest.mark.parametrize("name", ["no_such_setting", "sqlite_config.nothing", "debug.x", "", "a\nb"])
def test_get_config_of_what_there_is_not(write: Write, name: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert status("-f", write(debug=False), "--get-config", name) == 1
    said = capsysbinary.readouterr()
    assert said.out == b""
    assert said.err.count(b"\n") == 1
    assert b"no such setting" in said.err


def test_get_config_warns_on_standard_error(write: Write) -> None:
    done = command("-f", write(debug=False, limit_by_sals=True), "--get-config", "debug")
    assert (done.returncode, done.stdout) == (0, b"False")
    (line,) = done.stderr.decode().splitlines()
    assert "policyd-rate-limit: WARNING " in line
    assert "limit_by_sals" in line
    assert "limit_by_sasl" in line


def test_get_config_wins_over_clean(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """As in version 1."""
    monkeypatch.setattr(maintenance, "clean", lambda settings: pytest.fail("cleaned"))
    assert status("-f", write(debug=False), "--get-config", "debug", "--clean") == 0
    assert capsysbinary.readouterr().out == b"False"


@pytest.mark.parametrize("action", [[], ["--clean"], ["--get-config", "debug"]])
def test_a_missing_configuration(tmp_path: Path, action: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status("-f", tmp_path / "missing.yaml", *action) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("policyd-rate-limit: ")
    assert str(tmp_path / "missing.yaml") in said.err


@pytest.mark.parametrize("action", [[], ["--clean"], ["--get-config", "debug"]])
def test_all_problems_are_told_each_on_its_line(
    write: Write, action: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(ipv6_prefix="maybe", limits="10 per hour", delay_to_close="-1")
    assert status("-f", path, *action) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for setting, line in zip(("delay_to_close", "ipv6_prefix", "limits"), sorted(lines), strict=True):
        assert line.startswith(f"policyd-rate-limit: {path}:")
        assert f" {setting}" in line


@pytest.mark.parametrize("address", [["127.0.0.1", 99999], ["127.0.0.1"], 12, ["127.0.0.1", "smtp"], ["toto", 1234]])
def test_a_malformed_socket(write: Write, address: object) -> None:
    assert status("-f", write(SOCKET=address)) == 4


@pytest.mark.parametrize("host", ["192.168::1", "1.2.3.4.5", "mx.example.org"])
def test_an_address_that_nothing_binds_to(write: Write, host: str) -> None:
    """Version 1.2.0 took it for an address, and failed to bind."""
    assert status("-f", write(SOCKET=[host, 1234])) == 6


def test_a_malformed_socket_among_other_problems(write: Write) -> None:
    assert status("-f", write(SOCKET=12, max_ids="maybe")) == 5


# Standard streams


def test_a_reader_that_has_read_enough_is_no_news(write: Write) -> None:
    path = write(debug=False)
    for arguments in (["--help"], ["-f", path, "--get-config", "debug"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = command(*arguments, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (6, b"")


def test_a_full_disk_is_told(write: Write) -> None:
    path = write(debug=False)
    with Path("/dev/full").open("w") as full:
        done = command("-f", path, "--get-config", "debug", capture_output=False, stdout=full, stderr=-1)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_not_reused(write: Write, tmp_path: Path, closed: str) -> None:
    """Else the log of a daemon would go into the next file that it opens: its database."""
    path = write(debug=False, limit_by_sals=True)
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -f "$1" --get-config debug {closed}', COMMAND, path],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    script = """
import os
from policyd_rate_limit.cli import _open_standard_descriptors
for descriptor in (0, 2):
    os.close(descriptor)
_open_standard_descriptors()
assert all(os.path.samestat(os.fstat(descriptor), os.stat("/dev/null")) for descriptor in (0, 2))
assert os.dup(1) == 3
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_what_is_not_needed_is_not_imported(write: Write) -> None:
    script = """
import sys
from policyd_rate_limit.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
print(*sorted(sys.modules), file=sys.stderr)
"""

    def modules(*arguments: object) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        return set(done.stderr.split())

    heavy = {"asyncio", "uvloop", "sqlite3", "policyd_rate_limit.daemon.start"}
    assert not modules("--version") & {*heavy, "yaml", "policyd_rate_limit.config"}
    assert not modules("-f", write(debug=False), "--get-config", "debug") & heavy


def test_no_garbage_is_looked_for(write: Write) -> None:
    """A sixth of the time of a command that only answers, or the daemon until it serves, went into that."""
    script = """
import atexit, gc, sys
from policyd_rate_limit.command import main

def looked():
    return sum(generation["collections"] for generation in gc.get_stats())

before = looked()
atexit.register(lambda: print(looked() - before, len(gc.get_objects()), file=sys.stderr))
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "-f", write(debug=False), "check-config"],
        capture_output=True,
        text=True,
        check=True,
    )
    looked, left = map(int, done.stderr.split())
    assert looked == 0
    assert left < 1000  # for Python to look at as it ends


# --clean


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a process that believes to be root did, in order."""
    done: list[str] = []

    def clean(settings: Settings) -> int:
        done.append("clean")
        return 0

    monkeypatch.setattr(maintenance, "delete_old_records", clean)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "drop_privileges", lambda account: done.append(f"become {account.user}"))
    return done


@pytest.mark.usefixtures("as_user")
def test_clean_says_how_many(write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cleaned: list[Settings] = []

    def clean(settings: Settings) -> int:
        cleaned.append(settings)
        return 42

    monkeypatch.setattr(maintenance, "clean", clean)
    assert status("-f", write(debug=False, user="no-such-user"), "--clean") == 0
    assert capsys.readouterr().out == "42 records deleted\n"
    assert len(cleaned) == 1


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("error", [StoreUnavailable("locked"), SystemRefusal("locked"), OSError(5, "locked")])
def test_clean_failed(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def clean(settings: Settings) -> int:
        raise error

    monkeypatch.setattr(maintenance, "clean", clean)
    assert status("-f", write(debug=False), "--clean") == 8
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "locked" in said.err


@pytest.mark.usefixtures("as_user")
def test_clean_failed_by_a_fault_of_ours(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maintenance, "clean", lambda settings: 1 // 0)
    assert status("-f", write(debug=False), "--clean") == 8
    assert "Traceback" in capsys.readouterr().err


def test_clean_as_root_becomes_the_account_first(write: Write, as_root: list[str]) -> None:
    assert status("-f", write(debug=False, user="nobody", group="nogroup"), "--clean") == 0
    assert as_root == ["become nobody", "clean"]


@pytest.mark.parametrize("missing", ["user", "group"])
def test_clean_as_root_without_the_account(write: Write, as_root: list[str], missing: str) -> None:
    names = {"user": "nobody", "group": "nogroup", missing: "no-such-name"}
    assert status("-f", write(debug=False, **names), "--clean") == 2
    assert as_root == []


def test_clean_as_root_that_may_not_change(write: Write, monkeypatch: pytest.MonkeyPatch, as_root: list[str]) -> None:
    def refuse(account: accounts.Account) -> None:
        raise SystemRefusal("Operation not permitted")

    monkeypatch.setattr(accounts, "drop_privileges", refuse)
    assert status("-f", write(debug=False, user="nobody", group="nogroup"), "--clean") == 8
    assert as_root == []


# The daemon


def test_runs_with_the_settings_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[Settings] = []
    monkeypatch.setattr(start, "run", run.append)
    assert status("-f", write(debug=False, success_action="permit")) == 0
    assert [settings.success_action for settings in run] == ["permit"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnknownAccount("because"), 2),
        (AlreadyRunning("because"), 3),
        (SystemRefusal("because"), 6),
        (OSError(5, "because"), 6),
    ],
)
def test_a_daemon_that_cannot_start(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    expected: int,
) -> None:
    def run(settings: Settings) -> None:
        raise error

    monkeypatch.setattr(start, "run", run)
    assert status("-f", write(debug=False)) == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("policyd-rate-limit: ")
    assert "because" in line


def test_a_fault_of_ours_leaves_with_a_traceback(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "run", lambda settings: 1 // 0)
    assert status("-f", write(debug=False)) == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError" in said


@pytest.mark.usefixtures("as_user")
def test_interrupted_while_it_cleans(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def clean(settings: Settings) -> int:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("goes on")

    # Other tests of this process may have left event loops' ways with signals behind.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    monkeypatch.setattr(maintenance, "clean", clean)
    assert status("-f", write(debug=False), "--clean") == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err


@pytest.mark.needs_root
def test_whoever_can_read_the_file_may_ask() -> None:
    require_root()
    # The interpreter may be where only root can go, so it is root that starts it and imports.
    script = """
import sys
import encodings.utf_8_sig
import policyd_rate_limit.config.yaml_file
from policyd_rate_limit.cli import get_config, main
from policyd_rate_limit.system.accounts import Account, drop_privileges
drop_privileges(Account("54321", 54321, 54322, (54322,)))
main(sys.argv[1:])
"""
    with public_directory() as directory:
        path = directory / "policyd-rate-limit.yaml"
        path.write_text("{debug: false, pidfile: /nowhere/pid, user: no-such-user}")
        ask = [sys.executable, "-c", script, "-f", str(path), "--get-config", "pidfile"]
        done = subprocess.run(ask, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"/nowhere/pid", b"")
        path.chmod(0o600)
        done = subprocess.run(ask, capture_output=True, check=False)
        assert done.returncode == 5
        assert len(done.stderr.splitlines()) == 1
