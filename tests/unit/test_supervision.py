"""What the service manager is told, over the protocol itself."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyd_rate_limit.system.service_manager import MOST_UNTOLD, STATUS_SECONDS, ServiceManager, Supervision


class Listener:
    """The service manager's socket: at a path, or in the abstract namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name[0] == "@" else name)
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        """The messages since the last call."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    directory = tmp_path_factory.mktemp("n")
    name = str(directory / "notify") if request.param == "path" else f"@policyd-test-{os.getpid()}-{id(request)}"
    listener = Listener(name)
    with listener.socket:
        yield listener


def manager(listener: Listener, **environment: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.name, **environment})


class SupervisedDaemon:
    """A supervision whose clock and whose daemon the test makes."""

    def __init__(self, manager: ServiceManager) -> None:
        self.now = 100.0
        self.status = "serving; 1 ids"
        self.well = True
        self.supervision = Supervision(manager, lambda: self.status, lambda: self.well, lambda: self.now)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.supervision.tick()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_nobody_listens() -> None:
    nobody = ServiceManager({"WATCHDOG_USEC": "1000000"})
    assert not nobody.listens
    assert nobody.watchdog_seconds is None
    nobody.tell("READY=1")
    daemon = SupervisedDaemon(nobody)
    assert daemon.supervision.tick_seconds is None
    daemon.supervision.ready()
    daemon.tick(1000)


def test_its_variables_are_taken_away(listener: Listener) -> None:
    environment = {"NOTIFY_SOCKET": listener.name, "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1", "OTHER": "x"}
    ServiceManager(environment)
    assert environment == {"OTHER": "x"}


def test_lines_in_one_datagram(listener: Listener) -> None:
    told = manager(listener)
    told.tell("READY=1", "STATUS=a\nb")
    assert listener.told() == ["READY=1\nSTATUS=a\\nb"]


@pytest.mark.parametrize("name", ["vsock:2:1", "notify", "unix:/run/x"])
def test_an_address_of_another_kind(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": name}).listens
    assert name in warnings(caplog)[0]


def test_what_is_not_taken_is_told_later_in_order(listener: Listener) -> None:
    told = manager(listener)
    for number in range(1000):
        told.tell(f"STATUS={number}")
    first = listener.told()
    assert first == [f"STATUS={number}" for number in range(len(first))]
    told.ping()  # does not overtake, and says nothing when it is late
    last: list[str] = []
    while len(last) < MOST_UNTOLD:
        told.retry()
        last += listener.told()
    assert last == [f"STATUS={number}" for number in range(1000 - MOST_UNTOLD, 1000)]
    told.ping()
    assert listener.told() == ["WATCHDOG=1"]


def test_a_service_manager_that_is_gone_for_a_while(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    told = manager(listener)
    listener.socket.close()
    if listener.name[0] == "/":
        Path(listener.name).unlink()
    told.tell("READY=1")
    told.retry()
    told.ping()
    assert len(warnings(caplog)) == 1
    again = Listener(listener.name)
    with again.socket:
        told.retry()
        assert again.told() == ["READY=1"]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_the_time_of_the_watchdog(listener: Listener, environment: dict[str, str], seconds: float | None) -> None:
    assert manager(listener, **environment).watchdog_seconds == seconds


@pytest.mark.parametrize(("microseconds", "tick"), [("", 1.0), ("60000000", 1.0), ("200000", 0.1)])
def test_ticks_are_no_further_apart_than_half_of_the_time(listener: Listener, microseconds: str, tick: float) -> None:
    assert SupervisedDaemon(manager(listener, WATCHDOG_USEC=microseconds)).supervision.tick_seconds == tick


def test_the_life_of_a_daemon(listener: Listener) -> None:
    daemon = SupervisedDaemon(manager(listener))
    daemon.supervision.ready()
    assert listener.told() == ["READY=1\nSTATUS=serving; 1 ids"]
    before = time.monotonic_ns() // 1000
    daemon.supervision.reloading()
    [message] = listener.told()
    state, moment, status = message.splitlines()
    assert (state, status) == ("RELOADING=1", "STATUS=reloading the configuration")
    name, _, microseconds = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000
    daemon.status = "serving; 2 ids"
    daemon.supervision.ready()
    assert listener.told() == ["READY=1\nSTATUS=serving; 2 ids"]
    daemon.supervision.stopping()
    assert listener.told() == ["STOPPING=1\nSTATUS=answering what has been asked, then stopping"]
    daemon.status = "gone"
    daemon.tick(1000)
    assert listener.told() == []


def test_the_status_is_told_when_it_changes_and_not_too_often(listener: Listener) -> None:
    daemon = SupervisedDaemon(manager(listener))
    daemon.supervision.ready()
    listener.told()
    daemon.tick(STATUS_SECONDS)
    assert listener.told() == []
    for number in range(5):
        daemon.status = f"serving; {number} ids"
        daemon.tick(0.1)
    assert listener.told() == ["STATUS=serving; 0 ids"]
    daemon.tick(STATUS_SECONDS)
    assert listener.told() == ["STATUS=serving; 4 ids"]


def test_the_watchdog_is_fed_while_all_is_well(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    daemon = SupervisedDaemon(manager(listener, WATCHDOG_USEC="1000000"))
    daemon.supervision.ready()
    listener.told()
    for _ in range(3):
        daemon.tick()
    assert listener.told() == ["WATCHDOG=1"] * 3
    daemon.well = False
    for _ in range(3):
        daemon.tick()
    assert listener.told() == []
    assert warnings(caplog) == ["the store thread is stuck: the watchdog is not fed"]
    daemon.well = True
    daemon.tick()
    assert listener.told() == ["WATCHDOG=1"]
    assert len(warnings(caplog)) == 2
