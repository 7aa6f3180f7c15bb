"""What was answered with success is counted, whatever happens to the daemon afterwards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from support import outages
from support.daemon import COMMAND, Client, Daemon, mail
from support.load import Background, left_for_all
from support.programs import require

LIMIT = 40
USERS = [f"user{number}" for number in range(200)]
# Some ids run into their limit early, most never.
WEIGHTS = [1 / (1 + number) for number in range(len(USERS))]
LIVES = 25
LONGEST_LIFE = 0.12


@pytest.mark.long(10)
@pytest.mark.parametrize("part", range(2))
def test_kill_9_at_random_moments_loses_no_count(tmp_path: pathlib.Path, part: int) -> None:
    """Twenty-five times in each of two parts: no success answer is forgotten, and nothing is counted twice.

    The daemon dies a random while after its first answer, or before it, other ones in each run, under load from 32
    connections. In the end what is left of each id's limit shows what the daemon has counted: at least every mail that
    was answered with success, at most those and the ones whose answer was cut off.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    endless = iter(lambda: chance.choices(USERS, WEIGHTS)[0], None)
    daemon = Daemon(tmp_path, limits=[[LIMIT, 86400]])
    with daemon, Background([daemon.address], endless, connections=32) as load:
        for _ in range(LIVES):
            load.wait_for_answers(1)
            time.sleep(chance.uniform(0, LONGEST_LIFE))
            daemon.kill()
            daemon.start(wait=chance.random() < 0.9)
            if chance.random() < 0.1:
                time.sleep(chance.uniform(0, LONGEST_LIFE))  # dies while it starts
                daemon.kill()
                daemon.start()
    tally = load.tally
    assert not tally.others
    with daemon:
        left = left_for_all(daemon.address, USERS, LIMIT)
    assert tally.admitted[USERS[0]] > 0
    for user in USERS:
        total = tally.admitted[user] + left[user]
        assert total <= LIMIT, f"{user}: {tally.admitted[user]} admitted, {left[user]} left, seed {seed}"
        assert total + tally.unanswered[user] >= LIMIT, f"{user}: {LIMIT - total} too many, seed {seed}"


def test_an_id_at_its_limit_is_refused_after_kill_9(tmp_path: pathlib.Path) -> None:
    """The last mail of a limit is answered, the daemon dies at once: after the restart the id is refused."""
    daemon = Daemon(tmp_path, limits=[[5, 3600]])
    for life in range(5):
        with daemon:
            with Client(daemon.address) as client:
                answers = [client.ask(**mail(f"user{life}")) for _ in range(5)]
            daemon.kill()
        assert answers == ["dunno"] * 5
    with daemon, Client(daemon.address) as client:
        for life in range(5):
            assert client.ask(**mail(f"user{life}")) != "dunno"


def test_counts_survive_an_orderly_restart(tmp_path: pathlib.Path) -> None:
    """Three of five mails, SIGTERM, a new start: two are left, and after the next start none."""
    daemon = Daemon(tmp_path, limits=[[5, 3600]])
    admitted = []
    for mails in (3, 3, 1):
        with daemon, Client(daemon.address) as client:
            admitted.append([client.ask(**mail("alice")) for _ in range(mails)].count("dunno"))
            assert daemon.stop() == 0
    assert admitted == [3, 2, 0]


def test_a_mail_asked_again_after_a_kill_is_charged_once(tmp_path: pathlib.Path) -> None:
    """Postfix asks again on a new connection when no answer came: the same mail costs one, not two."""
    daemon = Daemon(tmp_path, limits=[[10, 3600]])
    with daemon:
        for _ in range(5):
            request = mail("alice")
            with Client(daemon.address) as client:
                client.send(**request)
            daemon.kill()  # whether it was counted or not, nobody knows
            daemon.start()
            with Client(daemon.address) as client:
                assert client.ask(**request) == "dunno"
        assert left_for_all(daemon.address, ["alice"], 10) == {"alice": 5}


def traced(daemon: Daemon, trace: pathlib.Path) -> None:
    """Start ``daemon`` under strace, which writes what goes to disk and to clients to ``trace``, in order."""
    calls = "fsync,fdatasync,write,writev,sendto,sendmsg"
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            [
                *(require("strace"), "-f", "-s", "64", "-e", f"trace={calls}", "-o", trace),
                *(COMMAND, "-f", daemon.path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    daemon.wait_until_ready()


@pytest.mark.parametrize("away", [False, True], ids=["in the database", "in the spool"])
def test_no_success_answer_leaves_before_its_count_is_on_disk(tmp_path: pathlib.Path, away: bool) -> None:
    """One mail after the other: between two success answers something has been forced to disk, and that in time.

    This is what power loss would show; ``kill -9`` cannot.
    """
    daemon = Daemon(tmp_path, limits=[[100, 3600]])
    trace = tmp_path / "trace"
    traced(daemon, trace)
    try:
        with Client(daemon.address) as client, contextlib.ExitStack() as stack:
            assert client.ask(**mail("alice")) == "dunno"
            if away:
                stack.callback(outages.lock(tmp_path / "db.sqlite3"))
                assert client.ask(**mail("alice")) == "dunno"  # finds out that it is away
            for _ in range(10):
                assert client.ask(**mail("alice")) == "dunno"
    finally:
        os.kill(int((tmp_path / "policyd.pid").read_text()), signal.SIGTERM)
        daemon.process.wait(20)
    on_disk = False
    answers = 0
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        # "fdatasync(7) = 0", or, when another thread came between, "<... fdatasync resumed>) = 0"
        if "sync" in line and line.endswith("= 0"):
            on_disk = True
        elif "action=dunno" in line:
            assert on_disk, f"answer {answers} left before anything was forced to disk"
            on_disk = False
            answers += 1
    assert answers == 11 + away
