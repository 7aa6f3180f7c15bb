"""In front of a real Postfix: how long a mail takes without a policy server, with the floors, with ours, with 1.2.0.

One Postfix serves all: each contender is asked by an smtpd with a port of its own. They take turns of a
second or so, and a turn begins when the mails of the one before have left the queue.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import machine
import processes
from contenders import DURABLE_FLOOR, FLOOR, LIMITS, SQLITE, VERSION_1_2_0, Contestant, Fill, prepared
from loads import say
from support.daemon import free_port
from support.postfix import Postfix, write_cf
from support.programs import require

SESSIONS = 20
MAILS = 5_000
TURNS = 5  # in which they are sent
OLD_ROWS = 1_000_000  # in the database of those that have one
DRAIN_SECONDS = 60.0
WITHOUT = "without"
CONTENDERS = (FLOOR, DURABLE_FLOOR, SQLITE, VERSION_1_2_0)
IN_FRONT = (WITHOUT, *(one.key for one in CONTENDERS))

SMTPD = """\
127.0.0.1:{port} inet n - y - 0 smtpd
  -o {{smtpd_recipient_restrictions={restrictions}}}
"""


class Front(Postfix):
    """A Postfix with one more smtpd for each of ``contestants``, on ``ports``; None is to ask nobody."""

    def __init__(self, contestants: Mapping[str, Contestant | None]) -> None:
        parameters = {"smtpd_client_connection_count_limit": "0", "default_process_limit": str(5 * SESSIONS)}
        super().__init__(parameters, mynetworks="127.0.0.0/8")
        self.ports = {key: free_port() for key in contestants}
        services = self.config / "master.cf"
        text = services.read_text()
        for key, one in contestants.items():
            asked = f"check_policy_service inet:127.0.0.1:{one.port}" if one else ""
            text += SMTPD.format(port=self.ports[key], restrictions=asked)
        write_cf(services, text)

    def take(self, key: str, mails: int) -> None:
        """Send ``mails`` mails, and return when smtpd has taken them; RuntimeError when it has not."""
        source = [str(require("smtp-source")), "-s", str(SESSIONS), "-f", "bench@example.org", "-t", "to@example.net"]
        done = subprocess.run([*source, "-m", str(mails), f"127.0.0.1:{self.ports[key]}"], check=False)
        if done.returncode:
            raise RuntimeError(f"smtp-source ends with {done.returncode}\n{self.log_text()[-4000:]}")

    def queued(self) -> int:
        """How many mails have not been delivered."""
        return sum(path.is_file() for name in ("incoming", "active") for path in (self.queue / name).rglob("*"))

    def drain(self) -> None:
        """Return when the queue is empty; RuntimeError when that takes too long."""
        end = time.monotonic() + DRAIN_SECONDS
        while left := self.queued():
            if time.monotonic() > end:
                raise RuntimeError(f"{left} mails stay in the queue\n{self.log_text()[-4000:]}")
            time.sleep(0.005)


def run(directory: pathlib.Path, places: dict[str, str], *, rounds: int, mails: int = MAILS) -> dict[str, Any]:
    """The seconds for ``mails`` mails by contender and round."""
    measurements: list[dict[str, Any]] = []
    # smtp-source does not authenticate: its sender is charged.
    settings = {"limit_by_sasl": False, "limit_by_sender": True, "limits": LIMITS}
    with contextlib.ExitStack() as stack:
        running: dict[str, Contestant | None] = {WITHOUT: None}
        for contender in CONTENDERS:
            say(f"filling {contender.name}")
            contestant = stack.enter_context(prepared(contender, directory / contender.key, places, settings))
            contestant.fill(Fill(ids=OLD_ROWS, spent=0))
            contestant.start()
            contestant.ask()
            running[contender.key] = contestant
        front = stack.enter_context(Front(running))
        for key in running:
            # The first mails start all the processes that then stay.
            front.take(key, 5 * SESSIONS)
            front.drain()
        order = list(running)
        for number in range(1, rounds + 1):
            found = {key: _nothing(key, number) for key in running}
            for _ in range(TURNS):
                for key in order:
                    _turn(front, running[key], found[key], mails // TURNS)
                order.append(order.pop(0))
            for key, one in found.items():
                one["cpu_us"] = one["cpu_us"] / one["mails"] if running[key] else None
                one["idle"] /= one["seconds"] * (os.cpu_count() or 1)
                say(f"Postfix, round {number}: {1e3 * one['seconds'] / one['mails']:.2f} ms per mail {key}")
            measurements += found.values()
        front.assert_no_trouble()
    return {"measurements": measurements, "sessions": SESSIONS, "mails": mails, "old_rows": OLD_ROWS}


def _nothing(key: str, number: int) -> dict[str, Any]:
    found = dict.fromkeys(("seconds", "taken_seconds", "cpu_us", "idle"), 0.0)
    return {"contender": key, "round": number, "mails": 0, **found}


def _turn(front: Front, contestant: Contestant | None, found: dict[str, Any], mails: int) -> None:
    """Add to ``found`` what ``mails`` more mails take: until they are taken, and until they are delivered as well."""
    group = contestant.processes() if contestant else []
    used, idle = processes.cpu_seconds(group), machine.idle_seconds()
    begin = time.perf_counter()
    front.take(found["contender"], mails)
    taken = time.perf_counter()
    front.drain()
    found["seconds"] += time.perf_counter() - begin
    found["taken_seconds"] += taken - begin
    found["cpu_us"] += 1e6 * (processes.cpu_seconds(group) - used)
    found["idle"] += machine.idle_seconds() - idle
    found["mails"] += mails
