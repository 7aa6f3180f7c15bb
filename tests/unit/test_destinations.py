"""Syslog and the journal as sockets of the test: what they receive, and what happens when they take nothing."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyd_rate_limit.system import destinations
from policyd_rate_limit.system.destinations import RETRY_SECONDS, Journal, Message, Stderr, Syslog
from policyd_rate_limit.system.fields import Line, Shown, unicode, written
from policyd_rate_limit.system.logs import FORMATS, NAME, Handler
from support.logfmt import parse
from support.wait import wait_until

LINE = Line(verdict="refused", id='a "b" \r\n<0>c\udcff', cost=3, ms=1.25, usage=Shown("1/2/3s", [{"used": 1}]))
TEXT = st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))


_Made = TypeVar("_Made", Syslog, Journal)


class ReceivingSystem:
    """A socket that receives, a pipe as standard error, and a clock for the tries."""

    def __init__(self, directory: pathlib.Path, kind: int = socket.SOCK_DGRAM) -> None:
        self.path = str(directory / "log")
        self.kind = kind
        self.now = 0.0
        self.made: list[Syslog | Journal] = []
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.socket: socket.socket | None = None
        self.stderr = Stderr(FORMATS["text"], NAME, journal=True, descriptor=self.writer)

    def listen(self) -> socket.socket:
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.settimeout(10)
        self.socket.bind(self.path)
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()
        return self.socket

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            pathlib.Path(self.path).unlink()
            self.socket = None

    def on_stderr(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode().split("\n")[:-1]
        except BlockingIOError:
            return []

    def syslog(self, form: str = "text") -> Syslog:
        return self._closed_at_the_end(Syslog(self.path, FORMATS[form], NAME, self.stderr, lambda: self.now))

    def journal(self, form: str = "text") -> Journal:
        return self._closed_at_the_end(Journal(self.path, FORMATS[form], NAME, self.stderr, lambda: self.now))

    def _closed_at_the_end(self, destination: _Made) -> _Made:
        self.made.append(destination)
        return destination

    def end(self) -> None:
        for destination in self.made:
            destination.close()
        self.close()
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def system(tmp_path: pathlib.Path) -> Iterator[ReceivingSystem]:
    system = ReceivingSystem(tmp_path)
    yield system
    system.end()


def record(message: object = "text", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("name", level, "", 0, message, None, None)


def say(destination: Syslog | Journal, *messages: object) -> None:
    destination.write([destination.encode(record(message)) for message in messages])


def fields_of(datagram: bytes) -> dict[str, bytes]:
    """A datagram of the journal's native protocol, read strictly."""
    fields = {}
    at = 0
    while at < len(datagram):
        end = datagram.index(b"\n", at)
        key, equals, value = datagram[at:end].partition(b"=")
        at = end + 1
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram, at)
            value = datagram[at + 8 : at + 8 + size]
            at += 8 + size
            assert datagram[at : at + 1] == b"\n"
            at += 1
        name = key.decode("ascii")
        assert re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name)
        assert name not in fields
        fields[name] = value
    return fields


def test_syslog_gets_a_line_with_facility_severity_time_and_process(system: ReceivingSystem) -> None:
    receiver = system.listen()
    destination = system.syslog()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        destination.write([destination.encode(record(LINE, level))])
    received = [receiver.recv(1 << 16).decode() for _ in range(4)]
    for line, name, priority in zip(
        received, ("DEBUG", "INFO", "WARNING", "ERROR"), (16 + 7, 16 + 6, 16 + 4, 16 + 3), strict=True
    ):
        match = re.fullmatch(r"<(\d+)>([A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d) ([a-z-]+)\[(\d+)\]: ([A-Z]+) (.*)", line)
        assert match, line
        assert match.group(1, 3, 4, 5) == (str(priority), NAME, str(os.getpid()), name)
        time.strptime(f"2024 {match[2]}", "%Y %b %d %H:%M:%S")  # a leap year: the line does not say which
        assert parse(match[6])["id"] == LINE.fields["id"]
    assert not system.on_stderr()


def test_syslog_that_listens_for_streams(tmp_path: pathlib.Path) -> None:
    system = ReceivingSystem(tmp_path, socket.SOCK_STREAM)
    listener = system.listen()
    say(system.syslog(), "one", "two")
    connection, _ = listener.accept()
    with connection:
        received = connection.recv(1 << 16)
    assert [part.partition(b": ")[2] for part in received.split(b"\0")] == [b"INFO one", b"INFO two", b""]
    system.end()


def test_the_journal_gets_fields(system: ReceivingSystem) -> None:
    receiver = system.listen()
    say(system.journal(), LINE, "plain")
    first, second = (fields_of(receiver.recv(1 << 16)) for _ in range(2))
    assert parse(first.pop("MESSAGE").decode()).keys() == LINE.fields.keys()
    common = {"PRIORITY": b"6", "SYSLOG_FACILITY": b"2", "SYSLOG_IDENTIFIER": NAME.encode()}
    assert first == {
        **common,
        "POLICYD_VERDICT": b"refused",
        "POLICYD_ID": b'a "b" \r\n<0>c\\xff',
        "POLICYD_COST": b"3",
        "POLICYD_MS": b"1.250",
        "POLICYD_USAGE": b"1/2/3s",
    }
    assert second == {**common, "MESSAGE": b"plain"}


@given(TEXT, TEXT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_value_forges_a_field_or_a_message(system: ReceivingSystem, id_: str, sender: str) -> None:
    line = Line(verdict="refused", id=id_, sender=sender)
    expected = {f"POLICYD_{key.upper()}": unicode(written(value)).encode() for key, value in line.fields.items()}
    fields = fields_of(system.journal().encode(record(line)).data)
    assert {key: value for key, value in fields.items() if key.startswith("POLICYD_")} == expected
    for form in FORMATS:
        data = system.syslog(form).encode(record(line)).data
        assert len(data.decode().splitlines()) == 1
        assert b"\0" not in data


@pytest.mark.parametrize("kind", ["syslog", "journal"])
def test_json_everywhere(system: ReceivingSystem, kind: str) -> None:
    receiver = system.listen()
    say(getattr(system, kind)("json"), LINE)
    received = receiver.recv(1 << 16)
    text = fields_of(received)["MESSAGE"] if kind == "journal" else received.partition(b": ")[2]
    content = json.loads(text)
    assert content.pop("time")
    assert content == {
        "level": "info",
        "verdict": "refused",
        "id": 'a "b" \r\n<0>c\\xff',
        "cost": 3,
        "ms": 1.25,
        "usage": [{"used": 1}],
    }


@pytest.mark.parametrize("kind", ["syslog", "journal"])
def test_standard_error_has_what_nobody_takes(system: ReceivingSystem, kind: str) -> None:
    """Nobody listens: that is said, and retried after a while."""
    destination = getattr(system, kind)()
    say(destination, "one", "two")
    said, *lines = system.on_stderr()
    assert said.startswith("<4>WARNING ")
    assert system.path in said
    assert lines == ["<6>INFO one", "<6>INFO two"]
    receiver = system.listen()
    system.now = RETRY_SECONDS - 0.1
    say(destination, "three")
    assert system.on_stderr() == ["<6>INFO three"]
    system.now = RETRY_SECONDS
    say(destination, "four")
    assert b"four" in receiver.recv(1 << 16)
    assert not system.on_stderr()


@pytest.mark.parametrize("kind", ["syslog", "journal"])
def test_one_that_is_restarted_loses_nothing(system: ReceivingSystem, kind: str) -> None:
    destination = getattr(system, kind)()
    for text in ("before", "after"):
        receiver = system.listen()
        say(destination, text)
        assert text.encode() in receiver.recv(1 << 16)
        system.close()
    assert not system.on_stderr()


@pytest.mark.parametrize("kind", ["syslog", "journal"])
def test_one_that_hangs_delays_nobody(system: ReceivingSystem, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what its queue holds; the rest goes to standard error, and whoever logs never waits."""
    monkeypatch.setattr(destinations, "SEND_SECONDS", 0.05)
    receiver = system.listen()
    destination = getattr(system, kind)()
    write, writers = destination.write, set()

    def writing(messages: Sequence[Message]) -> None:
        writers.add(threading.current_thread().name)
        write(messages)

    destination.write = writing
    handler = Handler(destination)
    handler.start()
    for number in range(2000):
        handler.handle(record(f"number {number}"))
    found: list[str] = []

    def all_is_written() -> bool:
        found.extend(system.on_stderr())
        return bool(found) and found[-1].endswith("number 1999")

    wait_until(all_is_written, "all is written")
    handler.stop()
    receiver.setblocking(False)
    taken = 0
    try:
        while receiver.recv(1 << 16):
            taken += 1
    except BlockingIOError:
        pass
    assert "timed out" in found[0]
    assert [line.split()[-1] for line in found[1:]] == [str(number) for number in range(taken, 2000)]
    assert taken > 0
    assert writers == {"log"}


def test_the_destination_may_change_meanwhile(system: ReceivingSystem) -> None:
    """As when the configuration is reloaded: what was logged before goes where it was to go."""
    receiver = system.listen()
    handler, former = Handler(system.stderr), system.syslog()
    handler.handle(record("one"))
    handler.use(former)
    handler.start()
    handler.handle(record("two"))
    handler.use(system.stderr)
    handler.handle(record("three"))
    wait_until(lambda: former._socket is None and not handler._former, "the former is closed")
    handler.stop()
    assert receiver.recv(1 << 16).endswith(b"INFO two")
    assert system.on_stderr() == ["<6>INFO one", "<6>INFO three"]
