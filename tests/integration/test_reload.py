"""SIGHUP: what a real daemon makes of a configuration that has changed, while it serves."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import outages
from support.commands import call
from support.daemon import STOP_SECONDS, Client, Daemon, admitted, mail, running
from support.faketime import Clock
from support.load import Background, Tally
from support.programs import require, require_root
from support.public import public_directory
from support.wait import wait_until

DONE = "configuration reloaded"
REFUSED = "the configuration stays as it was"


def write(daemon: Daemon, **settings: Any) -> None:
    """Change ``settings`` in the daemon's file; it never reads half of it."""
    daemon.settings.update(settings)
    new = daemon.path.with_suffix(".new")
    new.write_text(yaml.safe_dump(daemon.settings))
    new.replace(daemon.path)


def hang_up(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGHUP)


def reload(daemon: Daemon, **settings: Any) -> str:
    """Change ``settings``, and return once they are in force, with what has been logged of it."""
    write(daemon, **settings)
    before = daemon.log_text()
    hang_up(daemon)
    wait_until(lambda: DONE in daemon.log_text()[len(before) :], "a reload")
    return daemon.log_text()[len(before) :]


def refused(daemon: Daemon) -> list[str]:
    """Send SIGHUP; the lines about what is wrong, without those of a start that may still be on their way."""
    before = daemon.log_text()
    hang_up(daemon)
    wait_until(lambda: REFUSED in daemon.log_text()[len(before) :], "a refusal")
    return [line for line in daemon.log_text()[len(before) :].splitlines() if ": ERROR " in line]


def test_settings_change_between_two_requests_on_one_connection(tmp_path: Path) -> None:
    """The effect of each setting that a reload changes, all on one connection."""
    with running(tmp_path, limits=[[2, 3600]]) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 5) == 2

        assert "changed: limits\n" in reload(daemon, limits=[[4, 3600]])
        assert admitted(client, "alice", 5) == 2  # what was counted before counts
        reload(daemon, limits=[[3, 3600]])
        assert admitted(client, "alice", 1) == 0

        reload(daemon, limits_by_id={"alice": [[5, 3600]]})
        assert admitted(client, "alice", 5) == 1
        reload(daemon, limits_by_id={"alice": []})
        assert admitted(client, "alice", 5) == 5
        reload(daemon, limits_by_id={})
        assert admitted(client, "alice", 1) == 0

        reload(daemon, success_action="OK", fail_action="450 no")
        assert client.ask(**mail("alice")) == "450 no"
        assert client.ask(**mail("bob")) == "OK"
        reload(daemon, success_action="dunno")

        assert call(daemon.path, "block", "mallory", "--for", "1h").returncode == 0
        wait_until(lambda: client.ask(**mail("mallory")).startswith("reject 5.7.1 "), "mallory is blocked")
        reload(daemon, block_action="554 begone")
        assert client.ask(**mail("mallory")) == "554 begone"

        sender: dict[str, object] = {"sasl_username": "", "sender": "carol@example.org"}
        assert admitted(client, "carol", 5, **sender) == 5
        reload(daemon, limit_by_sender=True)
        assert admitted(client, "carol", 5, **sender) == 3
        reload(daemon, limit_by_sasl=False)
        assert admitted(client, "alice", 5) == 3  # as a sender
        reload(daemon, limit_by_sender=False)
        assert admitted(client, "alice", 5) == 5

        reload(daemon, limit_by_ip=True)
        assert admitted(client, "dave", 5, client_address="2001:db8::1") == 5
        reload(daemon, limited_networks=["2001:db8::/32"])
        assert admitted(client, "dave", 5, client_address="2001:db8::1") == 3
        assert admitted(client, "dave", 1, client_address="2001:db8::2") == 0
        reload(daemon, ipv6_prefix=128)
        assert admitted(client, "dave", 5, client_address="2001:db8::2") == 3

        reload(daemon, limit_by_sasl=True, count_mode=2)
        assert admitted(client, "erin", 5) == 5  # a stage that does not count
        assert admitted(client, "erin", 5, protocol_state="DATA", recipient="", recipient_count=100) == 3

        assert "DEBUG" not in daemon.log_text()
        reload(daemon, debug=True)
        client.ask(**mail("frank"))
        wait_until(lambda: "DEBUG" in daemon.log_text(), "a line of each decision")
        reload(daemon, debug=False)
        before = daemon.log_text().count("DEBUG")
        client.ask(**mail("frank"))
        reload(daemon)  # whatever is logged before is written by now
        assert daemon.log_text().count("DEBUG") == before
        assert "changed: nothing\n" in daemon.log_text()
        assert "WARNING the configuration" not in daemon.log_text()


def test_the_log(tmp_path: Path) -> None:
    """Its level, its form and where it goes, each from one line to the next."""
    script = f"""
import sys
from policyd_rate_limit.cli import main
from policyd_rate_limit.system import logs
logs.SYSLOG_SOCKET = {str(tmp_path / "log")!r}
main(sys.argv[2:])
"""
    daemon = Daemon(tmp_path, prefix=[sys.executable, "-c", script])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog, daemon, Client(daemon.address) as client:
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(20)
        client.ask(**mail("alice"))
        assert "DEBUG" not in reload(daemon, log_level="debug")
        client.ask(**mail("alice"))
        wait_until(lambda: "DEBUG verdict=admitted" in daemon.log_text(), "a line of each decision")
        assert '"message":"configuration reloaded; changed: log_format"' in reload(daemon, log_format="json")
        write(daemon, log_to="syslog", log_format="text")
        hang_up(daemon)
        assert b"configuration reloaded; changed: log_format, log_to" in syslog.recv(65536)
        daemon.process.send_signal(signal.SIGTERM)


def test_hits_for_the_report(tmp_path: Path) -> None:
    def hits() -> int:
        with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database:
            [(count,)] = database.execute("SELECT coalesce(sum(hits), 0) FROM policyd_hit")
            return int(count)

    with running(tmp_path, limits=[[0, 3600]]) as daemon, Client(daemon.address) as client:
        client.ask(**mail("alice"))
        reload(daemon, report=True, report_from="a@example.org", report_to="b@example.org", report_limits=[60])
        client.ask(**mail("alice"))
        reload(daemon, report_limits=[3600])
        for _ in range(3):
            client.ask(**mail("alice"))
        reload(daemon, report=False)
        client.ask(**mail("alice"))
        assert daemon.stop() == 0
    assert hits() == 3


def test_the_idle_time(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, Client(daemon.address) as client:
        assert client.ask(**mail("alice")) == "dunno"
        reload(daemon, delay_to_close=0.1)
        with pytest.raises(EOFError):
            client.answer()


def test_limits_from_the_database(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute("CREATE TABLE one (id text, limits text)")
        database.execute("CREATE TABLE two (id text, limits text)")
        database.execute("INSERT INTO one VALUES ('alice', '[[3, 3600]]')")
        database.execute("INSERT INTO two VALUES ('alice', '[[5, 3600]]')")
    query = "SELECT limits FROM {} WHERE id = ?"
    with running(tmp_path, limits=[[1, 3600]]) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 5) == 1
        reload(daemon, sql_limits_by_id=query.format("one"))
        assert admitted(client, "alice", 5) == 2
        reload(daemon, sql_limits_by_id=query.format("two"))
        assert admitted(client, "alice", 5) == 2
        with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
            database.execute("UPDATE two SET limits = '[[6, 3600]]'")
        assert admitted(client, "alice", 1) == 0  # the answer of the table is believed for a minute
        reload(daemon, sql_limits_ttl=0.001)
        assert admitted(client, "alice", 5) == 1
        reload(daemon, sql_limits_by_id="")
        assert admitted(client, "alice", 1) == 0
        assert daemon.stop() == 0


@pytest.mark.parametrize("own", [True, False], ids=["one id", "everybody"])
def test_longer_windows_read_the_history(tmp_path: Path, own: bool) -> None:
    clock = Clock(tmp_path)
    short, long = [[100, 10]], [[6, 86400]]
    settings: dict[str, Any] = {"limits": long, "limits_by_id": {"alice": short}} if own else {"limits": short}
    daemon = Daemon(tmp_path / "var", environment=clock.environment, **settings)
    with daemon, Client(daemon.address) as client:
        for _ in range(5):
            assert admitted(client, "alice", 1) == 1
            clock.forward(60)
        reload(daemon, limits=long, limits_by_id={})
        assert admitted(client, "alice", 5) == 1


def test_the_answer_while_the_database_is_away(tmp_path: Path) -> None:
    with running(tmp_path, limits=[[3, 3600]], db_timeout=0.2) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        mend = outages.lock(tmp_path / "db.sqlite3")
        try:
            assert admitted(client, "alice", 1) == 1  # from memory
            reload(daemon, db_error_action="451 away")
            assert client.ask(**mail("alice")) == "451 away"
            reload(daemon, db_error_action="452 gone")
            assert client.ask(**mail("alice")) == "452 gone"
            reload(daemon, db_error_action=None)
            assert admitted(client, "alice", 3) == 1
        finally:
            mend()
        wait_until(lambda: "the database is back" in daemon.log_text(), "the database")
        assert admitted(client, "alice", 1) == 0
        reload(daemon, limits=[[5, 3600]])
        assert admitted(client, "alice", 5) == 2


class ByPolicy(Tally):
    """Counts each answer by its text, and mails that were admitted by user."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()

    def note(self, user: str, action: str, seconds: float) -> None:
        self.seconds.append(seconds)
        self.answers[action] += 1
        if action.startswith("OK"):
            self.admitted[user] += 1


def test_under_load_each_answer_is_wholly_the_old_or_the_new(tmp_path: Path) -> None:
    """Nothing passes with one, much with the other; no answer mixes the two, and no connection breaks."""
    strict = {"limits": [[0, 60]], "success_action": "OK strict", "fail_action": "450 strict"}
    lax = {"limits": [[100000, 3600]], "success_action": "OK lax", "fail_action": "450 lax"}
    users = [f"user{number}" for number in range(50)]
    tally = ByPolicy()
    with running(tmp_path, **strict) as daemon:
        load = Background([daemon.address], itertools.cycle(users), connections=20, tally=tally, insist=False)
        with load, Client(daemon.address) as client:
            for _ in range(5):
                for settings, answer in ((lax, "OK lax"), (strict, "450 strict")):
                    load.wait_for_answers(100)
                    reload(daemon, **settings)
                    assert client.ask(**mail("alice")) == answer
        assert set(tally.answers) == {"OK lax", "450 strict"}
        assert not +tally.unanswered
        # What was admitted, and only that, is counted.
        reload(daemon, limits=[[max(tally.admitted.values()) + 5, 3600]], success_action="dunno")
        with Client(daemon.address) as client:
            for user in users[:10]:
                left = max(tally.admitted.values()) + 5 - tally.admitted[user]
                assert admitted(client, user, left + 2) == left


def test_limits_that_go_up_and_down_under_load_are_exact(tmp_path: Path) -> None:
    users = [f"user{number}" for number in range(5)]
    with running(tmp_path, limits=[[100, 3600]]) as daemon:
        load = Background([daemon.address], itertools.cycle(users), connections=20, insist=False)
        with load:
            for most in (200, 150, 300):
                load.wait_for_answers(200)
                reload(daemon, limits=[[most, 3600]])
            wait_until(lambda: min(load.tally.admitted[user] for user in users) >= 300, "as many as may pass")
            load.wait_for_answers(100)
            reload(daemon, limits=[[50, 3600]])
            load.wait_for_answers(100)
        assert load.tally.admitted == dict.fromkeys(users, 300)
        assert not load.tally.others
        assert not +load.tally.unanswered
        reload(daemon, limits=[[301, 3600]])
        with Client(daemon.address) as client:
            assert [admitted(client, user, 3) for user in users] == [1] * 5


def test_what_cannot_change_is_told_without_secrets(tmp_path: Path) -> None:
    with running(tmp_path, mysql_config={"passwd": "old-secret"}) as daemon, Client(daemon.address) as client:
        old = daemon.address
        log = reload(
            daemon,
            SOCKET=str(tmp_path / "elsewhere"),
            pidfile=str(tmp_path / "other.pid"),
            max_ids=7,
            mysql_config={"passwd": "new-secret"},
            limits=[[1, 60]],
        )
        warnings = [line for line in log.splitlines() if "WARNING" in line]
        for part in (
            f"mysql_config (passwd) {(cannot := 'cannot change while the daemon runs')}",
            f"SOCKET {cannot}: it stays {old!r}; restart it to have '{tmp_path / 'elsewhere'}'",
            f"pidfile {cannot}",
            f"max_ids {cannot}: it stays 2000000; restart it to have 7",
        ):
            assert [line for line in warnings if part in line], part
        assert "holds a password (mysql_config), and everybody may read it" in warnings[0]
        assert len(warnings) == 5
        assert "secret" not in daemon.log_text()
        assert admitted(client, "alice", 2) == 1  # the rest is in force
        daemon.settings["SOCKET"] = list(old)
        assert daemon.stop() == 0
        assert not (tmp_path / "other.pid").exists()


def test_a_broken_file_leaves_all_as_it_was(tmp_path: Path) -> None:
    with running(tmp_path, limits=[[2, 3600]]) as daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 1) == 1
        write(daemon, limits="many", ipv6_prefix=1000, fail_action="450 new")
        prefix, limits, _ = refused(daemon)
        assert f"{daemon.path}:7: ipv6_prefix: expected" in prefix
        assert f"{daemon.path}:8: limits: expected" in limits
        daemon.path.write_text("limits: [")
        assert len(refused(daemon)) == 2
        daemon.path.unlink()
        assert "No such file" in refused(daemon)[0]
        write(daemon, limits=[[2, 3600]], ipv6_prefix=64, backend="redis", sql_limits_by_id="SELECT 1")
        answers = [client.ask(**mail("alice")) for _ in range(2)]
        assert answers == ["dunno", "defer_if_permit Rate limit reach, retry later"]
        reload(daemon, sql_limits_by_id="", backend=0)
        assert client.ask(**mail("alice")) == "450 new"


def test_many_signals_at_any_time_are_harmless(tmp_path: Path) -> None:
    """While it starts (as soon as there is a pidfile to take the number from), while it serves, while it stops."""
    daemon = Daemon(tmp_path, limits=[[1000, 3600]]).start(wait=False)
    pidfile = Path(daemon.settings["pidfile"])
    wait_until(lambda: pidfile.exists() and pidfile.read_text(), "a pidfile")
    for _ in range(20):
        hang_up(daemon)
    daemon.wait_until_ready()
    with Client(daemon.address) as client:
        for number in range(30):
            hang_up(daemon)
            assert client.ask(**mail("alice")) == "dunno"
            if number == 25:
                write(daemon, fail_action="450 last")
        wait_until(lambda: "changed: fail_action" in daemon.log_text(), "the last one")
    stop_among_signals(daemon)
    assert daemon.process.returncode == 0
    assert not pidfile.exists()


def test_no_signal_cuts_the_end_short(tmp_path: Path) -> None:
    """Nothing gives the signals back: at that moment the thread of a reload may not be quite gone, and takes one."""
    trace = tmp_path / "trace"
    strace = (str(require("strace")), "-f", "-qq", "-e", "trace=rt_sigaction", "-e", "signal=none", "-o", str(trace))
    daemon = Daemon(tmp_path, limits=[[1000, 3600]], prefix=strace)
    daemon.start()
    os.kill(int(Path(daemon.settings["pidfile"]).read_text()), signal.SIGTERM)
    assert daemon.process.wait(STOP_SECONDS) == 0
    for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"):
        changes = [line for line in trace.read_text().splitlines() if f"rt_sigaction({name}, {{" in line]
        assert "sa_handler=SIG_IGN" in changes[-1], name


def stop_among_signals(daemon: Daemon) -> None:
    """Have the daemon stop while it is told to reload all the time."""
    daemon.process.send_signal(signal.SIGTERM)
    while daemon.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            hang_up(daemon)
        time.sleep(0.0005)


def test_a_start_that_fails_is_not_ended_by_a_signal(tmp_path: Path) -> None:
    """Its exit status tells why, whatever has come meanwhile."""
    script = """
import os, signal, sys
from policyd_rate_limit.cli import main
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
os.kill(os.getpid(), signal.SIGHUP)
main(sys.argv[2:])
"""
    (tmp_path / "policy").touch()
    daemon = Daemon(tmp_path, prefix=[sys.executable, "-c", script], SOCKET=str(tmp_path / "policy"))
    daemon.start(wait=False)
    assert daemon.process.wait(20) == 6


@pytest.fixture
def public() -> Iterator[Path]:
    with public_directory() as path:
        yield path


@pytest.mark.needs_root
def test_a_file_that_only_root_may_read(public: Path) -> None:
    """The daemon is not root any more when it reloads the file: it says so, and what mends it."""
    require_root()
    daemon = Daemon(public / "var", user="nobody", group="nogroup", limits=[[1, 3600]])
    (public / "var").chmod(0o755)
    os.chown(public / "var", 65534, 65534)
    daemon.path.chmod(0o600)
    with daemon, Client(daemon.address) as client:
        assert admitted(client, "alice", 2) == 1
        lines = refused(daemon)
        assert any("Permission denied" in line for line in lines)
        wait_until(lambda: "with mode 0640" in daemon.log_text(), "what mends it")
        assert admitted(client, "bob", 2) == 1
        subprocess.run(["chgrp", "nogroup", str(daemon.path)], check=True)
        daemon.path.chmod(0o640)
        before = daemon.log_text()
        hang_up(daemon)
        wait_until(lambda: DONE in daemon.log_text()[len(before) :], "a reload")
