"""The commands beside a real daemon, on every store, on a terminal and not, as root and as the daemon's user."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import pwd
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.commands import ask, call
from support.daemon import COMMAND, Client, Daemon, admitted, configuration, mail, running, write_configuration
from support.outages import put_directory_in_place
from support.programs import require_root
from support.stores_for_daemons import STORES, SharedStore
from support.tcp_proxy import TcpProxy
from support.wait import wait_until

PATIENCE = 30.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LIMITS: dict[str, Any] = {"limits": [[5, 600], [8, 86_400]], "limits_by_id": {"bob": [[100, 600]]}}
REPORT = {"report": True, "report_from": "a@example.org", "report_to": "b@example.org", "report_limits": [600]}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[SharedStore]:
    """An empty store; without a choice by the test every one of the table."""
    with STORES[request.param](tmp_path) as empty:
        yield empty


@pytest.mark.long(8)
def test_commands_beside_a_daemon(tmp_path: pathlib.Path, store: SharedStore) -> None:
    began = int(time.time())
    with running(tmp_path / "host", **LIMITS, **REPORT, **store.settings) as daemon, Client(daemon.address) as client:
        assert (admitted(client, "alice", 7), admitted(client, "bob", 7)) == (5, 7)

        (alice,) = ask(daemon.path, "status", "Alice")["keys"]
        assert (alice["key"], alice["limits"], alice["source"]) == ("user:alice", [[5, 600], [8, 86_400]], "limits")
        assert [window["used"] for window in alice["windows"]] == [5, 5]
        assert 500 < alice["free_in"] == alice["windows"][0]["free_in"] <= 601
        assert alice["windows"][1]["free_in"] == 0

        everything = ask(daemon.path, "status")
        assert everything["daemon"] == {"running": True, "process": daemon.process.pid}
        assert (everything["store"]["reachable"], everything["store"]["ids"]) == (True, 2)
        assert everything["journals"] == everything["overrides"] == []

        # On Redis what is counted in a second is followed once the second is over.
        wait_until(lambda: sum(one["mails"] for one in ask(daemon.path, "top")["senders"]) == 12, "all that was sent")
        top = ask(daemon.path, "top")
        assert began - 5 <= top["time"] <= time.time() + 5
        assert [(one["key"], one["mails"], one["share"]) for one in top["senders"]] == [
            ("user:alice", 5, 1.0),
            ("user:bob", 7, 0.07),
        ]
        assert top["senders"] == [
            {**one, "limits": [[100, 600]], "source": "limits_by_id"} if one["key"] == "user:bob" else one
            for one in top["senders"]
        ]

        history = ask(daemon.path, "history", "bob", "--by", "day")
        assert sum(bucket["mails"] for bucket in history["buckets"]) == 7
        assert sum(event["mails"] for event in history["last"]) == 7
        assert all(began <= event["date"] <= time.time() + 5 for event in history["last"])

        assert ask(daemon.path, "reset", "alice")["reset"] == [{"key": "user:alice", "mails": 5}]
        assert admitted(client, "alice", 7) == 5
        assert [window["used"] for window in ask(daemon.path, "status", "alice")["keys"][0]["windows"]] == [5, 5]

        (override,) = ask(daemon.path, "allow", "alice", "9/10m", "--for", "1h", "--note", "é\n")["overrides"]
        assert ask(daemon.path, "status")["overrides"] == [override]
        (alice,) = ask(daemon.path, "status", "alice")["keys"]
        assert (alice["source"], alice["override"], alice["free_in"]) == ("override", override, 0)
        assert override["note"] == "é\n"
        wait_until(lambda: admitted(client, "alice", 1) == 1, "the override in force", PATIENCE)
        assert ask(daemon.path, "revoke", "alice")["revoked"] == ["user:alice"]
        (alice,) = ask(daemon.path, "status", "alice")["keys"]
        assert (alice["source"], alice["windows"][0]["used"]) == ("limits", 6)
        # From before the reset and after it.
        (hits,) = alice["hits"]
        assert hits["seconds"] == 600
        assert hits["hits"] >= 4


@pytest.mark.parametrize("store", ["postgresql", "mariadb", "redis"], indirect=True)
def test_a_store_that_is_away(tmp_path: pathlib.Path, store: SharedStore) -> None:
    assert store.server is not None
    with TcpProxy(store.server.address) as proxy:
        settings = configuration(tmp_path, **store.server.settings_at("127.0.0.1", proxy.port))
        path = write_configuration(tmp_path, settings)
        assert ask(path, "status")["store"]["reachable"] is True
        proxy.refuse()
        for arguments in (["status", "alice"], ["top"], ["block", "alice", "--for", "1h"]):
            done = call(path, *arguments)
            assert (done.returncode, done.stdout) == (6, "")
            assert len(done.stderr.splitlines()) == 1
        done = call(path, "status", "--json")
        assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
        found = json.loads(done.stdout)
        assert (found["store"]["reachable"], found["heaviest"]) == (False, None)
        assert found["store"]["error"]
        # A secret is in no message.
        for options in ("pgsql_config", "mysql_config"):
            for secret in ("password", "passwd"):
                assert settings.get(options, {}).get(secret, "no secret") not in done.stdout + done.stderr


def test_what_waits_in_the_spool_file_is_told(tmp_path: pathlib.Path) -> None:
    with Daemon(tmp_path, **LIMITS) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        mend = put_directory_in_place(tmp_path / "db.sqlite3")
        assert admitted(client, "alice", 2) == 2
        done = call(daemon.path, "status", "--json")
        assert done.returncode == 6
        (spool_file,) = json.loads(done.stdout)["journals"]
        assert (spool_file["path"], spool_file["mails"]) == (str(tmp_path / "db.sqlite3-0.journal"), 2)
        assert "2 entries wait for the database" in call(daemon.path, "status").stdout
        mend()
        wait_until(lambda: ask(daemon.path, "status")["journals"] == [], "the replay", PATIENCE)
        assert ask(daemon.path, "status", "alice")["keys"][0]["windows"][0]["used"] == 3


# On a terminal


class Terminal:
    """The command on a pseudo-terminal of 20 lines of so many ``columns``."""

    def __init__(self, path: pathlib.Path, *arguments: str, columns: int = 100) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, columns, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            [str(COMMAND), "-f", str(path), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},  # which counts more than the terminal
            start_new_session=True,
        )
        os.close(theirs)

    def read(self) -> bool:
        """Read for a moment; whether there may be more."""
        if select.select([self._ours], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self._ours, 65536).decode()
            except OSError:  # EIO: whoever had the other end open has ended
                return False
        return True

    def wait_for(self, pattern: str) -> None:
        """Read until ``pattern`` is shown."""
        wait_until(lambda: self.read() and re.search(pattern, COLOUR.sub("", self.shown)), pattern, PATIENCE)

    def end(self) -> int:
        """Read to the end; the exit status."""
        wait_until(lambda: not self.read(), "the end", PATIENCE)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_top_goes_on_until_it_is_ended(tmp_path: pathlib.Path, number: int) -> None:
    with running(tmp_path, **LIMITS) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        with Terminal(daemon.path, "top") as top:
            top.wait_for(r"user:alice +1 +1 +5/10m +20%")
            assert "\x1b[?1049h" in top.shown  # a screen of its own
            assert admitted(client, "alice", 4) == 4
            top.wait_for(r"user:alice +5 +5 +5/10m +100%")
            top.process.send_signal(number)
            assert top.end() == 0
            *_, after = top.shown.split("\x1b[?1049l")
            assert "user:alice" in after
            assert "Traceback" not in top.shown


def test_top_outlasts_an_outage(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, **LIMITS) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        with Terminal(daemon.path, "top") as top:
            top.wait_for(r"user:alice +1 ")
            mend = put_directory_in_place(tmp_path / "db.sqlite3")
            top.wait_for(r"SQLite database\s")  # the page breaks long lines
            assert admitted(client, "alice", 1) == 1
            mend()
            top.wait_for(r"user:alice +2 ")
            top.process.send_signal(signal.SIGINT)
            assert top.end() == 0


def test_a_terminal_gets_all_of_it_at_once_where_that_is_asked(tmp_path: pathlib.Path) -> None:
    path = write_configuration(tmp_path, configuration(tmp_path))
    for arguments in (["top", "--once"], ["top", "--json"], ["status", "alice"]):
        with Terminal(path, *arguments) as terminal:
            assert terminal.end() == 0
            assert "\x1b[?1049h" not in terminal.shown
            assert terminal.shown


def test_ids_are_whole_on_a_narrow_terminal(tmp_path: pathlib.Path) -> None:
    ids = ("client:127.0.0.17", "client:2001:db8:1234:5678::/64", f"sender:{'a-long-name' * 6}@lists.example.org")
    charged = {"limit_by_ip": True, "limit_by_sender": True, "limited_networks": ["0.0.0.0/0", "::/0"]}
    with running(tmp_path, **LIMITS, **charged) as daemon, Client(daemon.address) as client:
        for one in ids:
            kind, _, name = one.partition(":")
            attributes = {"sender": name} if kind == "sender" else {"sender": "", "client_address": name.split("/")[0]}
            assert client.ask(**mail("", sasl_username="", **attributes)) == "dunno"
        call(daemon.path, "block", ids[0], "--for", "1h", "--note", "as it sends more than anybody should")
        commands = [["top", "--once"], ["status"], *(["history", one] for one in ids), ["status", ids[0]]]
        for columns, arguments in itertools.product((40, 60, 80), commands):
            with Terminal(daemon.path, *arguments, columns=columns) as terminal:
                assert terminal.end() == 0
            lines = COLOUR.sub("", terminal.shown).splitlines()
            found = [one for one in ids if any(re.search(rf"(^|\s){re.escape(one)}(\s|:|$)", line) for line in lines)]
            assert found == (list(ids) if len(arguments) < 2 or arguments[1] == "--once" else [arguments[1]])
            for line in lines:
                # Beyond the edge is nothing but an id that is longer than a line, or the path of the database.
                assert len(line) <= columns or len(line.split()) == 1 or str(tmp_path) in line


# Whose files


@pytest.mark.needs_root
def test_root_leaves_nothing_that_locks_the_daemon_out(owned_by_nobody: pathlib.Path) -> None:
    settings = {"user": "nobody", "group": "nogroup", **LIMITS}
    path = write_configuration(owned_by_nobody, configuration(owned_by_nobody, **settings))
    nobody = pwd.getpwnam("nobody").pw_uid
    path.chmod(0o600)  # root's alone: it is read before
    for arguments in (["block", "bob", "--for", "1h"], ["status"], ["revoke", "bob"], ["top"], ["history", "bob"]):
        assert call(path, *arguments).returncode == 0
        made = [one for one in owned_by_nobody.iterdir() if one != path]
        assert made
        assert all(one.stat().st_uid == nobody for one in made)
    with running(owned_by_nobody, **settings) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 7) == 5
        assert ask(daemon.path, "reset", "alice")["reset"] == [{"key": "user:alice", "mails": 5}]
        assert admitted(client, "alice", 7) == 5
        assert all(one.stat().st_uid == nobody for one in owned_by_nobody.glob("db.sqlite3*"))


@pytest.mark.needs_root
def test_whoever_may_not_is_told_so(owned_by_nobody: pathlib.Path) -> None:
    settings = configuration(owned_by_nobody, user="nobody", group="nogroup")
    path = write_configuration(owned_by_nobody, settings)
    assert call(path, "status").returncode == 0
    # The interpreter may be where only root can go, so it is root that starts it and imports.
    script = """
import sys
import encodings.utf_8_sig
import policyd_rate_limit.config.yaml_file
from policyd_rate_limit.cli import main, status, overrides, block
from policyd_rate_limit.storage.log.sqlite import log as sqlite
from policyd_rate_limit.system.accounts import Account, drop_privileges
drop_privileges(Account("54321", 54321, 54322, (54322,)))
main(sys.argv[1:])
"""
    for arguments in (["status"], ["block", "alice", "--for", "1h"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "-f", str(path), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 6
        (line,) = done.stderr.splitlines()
        assert str(owned_by_nobody / "db.sqlite3") in line
        assert "as root or as nobody" in line


@pytest.mark.needs_root
def test_an_account_that_is_missing(tmp_path: pathlib.Path) -> None:
    require_root()
    path = write_configuration(tmp_path, configuration(tmp_path, user="no-such-user"))
    done = call(path, "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-user" in done.stderr
    with contextlib.suppress(FileNotFoundError):
        pytest.fail(f"{(tmp_path / 'db.sqlite3').stat()} was made")
