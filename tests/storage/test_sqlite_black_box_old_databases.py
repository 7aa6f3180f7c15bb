"""The real daemon on databases of the versions before it: their counts go on counting, once.

``POLICYD_RATE_LIMIT_1_2_0`` may name the command of an installed 1.2.0, which then makes a database itself.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from support.commands import call
from support.daemon import Client, Daemon, mail
from support.load import SUCCESS, admit_until_refused, left_for_all
from support.old_databases import MAKERS, make_1_2_0
from support.programs import missing

LIMIT = 10
DAY = 86400
SETTINGS: dict[str, Any] = {
    "limits": [[LIMIT, 3600]],
    "limit_by_sasl": True,
    "limit_by_sender": True,
    "limit_by_ip": True,
    "limited_networks": ["0.0.0.0/0", "::/0"],
}
NEEDED_BY_1_2_0: dict[str, Any] = {
    "backend": 0,
    "socket_permission": 0o666,
    "limits_by_id": {},
    "sql_limits_by_id": "",
    "success_action": "dunno",
    "fail_action": "defer_if_permit Rate limit reach, retry later",
    "db_error_action": "dunno",
    "delay_to_close": 300,
    "report": False,
    "report_limits": [DAY],
    "report_only_if_needed": True,
    "smtp_server": ["localhost", 25],
}
# On the wire of the old version, then what the same client sends to ours.
CLIENTS = {
    "SASL user": ("Joe", {"sasl_username": "Joe"}),
    "SASL user in another case": ("Ann", {"sasl_username": "ANN"}),
    "SASL user that is an address": ("eve@example.org", {"sasl_username": "eve@example.org"}),
    "sender": ("Bob@example.org", {"sender": "bob@example.org"}),
    "IPv4 client": ("192.0.2.9", {"client_address": "192.0.2.9"}),
    "IPv6 client": ("2001:DB8::1", {"client_address": "2001:db8:0::1"}),
    "another of its network": ("2001:db8:5:6::1", {"client_address": "2001:db8:5:6:ffff::2"}),
    "client in IPv6 notation": ("::ffff:192.0.2.77", {"client_address": "192.0.2.77"}),
}


def left(daemon: Daemon, attributes: dict[str, str]) -> int:
    """How many more mails the daemon admits of a client that sends ``attributes`` and nothing else of who it is."""
    who = {"sasl_username": "", "sender": "", "client_address": "", **attributes}
    with Client(daemon.address) as client:
        for admitted in range(2 * LIMIT):
            if client.ask(**mail("", **who)) != SUCCESS:
                return admitted
    raise AssertionError("never refused")


@pytest.mark.parametrize("version", MAKERS)
def test_old_counts_go_on_counting(tmp_path: pathlib.Path, version: str) -> None:
    """Users, senders and client addresses have exactly what the old version left them."""
    now = int(time.time())
    mails = [(old, now - 60 * number, 1) for old, _ in CLIENTS.values() for number in range(7)]
    mails += [("Joe", now - 4000 - number, 1) for number in range(30)]  # before the window
    MAKERS[version](tmp_path / "db.sqlite3", mails)
    with Daemon(tmp_path, **SETTINGS) as daemon:
        assert {name: left(daemon, new) for name, (_, new) in CLIENTS.items()} == dict.fromkeys(CLIENTS, 3)
        assert left(daemon, {"sasl_username": "someone else"}) == LIMIT


@pytest.mark.parametrize("version", MAKERS)
def test_a_second_start_counts_nothing_twice(tmp_path: pathlib.Path, version: str) -> None:
    """Carried over on the first start; the second and the third, orderly or after kill -9, find them done."""
    now = int(time.time())
    MAKERS[version](tmp_path / "db.sqlite3", [("joe", now - number, 1) for number in range(4)])
    daemon = Daemon(tmp_path, **SETTINGS)
    with daemon, Client(daemon.address) as client:
        assert client.ask(**mail("joe")) == SUCCESS
        daemon.kill()
    with daemon, Client(daemon.address) as client:
        assert client.ask(**mail("joe")) == SUCCESS
        assert daemon.stop() == 0
    with daemon:
        assert left(daemon, {"sasl_username": "joe"}) == LIMIT - 6


def test_several_recipients_of_an_old_mail_all_count(tmp_path: pathlib.Path) -> None:
    """1.2.0 keeps one row for a mail to many: its recipients count, not its row."""
    now = int(time.time())
    make_1_2_0(tmp_path / "db.sqlite3", [("joe", now - 5, 4), ("joe", now - 5, 2), ("ann", now - 9, 50)])
    with Daemon(tmp_path, **SETTINGS) as daemon:
        assert left(daemon, {"sasl_username": "joe"}) == LIMIT - 6
        assert left(daemon, {"sasl_username": "ann"}) == 0


def test_old_spellings_of_one_user_add_up(tmp_path: pathlib.Path) -> None:
    """Where the old version kept two quotas for two spellings, ours has one, with the counts of both."""
    now = int(time.time())
    mails = [(name, now - 5, 1) for name in ("Joe", "joe", "JOE", "2001:db8::1", "2001:DB8::1", "2001:db8::2")]
    make_1_2_0(tmp_path / "db.sqlite3", mails)
    with Daemon(tmp_path, **SETTINGS) as daemon:
        assert left(daemon, {"sasl_username": "joe"}) == LIMIT - 3
        assert left(daemon, {"client_address": "2001:db8::3"}) == LIMIT - 3


def test_old_mails_leave_the_window_in_their_time(tmp_path: pathlib.Path) -> None:
    """A longer window of one id reaches back as far as it says."""
    now = int(time.time())
    mails = [("slow", now - 10 * DAY, 3), ("slow", now - 40 * DAY, 3), ("quick", now - 10 * DAY, 3)]
    make_1_2_0(tmp_path / "db.sqlite3", mails)
    by_id = {"slow": [[LIMIT, 30 * DAY]]}
    with Daemon(tmp_path, **{**SETTINGS, "limits_by_id": by_id}) as daemon:
        assert left(daemon, {"sasl_username": "slow"}) == LIMIT - 3
        assert left(daemon, {"sasl_username": "quick"}) == LIMIT


def test_kill_9_during_the_first_start_neither_loses_nor_doubles(tmp_path: pathlib.Path) -> None:
    """A hundred thousand old mails, the daemon killed at random moments while it takes them over."""
    users = [f"user{number}" for number in range(250)]
    now = int(time.time())
    # Every tenth user is at the limit, the others have some left.
    had = {user: LIMIT if number % 10 == 0 else number % LIMIT for number, user in enumerate(users)}
    recent = [(user, now - number, 1) for user, mails in had.items() for number in range(mails)]
    older = [(user, now - 7200 - number, 1) for user in users for number in range(400)]
    pristine = tmp_path / "pristine.sqlite3"
    make_1_2_0(pristine, recent + older)
    limits = [[LIMIT, 3600], [1000, DAY]]
    expected = {user: LIMIT - mails for user, mails in had.items()}

    def fresh(name: str) -> Daemon:
        daemon = Daemon(tmp_path / name, limits=limits)
        shutil.copy(pristine, tmp_path / name / "db.sqlite3")
        return daemon

    began = time.monotonic()
    with fresh("undisturbed") as daemon:
        ready_after = time.monotonic() - began
        assert left_for_all(daemon.address, users, LIMIT) == expected
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for trial in range(3):
        daemon = fresh(f"trial{trial}")
        for _ in range(2):
            daemon.start(wait=False)
            time.sleep(chance.uniform(0.3, 1.1) * ready_after)
            daemon.kill()
        with daemon:
            assert left_for_all(daemon.address, users, LIMIT) == expected, f"trial {trial}, seed {seed}"


def test_a_large_old_database_is_never_ignored(tmp_path: pathlib.Path) -> None:
    """The very first answer of the very first start already knows the old counts, however many there are."""
    now = int(time.time())
    mails = [(f"user{number % 5000}", now - 100 - number % 3000, 1) for number in range(300_000)]
    make_1_2_0(tmp_path / "db.sqlite3", [*mails, ("joe", now - 30, LIMIT)])
    with Daemon(tmp_path, **SETTINGS) as daemon:
        assert left(daemon, {"sasl_username": "joe"}) == 0
        assert left(daemon, {"sasl_username": "user17"}) == 0


@pytest.mark.parametrize("version", MAKERS)
def test_clean_works_on_an_old_database(tmp_path: pathlib.Path, version: str) -> None:
    """Without a start before it: old records go, counts within the windows stay."""
    now = int(time.time())
    mails = [("joe", now - 3 * 3600 - number, 1) for number in range(5)]
    mails += [("joe", now - 60 - number, 1) for number in range(4)]
    MAKERS[version](tmp_path / "db.sqlite3", mails)
    daemon = Daemon(tmp_path, **SETTINGS)
    done = call(daemon.path, "--clean")
    assert (done.returncode, done.stdout) == (0, "5 records deleted\n"), done.stderr
    with daemon:
        assert left(daemon, {"sasl_username": "joe"}) == LIMIT - 4


@pytest.fixture
def peer() -> str:
    """The command of an installed 1.2.0, from the environment."""
    command = os.environ.get("POLICYD_RATE_LIMIT_1_2_0", "")
    if not os.access(command, os.X_OK):
        missing("POLICYD_RATE_LIMIT_1_2_0 names no installed 1.2.0")
    return command


@pytest.mark.parametrize("count_mode", [0, 1, 2])
def test_a_database_made_by_1_2_0_itself(tmp_path: pathlib.Path, peer: str, count_mode: int) -> None:
    """The same configuration file and database first under 1.2.0, then under ours: no count is lost."""
    state, recipients = ("RCPT", 0) if count_mode == 0 else ("DATA", 2)
    cost = 2 if count_mode == 1 else 1
    daemon = Daemon(tmp_path, count_mode=count_mode, **SETTINGS, **NEEDED_BY_1_2_0)
    asks = {"protocol_state": state, "recipient_count": recipients}
    process = subprocess.Popen([peer, "-f", str(daemon.path)], stdin=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        daemon.process = process
        daemon.wait_until_ready()
        with Client(daemon.address) as client:
            for _, new in CLIENTS.values():
                who = {"sasl_username": "", "sender": "", "client_address": "", **new}
                for _ in range(3):
                    assert client.ask(**mail("", **who, **asks)) == "dunno"
    finally:
        process.terminate()
        process.wait(20)
    with daemon, Client(daemon.address) as client:
        for name, (_, new) in CLIENTS.items():
            who = {"sasl_username": "", "sender": "", "client_address": "", **new}
            answers = [client.ask(**mail("", **who, **asks)) for _ in range(LIMIT)]
            assert answers.count("dunno") == (LIMIT - 3 * cost) // cost, name


def test_counts_of_a_user_stay_apart_from_those_of_a_client(tmp_path: pathlib.Path) -> None:
    """After the take-over, too, a user that is called like an address shares no quota with that address."""
    make_1_2_0(tmp_path / "db.sqlite3", [("192.0.2.9", int(time.time()) - 5, LIMIT)])
    with Daemon(tmp_path, **SETTINGS) as daemon:
        assert left(daemon, {"client_address": "192.0.2.9"}) == 0
        assert admit_until_refused(daemon.address, "192.0.2.10", LIMIT) == LIMIT
