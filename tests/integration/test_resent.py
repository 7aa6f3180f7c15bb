"""A request that is sent again after its connection broke is charged once; one that was answered, each time."""

from __future__ import annotations

import contextlib
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.daemon import Client, Daemon, mail, running
from support.public import public_directory

Daemons = Callable[..., Daemon]
"""That which runs with the given settings, on a UNIX socket or not."""

LIMIT = 5
MODES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("unset", {}, {"protocol_state": "RCPT"}),
    ("unset at DATA", {}, {"protocol_state": "DATA", "recipient_count": 1}),
    ("0", {"count_mode": 0}, {"protocol_state": "RCPT"}),
    ("1", {"count_mode": 1}, {"protocol_state": "DATA", "recipient_count": 1}),
    ("2", {"count_mode": 2}, {"protocol_state": "DATA", "recipient_count": 1}),
]
modes = pytest.mark.parametrize(("settings", "stage"), [mode[1:] for mode in MODES], ids=[mode[0] for mode in MODES])
sockets = pytest.mark.parametrize("unix", [False, True], ids=["TCP", "UNIX"])


def left(daemon: Daemon, user: str, stage: dict[str, Any]) -> int:
    with Client(daemon.address) as client:
        return sum(client.ask(**mail(user, **stage)) == "dunno" for _ in range(LIMIT))


def wait_until_idle(daemon: Daemon) -> None:
    """The daemon has seen all that was sent before: it answers in order of arrival, and notices ends in its loop."""
    for _ in range(3):
        with Client(daemon.address) as client:
            client.ask(**mail("somebody else"))


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    """One for all tests of the same settings, each of which has a user of its own."""
    started: dict[str, Daemon] = {}
    with contextlib.ExitStack() as stack:

        def get(settings: dict[str, Any], unix: bool = False) -> Daemon:
            key = f"{settings} {unix}"
            if key not in started:
                directory = stack.enter_context(public_directory())
                where = {"SOCKET": str(directory / "s")} if unix else {}
                started[key] = stack.enter_context(running(directory, limits=[[LIMIT, 3600]], **settings, **where))
            return started[key]

        yield get


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """The user of one test."""
    return re.sub(r"\W+", "-", request.node.name)


@sockets
@modes
def test_not_read(daemons: Daemons, user: str, settings: dict[str, Any], stage: dict[str, Any], unix: bool) -> None:
    daemon = daemons(settings, unix)
    request = mail(user, **stage)
    for _ in range(3):
        client = Client(daemon.address)
        client.send(**request)
        time.sleep(0.1)  # the answer comes, and nobody reads it
        client.close()
        wait_until_idle(daemon)
    with Client(daemon.address) as client:
        assert client.ask(**request) == "dunno"
    assert left(daemon, user, stage) == LIMIT - 1


@sockets
@modes
def test_closed_at_once(
    daemons: Daemons, user: str, settings: dict[str, Any], stage: dict[str, Any], unix: bool
) -> None:
    daemon = daemons(settings, unix)
    request = mail(user, **stage)
    for _ in range(20):
        client = Client(daemon.address)
        client.send(**request)
        client.close()
        wait_until_idle(daemon)
    with Client(daemon.address) as client:
        assert client.ask(**request) == "dunno"
    assert left(daemon, user, stage) == LIMIT - 1


@modes
def test_killed_before_the_answer_is_read(
    tmp_path: pathlib.Path, settings: dict[str, Any], stage: dict[str, Any]
) -> None:
    with running(tmp_path, limits=[[LIMIT, 3600]], **settings) as daemon:
        request = mail("alice", **stage)
        for _ in range(3):
            client = Client(daemon.address)
            client.send(**request)
            wait_until_idle(daemon)
            daemon.kill()
            client.close()
            daemon.start()
        with Client(daemon.address) as client:
            assert client.ask(**request) == "dunno"
        assert left(daemon, "alice", stage) == LIMIT - 1


@pytest.mark.parametrize("new_connection", [False, True])
@pytest.mark.parametrize(
    ("settings", "stage", "cost"), [(*mode[1:], 1 if mode[0].startswith("unset") else 3) for mode in MODES]
)
def test_answered_and_asked_again(
    daemons: Daemons, user: str, settings: dict[str, Any], stage: dict[str, Any], cost: int, new_connection: bool
) -> None:
    """With count_mode unset a recipient counts once; in the other modes each request does."""
    daemon = daemons(settings)
    request = mail(user, **stage)
    client = Client(daemon.address)
    for _ in range(3):
        assert client.ask(**request) == "dunno"
        if new_connection:
            client.close()
            wait_until_idle(daemon)
            client = Client(daemon.address)
    client.close()
    assert left(daemon, user, stage) == LIMIT - cost
