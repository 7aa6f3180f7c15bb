"""The log of a real daemon: a decision is a line that programs can read, wherever it goes and whoever asks."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from policyd_rate_limit.domain.counting import MOST_INSTANCE
from policyd_rate_limit.system.throttle import THROTTLE_KEYS
from support.daemon import Client, Daemon, connect, encode, mail
from support.logfmt import parse
from support.programs import require_root
from support.wait import wait_until

HOSTILE = (
    'a" verdict=admitted id="b',
    "2026-01-01T00:00:00+0000 policyd-rate-limit: INFO verdict=admitted",
    "\r\x1b[2Jescape",
    "back\\slash=",
    "\udcff\udc80 bytes",
    "\u202eright to left\u2028",
    '{"verdict":"admitted"}',
    "<0>POLICYD_ID=x",
    "x" * 300,
)
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} policyd-rate-limit: ([A-Z]+) (.*)")
# /dev/log and the journal's socket are ours there, and nobody else's.
NAMESPACE = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && ln -s "$1" /run/systemd/journal/socket &&
mount -t tmpfs -o dev tmpfs /dev && mknod -m 666 /dev/null c 1 3 && ln -s "$1" /dev/log && shift && exec "$@"
"""


def ask_hostile(daemon: Daemon) -> list[tuple[str, str]]:
    """Ask as each of HOSTILE, twice, with a limit of one; what is to be logged: verdict and id."""
    expected = []
    with Client(daemon.address) as client:
        for user in HOSTILE:
            for verdict in ("admitted", "refused"):
                instance = f"{verdict}{user}"[:MOST_INSTANCE]  # another mail each time
                client.ask(**mail(user, queue_id=user, sender=user, recipient=user, instance=instance))
                expected.append((verdict, user.casefold()))
    return expected


def test_every_decision_is_a_line_in_text(tmp_path: pathlib.Path) -> None:
    with Daemon(tmp_path, debug=True, limits=[[1, 60]]) as daemon:
        expected = ask_hostile(daemon)
        assert daemon.stop() == 0
    lines = daemon.log.read_text("utf-8").split("\n")[:-1]
    decisions = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        if match[2].startswith("verdict="):
            fields = parse(match[2])
            assert fields["usage"] == "1/1/1m"
            assert ("limit" in fields) == ("free_in" in fields) == (fields["verdict"] == "refused")
            assert float(fields["ms"]) > 0
            decisions.append((fields["verdict"], fields["id"]))
            assert (fields["sender"], fields["recipient"]) in [(user, user) for user in HOSTILE]
    assert sorted(decisions) == sorted(expected)


def test_every_line_is_an_object_in_json(tmp_path: pathlib.Path) -> None:
    with Daemon(tmp_path, log_level="debug", log_format="json", limits=[[1, 60], [99, 3600]]) as daemon:
        expected = ask_hostile(daemon)
        assert daemon.stop() == 0
    text = daemon.log.read_bytes().decode("ascii")
    records = [json.loads(line) for line in text.splitlines()]
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", record["time"]) for record in records
    )
    decisions = [record for record in records if "verdict" in record]
    written = {user.casefold(): user.casefold().encode("utf-8", "surrogateescape") for user in HOSTILE}
    found = sorted((record["verdict"], record["id"]) for record in decisions)
    assert found == sorted((verdict, written[user].decode("utf-8", "backslashreplace")) for verdict, user in expected)
    refused = next(record for record in decisions if record["verdict"] == "refused")
    assert refused["level"] == "info"
    assert refused["limit"] == "1/1m"
    assert refused["usage"] == [
        {"used": 1, "maximum": 1, "seconds": 60},
        {"used": 1, "maximum": 99, "seconds": 3600},
    ]
    assert 0 < refused["free_in"] <= 61
    assert [record["message"] for record in records if "message" in record][-1] == "stopped"


def test_an_attack_makes_a_bounded_number_of_lines(tmp_path: pathlib.Path) -> None:
    """Many refusals of many ids, as fast as they can be asked; nothing of it is a line but what the bounds allow."""
    ids, requests = 3 * THROTTLE_KEYS, 30_000
    with Daemon(tmp_path, limits=[[0, 60]]) as daemon, connect(daemon.address, 60) as client:
        sent = answered = 0
        while answered < requests:
            batch = b"".join(encode(**mail(f"user{(sent + number) % ids}")) for number in range(500))
            client.sendall(batch)
            sent += 500
            while answered < sent:
                answered += client.recv(1 << 20).count(b"\n\n")
        assert daemon.stop() == 0
    lines = [match[2] for match in map(LINE.fullmatch, daemon.log_text().splitlines()) if match]
    refusals = [parse(line) for line in lines if line.startswith("verdict=")]
    assert THROTTLE_KEYS < len(refusals) <= 2 * (THROTTLE_KEYS + 1)  # that did not take more than two minutes
    assert len(lines) - len(refusals) <= 5
    assert {fields["verdict"] for fields in refusals} == {"refused"}
    assert {fields["free_in"] for fields in refusals} == {"never"}


class Receiver:
    """A socket that stands for syslog or the journal, for a daemon in a namespace of its own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "log"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.prefix = ("unshare", "--mount", "sh", "-c", NAMESPACE, "sh", str(self.path))

    @contextlib.contextmanager
    def reading(self) -> Iterator[list[bytes]]:
        """All that comes until the end of the ``with`` block; its queue holds but a few."""
        found: list[bytes] = []
        end = b"end"

        def read() -> None:
            while (datagram := self.socket.recv(1 << 20)) != end:
                found.append(datagram)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield found
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(end, str(self.path))
            thread.join()


@pytest.fixture
def receiver(tmp_path: pathlib.Path) -> Iterator[Receiver]:
    require_root()
    receiver = Receiver(tmp_path)
    yield receiver
    receiver.socket.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("to", ["syslog", "journald"])
def test_syslog_and_the_journal(tmp_path: pathlib.Path, receiver: Receiver, to: str) -> None:
    settings: dict[str, Any] = {"log_to": to, "debug": True, "limits": [[1, 60]]}
    with receiver.reading() as found, Daemon(tmp_path, prefix=receiver.prefix, **settings) as daemon:
        expected = ask_hostile(daemon)
        assert daemon.stop() == 0
    assert daemon.log_text() == ""
    assert found[-1].count(b"stopped") == 1
    if to == "journald":
        decisions = [datagram for datagram in found if b"\nPOLICYD_VERDICT=" in datagram]
        messages = [datagram.partition(b"\n")[0].removeprefix(b"MESSAGE=") for datagram in decisions]
        assert all(b"\nSYSLOG_IDENTIFIER=policyd-rate-limit\n" in datagram for datagram in found)
    else:
        process = daemon.process.pid
        lines = [re.fullmatch(rb"<\d+>.{15} policyd-rate-limit\[(\d+)\]: [A-Z]+ (.*)", datagram) for datagram in found]
        assert all(line and int(line[1]) == process for line in lines)
        messages = [line[2] for line in lines if line and line[2].startswith(b"verdict=")]
    fields = [parse(message.decode()) for message in messages]
    assert sorted((one["verdict"], one["id"]) for one in fields) == sorted(expected)


@pytest.mark.needs_root
@pytest.mark.parametrize("to", ["syslog", "journald"])
def test_one_that_hangs_holds_up_no_answer(tmp_path: pathlib.Path, receiver: Receiver, to: str) -> None:
    """Nobody reads: what it does not take goes to standard error, and answers come all the while."""
    with Daemon(tmp_path, prefix=receiver.prefix, log_to=to, debug=True, limits=[]) as daemon:
        with Client(daemon.address) as client:
            for number in range(300):
                assert client.ask(**mail(f"user{number}")) == "dunno"
        wait_until(lambda: "id=user299 " in daemon.log_text(), "the last line is on standard error")
        assert daemon.stop() == 0
    first = daemon.log_text().splitlines()[0]
    assert "takes nothing" in first
    assert receiver.socket.recv(1 << 20)
