"""The commands that look into a store: how they are called, and what they write."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyd_rate_limit.cli import COMMANDS, main, output
from policyd_rate_limit.cli.layout import Cell, Column, Table
from policyd_rate_limit.cli.output import duration, moment, write
from policyd_rate_limit.domain.ledger import Ledger
from policyd_rate_limit.storage.administration import LONGEST_NOTE
from policyd_rate_limit.storage.log.sqlite.log import SqliteLog
from policyd_rate_limit.storage.replica import Memory
from support.daemon import COMMAND

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "commands.md"

Run = Callable[..., "Ended"]


class Ended:
    """How a command ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, on an SQLite file of its own."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = tmp_path / "policyd-rate-limit.yaml"

    def run(*arguments: object, **settings: object) -> Ended:
        given = {
            "debug": False,
            "pidfile": str(tmp_path / "pid"),
            "sqlite_config": {"database": str(tmp_path / "db.sqlite3")},
            "limits": [[10, 60], [150, 86400]],
            **settings,
        }
        path.write_text(yaml.safe_dump(given), encoding="utf-8")
        umask = os.umask(0o022)
        try:
            with pytest.raises(SystemExit) as ended:
                main(["-f", str(path), *map(str, arguments)])
        finally:
            os.umask(umask)
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(int(ended.value.code), said.out, said.err)

    return run


def store(tmp_path: Path, *charges: tuple[str, int]) -> None:
    """Have (key, amount) counted now, as a daemon does."""
    memory = Memory(Ledger(100), time.time)
    log = SqliteLog(tmp_path / "db.sqlite3", time.time)
    memory.synchronise(log.begin(1))
    log.prepare(lambda _: ())
    for key, amount in charges:
        memory.ledger.windows.add(key, memory.date, amount)
    log.append(memory.record(list(memory.ledger.snapshot())))
    log.commit()
    log.close()


# What they say


def test_an_id_in_words(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 10), ("user:bob", 3))
    said = run("status", "alice")
    assert (said.status, said.err) == (0, "")
    title, limits, headings, minute, day = said.out.splitlines()
    assert (title, limits) == ("user:alice", "limits: 10/1m, 150/1d, from limits")
    assert headings.split() == ["WINDOW", "USED", "LIMIT", "SHARE", "FREE"]
    assert re.fullmatch(r"1m +10 +10 +100%  in (1 min( 1 s)?|\d+ s) \(\d\d:\d\d:\d\d\)", minute)
    assert re.fullmatch(r"1d +10 +150 +7%  now", day)
    assert "\x1b" not in said.out


def test_all_in_words(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 10), ("user:bob", 3))
    assert run("block", "carol", "--for", "90m", "--note", "sends\nspam").status == 0
    said = run("status")
    assert (said.status, said.err) == (0, "")
    daemon, daemons, place, spool_file, gap, heading, carol, second_gap, headings, alice, bob = said.out.splitlines()
    assert daemon == "daemon: not running"
    assert daemons == "daemons of this store: 0 at work"
    assert place == f"store: SQLite {tmp_path}/db.sqlite3, 2 entries of 2 ids in 1d"
    assert spool_file == "spool: nothing waits"
    assert gap == second_gap == ""
    assert heading.split() == ["ID", "OVERRIDE"]
    assert re.fullmatch(r"user:carol  blocked until [\d: -]+, 1 h (29 min|30 min) more: sends\\nspam", carol)
    assert headings.split() == ["ID", "IN", "1d", "USED", "OF", "SHARE", "FREE", "LIMITS", "FROM"]
    assert re.fullmatch(r"user:alice +10 +10 +10/1m +100%  in .+  limits", alice)
    assert re.fullmatch(r"user:bob +3 +3 +10/1m +30%  now +limits", bob)


def test_top_in_words(run: Run, tmp_path: Path) -> None:
    assert run("top").out == "nobody sends\n"
    store(tmp_path, ("user:alice", 2), ("user:bob", 3), ("user:free", 50))
    by_id = {"limits_by_id": {"alice": [[2, 3600]], "free": []}}
    names = [line.split()[0] for line in run("top", "--window", "2h", **by_id).out.splitlines()]
    assert names == ["ID", "user:alice", "user:bob", "user:free"]
    headings, free, bob = run("top", "--by", "mails", "-n", "2", **by_id).out.splitlines()
    assert "IN 1h" in headings
    assert free.split() == ["user:free", "50", "unlimited", "limits_by_id"]
    assert bob.split()[:2] == ["user:bob", "3"]


def test_history_in_words(run: Run, tmp_path: Path) -> None:
    assert run("history", "alice").out == "user:alice: nothing is counted\n"
    store(tmp_path, ("user:alice", 10))
    lines = run("history", "alice", "--by", "day").out.splitlines()
    assert [lines[0].split(), lines[2], lines[3].split()] == [
        ["DAY", "MAILS"],
        "",
        ["COUNTED", "MAILS", "ID", "INSTANCE"],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d +10  #{40}", lines[1])  # today as well has its date
    (_, hour, *_) = run("history", "alice").out.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:00 +10  #{40}", hour)
    assert re.fullmatch(r"[\d: -]+ +10  user:alice", lines[4])
    assert len(run("history", "alice", "--last", "0").out.splitlines()) == 2


def test_limits_for_a_while(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 10))
    words = run("allow", "Alice", "5000/1d", "[[100, '1h']]", "--for", "8h").out
    assert re.fullmatch(r"user:alice: 5000/1d, 100/1h until [\d: -]+, 8 h more\n", words)
    (alice,) = run("status", "alice", "--json").json["keys"]
    assert (alice["source"], alice["limits"], alice["free_in"]) == ("override", [[5000, 86400], [100, 3600]], 0)
    assert [window["used"] for window in alice["windows"]] == [10, 10]
    blocked = run("block", "alice", "--for", "1h", "--note", "why", "--json").json
    (override,) = blocked["overrides"]
    assert override == {"key": "user:alice", "limits": [[0, 1]], "until": blocked["time"] + 3600, "note": "why"}
    told = run("status", "alice").out
    assert re.fullmatch(r"user:alice\nlimits: blocked until [\d: -]+, (1 h|59 min \d+ s) more: why\n", told)
    assert "0/1s" not in told
    (line,) = (line for line in run("top").out.splitlines() if "alice" in line)
    assert re.fullmatch(r"user:alice +10 +blocked +not before [\d: -]+ override", line)
    assert run("allow", "alice", "unlimited", "--for", "1h").status == 0
    assert re.search(r"^limits: unlimited until .* more$", run("status", "alice").out, re.MULTILINE)
    assert run("revoke", "alice", "--json").json == {"id": "alice", "revoked": ["user:alice"]}
    again = run("revoke", "alice")
    assert (again.status, again.out, again.err) == (1, "user:alice: nothing to end\n", "")
    assert run("status", "--json").json["overrides"] == []


def test_a_user_that_is_called_like_a_domain(run: Run, tmp_path: Path) -> None:
    blocked = run("block", "user:example.org", "--for", "1h", "--json")
    assert (blocked.status, blocked.json["overrides"][0]["key"]) == (0, "user:example.org")
    assert run("revoke", "example.org").status == 0


def test_reset(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 10), ("sender:alice", 2))
    found = run("reset", "alice", "--json", limit_by_sender=True).json
    assert found == {
        "id": "alice",
        "reset": [{"key": "user:alice", "mails": 10}, {"key": "sender:alice", "mails": 2}],
    }
    again = run("reset", "alice")
    assert (again.status, again.out, again.err) == (1, "user:alice: 0 mails taken back\n", "")
    history = run("history", "alice", "--json").json
    assert history["buckets"] == []
    assert [event["mails"] for event in history["last"]] == [10, -10]


def test_a_reset_says_what_it_takes_back(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("volume/bytes|user:alice", 5000))
    rule = {"key": "sasl_username", "count": "bytes", "limits": ["1M/1d"]}
    assert run("reset", "alice", "--rule", "volume", rules={"volume": rule}).out == (
        "volume/bytes|user:alice: 5000 bytes taken back\n"
    )


def test_what_a_name_holds_is_shown_harmlessly(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "[red]é\x1b[31m\n\udcff"
    store(tmp_path, (f"user:{name}", 1))
    assert run("top").out.splitlines()[1].startswith("user:[red]é\\x1b[31m\\n\\udcff ")
    assert [one["key"] for one in run("top", "--json").json["senders"]] == [f"user:{name}"]
    command = [str(COMMAND), "-f", str(tmp_path / "policyd-rate-limit.yaml"), "top"]
    (tmp_path / "policyd-rate-limit.yaml").write_text(
        yaml.safe_dump(
            {"debug": False, "user": "root", "group": "root", "sqlite_config": {"database": f"{tmp_path}/db.sqlite3"}}
        )
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=plain, capture_output=True, check=True, timeout=60)
    assert done.stdout.splitlines()[1].startswith(rb"user:[red]\xe9\x1b[31m\n\udcff ")


def test_what_is_documented_is_what_there_is(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 1))
    documented = set(re.findall(r"`([a-z_]+)`|\"([a-z_]+)\"", DOCUMENTATION.read_text()))
    words = {word for pair in documented for word in pair if word}
    calls = (
        ["block", "carol", "--for", "1h"],
        ["status"],
        ["status", "alice"],
        ["status", "carol"],
        ["top"],
        ["history", "alice"],
        ["reset", "alice"],
        ["revoke", "carol"],
    )
    found: set[str] = set()

    def gather(value: object) -> None:
        if isinstance(value, dict):
            found.update(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            gather(inner)

    for call in calls:
        gather(run(*call, "--json").json)
    assert found
    assert found <= words
    for name in {"status", "top", "history", "reset", "allow", "block", "revoke", "completion"} & set(COMMANDS):
        assert f"`policyd-rate-limit {name}" in DOCUMENTATION.read_text()


# How they are called


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", ""], "an id that is empty"),
        (["reset", "192.0.2.0/24"], "limit_by_ip is not set"),
        (["history", "client:10.0.0.0/8"], "not charged as one client"),
        (["revoke", "client:alice"], "neither an address nor a network"),
        (["history"], "Missing argument 'ID'"),
        (["history", "alice", "--by", "week"], "minute"),
        (["history", "alice", "-n", "0"], "0 is not in the range"),
        (["top", "--window", "soon"], "a period such as 90m, 8h or 2d, found 'soon'"),
        (["top", "--window", "3600"], "without a unit"),
        (["top", "--window", "10w", "--window", "53w"], "at most 366d"),
        (["block", "alice"], "Missing option '--for'"),
        (["block", "alice", "--for", "0"], "found '0'"),
        (["block", "example.org", "--for", "1h"], "example.org looks like a domain or a pattern"),
        (["block", "@example.org", "--for", "1h"], "@example.org looks like a domain or a pattern"),
        (["allow", "*@example.org", "5/1h", "--for", "1h"], "*@example.org looks like a domain or a pattern"),
        (["block", "alice", "--for", "8"], "8 is without a unit: 8s, 8m, 8h, 8d or 8w?"),
        (["allow", "alice", "100/1h", "--for", " 8 "], "8 is without a unit"),
        (["allow", "alice", "100/8", "--for", "8h"], "LIMITS: 8 is without a unit"),
        (["allow", "alice", "100/1h", "50 / 60", "--for", "8h"], "60 is without a unit"),
        (["block", "alice", "--for", "1000w"], "at most 3660d"),
        (["block", "alice", "--for", "1h", "--note", "x" * (LONGEST_NOTE + 1)], f"at most {LONGEST_NOTE} characters"),
        (["allow", "alice", "--for", "1h"], "Missing argument 'LIMITS...'"),
        (["allow", "alice", "many", "--for", "1h"], "found 'many'"),
        (["allow", "alice", "[]", "--for", "1h"], "for no limit at all say unlimited"),
        (["allow", "alice", "10/1m", "20/60s", "--for", "1h"], "each period once"),
        (["completion", "tcsh"], "bash"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], said: str) -> None:
    ended = run(*arguments)
    assert (ended.status, ended.out) == (64, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_database_that_is_away(run: Run, tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").mkdir()
    for arguments in (
        ["status", "alice"],
        ["top"],
        ["history", "alice"],
        ["reset", "alice"],
        ["block", "alice", "--for", "1h"],
        ["revoke", "alice"],
    ):
        ended = run(*arguments)
        assert (ended.status, ended.out) == (6, "")
        (line,) = ended.err.splitlines()
        assert str(tmp_path / "db.sqlite3") in line
    ended = run("status")
    assert ended.status == 6
    assert ended.out.splitlines() == [
        "daemon: not running",
        f"store: SQLite {tmp_path}/db.sqlite3, AWAY",
        "spool: nothing waits",
    ]
    assert len(ended.err.splitlines()) == 1
    ended = run("status", "--json")
    assert ended.status == 6
    assert json.loads(ended.out)["store"]["reachable"] is False
    assert json.loads(ended.out)["overrides"] is None


@pytest.mark.parametrize("arguments", [["status"], ["top"], ["block", "alice", "--for", "1h"]])
def test_a_missing_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-f", str(tmp_path / "missing.yaml"), *arguments])
    assert ended.value.code == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_query_that_is_refused_is_said(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 1))
    ended = run("status", "alice", sql_limits_by_id="SELECT limits FROM nowhere WHERE id = ?")
    assert (ended.status, ended.out) == (6, "")
    assert "nowhere" in ended.err


def test_one_table_of_limits_serves_all(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice", 1))
    query = {"sql_limits_by_id": "SELECT '[[7, 60]]' WHERE ? = 'alice'"}
    assert "limits: 7/1m, from sql_limits_by_id" in run("status", "alice", **query).out
    assert run("status", "bob", **query).out.splitlines()[1] == "limits: 10/1m, 150/1d, from limits"
    assert run("top", **query).out.splitlines()[1].endswith("sql_limits_by_id")


# On a terminal


def test_a_terminal_gets_colours(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    store(tmp_path, ("user:alice", 10))
    said = run("status", "alice").out
    assert "\x1b[1muser:alice\x1b[0m" in said
    assert "\x1b[1;31m" in said


@pytest.mark.parametrize("terminal", ["dumb", "unknown", None])
def test_a_terminal_that_can_do_nothing(monkeypatch: pytest.MonkeyPatch, terminal: str | None) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TERM", raising=False)
    if terminal:
        monkeypatch.setenv("TERM", terminal)
    assert not output.is_terminal()
    monkeypatch.setenv("TERM", "xterm")
    assert output.is_terminal()


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("NAME"), Column("N", right=True), Column("LAST"))
    write(
        [
            Cell("title", "bold"),
            Table(columns, [(Cell("a"), Cell("10"), Cell("")), (Cell("long"), Cell("1"), Cell("x"))]),
        ]
    )
    assert capsys.readouterr().out == "title\nNAME   N  LAST\na     10\nlong   1  x\n"


# Words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (26_400, "7 h 20 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (10 * 366 * 86_400, "3660 d"),
    ],
)
def test_durations(seconds: int, words: str) -> None:
    assert duration(seconds) == words


def test_moments() -> None:
    now = datetime.now().replace(hour=14, minute=31, second=5, microsecond=0)
    assert moment(round(now.timestamp())) == "14:31:05"
    yesterday = now - timedelta(days=1)
    assert moment(round(yesterday.timestamp())) == f"{yesterday:%Y-%m-%d} 14:31:05"
    assert moment(2**53) == f"second {2**53}"


# Completion


def completed(shell_words: str) -> list[str]:
    """What bash offers for the last of ``shell_words``."""
    script = f"""
        PATH={COMMAND.parent}:$PATH
        eval "$(policyd-rate-limit completion bash)"
        COMP_WORDS=({shell_words} ""); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _policyd_rate_limit_completion policyd-rate-limit
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes() -> None:
    assert set(completed("policyd-rate-limit")) == set(COMMANDS)
    assert completed("policyd-rate-limit completion") == ["bash", "fish", "zsh"]


Offered = Callable[[str, str, str], list[str]]
"""What our command offers a shell for what is incomplete, which follows the words before."""


def asked_by(shell: str, words: str, incomplete: str) -> dict[str, str]:
    """What the script of ``shell`` has in the environment of our command."""
    asked = f"policyd-rate-limit {words}"
    return {
        "_POLICYD_RATE_LIMIT_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": f"{asked} {incomplete}" if shell != "fish" else asked,
        "COMP_CWORD": incomplete if shell == "fish" else str(len(asked.split())),
    }


def values_for(shell: str, said: str) -> list[str]:
    """What the script of ``shell`` reads of the answer."""
    if shell == "zsh":  # three lines each: type, value, help
        return said.splitlines()[1::3]
    return [line.partition(",")[2] for line in said.splitlines() if line]


def offered_by_the_command(shell: str, words: str, incomplete: str) -> list[str]:
    """What is offered where the command is called as a shell calls it."""
    environment = {**os.environ, **asked_by(shell, words, incomplete)}
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return values_for(shell, done.stdout)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    """What is offered in this process."""

    def offered(shell: str, words: str, incomplete: str) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in asked_by(shell, words, incomplete).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([])
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        return values_for(shell, said.out)

    return offered


def configured(tmp_path: Path, **settings: Any) -> Path:
    """A configuration for whoever runs the tests, and its empty place for a database."""
    path = tmp_path / "rate.yaml"
    account = {"user": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
    given = {"sqlite_config": {"database": str(tmp_path / "db.sqlite3")}, **account, **settings}
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_ids_are_completed(tmp_path: Path, offered: Offered, capsys: pytest.CaptureFixture[str], shell: str) -> None:
    path = configured(tmp_path, limits_by_id={"alonso": ["1/1m"]}, unknown_setting=1)
    assert offered(shell, f"-f {path} status", "al") == []
    assert not (tmp_path / "db.sqlite3").exists()  # nothing is made by asking
    store(tmp_path, ("user:alice", 1), ("user:bob", 1), ("sender:Al\n", 1))
    with pytest.raises(SystemExit):
        main(["-f", str(path), "block", "albert", "--for", "1h"])
    assert "user:albert: blocked" in capsys.readouterr().out
    for command in ("status", "history", "reset", "block", "allow"):
        assert offered(shell, f"-f {path} {command}", "al") == ["albert", "alice", "alonso"]
    assert offered(shell, f"-f {path} revoke", "al") == ["albert"]
    assert offered(shell, f"-f {path} status", "") == ["albert", "alice", "alonso", "bob"]
    if shell == "fish":  # the others escape or split at colons
        assert offered(shell, f"-f {path} status", "user:b") == ["user:bob"]
    path.write_text("limits: [")
    assert offered(shell, f"-f {path} status", "al") == []


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_settings_and_checks_are_completed(shell: str) -> None:
    assert offered_by_the_command(shell, "--get-config", "limits") == ["limits", "limits_by_id"]
    assert offered_by_the_command(shell, "doctor --ignore", "database-") == [
        "database-clock",
        "database-durability",
        "database-rights",
    ]


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_each_shell_gets_a_script_that_calls_us(run: Run, shell: str) -> None:
    said = run("completion", shell)
    assert (said.status, said.err) == (0, "")
    assert f"_POLICYD_RATE_LIMIT_COMPLETE={shell}_complete" in said.out
    assert "policyd-rate-limit" in said.out


# Ids that nobody has seen


def test_an_id_that_was_never_seen_is_told(run: Run, tmp_path: Path) -> None:
    store(tmp_path, ("user:alice@example.org", 1), ("user:bob", 1), ("client:192.0.2.17", 1))
    charged = {"limit_by_sender": True, "limit_by_ip": True, "limited_networks": ["0.0.0.0/0"]}
    taken = "never seen, as far as is on record: a typo? Taken for the SASL user {0} and the sender {0}"
    for name, nearest in {
        "allice": "user:alice@example.org",
        "bbo": "user:bob",
        "alice@example.com": "user:alice@",
    }.items():
        said = run("status", name, **charged)
        assert said.status == 0
        assert f"{taken.format(name)}; on record are {nearest}" in said.out
    assert run("status", "zaphod", **charged).out.splitlines()[-1] == taken.format("zaphod")
    said = run("status", "192.0.2.71", **charged)
    assert "Taken for the client 192.0.2.71; on record are client:192.0.2.17" in said.out
    for known in ("bob", "user:bob", "BOB", "192.0.2.17"):
        assert "never seen" not in run("status", known, **charged).out
    assert "never seen" not in run("status", "carol", **charged, limits_by_id={"carol": ["1/1m"]}).out


@pytest.mark.parametrize("arguments", [["block"], ["allow", "5/1m"]])
def test_overrides_of_an_id_that_was_never_seen_are_in_force_and_say_so(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    store(tmp_path, ("user:bob", 1))
    name, *limits = arguments
    said = run(name, "bbo", *limits, "--for", "1h")
    assert said.status == 0
    assert said.out.splitlines()[1].endswith("a typo? Taken for the SASL user bbo; on record are user:bob")
    assert "never seen" not in run(name, "bbo", *limits, "--for", "2h").out  # since it has an override
    assert "never seen" not in run(name, "bob", *limits, "--for", "1h").out
    told = run(name, "bcb", *limits, "--for", "1h", "--json").json
    assert (told["on_record"], told["nearest"]) == (False, ["user:bob", "user:bbo"])
    assert run("status", "bob", "--json").json["on_record"] is True


def test_summaries_are_whole(run: Run) -> None:
    said = run("--help").out
    assert "..." not in said.partition("Commands:")[2]
    assert max(map(len, said.splitlines())) <= 80
