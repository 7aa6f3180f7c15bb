"""The wall clock moves as it likes; the limits hold, and nobody is locked out for longer than their window."""

from __future__ import annotations

import pathlib
import random

import pytest

from support.daemon import Client, Daemon, mail
from support.faketime import Clock
from support.load import REFUSAL, SUCCESS

HOUR, DAY = 3600, 86400


@pytest.fixture
def clock(tmp_path: pathlib.Path) -> Clock:
    """The daemon's clock."""
    return Clock(tmp_path)


def admitted(daemon: Daemon, user: str, mails: int) -> int:
    """How many of ``mails`` of ``user`` are admitted."""
    with Client(daemon.address) as client:
        answers = [client.ask(**mail(user)) for _ in range(mails)]
    assert all(answer == SUCCESS or answer.startswith(REFUSAL) for answer in answers)
    return answers.count(SUCCESS)


def restart(daemon: Daemon, how: str) -> None:
    """Start it again ``how``, or leave it running."""
    if how == "killed":
        daemon.kill()
        daemon.start()
    elif how == "stopped":
        assert daemon.stop() == 0
        daemon.start()


RESTARTS = pytest.mark.parametrize("how", ["running", "stopped", "killed"])


@RESTARTS
def test_the_window_slides(tmp_path: pathlib.Path, clock: Clock, how: str) -> None:
    """Three mails at 0, 20 and 40 seconds fill 3 in 60: each place is free again 60 seconds after its mail."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[3, 60]]) as daemon:
        for _ in range(3):
            assert admitted(daemon, "alice", 1) == 1
            clock.forward(20)
        clock.forward(-10)  # at 50
        assert admitted(daemon, "alice", 1) == 0
        restart(daemon, how)
        assert admitted(daemon, "alice", 1) == 0
        for _ in range(3):
            clock.forward(11 if _ == 0 else 20)  # at 61, 81 and 101
            assert admitted(daemon, "alice", 3) == 1


def test_two_windows_slide_apart(tmp_path: pathlib.Path, clock: Clock) -> None:
    """2 a minute and 4 an hour: the hour holds back when the minute is free again."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[2, 60], [4, HOUR]]) as daemon:
        assert admitted(daemon, "alice", 3) == 2
        clock.forward(61)
        assert admitted(daemon, "alice", 3) == 2
        clock.forward(61)
        assert admitted(daemon, "alice", 1) == 0
        clock.forward(HOUR - 122 + 1)
        assert admitted(daemon, "alice", 3) == 2


@RESTARTS
@pytest.mark.parametrize("back", [1, 30, HOUR, 10 * DAY])
def test_a_step_back_grants_nothing(tmp_path: pathlib.Path, clock: Clock, how: str, back: int) -> None:
    """The limit is reached and the clock goes back: still reached, and free again a window later at the latest."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[3, 60]]) as daemon:
        assert admitted(daemon, "alice", 2) == 2
        clock.forward(-back)
        restart(daemon, how)
        assert admitted(daemon, "alice", 3) == 1
        clock.forward(-back)
        assert admitted(daemon, "alice", 1) == 0
        clock.forward(64)
        assert admitted(daemon, "alice", 4) == 3


@RESTARTS
def test_a_wrong_step_forward_locks_nobody_out(tmp_path: pathlib.Path, clock: Clock, how: str) -> None:
    """Mails dated a year ahead, the clock then mended: refused, and a window later admitted."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[3, 60]]) as daemon:
        clock.forward(365 * DAY)
        assert admitted(daemon, "alice", 4) == 3
        clock.forward(-365 * DAY)
        restart(daemon, how)
        assert admitted(daemon, "alice", 1) == 0
        clock.forward(62)
        assert admitted(daemon, "alice", 4) == 3
        clock.forward(30)
        assert admitted(daemon, "alice", 1) == 0
        clock.forward(32)
        assert admitted(daemon, "alice", 4) == 3


def test_a_wrong_step_forward_that_is_never_noticed(tmp_path: pathlib.Path, clock: Clock) -> None:
    """Dated a year ahead, mended while the daemon is down: a window after its start the id is free."""
    with Daemon(tmp_path, environment=clock.environment, limits=[[3, 60]]) as daemon:
        clock.forward(365 * DAY)
        assert admitted(daemon, "alice", 3) == 3
        daemon.kill()
        clock.forward(-365 * DAY)
        daemon.start()
        assert admitted(daemon, "bob", 1) == 1
        clock.forward(62)
        assert admitted(daemon, "alice", 4) == 3


def test_a_clock_that_jumps_about_never_admits_more(tmp_path: pathlib.Path, clock: Clock) -> None:
    """Forty small steps back and forth that add up to less than the window: the limit holds, nothing crashes."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with Daemon(tmp_path, environment=clock.environment, limits=[[50, HOUR]]) as daemon:
        total = 0
        for step in range(40):
            total += admitted(daemon, "alice", 2)
            clock.forward(chance.randint(-150, 150) if step % 2 else chance.choice([-DAY, -1, 0, 1]))
        assert total == 50, f"seed {seed}"
        assert "Traceback" not in daemon.log_text()
